"""Training in stages: order of the stages, initial weights, invalid curricula."""

import pytest

import curriculum
from gengeo_hf.common.errors import GenGeoError, UsageError
from gengeo_hf.training.components import build_augmentation, build_model, build_processor, check_smallest_images
from gengeo_hf.training.settings import load_settings


@pytest.fixture
def commands(monkeypatch):
    """Replace training; gives the list of commands, and the exit code in a list."""
    seen, code = [], [0]
    monkeypatch.setattr(curriculum, "run_training", lambda command, env: seen.append(command) or code[0])
    return seen, code


def init_of(command):
    return next((word.partition("=")[2] for word in command if word.startswith("model.init=")), None)


def test_curriculum_stage_is_initialised_from_previous_stage(commands, tmp_path):
    seen, _ = commands
    curriculum.main(["world_anywhere", "--out", str(tmp_path), "seed=3"])
    first, second, third = seen
    assert init_of(first) is None
    assert init_of(second) == str(tmp_path / "centred" / "model")
    assert init_of(third) == str(tmp_path / "moved" / "model")
    assert f"output={tmp_path}" in third and all("seed=3" in command for command in seen)


def test_curriculum_start_replaces_first_stage(commands, tmp_path):
    seen, _ = commands
    curriculum.main(["world_anywhere", "--out", str(tmp_path), "--start", "mine"])
    assert len(seen) == 2 and init_of(seen[0]) == "mine"


def test_curriculum_failed_stage_ends_training(commands, tmp_path):
    seen, code = commands
    code[0] = 1
    with pytest.raises(GenGeoError, match="continues from the last checkpoint"):
        curriculum.main(["world_anywhere", "--out", str(tmp_path)])
    assert len(seen) == 1


@pytest.mark.parametrize("path", sorted(curriculum.CURRICULA.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_curricula_are_valid(path):
    for stage in curriculum.read_stages(str(path)).values():
        settings = load_settings(stage["config"], [*stage.get("set", []), "output=unused"])
        processor = build_processor(settings)
        augment = build_augmentation(settings)
        check_smallest_images(augment, build_model(settings), processor)


def test_read_stages_invalid_curriculum_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("stages: {one: {set: [a=1]}}")
    for given in (str(tmp_path / "x.yaml"), "unknown"):
        with pytest.raises(GenGeoError, match="curriculum"):
            curriculum.read_stages(given)
    (tmp_path / "one.yaml").write_text("stages: {one: {config: world_small}}")
    with pytest.raises(UsageError, match="has no other"):
        curriculum.main([str(tmp_path / "one.yaml"), "--start", "model"])
