"""Joint augmentation on the synthetic world, whose panoramas and tiles show the same ground.

A tile that is unrolled about its centre shows in each direction what the panorama shows below the horizon. The
rotation between the two views is measured over many pairs by circular correlation, independently of the code under
test.
"""

import numpy as np
import pytest
import torch

from gengeo_hf.data import PairSource
from gengeo_hf.data.augment import Augmentation, roll_panoramas, turn_tiles
from gengeo_hf.data.views import polar_tile

COLUMNS = 168


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    pytest.importorskip("embreex", reason="the synthetic world is drawn with embreex")
    from gengeo_hf.model import GenGeoImageProcessor
    from gengeo_hf.world import build_world

    sizes = {"ground": {"height": 42, "width": COLUMNS}, "aerial": {"height": 70, "width": 70}}
    world = build_world("urban", "test", 24, cache_dir=tmp_path_factory.mktemp("world"), workers=1)
    return PairSource(world, GenGeoImageProcessor(view_sizes=sizes)).__getitems__(list(range(24)))


def profiles(images):
    """Normalised colour of each azimuth: (B, 3, columns)."""
    flat = images.float().mean(dim=2)
    flat = flat - flat.mean(dim=-1, keepdim=True)
    return flat / flat.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-6)


def agreement(batch, mirrored=False):
    """Mean correlation of the two views for each rotation of the tile by whole columns: (COLUMNS,)."""
    ground = profiles(batch["ground"][..., 27:, :])  # the lower third: roads and lawns near the camera
    unrolled = polar_tile(batch["aerial"], (35, COLUMNS))[..., 22:32, :]
    aerial = profiles(unrolled.flip(-1) if mirrored else unrolled)
    spectrum = torch.fft.rfft(ground) * torch.fft.rfft(aerial).conj()
    return torch.fft.irfft(spectrum, n=COLUMNS).sum(1).mean(0).numpy()


def off_north_degrees(batch):
    best = int(agreement(batch).argmax())
    return abs((best + COLUMNS // 2) % COLUMNS - COLUMNS // 2) * 360 / COLUMNS


@pytest.mark.parametrize(("flip", "rotate"), [(False, False), (True, False), (False, True), (True, True)])
def test_augmentation_on_world_keeps_north_in_both_views(pairs, flip, rotate):
    for seed in range(3):
        after = Augmentation(flip=flip, rotate=rotate)(pairs, (seed,))
        assert off_north_degrees(after) <= 10
        assert agreement(after).max() > 1.5 * agreement(after, mirrored=True).max()
        if flip or rotate:
            assert not torch.equal(after["aerial"], pairs["aerial"])


def test_agreement_on_world_detects_turn_or_mirror_of_one_view(pairs):
    turns = np.ones(len(pairs["ground"]), dtype=int)
    for changed in (
        {**pairs, "aerial": turn_tiles(pairs["aerial"], turns)},
        {**pairs, "ground": roll_panoramas(pairs["ground"], turns)},
    ):
        assert off_north_degrees(changed) == pytest.approx(90, abs=10)
    mirrored = {**pairs, "aerial": pairs["aerial"].flip(-1)}
    assert agreement(mirrored).max() < agreement(pairs).max() / 1.5
    wrong_sense = {
        **pairs,
        "aerial": turn_tiles(pairs["aerial"], turns),
        "ground": roll_panoramas(pairs["ground"], 3 * turns),
    }
    assert off_north_degrees(wrong_sense) == pytest.approx(180, abs=10)
