"""Backends: OpenVINO and bfloat16 compared with torch in float32, and the choice between them."""

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends import trial, trial_cache
from gengeo_hf.encoding.backends.loaded import LoadedModel
from gengeo_hf.encoding.backends.openvino import OpenVinoBackend
from gengeo_hf.encoding.backends.torch import TorchBackend
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.model.backbones import patch_sides
from tests.model.test_aggregators import build


def pixels(count=2, height=56, width=56):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def cosine(one, other):
    assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    return float((one * other).sum(1).min())


@pytest.fixture
def large(monkeypatch):
    """Make any model large enough for a trial."""
    monkeypatch.setattr(trial, "SMALL", 0)


class Made:
    """Backend that returns a given result after a delay."""

    name, dtype = "made", "up"

    def __init__(self, answer, seconds):
        self.answer, self.seconds = answer, seconds

    def encode_pixels(self, _pixels, _view):
        trial.time.sleep(self.seconds)
        return self.answer


@pytest.mark.parametrize(
    ("seconds", "noise", "taken"),
    [(0.01, 0.0, True), (0.049, 0.0, False), (0.2, 0.0, False), (0.01, 0.2, False)],
    ids=["faster", "within the margin", "slower", "faster but different"],
)
def test_run_trial_takes_a_faster_backend_only_if_it_agrees(seconds, noise, taken):
    answer = np.eye(2, 8, dtype=np.float32)
    plain, other = Made(answer, 0.05), Made(answer + np.float32(noise), seconds)
    found = trial.run_trial(plain, {"other": lambda: other}, pixels(), "CPU")
    assert found.backend is (other if taken else plain)
    assert ("other, " in found.reason and "x torch float32 in a trial" in found.reason) is taken
    if noise:
        assert "differs (cosine 0.9" in found.reason or "differs (cosine 0.8" in found.reason


def test_run_trial_names_a_backend_that_cannot_be_built():
    def broken():
        raise GenGeoError("no such kernel")

    plain = Made(np.eye(1, 8, dtype=np.float32), 0)
    found = trial.run_trial(plain, {"other": broken}, pixels(1), "CPU")
    assert found.backend is plain and "other: no such kernel" in found.reason


def test_run_trial_drops_a_much_slower_backend_after_a_short_probe():
    answer, passes = np.eye(1, 8, dtype=np.float32), []

    class Slow(Made):
        def encode_pixels(self, some, view):
            passes.append(some.shape[-1])
            return super().encode_pixels(some, view)

    slow = Slow(answer, 0.2)
    found = trial.run_trial(Made(answer, 0.01), {"slow": lambda: slow}, pixels(1, 56, 560), "CPU", pixels(1, 56, 112))
    assert passes == [112] and "slow 0." in found.reason and "in a short probe" in found.reason


def test_choose_uses_the_cached_trial_of_the_same_model_and_machine(tiny_checkpoint, large, tmp_path, monkeypatch):
    monkeypatch.setenv("GENGEO_TRIALS", str(tmp_path / "trials.json"))
    monkeypatch.setattr(trial, "installed", lambda: False)
    monkeypatch.setattr(trial, "has_bfloat16", lambda: True)
    monkeypatch.setattr(trial, "MARGIN", 0)
    monkeypatch.setattr(trial, "LOWEST_COSINE", 0.9)
    monkeypatch.setattr(trial, "PLAINLY", 1e9)
    monkeypatch.delenv("HOME", raising=False)
    settled = []
    run_trial = trial.run_trial
    monkeypatch.setattr(trial, "run_trial", lambda *given: settled.append(1) or run_trial(*given))

    def opened():
        return Encoder.from_pretrained(tiny_checkpoint, device="cpu", backend="auto", compute_dtype="auto").choice

    first, second = opened(), opened()
    assert len(settled) == 1 and second.backend.dtype == first.backend.dtype == "bfloat16"
    assert second.reason == f"{first.reason} (from an earlier trial)"
    (tmp_path / "trials.json").write_text("{damaged")
    assert opened().reason.endswith("in a trial") and len(settled) == 2
    monkeypatch.setattr(trial_cache, "ENGINES", ("numpy",))  # other versions: another key
    opened()
    assert len(settled) == 3


