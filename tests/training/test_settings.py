"""Settings of a run: files, overrides, defaults that `--help` shows, limits of values, the command line."""

import pytest
import yaml

from gengeo_hf.common.errors import GenGeoError, UsageError
from gengeo_hf.data import load_pairs
from gengeo_hf.training import settings as settings_module
from gengeo_hf.training.settings import Settings, as_dict, format_settings, load_settings, parse

CONFIGS = sorted(settings_module.CONFIGS.rglob("*.yaml"))
URBAN = next(path for path in CONFIGS if path.stem == "world_urban")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_is_valid(path):
    from gengeo_hf.training.batches import batch_rules
    from gengeo_hf.training.components import build_augmentation, build_config

    settings = load_settings(path, ["data.root=somewhere"])
    assert build_config(settings).model_type == "gengeo"
    assert batch_rules(settings).batch_size == settings.sampling.batch_size
    augmented = settings.augment.enabled and bool(settings.augment.options)
    assert (build_augmentation(settings) is None) == (not augmented)


def test_load_settings_overrides_take_precedence():
    settings = load_settings(URBAN, ["sampling.batch_size=32", "optimisation.learning_rate=1e-5", "model.init=x"])
    assert settings.sampling.batch_size == 32
    assert settings.optimisation.learning_rate == 1e-5
    assert settings.model.init == "x"
    settings = load_settings(URBAN, ["optimisation.mixed_precision=no", "data.in_memory=false"])
    assert settings.optimisation.mixed_precision == "no" and settings.data.in_memory is False  # no: a string


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.batchsize=32", "sampling.batchsize"),
        ("nonsense=1", "nonsense"),
        ("sampling.batch_size=many", "many"),
        ("sampling.batch_size", "expected key=value"),
        ("sampling.protocol=own", "must be gengeo or sample4geo"),
        ("sampling.semi_positives=no", "must be banned, ignored, positive or negative"),
        ("optimisation.mixed_precision=fp8", "must be no, bf16 or fp16"),
        ("sampling.random_share=1.5", "must lie in 0..1"),
        ("evaluate_every=0", "evaluate_every is 0; it must be at least 1"),
        ("sampling.micro_batch=0", "must be at least 1"),
        ("sampling.batch_size=1", "must be at least 2"),
        ("sampling.neighbours=-1", "must be at least 0"),
        ("optimisation.epochs=0", "must be at least 1"),
        ("seed=-1", "seed is -1; it must be at least 0"),
        ("optimisation.warmup=2", r"optimisation\.warmup is 2.0; it must lie in 0..1"),
        ("optimisation.learning_rate=-0.01", r"optimisation\.learning_rate is -0.01; it must be greater than 0"),
        ("optimisation.clip_norm=0", r"optimisation\.clip_norm is 0.0; it must be greater than 0"),
        ("optimisation.weight_decay=-1", "must be at least 0"),
        ("optimisation.final_learning_rate=1", "the rate must fall"),
        ("optimisation.betas=[0.9,1.5]", r"both must lie in 0\.\.1"),
        ("sampling.gps_epochs=-1", "must be at least 0"),
        ("sampling.neighbours=100", "is 100, above sampling.pool 64"),
        ("checkpoint_every=0", "must be at least 1"),
        ("augment.options={}", r"augment\.options=\{\} changes nothing: augment\.enabled=false"),
        ("augment={}", r"augment=\{\} changes nothing"),
        ("sampling.protocol=sample4geo", r"does not support random_share=0.5: add sampling\.random_share=0"),
        ("data.ground_size=[154]", r"data\.ground_size is \[154\]; it must be height and width"),
    ],
)
def test_load_settings_invalid_override_is_one_line(override, message):
    with pytest.raises(GenGeoError, match=message) as caught:
        load_settings(URBAN, [override])
    assert "\n" not in str(caught.value)


def test_load_settings_base_is_merged():
    row = load_settings(URBAN.parent / "ablations" / "table9_clusters_48.yaml", ["data.root=x"])
    base = load_settings(URBAN.parent / "cvusa.yaml", ["data.root=x"])
    assert row.model.config["num_clusters"] == 48 and base.model.config["num_clusters"] == 64
    row.model.config["num_clusters"], row.output = 64, base.output
    assert row == base


