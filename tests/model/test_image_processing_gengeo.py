"""The image processor: layouts, colour modes, EXIF orientations, number formats and options."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.model import GenGeoImageProcessor
from gengeo_hf.model.image_processing_gengeo import eight_bits, levels
from gengeo_hf.model.view_transforms import ground_bev

PLAIN = {"do_resize": False, "do_rescale": False, "do_normalize": False}
BEHIND = (124, 116, 104)  # 255 x (0.485, 0.456, 0.406)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def read(image, **options):
    """Return the values of an image (3, H, W) without resizing and scaling."""
    return GenGeoImageProcessor()(image, return_tensors="np", **PLAIN, **options)["pixel_values"][0]


def composed(rgba):
    """Compose an array (H, W, 4) over the ImageNet mean; return (3, H, W)."""
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + np.array(BEHIND) * (1 - alpha)).transpose(2, 0, 1)


def reopened(image, form):
    file = io.BytesIO()
    image.save(file, form)
    return Image.open(io.BytesIO(file.getvalue()))


def test_processor_layouts_of_one_image_give_the_same_values():
    array = noise(7, 5, 3)
    bands = array.transpose(2, 0, 1)
    for same in (array, bands, torch.from_numpy(bands.copy()), [bands], Image.fromarray(array)):
        found = read(same)
        assert found.dtype == np.uint8 and np.array_equal(found, bands)


def test_processor_grey_arrays_become_three_equal_bands():
    grey = noise(7, 5)
    expected = np.stack([grey] * 3)
    for same in (grey, grey[None], grey[..., None], torch.from_numpy(grey), Image.fromarray(grey)):
        assert np.array_equal(read(same), expected)


def test_processor_transparent_arrays_show_the_background():
    rgba = noise(7, 5, 4)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    for same in (rgba, rgba.transpose(2, 0, 1), Image.fromarray(rgba)):
        found = read(same).astype(int)
        assert np.abs(found - composed(rgba)).max() <= 1
        assert (found[:, 0].T == BEHIND).all() and np.array_equal(found[:, 1], rgba[1, :, :3].T)
    fractions = rgba.astype(np.float32) / 255  # a fourth band of fractions is not a mask of 8 bits
    assert np.array_equal(read(fractions), fractions[..., :3].transpose(2, 0, 1))


def test_processor_transparent_pil_modes_show_the_background():
    rgba = noise(6, 5, 4)
    rgba[..., 3] = np.array([0, 255, 128, 255, 0])
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    assert np.abs(read(premultiplied).astype(int) - composed(rgba)).max() <= 2
    grey = np.repeat(rgba[..., :1], 4, axis=2)
    grey[..., 3] = rgba[..., 3]
    pair = Image.fromarray(np.ascontiguousarray(grey[..., 2:]), "LA")
    assert np.abs(read(pair).astype(int) - composed(grey)).max() <= 1
    assert np.abs(read(pair.convert("La")).astype(int) - composed(grey)).max() <= 2
    coloured = np.full((4, 3, 3), (10, 20, 30), dtype=np.uint8)
    coloured[1, 2] = (200, 0, 0)
    image = Image.fromarray(coloured)
    image.info["transparency"] = (10, 20, 30)  # as in a PNG with one transparent colour
    found = read(image)
    assert tuple(found[:, 0, 0]) == BEHIND and tuple(found[:, 1, 2]) == (200, 0, 0)


def test_processor_fourth_band_of_tiff_that_is_not_a_mask_is_ignored():
    rgba = noise(6, 5, 4)
    rgba[..., 3] = 255
    rgba[0, 0, 3] = 0
    masked = reopened(Image.fromarray(rgba), "TIFF")
    assert masked.mode == "RGBA" and np.array_equal(read(masked), np.rint(composed(rgba)).astype(np.uint8))
    rgba[2, 3, 3] = 90  # near infrared
    colours = rgba[..., :3].transpose(2, 0, 1)
    assert np.array_equal(read(reopened(Image.fromarray(rgba), "TIFF")), colours)
    assert np.abs(read(reopened(Image.fromarray(rgba), "PNG")).astype(int) - composed(rgba)).max() <= 1
    padded = Image.frombytes("RGBX", (5, 6), rgba.tobytes())
    assert np.array_equal(read(padded), colours) and np.array_equal(read(reopened(padded, "TIFF")), colours)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 2048, 4095]], dtype=np.uint16), [0, 128, 255]),
        (np.array([[0, 2048, 4095]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.25, 1.0]], dtype=np.float32), [0, 64, 255]),
    ],
)
def test_processor_deep_pil_images_are_scaled(values, expected):
    assert read(Image.fromarray(values))[:, 0].tolist() == [expected] * 3


ORIENTED = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
    9: lambda x: x,  # not defined
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_processor_applies_exif_orientation(mode, orientation):
    array = noise(4, 6, 3)
    image = Image.fromarray(array).convert(mode)
    image.getexif()[0x0112] = orientation
    expected = np.array(image.convert("RGB"))
    assert np.array_equal(read(image), ORIENTED[orientation](expected).transpose(2, 0, 1))
    assert image.size == (6, 4) and image.getexif()[0x0112] == orientation  # the input is not changed


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.75], [0, 0, 2]),  # above 1: grey levels, not fractions of 1
        ([0, 256], [0, 128]),  # 9 bits: 256 of 511
        ([np.inf, -np.inf, 100.0], [0, 0, 100]),
        ([-0.5, -2.0], [0, 0]),
        ([], []),
    ],
)
def test_eight_bits_at_limits_of_the_depth(values, expected):
    assert eight_bits(np.array(values, dtype=np.float64)).tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([False, True]), [0, 255]),
        (np.array([0, 100, 255], dtype=np.int32), [0, 100, 255]),
        (np.array([-5, 100]), [0, 100]),
        (np.array([0, 256]), [0, 128]),
        (np.array([0.0, 0.2, 1.0]), [0, 51, 255]),
        (np.array([0.0, 1.0, 255.0]), [0, 1, 255]),
        (np.array([3.0, 5.0005]), [3, 5]),  # rounding errors of whole numbers
    ],
)
def test_levels_whole_values_become_uint8(values, expected):
    found = levels(values)
    assert found.dtype == np.uint8 and found.tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0.0, 127.5, 255.0]), ([0.0, 1.0, 1.75], [0.0, 1.0, 1.75])]
)
def test_levels_of_fractions_are_not_rounded(values, expected):
    found = levels(np.array(values))
    assert found.dtype == np.float32 and found.tolist() == expected


@pytest.mark.parametrize("values", [[-0.25, 0.5], [0.0, 255.5], [0.0, np.nan], [-300.0, 300.0]])
def test_levels_normalised_values_are_refused_unless_unscaled(values):
    with pytest.raises(ValueError, match="expected 0 to 1, or 0 to 255"):
        levels(np.array(values))
    assert np.array_equal(levels(np.array(values), do_rescale=False), values, equal_nan=True)


def test_processor_scaling_steps_are_separate():
    array = noise(7, 5, 3)
    bands = array.transpose(2, 0, 1).astype(np.float64)
    mean, std = np.array([[[0.485]], [[0.456]], [[0.406]]]), np.array([[[0.229]], [[0.224]], [[0.225]]])
    for rescale, normalize, expected in (
        (True, True, (bands / 255 - mean) / std),
        (False, True, (bands - mean) / std),
        (True, False, bands / 255),
    ):
        processor = GenGeoImageProcessor(do_rescale=rescale, do_normalize=normalize, do_resize=False)
        found = processor(array, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_processor_other_resampling_equals_pil():
    array = noise(7, 5, 3)
    size = {"height": 4, "width": 9}
    options = {**PLAIN, "do_resize": True, "size": size, "return_tensors": "np"}
    found = GenGeoImageProcessor()(array, resample=Image.Resampling.NEAREST, **options)["pixel_values"][0]
    expected = np.array(Image.fromarray(array).resize((9, 4), Image.Resampling.NEAREST))
    assert np.array_equal(found, expected.transpose(2, 0, 1))


def test_processor_images_of_two_sizes_need_resizing():
    one, other = noise(7, 5, 3), noise(6, 5, 3)
    with pytest.raises(ValueError, match="need do_resize=True"):
        GenGeoImageProcessor()([one, other], **PLAIN)
    assert len(GenGeoImageProcessor()([one, one], **PLAIN)["pixel_values"]) == 2


def test_processor_without_return_tensors_returns_a_list_of_arrays():
    found = GenGeoImageProcessor()([noise(7, 5, 3)] * 2, **PLAIN)["pixel_values"]
    assert isinstance(found, list) and [type(each) for each in found] == [np.ndarray] * 2
    assert found[0].shape == (3, 7, 5)


def test_processor_device_is_that_of_the_result():
    result = GenGeoImageProcessor()(noise(7, 5, 3), device="meta", return_tensors="pt")
    assert result["pixel_values"].device.type == "meta" and result["pixel_values"].shape == (1, 3, 154, 770)


def test_processor_sizes_of_one_pixel_and_fixed_size_are_accepted():
    sizes = {"ground": {"height": 1, "width": 2}, "aerial": {"height": 3, "width": 1}}
    processor = GenGeoImageProcessor(view_sizes=sizes)
    for view, shape in (("ground", (3, 1, 2)), ("aerial", (3, 3, 1))):
        assert processor(noise(7, 5, 3), view=view)["pixel_values"][0].shape == shape
    fixed = GenGeoImageProcessor(size={"height": 4, "width": 6})
    assert fixed(noise(7, 5, 3), view="aerial")["pixel_values"][0].shape == (3, 4, 6)
    with pytest.raises(ValueError, match="view_sizes of 'ground'"):
        GenGeoImageProcessor(view_sizes={"ground": {"height": True, "width": 2}})(noise(7, 5, 3))


def test_processor_view_transform_of_float_image_is_not_rounded():
    image = np.random.default_rng(0).random((3, 14, 56), dtype=np.float32)
    found = read(image, view_transforms={"ground": "bev:10:0.5:2:70"})
    expected = ground_bev(torch.from_numpy(image)[None], 10, 0.5, 2.0, vertical_fov=70.0)[0]
    assert found.dtype == np.float32 and np.array_equal(found, expected)
