"""int8 exports: calibration, comparison with float32, and encoding with onnxruntime and OpenVINO."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends import trial
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.hub import int8
from gengeo_hf.hub.int8 import Gate

pytest.importorskip("onnxruntime")


@pytest.fixture
def photos(tmp_path):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(20):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 12, 3), np.uint8))
        coarse.resize((120, 60), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def test_gate_requires_similar_descriptors_and_recall():
    assert Gate(0.99, 0.999, None, 8).is_passed and Gate(0.99, 0.999, (0.90, 0.896), 8).is_passed
    assert not Gate(0.97, 0.999, None, 8).is_passed and not Gate(0.99, 0.99, None, 8).is_passed
    assert not Gate(0.99, 0.999, (0.90, 0.894), 8).is_passed
    assert "R@1 89.6% (90.0% in float32)" in str(Gate(0.99, 0.999, (0.90, 0.896), 8))


def test_recall_counts_ties_against_model():
    same = np.ones((3, 2)) / np.sqrt(2)
    assert int8._recall({"ground": same, "aerial": same}, np.arange(3)) == 0
    assert int8._recall({"ground": np.eye(3), "aerial": np.eye(3)}, np.arange(3)) == 1
    assert int8._recall({"ground": np.eye(3), "aerial": np.eye(3)}, np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_rounding_error_is_at_most_half_a_step():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 16)).astype(np.float32)
    step = (values.max() - values.min()) / 255
    assert np.abs(int8._rounded_activations(values) - values).max() <= step / 2 + 1e-6
    weight = rng.normal(size=(16, 4)).astype(np.float32) * np.array([1, 10, 100, 1000], np.float32)
    error = np.abs(int8._rounded_weights(weight) - weight).max(axis=0) / np.abs(weight).max(axis=0)
    assert (error <= 0.5 / 127 + 1e-6).all()  # each output channel has its own step


def test_int8_without_calibrate_or_export_is_refused(tiny_checkpoint, tmp_path, gengeo):
    code, _, err = gengeo("export", tiny_checkpoint, tmp_path / "out", "--int8")
    assert code == 2 and "--int8 --calibrate photos/" in err
    (tmp_path / "empty").mkdir()
    for backend in ("torch", "auto"):
        with pytest.raises(GenGeoError, match="gengeo export --int8"):
            Encoder.from_pretrained(tiny_checkpoint, backend=backend, compute_dtype="int8")
    with pytest.raises(GenGeoError, match=r"holds no onnx_int8 export.*--int8 --calibrate PHOTOS"):
        Encoder.from_pretrained(tiny_checkpoint, backend="onnx", compute_dtype="int8")


@pytest.mark.slow
def test_export_int8_encodes_like_float32(tiny_checkpoint, photos, tmp_path, gengeo, monkeypatch):
    out = tmp_path / "out"
    code, stdout, err = gengeo("export", tiny_checkpoint, out, "--int8", "--calibrate", photos)
    assert code == 0, err
    assert "onnx_int8: 0 layers left in float32, lowest cosine to float32 0.9" in stdout
    plain = Encoder.from_pretrained(out, device="cpu")
    files = sorted(photos.iterdir())
    for engine in ("onnx", "openvino"):
        manifest = json.loads((out / f"{engine}_int8" / "gengeo_onnx.json").read_text())
        assert manifest["calibration"]["calibrating"] == 10 and manifest["recall_at_1"] is None
        fast = Encoder.from_pretrained(out, backend=engine, compute_dtype="int8")
        assert fast.computed_by == f"{engine} int8" and fast.fingerprint == plain.fingerprint
        for view in ("ground", "aerial"):
            expected, found = plain.encode(files, view), fast.encode(files, view)
            cosine = (expected * found).sum(1)
            assert cosine.min() > 0.98 and cosine.min() < 1 - 1e-6  # the graph is not float32
    # The trial of backends uses int8 graphs only with the same weights.
    monkeypatch.setattr(trial, "SMALL", 0)
    monkeypatch.setattr(trial, "MARGIN", 0)
    ways = trial._candidates(plain.source, "auto", "auto", out)
    assert {"onnx int8", "openvino int8"} <= set(ways) and ways["onnx int8"]().dtype == "int8"
    with torch.no_grad():
        plain.model.heads["shared"].projection.weight.add_(1.0)
    with pytest.raises(GenGeoError, match="other weights"):
        ways["onnx int8"]()


@pytest.mark.slow
def test_export_int8_that_fails_gate_writes_nothing(tiny_checkpoint, photos, tmp_path, monkeypatch):
    from gengeo_hf.hub.export import export_folder

    monkeypatch.setattr(int8, "LOWEST_COSINE", 1.0)
    monkeypatch.setattr(int8, "FLOAT_SHARES", (0.0, 1 / 2))
    shares = []
    monkeypatch.setattr(int8, "_compare", lambda *given, compare=int8._compare: shares.append(1) or compare(*given))
    with pytest.raises(GenGeoError, match=r"int8 \(onnx\) changes descriptors too much.*nothing was written"):
        export_folder(tiny_checkpoint, tmp_path / "out", calibrate=str(photos))
    assert len(shares) == 2 and not (tmp_path / "out").exists()


def test_calibration_images_fewer_than_8_are_refused(tiny_processor, tmp_path):
    from gengeo_hf.hub.calibration_images import CalibrationImages

    (tmp_path / "few").mkdir()
    with pytest.raises(GenGeoError, match="holds 0 images: calibration and its check need at least 8"):
        CalibrationImages(str(tmp_path / "few"), tiny_processor)
