"""Chooses backend and precision by a trial on this machine.

There is a trial only on a CPU and only for large models; small ones always use torch in float32, so their descriptors
are bit-identical to earlier ones. Each candidate encodes one probe; the fastest is chosen if its descriptor agrees with
that of torch in float32 and it is faster by a clear margin, so that other load on the machine does not decide.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import MANIFEST, find_export
from gengeo_hf.encoding.backends.openvino import OpenVinoBackend, installed
from gengeo_hf.encoding.backends.protocol import FEW, LOWEST_COSINE, Backend, Choice, check_backend
from gengeo_hf.encoding.backends.torch import TorchBackend
from gengeo_hf.encoding.backends.trial_cache import load_choice, store_choice, trial_key
from gengeo_hf.encoding.fingerprint import whole_fingerprint

if TYPE_CHECKING:
    from gengeo_hf.encoding.backends.loaded import LoadedModel
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

SMALL = 5e9  # no trial below this number of multiplications per descriptor: a tenth of a second on a slow core
MARGIN = 1.2  # minimum speed of a chosen candidate, relative to torch in float32
PLAINLY = 3  # a candidate this many times slower than torch in float32 in a short probe is dropped
LOWEST_INT8 = 0.95  # lowest cosine of int8 graphs, on noise
PASSES = 2  # forward passes of each candidate; the fastest counts, because the first allocates memory


@dataclass(frozen=True)
class Run:
    """Result of a candidate for the probe: seconds, and cosine to torch in float32."""

    backend: Backend
    seconds: float
    cosine: float


def choose(
    source: LoadedModel,
    backend: str = "auto",
    dtype: str = "auto",
    images: int | None = None,
    directory: Path | None = None,
) -> Choice:
    """Choose the backend for a model in memory.

    Args:
        source: Model on its device, with its image processor, which sets the size of the probe (a ground image).
        backend: "torch", "openvino" or "auto".
        dtype: "float32", "bfloat16" or "auto".
        images: Number of images that will be encoded; None if unknown. There is no trial for fewer than `FEW`.
        directory: Checkpoint directory; int8 graphs in it are candidates as well.

    Raises:
        GenGeoError: `backend` or `dtype` is unknown, or is not available here.
    """
    check_backend(backend, dtype)
    model, processor = source.model, source.processor
    device = model.device.type.upper()
    if dtype == "float32" and model.dtype != torch.float32:
        raise GenGeoError(f"the weights are {model.dtype}: computing in float32 has no benefit, leave --dtype out")
    if backend == "openvino":  # the flags of the CPU decide the precision
        wanted = dtype if dtype != "auto" else "bfloat16" if has_bfloat16() else "float32"
        found: Backend = OpenVinoBackend(model, wanted)
        lacking = "" if found.dtype == wanted else f"; this CPU has no instructions for {wanted}"
        return Choice(found, f"{device}: openvino {found.dtype}" + (lacking or ", as requested"))
    if device != "CPU" or model.dtype != torch.float32 or multiplications(model, processor) < SMALL:
        return Choice(TorchBackend(model, "bfloat16" if dtype == "bfloat16" else None))
    plain = TorchBackend(model)
    if dtype == "bfloat16":
        return Choice(TorchBackend(model, dtype), f"{device}: torch bfloat16, as requested")
    ways = _candidates(source, backend, dtype, directory)
    if not ways:
        return Choice(plain, _no_candidates_reason(backend, dtype))
    if images is not None and images < FEW:
        return Choice(plain, f"{device}: torch float32; no trial of {' and '.join(ways)} for {images} images")
    key = trial_key(model=source.fingerprint(), sizes=processor.view_sizes, ways=sorted(ways), device=device)
    if (known := _cached_choice(key, plain, ways)) is not None:
        return known
    choice = run_trial(plain, ways, _probe(processor), device, _first_probe(source))
    store_choice(key, choice.name, choice.reason)
    return choice


def _cached_choice(key: str, plain: Backend, ways: dict[str, Callable[[], Backend]]) -> Choice | None:
    """Choice of an earlier trial of this model on this machine; None if there is none or it is not available."""
    found = load_choice(key)
    if found is None or found["name"] not in ("", *ways):
        return None
    try:
        backend = ways[found["name"]]() if found["name"] else plain
    except GenGeoError:
        return None
    return Choice(backend, f"{found['reason']} (from an earlier trial)", found["name"])


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, with which it can be faster than float32."""
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("architecture") == "x86_64":
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplications(model: GenGeoModel, processor: GenGeoImageProcessor) -> float:
    """Approximate number of multiplications of one ground descriptor: weights of the backbone times tokens."""
    from gengeo_hf.model.backbones import patch_sides

    high, wide = patch_sides(model.config.backbone_config)
    size = processor.view_sizes["ground"]
    weights = sum(parameter.numel() for parameter in model.backbone.parameters())
    return float(weights * (size["height"] // high) * (size["width"] // wide))


def run_trial(
    plain: Backend,
    ways: dict[str, Callable[[], Backend]],
    pixels: torch.Tensor,
    device: str,
    first: torch.Tensor | None = None,
) -> Choice:
    """Encode the probe with each candidate; choose the fastest that agrees with `plain` and is faster by the margin.

    Args:
        plain: Torch in float32, the reference.
        ways: Function that creates each other backend, by name.
        pixels: (B, 3, H, W) pixel values of the probe.
        device: Name of the device for the reason.
        first: Part of the probe. A candidate that is much slower with it is dropped: without instructions for bfloat16,
            one photo can take 15 seconds.
    """
    expected = plain.encode_pixels(pixels, "ground")
    base, start = _run(plain, pixels, expected), _seconds(plain, first)
    runs, unusable = {}, []
    for name, make in ways.items():
        try:
            backend = make()
            if (slower := _seconds(backend, first)) > PLAINLY * start:
                unusable.append(f"{name} {start / slower:.1f}x in a short probe")
                continue
            runs[name] = _run(backend, pixels, expected)
        except GenGeoError as error:
            unusable.append(f"{name}: {error}")
    found = [f"{name} {base.seconds / run.seconds:.1f}x" for name, run in runs.items()]
    near = {name: run for name, run in runs.items() if run.cosine >= _lowest_cosine(name)}
    good = {name: run for name, run in near.items() if base.seconds > MARGIN * run.seconds}
    if good:
        name = min(good, key=lambda key: good[key].seconds)
        gain = base.seconds / good[name].seconds
        return Choice(good[name].backend, f"{device}: {name}, {gain:.1f}x torch float32 in a trial", name)
    found += [f"{name} differs (cosine {run.cosine:.4f})" for name, run in runs.items() if name not in near]
    return Choice(plain, f"{device}: torch float32, nothing was faster in a trial ({', '.join(found + unusable)})")


def _lowest_cosine(name: str) -> float:
    """Lowest cosine of a candidate; lower for int8, whose export was compared on photos (noise is harder)."""
    return LOWEST_INT8 if name.endswith("int8") else LOWEST_COSINE


def _candidates(
    source: LoadedModel, backend: str, dtype: str, directory: Path | None
) -> dict[str, Callable[[], Backend]]:
    """Functions that create the candidates, by name."""
    model = source.model
    half = dtype == "auto" and has_bfloat16()
    ways: dict[str, Callable[[], Backend]] = {}
    if half:
        ways["torch bfloat16"] = partial(TorchBackend, model, "bfloat16")
    if backend == "auto" and installed():
        other = "bfloat16" if half else "float32"
        ways[f"openvino {other}"] = partial(OpenVinoBackend, model, other)
    if directory is None or (backend, dtype) != ("auto", "auto"):
        return ways
    for engine in ("openvino", "onnx"):
        package = {"openvino": "openvino", "onnx": "onnxruntime"}[engine]
        is_available = (directory / f"{engine}_int8" / MANIFEST).is_file() and importlib.util.find_spec(
            package
        ) is not None
        if is_available:
            ways[f"{engine} int8"] = partial(_int8_graphs, source, directory, engine)
    return ways


def _int8_graphs(source: LoadedModel, directory: Path, engine: str) -> Backend:
    """Create a backend with the int8 graphs of this model.

    Raises:
        GenGeoError: The graphs are damaged, or belong to other weights.
    """
    from gengeo_hf.encoding.backends.graphs import graph_backend

    graphs = find_export(directory, f"{engine}_int8")[0]
    if graphs.manifest["fingerprint"] != whole_fingerprint(source.model, source.processor):
        raise GenGeoError("exported from other weights")
    return graph_backend(graphs, engine)


def _run(backend: Backend, pixels: torch.Tensor, expected: np.ndarray) -> Run:
    """Measure the shortest time of some passes over the probe, and the cosine of the descriptors."""
    times = []
    for _ in range(PASSES):
        started = time.perf_counter()
        found = backend.encode_pixels(pixels, "ground")
        times.append(time.perf_counter() - started)
    width = min(found.shape[1], expected.shape[1])
    ours, theirs = torch.from_numpy(found[:, :width]), torch.from_numpy(expected[:, :width])
    return Run(backend, min(times), float(torch.nn.functional.cosine_similarity(ours, theirs).min()))


def _seconds(backend: Backend, pixels: torch.Tensor | None) -> float:
    """Seconds of one pass over a part of the probe; 0 if it is None."""
    if pixels is None:
        return 0.0
    started = time.perf_counter()
    backend.encode_pixels(pixels, "ground")
    return time.perf_counter() - started


def _first_probe(source: LoadedModel) -> torch.Tensor | None:
    """Probe with a fifth of the width; None if that has too few tokens for the head."""
    (high, wide), size = source.patch_sides, source.processor.view_sizes["ground"]
    columns = size["width"] // wide // 5
    if columns * (size["height"] // high) < source.fewest_tokens:
        return None
    return _probe(source.processor)[..., : columns * wide]


def _probe(processor: GenGeoImageProcessor) -> torch.Tensor:
    """Random pixel values of one photo of the model's size."""
    size = processor.view_sizes["ground"]
    return torch.randn(1, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0))


def _no_candidates_reason(backend: str, dtype: str) -> str:
    """Reason why torch in float32 is the only candidate."""
    if dtype == "float32" and backend == "torch":
        return "CPU: torch float32, as requested"
    lacking = "" if has_bfloat16() else "; this CPU has no bfloat16 instructions"
    more = "" if backend == "torch" or installed() else "; pip install 'gengeo_hf[openvino]' may make it faster"
    return f"CPU: torch float32{lacking}{more}"
