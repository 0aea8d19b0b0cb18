import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_pairs
from gengeo_hf.training import settings as settings_module
from gengeo_hf.training.settings import format_settings, load_settings

CONFIGS = sorted(settings_module.CONFIGS.rglob("*.yaml"))
URBAN = next(path for path in CONFIGS if path.stem == "world_urban")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_readable_and_its_model_exists(path):
    from gengeo_hf.training.batches import batch_rules
    from gengeo_hf.training.components import build_augmentation, build_config

    settings = load_settings(path, ["data.root=somewhere"])
    assert build_config(settings).model_type == "gengeo"
    assert batch_rules(settings).batch_size == settings.sampling.batch_size
    augmented = settings.augment.enabled and bool(settings.augment.options)
    assert (build_augmentation(settings) is None) == (not augmented)


def test_values_on_the_command_line_win():
    settings = load_settings(URBAN, ["sampling.batch_size=32", "optimisation.learning_rate=1e-5", "model.init=x"])
    assert settings.sampling.batch_size == 32
    assert settings.optimisation.learning_rate == 1e-5
    assert settings.model.init == "x"
    said = load_settings(URBAN, ["optimisation.mixed_precision=no", "data.in_memory=false"])
    assert said.optimisation.mixed_precision == "no" and said.data.in_memory is False  # `no` is a word, not false


@pytest.mark.parametrize(
    ("override", "words"),
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
def test_unknown_keys_and_wrong_types_are_one_line(override, words):
    with pytest.raises(GenGeoError, match=words) as caught:
        load_settings(URBAN, [override])
    assert "\n" not in str(caught.value)


def test_a_row_of_a_table_states_only_what_it_changes():
    row = load_settings(URBAN.parent / "ablations" / "table9_clusters_48.yaml", ["data.root=x"])
    base = load_settings(URBAN.parent / "cvusa.yaml", ["data.root=x"])
    assert row.model.config["num_clusters"] == 48 and base.model.config["num_clusters"] == 64
    row.model.config["num_clusters"], row.output = 64, base.output
    assert row == base


def test_augmentation_is_turned_off_by_its_switch_and_not_by_an_empty_group(tmp_path):
    from gengeo_hf.training.components import build_augmentation

    assert build_augmentation(load_settings(URBAN, [])).flip
    assert build_augmentation(load_settings(URBAN, ["augment.enabled=false"])) is None
    row = tmp_path / "row.yaml"
    row.write_text(f"base: {URBAN}\naugment: {{options: {{}}}}\n")
    with pytest.raises(GenGeoError, match=r"augment\.enabled=false"):
        load_settings(row, [])
    row.write_text(f"base: {URBAN}\naugment: {{enabled: false}}\n")
    assert build_augmentation(load_settings(row, [])) is None


def test_published_rules_refuse_what_they_would_drop():
    rules = ["sampling.protocol=sample4geo", "sampling.random_share=0"]
    assert load_settings(URBAN, rules).sampling.protocol == "sample4geo"
    with pytest.raises(GenGeoError, match="treats semi-positives as negatives"):
        load_settings(URBAN, [*rules, "sampling.semi_positives=positive"])


def test_a_missing_value_is_asked_for(tmp_path):
    (tmp_path / "short.yaml").write_text("output: runs/x")
    with pytest.raises(GenGeoError, match=r"does not set data\.name"):
        load_settings(tmp_path / "short.yaml", [])


def test_missing_and_broken_files_are_explained(tmp_path):
    with pytest.raises(GenGeoError, match=r"shipped name: .*world_urban"):
        load_settings(tmp_path / "none.yaml", [])
    (tmp_path / "broken.yaml").write_text("a: [1, 2\nb: }")
    with pytest.raises(GenGeoError, match="not readable YAML"):
        load_settings(tmp_path / "broken.yaml", [])


def test_unknown_model_field_is_refused():
    from gengeo_hf.training.components import build_model

    with pytest.raises(GenGeoError, match="num_cluster'"):
        build_model(load_settings(URBAN, ["model.config.num_cluster=4"]))


def test_help_names_every_group():
    for word in ("sampling", "micro_batch", "learning_rate", "mining_every"):
        assert word in format_settings()


def test_configurations_of_own_cities_take_a_table_and_several():
    one = load_settings("own_city", ["data.root=data/town"])
    assert (one.data.name, one.data.root, one.data.train) == ("table", "data/town", {})
    several = load_settings("cities", ["data.train.parts=[table data/a, table data/b key=1]"])
    assert several.data.train == {"parts": ["table data/a", "table data/b key=1"]}
    assert several.data.ground_size == one.data.ground_size
    with pytest.raises(GenGeoError, match=r"two or more parts.*data\.train\.parts"):
        load_pairs(several.data.name, None, "validation", **several.data.validation)
