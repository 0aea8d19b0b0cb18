"""ONNX exports: descriptors equal those of torch at any batch and image size; errors of damaged exports."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import ExportedGraphs, size_and_sha256
from gengeo_hf.encoding.backends.traceable import resized_positions
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.encoding.fingerprint import fingerprint, preprocessing, truncated
from gengeo_hf.encoding.preprocessing import FileProcessor
from gengeo_hf.index import GeoIndex
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel
from gengeo_hf.model.backbones import patch_sides
from tests.conftest import TINY_SIZES
from tests.hub.hub_server import HubServer
from tests.hub.test_hub import run as run_apart
from tests.model.test_aggregators import build
from tests.stubs import ListSource

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from gengeo_hf.hub.onnx import export_onnx  # noqa: E402  # after importorskip


def photos(count, side=60):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("kind", ["hub", "size", "registers"])
@pytest.mark.parametrize("grid", [(2, 8), (7, 3), (5, 5), (5, 9)])
def test_resized_positions_are_those_of_model(kind, grid):
    options = {"position_init_std": 1.0}
    model = (
        build("registers", **options) if kind == "registers" else build("salad", position_interpolation=kind, **options)
    )
    embeddings, (rows, columns) = model.backbone.embeddings, grid
    expected = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + rows * columns, 32), rows * 14, columns * 14)
    offset = 0.1 if kind == "hub" else 0.0
    found = resized_positions(embeddings.position_embeddings, rows, columns, offset, smooth=kind == "registers")
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-5


@pytest.fixture
def mean_colour_export(tiny_checkpoint, tiny_model, tiny_processor):
    """An export with a small graph whose descriptor is the normalised mean colour."""
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixel_values", "axes"], ["mean"], keepdims=0),
            helper.make_node("LpNormalization", ["mean"], ["descriptor"], axis=1, p=2),
        ],
        "mean colour",
        [helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("descriptor", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    folder = tiny_checkpoint / "onnx"
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "shared.onnx")
    manifest = {
        "format": 1,
        "fingerprint": fingerprint(tiny_model, tiny_processor),
        "truncate_dim": None,
        "dim": 3,
        "patch": [14, 14],
        "whole_patches": True,
        "fewest_tokens": 5,
        "preprocessing": preprocessing(tiny_processor),
        "graphs": {"ground": "shared.onnx", "aerial": "shared.onnx"},
        "files": {"shared.onnx": size_and_sha256(folder / "shared.onnx")},
    }
    (folder / "gengeo_onnx.json").write_text(json.dumps(manifest))
    return tiny_checkpoint


def test_onnx_encoder_gives_and_truncates_descriptors_of_graph(mean_colour_export, tiny_processor):
    encoder = Encoder.from_pretrained(mean_colour_export, backend="onnx", batch_size=2)
    assert encoder.computed_by == "onnx float32" and encoder.dim == 3 and encoder.patch == 14
    pixels = tiny_processor(photos(5), view="aerial", return_tensors="np")["pixel_values"].mean((2, 3))
    expected = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    tolerance = 5e-4  # Pillow resizes if torch is not imported: within one grey level of 255
    assert np.allclose(encoder.encode(photos(5), "aerial"), expected, atol=tolerance)
    whole = encoder.fingerprint
    encoder.truncate(2)
    prefix = expected[:, :2] / np.linalg.norm(expected[:, :2], axis=1, keepdims=True)
    assert np.allclose(encoder.encode(photos(5), "aerial"), prefix, atol=tolerance)
    assert encoder.fingerprint == truncated(whole, 2) != whole
    with pytest.raises(GenGeoError, match="cannot be truncated to 4"):
        encoder.truncate(4)
    for size, message in (
        ((30, 28), "multiples of the patch, 14 x 14"),
        ((28, 28), "4 tokens: the model needs at least 5"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.encode_pixels(torch.zeros(1, 3, *size), "ground")


def test_onnx_encoder_with_damaged_export_raises(mean_colour_export, tiny_model):
    manifest = mean_colour_export / "onnx" / "gengeo_onnx.json"
    stated = manifest.read_text()
    with (mean_colour_export / "onnx" / "shared.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(GenGeoError, match=r"shared.onnx is missing or damaged"):
        Encoder.from_pretrained(mean_colour_export, backend="onnx").encode(photos(1), "ground")
    manifest.write_text(stated.replace('"format": 1', '"format": 9'))
    with pytest.raises(GenGeoError, match="has format 9"):
        Encoder.from_pretrained(mean_colour_export, backend="onnx")
    manifest.write_text("{}")
    with pytest.raises(GenGeoError, match="cannot be read"):
        Encoder.from_pretrained(mean_colour_export, backend="onnx")
    valid = json.loads(stated)
    for wrong in (
        {"dim": "3"},
        {"patch": [14]},
        {"patch": [14, 0]},
        {"graphs": {"ground": "shared.onnx"}},
        {"files": []},
        {"truncate_dim": 2.5},
    ):
        manifest.write_text(json.dumps(valid | wrong))
        with pytest.raises(GenGeoError, match=f"is damaged: {next(iter(wrong))} is"):
            Encoder.from_pretrained(mean_colour_export, backend="onnx")
    manifest.write_text(stated)
    GenGeoImageProcessor(view_sizes=TINY_SIZES, image_mean=[0, 0, 0]).save_pretrained(mean_colour_export)
    with pytest.raises(GenGeoError, match="other preprocessing"):
        Encoder.from_pretrained(mean_colour_export, backend="onnx")
    manifest.unlink()
    with pytest.raises(GenGeoError, match="gengeo export"):
        Encoder.from_pretrained(mean_colour_export, backend="onnx")
    with pytest.raises(GenGeoError, match="unknown backend 'jax'"):
        Encoder.from_pretrained(mean_colour_export, backend="jax")


def test_export_of_half_precision_weights_copies_matching_graphs(mean_colour_export, tmp_path):
    from gengeo_hf.hub.export import export_folder

    model, processor = (
        GenGeoModel.from_pretrained(mean_colour_export),
        GenGeoImageProcessor.from_pretrained(mean_colour_export),
    )
    model.bfloat16().save_pretrained(mean_colour_export)
    manifest = mean_colour_export / "onnx" / "gengeo_onnx.json"
    with pytest.raises(GenGeoError, match="exported from other weights"):  # bfloat16 rounds the weights
        export_folder(mean_colour_export, tmp_path / "again")
    rounded = {"fingerprint": fingerprint(model.float(), processor)}  # as export_onnx writes it
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | rounded))
    again = export_folder(mean_colour_export, tmp_path / "again")
    assert (again / "onnx" / "shared.onnx").is_file()
    assert Encoder.from_pretrained(again, device="cpu").model.dtype == torch.bfloat16


def test_onnx_encoder_from_hub_downloads_no_weights(mean_colour_export, tmp_path):
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    files = {name: (mean_colour_export / name).read_bytes() for name in names}
    files |= {f"onnx/{path.name}": path.read_bytes() for path in (mean_colour_export / "onnx").iterdir()}
    photos(1)[0].save(tmp_path / "photo.png")
    server = HubServer()
    try:
        server.repositories["model", "someone/graphs"] = {"files": files, "commits": ["1" * 40]}
        server.repositories["model", "someone/plain"] = {"files": {"config.json": b"{}"}, "commits": ["2" * 40]}
        found = run_apart(
            f"""