def test_load_settings_empty_augment_group_is_refused(tmp_path):
    from gengeo_hf.training.components import build_augmentation

    assert build_augmentation(load_settings(URBAN, [])).flip
    assert build_augmentation(load_settings(URBAN, ["augment.enabled=false"])) is None
    row = tmp_path / "row.yaml"
    row.write_text(f"base: {URBAN}\naugment: {{options: {{}}}}\n")
    with pytest.raises(GenGeoError, match=r"augment\.enabled=false"):
        load_settings(row, [])
    row.write_text(f"base: {URBAN}\naugment: {{enabled: false}}\n")
    assert build_augmentation(load_settings(row, [])) is None


def test_load_settings_sample4geo_refuses_unsupported_settings():
    rules = ["sampling.protocol=sample4geo", "sampling.random_share=0"]
    assert load_settings(URBAN, rules).sampling.protocol == "sample4geo"
    with pytest.raises(GenGeoError, match="treats semi-positives as negatives"):
        load_settings(URBAN, [*rules, "sampling.semi_positives=positive"])


def test_load_settings_missing_value_is_named(tmp_path):
    (tmp_path / "short.yaml").write_text("output: runs/x")
    with pytest.raises(GenGeoError, match=r"does not set data\.name"):
        load_settings(tmp_path / "short.yaml", [])


def test_load_settings_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(GenGeoError, match=r"shipped name: .*world_urban"):
        load_settings(tmp_path / "none.yaml", [])
    (tmp_path / "broken.yaml").write_text("a: [1, 2\nb: }")
    with pytest.raises(GenGeoError, match="not readable YAML"):
        load_settings(tmp_path / "broken.yaml", [])


def test_build_model_unknown_field_is_refused():
    from gengeo_hf.training.components import build_model

    with pytest.raises(GenGeoError, match="num_cluster'"):
        build_model(load_settings(URBAN, ["model.config.num_cluster=4"]))


def test_format_settings_contains_all_groups():
    for word in ("sampling", "micro_batch", "learning_rate", "mining_every"):
        assert word in format_settings()


def test_own_city_configs_load_tables():
    one = load_settings("own_city", ["data.root=data/town"])
    assert (one.data.name, one.data.root, one.data.train) == ("table", "data/town", {})
    several = load_settings("cities", ["data.train.parts=[table data/a, table data/b key=1]"])
    assert several.data.train == {"parts": ["table data/a", "table data/b key=1"]}
    assert several.data.ground_size == one.data.ground_size
    with pytest.raises(GenGeoError, match=r"two or more parts.*data\.train\.parts"):
        load_pairs(several.data.name, None, "validation", **several.data.validation)


def test_defaults_of_a_run_are_the_paper_s_recipe():
    """Retyped from the paper (section 4.1.3) and docs/recipe.md: a changed default would change every configuration."""
    expected = {
        "sampling": {
            "batch_size": 256,
            "gps_epochs": 4,
            "mining_every": 4,
            "neighbours": 64,
            "pool": 128,
            "keep_frozen": True,
            "random_share": 0.0,
            "geographic_share": 0.0,
            "semi_positives": "banned",
            "min_negative_distance_m": 0.0,
            "max_similarity": None,
            "legacy_degrees": False,
            "protocol": "gengeo",
            "first_phase": "geographic",
            "mining_direction": "ground",
            "micro_batch": None,
        },
        "optimisation": {
            "epochs": 80,
            "learning_rate": 1e-4,
            "batch_rule": "sqrt",
            "weight_decay": 0.01,
            "betas": [0.9, 0.999],
            "warmup": 1 / 80,
            "final_learning_rate": 0.0,
            "clip_norm": 1.0,
            "label_smoothing": 0.1,
            "ema": None,
            "sharpness": None,
            "sharpness_adaptive": True,
            "mixed_precision": "no",
            "gradient_checkpointing": False,
        },
    }
    settings = as_dict(Settings(output="x"))
    assert {group: {key: settings[group][key] for key in keys} for group, keys in expected.items()} == expected
    assert settings["seed"] == 0 and settings["evaluate_every"] == 4 and settings["save_every"] == 1