def test_choose_for_a_small_model_is_torch_in_float32_without_a_reason(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(trial, "has_bfloat16", lambda: True)
    plain = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    chosen = Encoder.from_pretrained(tiny_checkpoint, device="cpu", backend="auto", compute_dtype="auto")
    assert chosen.computed_by == plain.computed_by == "torch float32" and not chosen.choice.reason
    assert np.array_equal(chosen.encode_pixels(pixels(), "aerial"), plain.encode_pixels(pixels(), "aerial"))
    assert chosen.fingerprint == plain.fingerprint


def test_choose_for_a_large_model_states_the_result_of_the_trial(tiny_checkpoint, large, monkeypatch):
    def opened(**options):
        return Encoder.from_pretrained(tiny_checkpoint, device="cpu", **options).choice

    monkeypatch.setattr(trial, "installed", lambda: False)
    monkeypatch.setattr(trial, "has_bfloat16", lambda: False)
    reason = opened(backend="auto", compute_dtype="auto").reason
    assert "no bfloat16 instructions" in reason and "gengeo_hf[openvino]" in reason
    monkeypatch.setattr(trial, "has_bfloat16", lambda: True)
    assert "for 3 images" in opened(backend="auto", compute_dtype="auto", expected_images=3).reason
    monkeypatch.setattr(trial, "MARGIN", 1e9)
    assert "nothing was faster in a trial (torch bfloat16 " in opened(backend="auto", compute_dtype="auto").reason
    monkeypatch.setattr(trial, "MARGIN", 0)
    monkeypatch.setattr(trial, "LOWEST_COSINE", 0.9)
    found = opened(backend="auto", compute_dtype="auto", expected_images=100)
    assert found.backend.dtype == "bfloat16" and "torch bfloat16, " in found.reason
    for backend in ("torch", "auto"):
        assert (
            opened(backend=backend, compute_dtype="bfloat16", expected_images=1).reason
            == "CPU: torch bfloat16, as requested"
        )
    assert opened(compute_dtype="float32").backend.dtype == "float32"


def test_torch_backend_in_bfloat16_rounds_and_returns_unit_vectors(tiny_model):
    plain, half = TorchBackend(tiny_model), TorchBackend(tiny_model, "bfloat16")
    found = half.encode_pixels(pixels(), "ground")
    assert found.dtype == np.float32 and 0.99 < cosine(found, plain.encode_pixels(pixels(), "ground")) < 1 - 1e-7
    with pytest.raises(GenGeoError, match=r"weights are torch.bfloat16.*leave --dtype out"):
        trial.choose(LoadedModel(tiny_model.bfloat16(), None), "torch", "float32")


@pytest.mark.parametrize("kind", ["salad", "registers", "dinov3", "convnext salad"])
def test_torch_backend_with_rounded_weights_equals_autocast_bit_for_bit(kind):
    model = build(kind)
    high, wide = patch_sides(model.config.backbone_config)
    images = pixels(2, 4 * high, 4 * wide)
    before = model(images, view="ground").pooler_output
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = torch.nn.functional.normalize(model(images, view="ground").pooler_output.float(), dim=1)
    assert np.array_equal(TorchBackend(model, "bfloat16").encode_pixels(images, "ground"), expected.numpy())
    assert torch.equal(model(images, view="ground").pooler_output, before)  # the model keeps its whole weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["salad", pytest.param("not shared", marks=pytest.mark.slow)])
def test_openvino_backend_equals_torch_at_any_size(kind):
    pytest.importorskip("openvino")
    model = build(kind)
    found = OpenVinoBackend(model, "float32")
    assert found.dtype == "float32"
    for view, count, height, width in (("ground", 1, 28, 112), ("aerial", 3, 56, 56), ("ground", 2, 98, 42)):
        images = pixels(count, height, width)
        assert cosine(found.encode_pixels(images, view), TorchBackend(model).encode_pixels(images, view)) > 0.99999
    first = found.encode_pixels(pixels(), "aerial")
    kept = first.copy()
    found.encode_pixels(pixels() + 1, "aerial")
    assert np.array_equal(first, kept)  # not a view of the graph's own memory
    with pytest.raises(ValueError, match="multiples of the patch"):
        found.encode_pixels(pixels(1, 30, 28), "ground")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["learned dustbin", "registers", "netvlad", "gem", "dinov3", "convnext salad"])
def test_openvino_backend_converts_every_architecture(kind):
    pytest.importorskip("openvino")
    model = build(kind)
    high, wide = patch_sides(model.config.backbone_config)
    found = OpenVinoBackend(model, "float32")
    for count, rows, columns in ((1, 4, 4), (3, 2, 8), (2, 7, 3)):
        images = pixels(count, rows * high, columns * wide)
        assert (
            cosine(found.encode_pixels(images, "aerial"), TorchBackend(model).encode_pixels(images, "aerial")) > 0.9999
        )