import json
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.common.errors import GenGeoError
encoder = Encoder.from_pretrained("someone/graphs", backend="onnx")
try:
    Encoder.from_pretrained("someone/plain", backend="onnx")
except GenGeoError as error:
    print(json.dumps([encoder.encode([{str(tmp_path / "photo.png")!r}], "ground").tolist(), str(error)]))
""",
            server,
            HF_HOME=str(tmp_path / "cache"),
        )
    finally:
        server.close()
    here = Encoder.from_pretrained(mean_colour_export, backend="onnx").encode(photos(1), "ground")
    assert np.allclose(found[0], here, atol=1e-6) and "someone/plain holds no ONNX export" in found[1]
    assert not any("safetensors" in line for line in server.log)


def test_file_processor_is_within_one_grey_level_of_image_processor(tiny_checkpoint, tiny_processor):
    ours = FileProcessor(tiny_checkpoint)
    smooth = [photo.resize((33, 47), Image.Resampling.BICUBIC).resize((301, 222)) for photo in photos(3)]
    for view in ("ground", "aerial"):
        expected = tiny_processor(smooth, view=view, return_tensors="np")["pixel_values"]
        found = ours(smooth, view=view, return_tensors="np")["pixel_values"]
        level = 1 / 255 / np.array(tiny_processor.image_std)[:, None, None]
        assert found.dtype == np.float32 and (np.abs(found - expected) <= 1.01 * level).all()
        array = np.asarray(smooth[0])  # arrays are passed to the image processor
        whole = ours(array, view=view, return_tensors="np")["pixel_values"]
        assert np.array_equal(whole, tiny_processor(array, view=view, return_tensors="np")["pixel_values"])
    plain, theirs = (json.dumps(preprocessing(one), sort_keys=True) for one in (ours, tiny_processor))
    assert plain == theirs
    ours.view_sizes = {"ground": {"height": 14, "width": 28}, "aerial": {"height": 28, "width": 28}}
    assert ours(array, view="ground", return_tensors="np")["pixel_values"].shape == (1, 3, 14, 28)


WITHOUT_TORCH = """
import importlib.machinery as machinery, sys
find = machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in ("torch", "transformers", "datasets") else find(name, path, target)
machinery.PathFinder.find_spec = staticmethod(find_spec)
sys.argv = ["gengeo", "locate", {photo!r}, "--index", {index!r}, "--model", {model!r}, "--json"]
from gengeo_hf.cli import main
main()
"""


def test_locate_one_photo_with_exported_weights_needs_no_torch(mean_colour_export, tmp_path):
    manifest = mean_colour_export / "onnx" / "gengeo_onnx.json"
    stated = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(stated | {"checkpoint": size_and_sha256(mean_colour_export / "model.safetensors")}))
    with_graphs = Encoder.from_pretrained(mean_colour_export, backend="onnx")
    source = ListSource(count=5)
    GeoIndex.build(with_graphs, source, tmp_path / "a.gengeo")
    source.images[3].save(tmp_path / "photo.png")
    values = {
        "photo": str(tmp_path / "photo.png"),
        "index": str(tmp_path / "a.gengeo"),
        "model": str(mean_colour_export),
    }
    command = [sys.executable, "-c", WITHOUT_TORCH.format(**values)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["places"] and "starts without torch" in result.stderr
    # torch encodes if the export does not belong to the weights, or if there are many photos.
    options = {"backend": "auto", "needs_model": False, "device": "cpu"}
    assert Encoder.from_pretrained(mean_colour_export, expected_images=1, **options).computed_by == "onnx float32"
    assert Encoder.from_pretrained(mean_colour_export, expected_images=500, **options).computed_by == "torch float32"
    for changed in ({"checkpoint": None}, {"checkpoint": {"bytes": 1, "sha256": "0"}}):
        manifest.write_text(json.dumps(stated | changed))
        assert Encoder.from_pretrained(mean_colour_export, expected_images=1, **options).computed_by == "torch float32"


def test_onnx_encoder_with_unsupported_options_raises(mean_colour_export, monkeypatch):
    def open_encoder(**options):
        return Encoder.from_pretrained(mean_colour_export, backend="onnx", **options)

    with pytest.raises(GenGeoError, match="batch_size is 0"):
        open_encoder(batch_size=0)
    for device, message in (("gpu", "device gpu cannot be used"), ("meta", "give --device cpu or cuda")):
        with pytest.raises(GenGeoError, match=message):
            open_encoder(device=device)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(GenGeoError, match="no CUDAExecutionProvider"):
        open_encoder(device="cuda:1")
    with pytest.raises(GenGeoError, match="computes in float32"):
        open_encoder(dtype="bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["salad", "not shared", "learned dustbin", "registers", "netvlad", "dinov3", "convnext salad"]
)
def test_onnx_descriptors_agree_with_torch_at_other_sizes(kind, tmp_path):
    model = build(kind)
    high, wide = patch_sides(model.config.backbone_config)
    sizes = {"ground": (2 * high, 8 * wide), "aerial": (4 * high, 4 * wide)}
    processor = GenGeoImageProcessor(view_sizes={v: {"height": h, "width": w} for v, (h, w) in sizes.items()})
    lowest = export_onnx(model, processor, tmp_path / "onnx")
    assert lowest >= 0.9999
    encoder = Encoder(ExportedGraphs(tmp_path / "onnx", processor), processor, backend="onnx")
    assert encoder.fingerprint == fingerprint(model, processor)
    assert len(list((tmp_path / "onnx").glob("*.onnx"))) == (2 if kind == "not shared" else 1)
    for view, other in (("ground", (3, 5)), ("aerial", (7, 2))):
        for count, (height, width) in ((1, sizes[view]), (4, sizes[view]), (2, (other[0] * high, other[1] * wide))):
            pixels = torch.randn(count, 3, height, width)
            expected = model(pixels, view=view).pooler_output.detach().numpy()
            found = encoder.encode_pixels(pixels, view)
            assert (found * expected).sum(1).min() >= 0.9999 and np.abs(found - expected).max() < 1e-4


@pytest.mark.slow
def test_index_made_with_torch_is_searched_with_onnx(tiny_checkpoint, tmp_path, gengeo):
    from gengeo_hf.hub.export import export_folder

    def run(*arguments):
        code, out, err = gengeo(*arguments)
        assert code == 0, err
        return out

    tiles = tmp_path / "tiles"
    tiles.mkdir()
    rows = ["image,lat,lon"]
    for number, photo in enumerate(photos(4)):
        photo.save(tiles / f"{number}.png")
        rows.append(f"{number}.png,60.{number},25.0")
    (tiles / "tiles.csv").write_text("\n".join(rows) + "\n")
    ready = tmp_path / "ready"
    assert "lowest cosine to torch 0.99" in run("export", tiny_checkpoint, ready, "--onnx")
    assert str(tmp_path).encode() not in (ready / "onnx" / "shared.onnx").read_bytes()
    assert b"site-packages" not in (ready / "onnx" / "shared.onnx").read_bytes()
    run("index", tiles, "--out", tmp_path / "a", "--model", tiny_checkpoint, "--truncate-dim", 8)
    run("index", tiles, "--out", tmp_path / "b", "--model", ready, "--backend", "onnx", "--truncate-dim", 8)
    answers = [
        run("locate", tiles / "2.png", "--index", tmp_path / index, "--model", model, "--backend", backend)
        for index, model, backend in (("a", tiny_checkpoint, "torch"), ("a", ready, "onnx"), ("b", ready, "torch"))
    ]
    scores = [[float(score) for score in re.findall(r"score (\d\.\d+)", answer)] for answer in answers]
    texts = {re.sub(r"score \d\.\d+", "score", answer) for answer in answers}
    assert len(scores[0]) == 4 and len(texts) == 1
    # Backends differ in the fourth digit, which may round the third one up or down.
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, atol=1.01e-3)
    # An export of an export copies its graphs; graphs of other weights are refused.
    assert (export_folder(ready, tmp_path / "again") / "onnx" / "weights.bin").is_file()
    torch.manual_seed(1)
    GenGeoModel(GenGeoModel.from_pretrained(ready).config).save_pretrained(ready)
    with pytest.raises(GenGeoError, match="exported from other weights"):
        export_folder(ready, tmp_path / "third")
