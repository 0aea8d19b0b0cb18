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


def test_format_settings_shows_documented_defaults():
    _, _, listed = format_settings().partition("\n\n")
    shown = yaml.safe_load(listed)
    shown["optimisation"]["learning_rate"] = float(shown["optimisation"]["learning_rate"])
    assert shown == DEFAULTS


def test_load_settings_file_without_values_has_defaults(load):
    expected = {**DEFAULTS, "output": "run", "data": {**DEFAULTS["data"], "name": "random"}}
    assert as_dict(load()) == expected
    assert as_dict(Settings(output="run"))["data"]["name"] == "???"


def test_cvusa_config_is_the_recipe():
    """Retyped from docs/recipe.md: what the paper states, and what it leaves unsaid."""
    settings = load_settings("cvusa", ["data.root=x"])
    assert settings.model.init == "facebook/dinov2-base"
    assert settings.model.config == {
        "num_clusters": 64,
        "cluster_dim": 128,
        "token_dim": 256,
        "descriptor_dim": 1024,
        "head_dropout": 0.3,
        "trainable_blocks": 4,
    }
    plan, sampling = settings.optimisation, settings.sampling
    assert (plan.epochs, plan.learning_rate, plan.learning_rate_batch, plan.batch_rule) == (80, 1e-4, 256, "sqrt")
    assert (plan.weight_decay, plan.clip_norm, plan.label_smoothing, plan.mixed_precision) == (0.01, 1.0, 0.1, "bf16")
    assert plan.warmup * plan.epochs == 1 and plan.final_learning_rate == 0  # one epoch of warm-up, cosine to zero
    assert (sampling.batch_size, sampling.neighbours, sampling.pool) == (256, 64, 128)
    assert (sampling.gps_epochs, sampling.mining_every, sampling.first_phase) == (4, 4, "geographic")
    assert (settings.data.ground_size, settings.data.aerial_size) == ([154, 770], [392, 392])
    assert settings.data.train == settings.data.validation == {"validation_share": 0.05}


@pytest.mark.parametrize(
    ("config", "ground", "aerial"),
    [
        ("cvact", [154, 770], [392, 392]),
        ("vigor_same", [294, 588], [294, 294]),
        ("vigor_cross", [294, 588], [294, 294]),
    ],
)
def test_configs_of_the_paper_have_its_image_sizes(config, ground, aerial):
    settings, cvusa = load_settings(config, ["data.root=x"]), load_settings("cvusa", ["data.root=x"])
    assert (settings.data.ground_size, settings.data.aerial_size) == (ground, aerial)
    assert settings.model == cvusa.model and settings.optimisation == cvusa.optimisation


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