# Retyped from the paper (section 4.1.3), docs/recipe.md and training/README.md; data.name and output have no default.
DEFAULTS = {
    "output": "???",
    "seed": 0,
    "data": {
        "name": "???",
        "root": None,
        "train": {},
        "validation": {},
        "in_memory": False,
        "workers": 2,
        "ground_size": [154, 770],
        "aerial_size": [392, 392],
        "ground_view": None,
        "aerial_view": None,
        "auxiliary_view": None,
        "auxiliary_size": [384, 384],  # AuxGeo
    },
    "model": {"init": None, "config": {}},
    "augment": {"enabled": True, "options": {}},
    "loss": {"pair": "info_nce", "options": {}, "terms": {}},
    "sampling": {
        "batch_size": 256,
        "micro_batch": None,
        "keep_frozen": True,
        "protocol": "gengeo",
        "first_phase": "geographic",
        "gps_epochs": 4,
        "mining_every": 4,
        "mining_direction": "ground",
        "neighbours": 64,
        "pool": 128,
        "random_share": 0.0,
        "geographic_share": 0.0,
        "semi_positives": "banned",
        "min_negative_distance_m": 0.0,
        "max_similarity": None,
        "legacy_degrees": False,
    },
    "optimisation": {
        "epochs": 80,
        "learning_rate": 1e-4,
        "learning_rate_batch": None,
        "batch_rule": "sqrt",
        "weight_decay": 0.01,
        "betas": [0.9, 0.999],
        "warmup": 1 / 80,
        "final_learning_rate": 0.0,
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "ema": None,
        "sharpness": None,
        "sharpness_adaptive": True,
        "compile": None,
    },
    "evaluate_every": 4,
    "save_every": 1,
    "checkpoint_every": None,
    "log_every": 20,
    "tracker": None,
}


@pytest.fixture
def load(tmp_path):
    """Load a configuration without values of its own, with overrides."""
    config = tmp_path / "plain.yaml"
    config.write_text("output: run\ndata: {name: random}\n")
    return lambda *overrides: load_settings(config, list(overrides))


def test_format_settings_shows_documented_defaults():
    _, _, listed = format_settings().partition("\n\n")
    shown = yaml.safe_load(listed)
    shown["optimisation"]["learning_rate"] = float(shown["optimisation"]["learning_rate"])
    assert shown == DEFAULTS


def test_load_settings_file_without_values_has_defaults(load):
    expected = {**DEFAULTS, "output": "run", "data": {**DEFAULTS["data"], "name": "random"}}
    assert as_dict(load()) == expected
    assert as_dict(Settings(output="run"))["data"]["name"] == "???"


# Key, smallest value that is allowed, value that is refused.
MINIMA = [
    ("seed", 0, -1),
    ("evaluate_every", 1, 0),
    ("save_every", 1, 0),
    ("log_every", 1, 0),
    ("checkpoint_every", 1, 0),
    ("data.workers", 0, -1),
    ("sampling.batch_size", 2, 1),
    ("sampling.micro_batch", 1, 0),
    ("sampling.gps_epochs", 0, -1),
    ("sampling.mining_every", 0, -1),
    ("sampling.neighbours", 0, -1),
    ("sampling.min_negative_distance_m", 0, -0.5),
    ("optimisation.epochs", 1, 0),
    ("optimisation.learning_rate_batch", 1, 0),
    ("optimisation.weight_decay", 0, -0.01),
    ("optimisation.final_learning_rate", 0, -1e-9),
    ("optimisation.sharpness", 0, -0.1),
]


@pytest.mark.parametrize(("key", "allowed", "refused"), MINIMA)
def test_load_settings_values_below_minimum_are_refused(load, key, allowed, refused):
    value = as_dict(load(f"{key}={allowed}"))
    for part in key.split("."):
        value = value[part]
    assert value == allowed
    with pytest.raises(GenGeoError, match=f"{key} is .*; it must be at least {allowed}"):
        load(f"{key}={refused}")


@pytest.mark.parametrize(
    "key",
    [
        "sampling.random_share",
        "sampling.geographic_share",
        "optimisation.warmup",
        "optimisation.label_smoothing",
    ],
)
def test_load_settings_fractions_lie_in_0_to_1(load, key):
    assert load(f"{key}=0") and load(f"{key}=1")
    for wrong in (-0.01, 1.01):
        with pytest.raises(GenGeoError, match=f"{key} is {wrong}; it must lie in 0..1"):
            load(f"{key}={wrong}")


