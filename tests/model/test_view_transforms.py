"""View transforms and their use in the image processor: rotations, mirroring, refused images."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.encoding.fingerprint import fingerprint
from gengeo_hf.model import GenGeoImageProcessor
from gengeo_hf.model.view_transforms import downward_view, ground_bev, padded_sphere, parse_view, polar_tile

SIZES = {"ground": {"height": 28, "width": 28}, "aerial": {"height": 28, "width": 112}}


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 255


def test_bev_of_rolled_panorama_is_rotated():
    panorama = noise(2, 3, 42, 168)
    bev = parse_view("bev:70:0.45:2:70", "ground")
    for turn in (1, 2, 3):
        rolled = torch.roll(panorama, -turn * 42, dims=-1)
        torch.testing.assert_close(bev(rolled), torch.rot90(bev(panorama), turn, (2, 3)), atol=2e-2, rtol=0)
    torch.testing.assert_close(bev(panorama.flip(-1)), bev(panorama).flip(-1), atol=2e-2, rtol=0)


def test_polar_tile_of_rotated_or_mirrored_tile_is_rolled_or_mirrored():
    tile = noise(2, 3, 71, 71)
    polar = parse_view("polar:24x96:exact", "aerial")
    for turn in (1, 2, 3):
        rolled = torch.roll(polar(tile), -turn * 24, dims=-1)
        torch.testing.assert_close(polar(torch.rot90(tile, turn, (2, 3))), rolled, atol=2e-2, rtol=0)
    torch.testing.assert_close(polar(tile.flip(-1)), polar(tile).flip(-1), atol=2e-2, rtol=0)


def test_processor_applies_view_transform_before_resizing(tiny_model, tmp_path):
    plain = GenGeoImageProcessor(view_sizes=SIZES)
    views = {"ground": "bev:40:0.5:2:70", "aerial": "polar:28x112"}
    processor = GenGeoImageProcessor(view_sizes=SIZES, view_transforms=views)
    panorama = noise(1, 3, 42, 168).to(torch.uint8)
    bev = ground_bev(panorama, 40, 0.5, 2.0, vertical_fov=70.0).round().to(torch.uint8)
    options = {"view": "ground", "return_tensors": "pt"}
    expected = plain([bev[0]], **options)["pixel_values"]
    assert torch.equal(processor([panorama[0]], **options)["pixel_values"], expected)
    picture = Image.fromarray(panorama[0].permute(1, 2, 0).numpy())
    assert torch.equal(processor([picture], **options)["pixel_values"], expected)
    tile = noise(1, 3, 70, 70).to(torch.uint8)
    unrolled = polar_tile(tile, (28, 112)).round().to(torch.uint8)
    found = processor([tile[0]], view="aerial", return_tensors="pt", do_rescale=False, do_normalize=False)
    assert np.array_equal(found["pixel_values"], unrolled)
    processor.save_pretrained(tmp_path)
    again = GenGeoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(again([picture], **options)["pixel_values"], expected)
    assert fingerprint(tiny_model, again) == fingerprint(tiny_model, processor) != fingerprint(tiny_model, plain)


@pytest.mark.parametrize(
    ("text", "view", "message"),
    [
        ("bev:70:0.45:2:70", "ground", "needs a whole panorama, at least twice as wide as high; found 48 x 64 pixels"),
        ("downward:28x28:170:70", "ground", "needs a whole panorama"),
        ("bev:70", "ground", "needs a whole panorama"),
        ("polar:28x112", "aerial", "the polar transform needs square tiles, found 48 x 64 pixels"),
        ("polar:28x112", "ground", "is not a view of ground images: write it as bev:512:0.06:1.5:70 or downward:"),
        ("fisheye", "aerial", "'fisheye' is not a view of aerial images: write it as polar:112x616"),
    ],
)
def test_processor_image_without_view_is_refused_in_one_line(text, view, message):
    processor = GenGeoImageProcessor(view_sizes=SIZES, view_transforms={view: text})
    with pytest.raises(ValueError, match=message) as caught:
        processor([Image.new("RGB", (64, 48))], view=view)
    assert "\n" not in str(caught.value)


def test_parse_view_without_values_has_published_defaults():
    panorama, size = noise(2, 3, 24, 48), (10, 14)
    bev, down = ground_bev(panorama, 20, 0.06, 1.5), downward_view(panorama, size, 170.0)
    assert torch.equal(ground_bev(panorama, 20), bev)
    assert torch.equal(parse_view("bev:20", "ground")(panorama), bev)
    assert torch.equal(downward_view(panorama, size), down)
    assert torch.equal(parse_view("downward:10x14", "ground")(panorama), down)
    tile = noise(1, 3, 31, 31)
    assert torch.equal(parse_view("polar:9x22", "aerial")(tile), polar_tile(tile, (9, 22)))


def test_parse_view_values_are_used_in_order():
    panorama, tile = noise(2, 3, 12, 48), noise(1, 3, 31, 31)
    for text, expected in (
        ("bev:20:.3", ground_bev(padded_sphere(panorama), 20, 0.3)),
        ("bev:20:0.3:2.5", ground_bev(padded_sphere(panorama), 20, 0.3, 2.5)),
        ("bev:20:0.3:2.5:70", ground_bev(panorama, 20, 0.3, 2.5, vertical_fov=70.0)),
        ("downward:10x14:150", downward_view(padded_sphere(panorama), (10, 14), 150.0)),
        ("downward:10x14:150:70", downward_view(panorama, (10, 14), 150.0, vertical_fov=70.0)),
    ):
        assert torch.equal(parse_view(text, "ground")(panorama), expected), text
    exact = polar_tile(tile, (9, 22), pixel_centres=True)
    assert torch.equal(parse_view("polar:9x22:exact", "aerial")(tile), exact)


@pytest.mark.parametrize("text", ["bev:wide", "bev:0", "bev:20:", "downward:8", "downward:0x8", "bev"])
def test_parse_view_malformed_values_are_refused(text):
    with pytest.raises(ValueError, match=f"'{text}' is not a view of ground images"):
        parse_view(text, "ground")


def test_view_transform_needs_almost_two_to_one_and_cannot_be_changed():
    view = parse_view("bev:6:0.5:2:70", "ground")
    assert view(noise(1, 3, 20, 39)).shape == (1, 3, 6, 6)
    with pytest.raises(ValueError, match="found 20 x 38 pixels"):
        view(noise(1, 3, 20, 38))
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.text = "bev:7"
