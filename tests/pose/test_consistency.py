"""Poses of turned photos and tiles, and of photos in wrong tiles."""

import numpy as np
import pytest
import torch

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.pose.fitting import FitSettings, fit_head
from gengeo_hf.pose.geometry import column_azimuths, positions_of
from gengeo_hf.pose.posterior import poses_of, to_posterior, turn_between
from gengeo_hf.pose.samples import PosePairs
from gengeo_hf.pose.tokens import normalised, patch_tokens
from tests.pose.toy import toy_pairs

PHOTOS = 60


@pytest.fixture(scope="module")
def encoder():
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
    from tests.conftest import TINY, TINY_SIZES

    torch.manual_seed(0)
    model = GenGeoModel(GenGeoConfig(**TINY, position_init_std=0.5))
    return Encoder(model, GenGeoImageProcessor(view_sizes=TINY_SIZES))


@pytest.fixture(scope="module")
def pairs(encoder):
    """Unseen pairs with photos off the centre: pixels, and true offsets in metres."""
    found = PosePairs.of(toy_pairs(PHOTOS, seed=9, shift_m=15), encoder.processor)
    _, photos, tiles = found.pixels(np.arange(PHOTOS))
    return photos, tiles, found.offset_m


@pytest.fixture(scope="module")
def known(encoder, tmp_path_factory):
    settings = FitSettings("known", steps=300, views=4, batch_size=64, held_out=20, other_share=0, narrow_share=0)
    return fit_head(encoder, toy_pairs(200), tmp_path_factory.mktemp("heads") / "known", settings)


@pytest.fixture(scope="module")
def unknown(encoder, tmp_path_factory):
    settings = FitSettings("180", steps=500, views=6, batch_size=64, held_out=20, other_share=0, narrow_share=0)
    return fit_head(encoder, toy_pairs(200), tmp_path_factory.mktemp("heads") / "180", settings)


@torch.inference_mode()
def poses(encoder, head, photos, tiles, shuffled=False):
    ground = patch_tokens(encoder, normalised(encoder, photos))
    aerial = patch_tokens(encoder, normalised(encoder, tiles)).flatten(1, 2)
    if shuffled:
        order = torch.rand(aerial.shape[:2], generator=torch.Generator().manual_seed(0)).argsort(1)
        aerial = aerial.gather(1, order[..., None].expand_as(aerial))
    layout = head.layout((60.0, 60.0), (4, 4))
    azimuths, headings = column_azimuths(ground.shape[2], 360.0), head.config.headings
    scores = head.scores(head.queries(ground), head.keys(aerial), layout, azimuths, headings)
    return poses_of(to_posterior(scores, positions_of(layout), headings))


def error(found, offset):
    return float(np.median(np.hypot(*(found.offset_m - offset).T)))


def test_photo_and_tile_turned_together_turn_the_position(encoder, known, pairs):
    photos, tiles, offset = pairs
    straight = poses(encoder, known, photos, tiles)
    turned = poses(encoder, known, torch.roll(photos, -photos.shape[-1] // 4, -1), torch.rot90(tiles, 1, (-2, -1)))
    expected = np.stack([-offset[:, 1], offset[:, 0]], 1)  # counter-clockwise by a quarter
    assert error(straight, offset) < 6
    assert error(turned, expected) < 1.5 * error(straight, offset) + 0.5


def test_position_in_a_wrong_tile_is_random(encoder, known, pairs):
    photos, tiles, offset = pairs
    right = error(poses(encoder, known, photos, tiles), offset)
    shuffled = error(poses(encoder, known, photos, tiles, shuffled=True), offset)
    another_photo = error(poses(encoder, known, photos.roll(1, 0), tiles), offset)
    centre = float(np.median(np.hypot(*offset.T)))
    assert right < 0.5 * centre
    assert shuffled > 0.8 * centre
    assert another_photo > 0.8 * centre


@pytest.mark.slow
def test_rolled_panorama_moves_the_heading_and_turned_tile_moves_it_back(encoder, unknown, pairs):
    photos, tiles, offset = pairs
    straight = poses(encoder, unknown, photos, tiles)
    assert np.median(np.abs(turn_between(0, straight.heading))) < 20
    rolled = poses(encoder, unknown, torch.roll(photos, -photos.shape[-1] // 4, -1), tiles)
    assert np.median(np.abs(turn_between(straight.heading + 90, rolled.heading))) < 10
    assert error(rolled, offset) < 1.5 * error(straight, offset) + 0.5
    turned = poses(encoder, unknown, photos, torch.rot90(tiles, 1, (-2, -1)))
    assert np.median(np.abs(turn_between(straight.heading - 90, turned.heading))) < 20
    assert error(turned, np.stack([-offset[:, 1], offset[:, 0]], 1)) < 2 * error(straight, offset) + 0.5


@pytest.mark.slow
def test_heading_in_a_wrong_tile_is_random(encoder, unknown, pairs):
    photos, tiles, _ = pairs
    wrong = poses(encoder, unknown, photos, tiles.roll(1, 0))
    assert 60 < np.median(np.abs(turn_between(0, wrong.heading))) < 120  # 90 by chance
