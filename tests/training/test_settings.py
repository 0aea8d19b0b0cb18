import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.training import settings as settings_module
from gengeo_hf.training.settings import describe_settings, load_settings

CONFIGS = sorted(settings_module.CONFIGS.rglob("*.yaml"))
URBAN = next(path for path in CONFIGS if path.stem == "world_urban")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_readable_and_its_model_exists(path):
    from gengeo_hf.training.batches import batch_rules
    from gengeo_hf.training.components import build_augmentation, build_config

    settings = load_settings(path, ["data.root=somewhere"])
    assert build_config(settings).model_type == "gengeo"
    assert batch_rules(settings).batch_size == settings.sampling.batch_size
    assert (build_augmentation(settings) is None) == (not settings.augment.options)


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


def test_a_missing_value_is_asked_for(tmp_path):
    (tmp_path / "short.yaml").write_text("output: runs/x")
    with pytest.raises(GenGeoError, match=r"leaves data\.name open"):
        load_settings(tmp_path / "short.yaml", [])


def test_missing_and_broken_files_are_explained(tmp_path):
    with pytest.raises(GenGeoError, match=r"shipped name: .*world_urban"):
        load_settings(tmp_path / "none.yaml", [])
    (tmp_path / "broken.yaml").write_text("a: [1, 2\nb: }")
    with pytest.raises(GenGeoError, match="no readable YAML"):
        load_settings(tmp_path / "broken.yaml", [])


def test_unknown_model_field_is_refused():
    from gengeo_hf.training.components import build_model

    with pytest.raises(GenGeoError, match="num_cluster'"):
        build_model(load_settings(URBAN, ["model.config.num_cluster=4"]))


def test_help_names_every_group():
    for word in ("sampling", "micro_batch", "learning_rate", "mining_every"):
        assert word in describe_settings()