def test_load_settings_pool_holds_neighbours(load):
    assert load("sampling.pool=1", "sampling.neighbours=1").sampling.pool == 1
    assert load("sampling.neighbours=128").sampling.neighbours == 128  # as many as the pool
    with pytest.raises(GenGeoError, match=r"is 129, above sampling\.pool 128"):
        load("sampling.neighbours=129")
    with pytest.raises(GenGeoError, match=r"sampling\.pool is 0; it must be at least 1"):
        load("sampling.neighbours=0", "sampling.pool=0")


@pytest.mark.parametrize("key", ["optimisation.learning_rate", "optimisation.clip_norm"])
def test_load_settings_rates_and_norms_are_positive(load, key):
    assert load(f"{key}=1e-6")
    for wrong in ("0", "-1e-6"):
        with pytest.raises(GenGeoError, match=f"{key} is .*; it must be greater than 0"):
            load(f"{key}={wrong}")
    assert load("optimisation.clip_norm=null").optimisation.clip_norm is None


def test_load_settings_betas_are_two_numbers_below_1(load):
    assert load("optimisation.betas=[0.0,0.0]").optimisation.betas == [0.0, 0.0]
    for wrong in ("[1.0,0.9]", "[0.9,1.0]", "[-0.1,0.9]", "[0.9,-0.1]"):
        with pytest.raises(GenGeoError, match=r"both must lie in 0\.\.1, 1 excluded"):
            load(f"optimisation.betas={wrong}")
    for wrong in ("[0.9]", "[0.9,0.9,0.9]"):
        with pytest.raises(GenGeoError, match="it must be two decay rates"):
            load(f"optimisation.betas={wrong}")


def test_load_settings_image_sides_are_positive(load):
    assert load("data.ground_size=[1,1]", "data.aerial_size=[1,1]").data.ground_size == [1, 1]
    for wrong in ("ground_size=[0,770]", "ground_size=[154,0]", "aerial_size=[0,392]", "aerial_size=[392,0]"):
        with pytest.raises(GenGeoError, match="must be positive numbers of pixels"):
            load(f"data.{wrong}")
    with pytest.raises(GenGeoError, match=r"data\.auxiliary_size is \[1, 2, 3\]; it must be height and width"):
        load("data.auxiliary_size=[1,2,3]")


def test_load_settings_final_learning_rate_may_equal_learning_rate(load):
    assert load("optimisation.final_learning_rate=1e-4").optimisation.final_learning_rate == 1e-4
    with pytest.raises(GenGeoError, match="the rate must fall"):
        load("optimisation.final_learning_rate=1.1e-4")


@pytest.mark.parametrize("key", ["random_share=0.25", "geographic_share=0.25", "min_negative_distance_m=5"])
def test_load_settings_sample4geo_refuses_other_composition(load, key):
    name, _, value = key.partition("=")
    assert getattr(load(f"sampling.{key}").sampling, name) == float(value)
    with pytest.raises(GenGeoError, match=f"does not support {key}: add sampling.{name}=0"):
        load("sampling.protocol=sample4geo", f"sampling.{key}")
    for kind in ("banned", "negative"):
        assert load("sampling.protocol=sample4geo", f"sampling.semi_positives={kind}").sampling.protocol == "sample4geo"


def test_parse_command_line_gives_settings():
    settings = parse(["--config", "world_urban", "sampling.batch_size=32", "--checkpoint-every", "50"])
    assert settings.checkpoint_every == 50 and settings.sampling.batch_size == 32
    assert parse(["--config", "world_urban"]).checkpoint_every is None
    with pytest.raises(UsageError, match="expected key=value"):
        parse(["--config", "world_urban", "sampling.batch_size"])


def test_parse_without_config_is_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(["sampling.batch_size=32"])
    assert "required: --config" in capsys.readouterr().err


def test_training_module_help_shows_defaults(monkeypatch, capsys):
    import runpy

    monkeypatch.setattr("sys.argv", ["training", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("gengeo_hf.training", run_name="__main__")
    assert format_settings() in capsys.readouterr().out