@pytest.mark.slow
def test_openvino_backend_truncates_descriptors_and_keeps_the_model(tiny_checkpoint):
    pytest.importorskip("openvino")
    plain = Encoder.from_pretrained(tiny_checkpoint, device="cpu", truncate_dim=8)
    fast = Encoder.from_pretrained(tiny_checkpoint, backend="openvino", truncate_dim=8)
    assert fast.computed_by == "openvino float32" or trial.has_bfloat16()
    assert fast.dim == 8 and fast.fingerprint == plain.fingerprint and "as requested" in fast.choice.reason
    images = [Image.effect_noise((64, 64), 80).convert("RGB") for _ in range(3)]
    assert cosine(fast.encode(images, "aerial"), plain.encode(images, "aerial")) > 0.999
    fast.truncate(24)
    assert fast.encode_pixels(pixels(), "ground").shape == (2, 24)
    assert np.array_equal(
        fast.model(pixels(), view="ground").pooler_output.detach(),
        Encoder.from_pretrained(tiny_checkpoint, device="cpu").encode_pixels(pixels(), "ground"),
    )


def test_openvino_backend_of_unsupported_models_raises_one_line(tiny_model, monkeypatch):
    pytest.importorskip("openvino")
    import openvino

    monkeypatch.setattr(openvino, "convert_model", lambda *_, **__: 1 / 0)
    with pytest.raises(GenGeoError, match=r"cannot convert this model \(division by zero\): use --backend torch"):
        OpenVinoBackend(tiny_model, "float32")
    with pytest.raises(GenGeoError, match="computes on the CPU, from float32 weights"):
        OpenVinoBackend(tiny_model.bfloat16(), "float32")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(GenGeoError, match=r"pip install 'gengeo_hf\[openvino\]'"):
        OpenVinoBackend(tiny_model, "float32")


def test_openvino_without_kernels_for_the_processor_is_one_line_and_another_engine_is_taken(
    tiny_model, tiny_processor, monkeypatch
):
    openvino = pytest.importorskip("openvino")

    def fail(*_):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(openvino.Core, "compile_model", fail)
    monkeypatch.setattr("gengeo_hf.encoding.backends.trial.SMALL", 0)  # as for a large model
    with pytest.raises(GenGeoError, match=r"cannot run this model on this CPU \(no kernel\): use --backend torch"):
        Encoder(tiny_model, tiny_processor, device="cpu", backend="openvino")
    assert Encoder(tiny_model, tiny_processor, device="cpu", backend="auto").backend.name == "torch"


@pytest.mark.slow
def test_index_of_one_backend_is_searched_with_another(gengeo, tiny_checkpoint, tmp_path):
    pytest.importorskip("openvino")
    for number in range(4):
        Image.effect_noise((64, 64), 40 + 30 * number).convert("RGB").save(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png,60.{number},25.0\n" for number in range(4))
    (tmp_path / "tiles.csv").write_text("image,lat,lon\n" + rows)
    index = tmp_path / "idx"
    code, _, err = gengeo("index", tmp_path, "--out", index, "--model", tiny_checkpoint, "--backend", "openvino")
    assert code == 0 and "CPU: openvino " in err
    code, out, _ = gengeo("info", index)
    assert code == 0 and "computed by openvino " in out
    answers = []
    for backend in ("openvino", "torch"):
        options = ("--index", index, "--model", tiny_checkpoint, "--backend", backend)
        code, out, err = gengeo("locate", tmp_path / "2.png", *options)
        assert code == 0, err
        answers.append([line.split()[-1] for line in out.splitlines() if "score" in line])
    assert len(answers[0]) == 4 and answers[0] == answers[1]
    code, _, err = gengeo("locate", tmp_path / "2.png", *options, "--dtype", "int8")
    assert code == 1 and "int8 runs exported graphs" in err


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_graph_that_an_engine_cannot_open_raises_one_line(tmp_path, engine):
    pytest.importorskip(engine)
    from gengeo_hf.encoding.backends.graphs import graph_backend

    class Graphs:
        dtype = "float32"

        def check_size(self, height, width):
            pass

        def graph(self, view):
            (tmp_path / "ground.onnx").write_bytes(b"no graph" * 9)
            return tmp_path / "ground.onnx"

    with pytest.raises(GenGeoError, match=r"(?i)^\w+ cannot open \S+ground\.onnx \(.+\): export") as found:
        graph_backend(Graphs(), engine).encode_pixels(np.zeros((1, 3, 28, 28), np.float32), "ground")
    assert "\n" not in str(found.value)
