"""A photo has the same descriptor in every form: modes, bit depths, number formats, orientations."""

import importlib.util
import io
import sys
from pathlib import Path
from unittest.mock import MagicMock

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import gengeo_hf
from gengeo_hf.encoding.encoder import Encoder

HUB_FILES = Path(gengeo_hf.__file__).parent / "assets" / "hub"
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


def photo_files(folder):
    """Each mode as a PNG, and a JPEG with many more pixels than the model's input."""
    files = {}
    for mode, make in MODES.items():
        image, options = make()
        files[mode] = folder / f"{mode}.png"
        image.save(files[mode], **options)
    rng = np.random.default_rng(1)
    large = Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8)).resize((1350, 900), Image.Resampling.BICUBIC)
    files["large JPEG"] = folder / "large.jpg"
    large.save(files["large JPEG"], quality=95)
    return files


def module_of(path, name):
    """Load a file that is published on the Hub as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def space(tiny_checkpoint, tmp_path, monkeypatch):
    """Load the module of the Space, with a stub of gradio."""
    Image.init()
    monkeypatch.setattr(Image, "ID", [*Image.ID])  # the Space shortens Pillow's list of formats for its whole process
    monkeypatch.setitem(sys.modules, "gradio", MagicMock())
    (tmp_path / "space.json").write_text(f'{{"model": "{tiny_checkpoint}"}}')
    (tmp_path / "app.py").write_text((HUB_FILES / "space" / "app.py").read_text())
    return module_of(tmp_path / "app.py", "space_app")


def test_every_interface_gives_the_descriptor_of_the_file(tiny_checkpoint, tmp_path, space, monkeypatch):
    """Every mode, orientation and bit depth by every interface, compared with `Encoder.encode` of the path."""
    from transformers import pipeline

    from gengeo_hf.index import GeoIndex
    from gengeo_hf.serving.locator import Locator
    from tests.stubs import ListSource

    files = photo_files(tmp_path)
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    pipe = pipeline("image-feature-extraction", model=str(tiny_checkpoint), pool=True, device="cpu")
    handler = module_of(HUB_FILES / "handler.py", "handler").EndpointHandler(str(tiny_checkpoint))
    locator = Locator(encoder, GeoIndex.build(encoder, ListSource(count=2), tmp_path / "x.gengeo"))
    names = [str(file) for file in files.values()]
    column = datasets.Dataset.from_dict({"image": names}).cast_column("image", datasets.Image())["image"]

    def served(file, view):  # what the service and the page do with an upload
        with locator.read(file.read_bytes()) as image:
            return locator.encode(image, view)

    interfaces = {
        "bytes": lambda file, view: encoder.encode(file.read_bytes(), view),
        "PIL": lambda file, view: encoder.encode(Image.open(file), view),
        "column": lambda file, view: encoder.encode(column[names.index(str(file))], view),
        "pipeline, path": lambda file, view: np.ravel(pipe(str(file), view=view)),
        "pipeline, PIL": lambda file, view: np.ravel(pipe(Image.open(file), image_processor_kwargs={"view": view})),
        "handler": lambda file, view: handler({"inputs": file.read_bytes(), "view": view})["descriptors"][0],
        "handler, PIL": lambda file, view: handler({"inputs": Image.open(file), "view": view})["descriptors"][0],
        "Space": lambda file, view: space.encode([str(file)], view)[0],
        "service and page": served,
    }
    try:
        for mode, file in files.items():
            for view in ("ground", "aerial"):
                expected = encoder.encode(file, view)
                for name, encode in interfaces.items():
                    np.testing.assert_allclose(
                        encode(file, view), expected, atol=1e-5, err_msg=f"{name}, {mode}, {view}"
                    )
    finally:
        locator.close()


def test_localizer_reads_all_pixels_of_a_large_jpeg(tiny_checkpoint, tmp_path):
    from gengeo_hf.localization.photos import read_photo

    file = photo_files(tmp_path)["large JPEG"]
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    np.testing.assert_allclose(encoder.encode_ground(read_photo(file).image), encoder.encode_ground(file), atol=1e-6)


def test_bfloat16_descriptors_have_a_cosine_of_0_99_to_float32(tiny_checkpoint, tmp_path):
    exact = Encoder.from_pretrained(tiny_checkpoint, device="cpu", compute_dtype="float32")
    fast = Encoder.from_pretrained(tiny_checkpoint, device="cpu", compute_dtype="bfloat16")
    for file in photo_files(tmp_path).values():
        assert float(exact.encode_ground(file) @ fast.encode_ground(file)) > 0.99


@pytest.mark.slow
def test_graphs_of_onnx_agree_on_pixels_and_have_a_cosine_of_0_9999_on_files(
    tiny_checkpoint, tiny_model, tiny_processor, tmp_path
):
    """Without torch, photos are resized by Pillow, within one grey level of torch."""
    pytest.importorskip("onnxruntime")
    from gengeo_hf.hub.onnx import export_onnx

    export_onnx(tiny_model, tiny_processor, tiny_checkpoint / "onnx", tiny_checkpoint / "model.safetensors")
    exact = Encoder.from_pretrained(tiny_checkpoint, device="cpu", backend="torch")
    graphs = Encoder.from_pretrained(tiny_checkpoint, backend="onnx")
    for mode, file in photo_files(tmp_path).items():
        for view in ("ground", "aerial"):
            pixels = tiny_processor(Image.open(file), view=view, return_tensors="pt")["pixel_values"]
            found, expected = graphs.encode_pixels(pixels, view)[0], exact.encode(file, view)
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=f"{mode}, {view}")
            assert float(graphs.encode(file, view) @ expected) > 0.9999, f"{mode}, {view}"


@pytest.mark.slow
def test_int8_graphs_have_a_cosine_of_0_98_to_float32_on_files(tiny_checkpoint, tiny_model, tiny_processor, tmp_path):
    """An export must reach 0.98 on photos that did not calibrate it. All forms of a file agree exactly."""
    pytest.importorskip("onnxruntime")
    from gengeo_hf.hub.calibration_images import CalibrationImages
    from gengeo_hf.hub.int8 import LOWEST_COSINE, export_int8
    from gengeo_hf.hub.onnx import export_onnx

    rng, photos = np.random.default_rng(2), tmp_path / "calibration"
    photos.mkdir()
    for number in range(16):
        pixels = rng.integers(0, 256, (60, 90, 3), np.uint8)
        Image.fromarray(pixels).resize((1350, 900) if number % 4 == 0 else (90, 60)).save(photos / f"{number}.png")
    export_onnx(tiny_model, tiny_processor, tiny_checkpoint / "onnx", tiny_checkpoint / "model.safetensors")
    export_int8(tiny_model, tiny_checkpoint, CalibrationImages(str(photos), tiny_processor))
    exact = Encoder.from_pretrained(tiny_checkpoint, device="cpu", backend="torch", compute_dtype="float32")
    assert LOWEST_COSINE == 0.98
    for folder in sorted(tiny_checkpoint.glob("*_int8")):  # of OpenVINO only where nncf is installed
        graphs = Encoder.from_pretrained(
            tiny_checkpoint, backend=folder.name.removesuffix("_int8"), compute_dtype="int8"
        )
        cosines = {}
        for mode, file in photo_files(tmp_path).items():
            for view in ("ground", "aerial"):
                found = graphs.encode(file, view)
                cosines[folder.name, mode, view] = float(found @ exact.encode(file, view))
                for form in (file.read_bytes(), Image.open(file)):
                    np.testing.assert_array_equal(graphs.encode(form, view), found, err_msg=f"{mode}, {view}")
        assert 0.98 < min(cosines.values()) < 1 - 1e-6, min(cosines.items(), key=lambda item: item[1])


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


def test_pixel_values_given_as_an_image_raise_an_error(tiny_processor):
    with pytest.raises(ValueError, match="expected 0 to 1, or 0 to 255"):
        tiny_processor(torch.randn(3, 28, 28), view="ground")


def test_scaled_floats_are_not_changed_without_rescaling(tiny_processor):
    scaled = torch.rand(3, 28, 112)
    found = tiny_processor(scaled, view="ground", do_rescale=False, do_normalize=False, return_tensors="pt")
    assert torch.allclose(found["pixel_values"][0], scaled)
