"""Pretraining of a stand-in: training data, tasks, and equal weights for equal arguments."""

import json

import numpy as np
import pytest
import torch

import pretrain
import pretrain_images
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model import GenGeoModel
from gengeo_hf.training.settings import load_settings
from gengeo_hf.world import CLASS_NAMES

SIZES = {"ground": (28, 112), "aerial": (28, 28)}
KEYS = [
    "output=x",
    "model.init=null",
    "data.ground_size=[28,112]",
    "data.aerial_size=[28,28]",
    "model.config.backbone_config.hidden_size=24",
    "model.config.backbone_config.num_hidden_layers=1",
    "model.config.num_clusters=2",
    "model.config.trainable_blocks=1",
]


@pytest.fixture
def undrawn(monkeypatch):
    """Replace rendered images, which take seconds per domain, by noise."""

    def draw(domain, split, places, seed, sizes, progress):
        rng, values = np.random.default_rng([places, len(domain)]), {}
        for view, size in sizes.items():
            values[view, "pixels"] = rng.integers(0, 256, (places, 3, *size), dtype=np.uint8)
            values[view, "classes"] = rng.integers(0, len(CLASS_NAMES), (places, *size), dtype=np.uint8)
            values[view, "depths"] = rng.random((places, *size)).astype(np.float16)
        return values

    monkeypatch.setattr(pretrain_images, "_draw", draw)


@pytest.fixture
def trainer():
    plan = pretrain.Plan(places=2, steps=2, batch_size=2)
    settings = load_settings("world_stand_in", KEYS)
    torch.manual_seed(0)
    model = GenGeoModel(pretrain.build_config(settings))
    return pretrain.Trainer(model, pretrain.build_processor(settings), plan, SIZES)


@pytest.mark.slow
def test_load_images_have_classes_and_are_cached(tmp_path, monkeypatch):
    options = {"seed": 1, "sizes": SIZES, "cache_dir": tmp_path, "progress": False}
    first = pretrain_images.load_images("train", 2, **options)
    monkeypatch.setattr(pretrain_images, "_draw", None)  # a second call must not render
    second = pretrain_images.load_images("train", 2, **options)
    ground = first["ground"]
    assert torch.equal(ground.pixels, second["ground"].pixels)
    assert ground.pixels.shape == (6, 3, 28, 112) and first["aerial"].classes.shape == (6, 28, 28)
    sky = ground.classes == CLASS_NAMES.index("sky")
    assert sky.any() and (ground.depths[sky] > 5.7).all() and (ground.depths[~sky] < 5.7).any()


def test_cells_are_means_of_quarters_of_patches(trainer):
    maps = torch.rand(2, 3, 28, 112)
    cells = trainer._cells(maps)
    assert cells.shape == (2, 16, 4, 3)
    row, column, down, right = 1, 5, 0, 1
    top, left = 14 * row + 7 * down, 14 * column + 7 * right
    expected = maps[:, :, top : top + 7, left : left + 7].mean(dim=(2, 3))
    assert torch.allclose(cells[:, 8 * row + column, 2 * down + right], expected, atol=1e-6)


def test_rotate_applies_to_image_and_labels(trainer):
    pixels = torch.arange(28 * 112).reshape(1, 1, 28, 112)
    rolled = trainer._rotate("ground", pixels, pixels[:, 0])
    assert torch.equal(rolled[0][:, 0], rolled[1]) and not torch.equal(rolled[0], pixels)


def test_pretrain_is_deterministic_and_initialises_training(undrawn, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "load_settings", lambda config, keys: load_settings(config, [*KEYS, *keys]))
    options = ["--places", "2", "--steps", "3", "--batch-size", "2", "--cache", str(tmp_path)]
    for name in ("one", "two"):
        pretrain.main([*options, "--out", str(tmp_path / name)])
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    record = json.loads((tmp_path / "one" / pretrain.RECORD).read_text())
    assert "stand-in" in record["kind"] and 0 <= record["held_out"]["ground_position"] <= 1
    settings = load_settings("world_stand_in", [*KEYS, f"model.init={tmp_path / 'one'}"])
    model = GenGeoModel.from_pretrained(settings.model.init, **settings.model.config)
    stored = GenGeoModel.from_pretrained(settings.model.init, **settings.model.config).backbone.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in model.backbone.state_dict().items())


def test_pretrain_damaged_cache_and_benchmark_world_are_refused(undrawn, tmp_path):
    with pytest.raises(GenGeoError, match="--world-seed 0"):
        pretrain.Plan(world_seed=0)
    options = {"seed": 1, "sizes": SIZES, "cache_dir": tmp_path, "progress": False}
    pretrain_images.load_images("validation", 1, **options)
    (path,) = tmp_path.glob("single-*/ground-pixels.npy")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(GenGeoError, match="damaged"):
        pretrain_images.load_images("validation", 1, **options)


def test_pretrain_run_lowers_loss(trainer, undrawn, tmp_path):
    images = pretrain_images.load_images("train", 2, seed=1, sizes=SIZES, cache_dir=tmp_path, progress=False)
    rows = torch.arange(6)
    before = trainer.loss("ground", images["ground"], rows).item()
    object.__setattr__(trainer.plan, "steps", 30)
    trainer.run(images)
    after = trainer.loss("ground", images["ground"], rows).item()
    assert np.isfinite(after) and after < before
