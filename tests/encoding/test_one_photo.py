"""One photo has one descriptor, whatever form it comes in: modes, bit depths, number formats, orientations."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.encoding.encoder import Encoder

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(PIXELS), {"exif": exif}


MODES = {
    "RGB": lambda: (Image.fromarray(PIXELS), {}),
    "L": lambda: (Image.fromarray(PIXELS).convert("L"), {}),
    "P": lambda: (Image.fromarray(PIXELS).quantize(16), {}),
    "1": lambda: (Image.fromarray(PIXELS).convert("1"), {}),
    "RGBA": lambda: (Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]]), "RGBA"), {}),
    "LA": lambda: (Image.fromarray(PIXELS).convert("LA"), {}),
    "16 bit": lambda: (Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 16), {}),
    "sideways": rotated,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", ["ground", "aerial"])
def test_path_bytes_pil_and_processor_agree(tiny_model, tiny_processor, tmp_path, mode, view):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    image, options = MODES[mode]()
    image.save(tmp_path / "photo.png", **options)
    expected = encoder.encode(tmp_path / "photo.png", view)
    content = (tmp_path / "photo.png").read_bytes()
    opened = Image.open(io.BytesIO(content))
    alone = tiny_processor(opened, view=view, return_tensors="pt")["pixel_values"]
    for form, found in {
        "bytes": encoder.encode(content, view),
        "PIL": encoder.encode(Image.open(tmp_path / "photo.png"), view),
        "processor": encoder.encode_pixels(alone, view)[0],
    }.items():
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=form)


@pytest.mark.parametrize(
    "form",
    [
        lambda p: p,
        lambda p: p.transpose(2, 0, 1),
        lambda p: p.astype(np.int64),
        lambda p: p.astype(np.float32) / 255,
        lambda p: p.astype(np.float64),
        lambda p: torch.from_numpy(p.transpose(2, 0, 1).copy()),
        lambda p: torch.from_numpy(p.transpose(2, 0, 1) / 255).float(),
        lambda p: np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]),
        lambda p: np.asfortranarray(p),
    ],
)
def test_arrays_and_tensors_agree_with_the_photo(tiny_model, tiny_processor, form):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    expected = encoder.encode_ground(Image.fromarray(PIXELS))
    np.testing.assert_allclose(encoder.encode_ground(form(PIXELS)), expected, atol=1e-5)


def test_grey_arrays_of_16_bits_agree_with_their_file(tiny_model, tiny_processor, tmp_path):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    deep = PIXELS[..., 0].astype(np.uint16) * 16
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(encoder.encode_ground(deep), encoder.encode_ground(tmp_path / "deep.png"), atol=1e-5)


def test_pixel_values_given_as_an_image_are_refused(tiny_processor):
    with pytest.raises(ValueError, match="expected 0 to 1, or 0 to 255"):
        tiny_processor(torch.randn(3, 28, 28), view="ground")


def test_scaled_floats_are_left_alone_without_rescaling(tiny_processor):
    scaled = torch.rand(3, 28, 112)
    found = tiny_processor(scaled, view="ground", do_rescale=False, do_normalize=False, return_tensors="pt")
    assert torch.allclose(found["pixel_values"][0], scaled)
