"""Augmentation: alignment of both views after joint changes, reproducibility, and changes of single views."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.augment import Augmentation, jitter
from gengeo_hf.data.views import limited_fov

SEED = (1, 2, 0)


def scene(azimuths, width=168, side=71):
    """Pairs with a pole at each azimuth (degrees clockwise from north): a column in the panorama, a dot in the tile."""
    ground = torch.zeros(len(azimuths), 3, 20, width, dtype=torch.uint8)
    aerial = torch.zeros(len(azimuths), 3, side, side, dtype=torch.uint8)
    for row, azimuth in enumerate(azimuths):
        column = math.floor((azimuth / 360 + 0.5) * width) % width  # south at the left edge, north in the centre
        ground[row, :, :, column] = 255
        y = side // 2 - round(30 * math.cos(math.radians(azimuth)))
        x = side // 2 + round(30 * math.sin(math.radians(azimuth)))
        aerial[row, :, y, x] = 255
    return {"ground": ground, "aerial": aerial}


def pole_azimuths(batch):
    """Azimuth of the pole in each view, degrees."""
    width, side = batch["ground"].shape[-1], batch["aerial"].shape[-1]
    columns = batch["ground"][:, 0].float().amax(dim=1).argmax(dim=1).numpy()
    flat = batch["aerial"][:, 0].flatten(1).float().argmax(dim=1).numpy()
    y, x = flat // side - side // 2, flat % side - side // 2
    return (columns + 0.5) / width * 360 - 180, np.degrees(np.arctan2(x, -y))


def angle_between(a, b):
    return np.abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize("width", [168, 154])  # 154 does not divide by 4
@pytest.mark.parametrize(("flip", "rotate"), [(True, False), (False, True), (True, True)])
def test_augmentation_flip_and_rotation_keep_views_aligned(width, flip, rotate):
    azimuths = np.random.default_rng(0).uniform(-180, 180, 64)
    before = scene(azimuths, width)
    after = Augmentation(flip=flip, rotate=rotate)(before, SEED)
    ground, aerial = pole_azimuths(after)
    assert angle_between(ground, aerial).max() < 360 / width * 1.5 + 1.5
    moved = angle_between(ground, pole_azimuths(before)[0])
    assert (moved > 20).mean() > 0.3  # the augmentation is not the identity


def test_scene_turned_in_opposite_directions_is_not_aligned():
    batch = scene(np.array([30.0] * 8))
    wrong = {**batch, "aerial": torch.rot90(batch["aerial"], -1, dims=(-2, -1))}
    wrong["ground"] = torch.roll(batch["ground"], -batch["ground"].shape[-1] // 4, dims=-1)
    assert angle_between(*pole_azimuths(wrong)).min() > 90


def test_augmentation_rotation_draws_quarter_turns_uniformly():
    after = Augmentation(flip=False)(scene(np.full(2000, 10.0)), SEED)
    turns = np.round(angle_between(pole_azimuths(after)[0], 10.0) / 90)
    assert np.allclose(np.bincount(turns.astype(int), minlength=3) / 2000, [0.25, 0.5, 0.25], atol=0.04)


def test_augmentation_same_seed_gives_equal_batches():
    batch = scene(np.arange(16.0))
    augment = Augmentation.sample4geo()
    first = augment(batch, seed=(5, 2, 9))
    again = Augmentation.sample4geo()(batch, seed=(5, 2, 9))
    assert all(torch.equal(first[view], again[view]) for view in ("ground", "aerial"))
    for other in (augment(batch, (5, 2, 10)), augment(batch, (5, 9, 2)), Augmentation()(batch, (5, 2, 9))):
        assert not torch.equal(first["aerial"], other["aerial"])
    assert torch.equal(batch["ground"], scene(np.arange(16.0))["ground"])  # the input is unchanged


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_augmentation_keeps_dtypes_shapes_and_other_keys(kind):
    rng = torch.Generator().manual_seed(0)
    batch = {
        "ground": torch.randint(0, 256, (6, 3, 28, 112), generator=rng, dtype=torch.uint8),
        "aerial": torch.randint(0, 256, (6, 3, 56, 56), generator=rng, dtype=torch.uint8),
        "query_row": torch.arange(6),
    }
    if kind != torch.uint8:
        batch = {k: v / 255 if v.ndim == 4 else v for k, v in batch.items()}
    after = Augmentation(colour=0.15, colour_chance=1, blur_chance=1, dropout_chance=1, jpeg_chance=1)(batch, SEED)
    assert torch.equal(after["query_row"], batch["query_row"])
    for view in ("ground", "aerial"):
        assert after[view].shape == batch[view].shape
        assert after[view].dtype == kind
        assert float(after[view].max()) <= (255 if kind == torch.uint8 else 1.0)
        assert 0.05 < (after[view] == 0).all(dim=1).float().mean() < 0.6


def test_augmentation_input_scales_resize_both_views_equally():
    batch = scene(np.arange(16.0), side=72)
    whole = {view: batch[view].shape[-2:] for view in ("ground", "aerial")}
    augment, seen_scales = Augmentation(flip=False, rotate=False, input_scales=(1.0, 0.5), multiple_of=2), set()
    for step in range(8):
        after = augment(batch, (0, step, 0))
        scales = {after[view].shape[-1] / whole[view][-1] for view in whole}
        assert len(scales) == 1 and after["aerial"].dtype == batch["aerial"].dtype
        seen_scales |= scales
        assert angle_between(*pole_azimuths(after)).max() < 12  # the views still show the same directions
    assert seen_scales == {1.0, 0.5}
    odd = Augmentation(flip=False, rotate=False, input_scales=(0.75,))(
        {k: v[..., :42, :42] for k, v in batch.items()}, SEED
    )
    assert odd["aerial"].shape[-2:] == (28, 28)  # 2.25 patches of 14 px
    with pytest.raises(GenGeoError, match="input_scales must lie"):
        Augmentation(input_scales=(1.5,))


def test_jitter_matches_definition_of_each_colour_change():
    images = torch.rand(3, 3, 8, 9, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    one, zero = torch.ones(3), torch.zeros(3)
    factor = torch.tensor([0.9, 1.0, 1.1])
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(jitter(images, one, one, one, zero), images, atol=2e-4, rtol=0)
    f = factor.view(3, 1, 1, 1)
    torch.testing.assert_close(jitter(images, factor, one, one, zero), images * f, atol=2e-4, rtol=0)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(jitter(images, one, factor, one, zero), images * f + mean * (1 - f), atol=2e-4, rtol=0)
    torch.testing.assert_close(jitter(images, one, one, factor, zero), images * f + grey * (1 - f), atol=2e-4, rtol=0)
    turned = jitter(images, one, one, one, torch.full((3,), 1 / 3))
    back = jitter(jitter(turned, one, one, one, torch.full((3,), 1 / 3)), one, one, one, torch.full((3,), 1 / 3))
    torch.testing.assert_close(back, images, atol=1e-3, rtol=0)  # three thirds of a turn
    assert (turned - images).abs().max() > 0.05


def test_augmentation_rotation_skips_pairs_without_panorama():
    batch = {**scene(np.full(8, 40.0)), "panorama": torch.tensor([True, False] * 4)}
    after = Augmentation(flip=False)(batch, SEED)
    assert torch.equal(after["ground"][1::2], batch["ground"][1::2])
    assert torch.equal(after["aerial"][1::2], batch["aerial"][1::2])


def test_augmentation_fov_and_unknown_heading_with_photos_resize_photos_and_turn_tiles():
    batch = {**scene(np.linspace(-170, 170, 16)), "panorama": torch.tensor([True, False] * 8)}
    narrow = Augmentation(flip=False, rotate=False, fov=(90, 90), multiple_of=1)(batch, SEED)
    assert narrow["ground"].shape[-1] == batch["ground"].shape[-1] // 4
    pole = batch["ground"][1::2, 0, 0].argmax(dim=-1)  # photos are resized: the pole is at a quarter of its column
    assert (narrow["ground"][1::2, 0, 0].argmax(dim=-1) - pole / 4).abs().max() <= 1
    assert torch.equal(narrow["aerial"], batch["aerial"])
    turned = Augmentation(flip=False, rotate=False, unknown_heading=True)(batch, SEED)
    assert torch.equal(turned["ground"][1::2], batch["ground"][1::2])
    assert torch.equal(turned["aerial"][::2], batch["aerial"][::2])
    assert not torch.equal(turned["aerial"][1::2], batch["aerial"][1::2])


def test_augmentation_rotation_of_oblong_tiles_raises_error():
    with pytest.raises(GenGeoError, match="rotate=False"):
        Augmentation()({"ground": torch.zeros(2, 3, 8, 16), "aerial": torch.zeros(2, 3, 8, 10)}, SEED)


def test_limited_fov_centres_crop_on_heading():
    azimuths = torch.tensor([0.0, 90.0, 200.0, 359.0])
    pole = scene(azimuths.numpy(), width=360)["ground"]
    crop = limited_fov(pole, 90.0, azimuths)
    assert crop.shape[-1] == 90
    centre = crop[:, 0].float().amax(dim=1).argmax(dim=1)
    assert ((centre - 45).abs() <= 1).all()
    assert limited_fov(pole, 70.0, azimuths, multiple_of=14).shape[-1] == 70
    assert torch.equal(limited_fov(pole, 360.0, torch.zeros(4)), pole)
    with pytest.raises(GenGeoError):
        limited_fov(pole, 0.0, azimuths)


def test_augmentation_unknown_heading_rolls_panoramas_only():
    batch = scene(np.full(32, 15.0), width=360)
    after = Augmentation(flip=False, rotate=False, unknown_heading=True)(batch, SEED)
    assert torch.equal(after["aerial"], batch["aerial"])
    headings = angle_between(pole_azimuths(after)[0], pole_azimuths(batch)[0])
    assert headings.std() > 30
    narrow = Augmentation(fov=(60, 120))(batch, SEED)["ground"]
    assert 56 <= narrow.shape[-1] <= 126
    assert narrow.shape[-1] % 14 == 0
    assert functional.interpolate(narrow.float(), (28, 56)).shape == (32, 3, 28, 56)
