"""Which backend, in which precision: what the machine can do, settled by a trial.

Gives a backend and a reason of one line.

Only a CPU has a choice, and only for models whose forward pass is long enough to notice: small ones always stay with
torch in float32, so that their descriptors are the same bits wherever they were computed so far. Each candidate runs
one probe; the fastest is taken if its descriptor agrees with that of torch in float32 and if it wins by a clear margin,
so that a busy moment does not decide.
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
from gengeo_hf.encoding.backends.protocol import FEW, LOWEST_COSINE, Backend, Choice, check_words
from gengeo_hf.encoding.backends.remembered import remember, remembered, trial_key
from gengeo_hf.encoding.backends.torch import TorchBackend
from gengeo_hf.encoding.fingerprint import whole_fingerprint

if TYPE_CHECKING:
    from gengeo_hf.encoding.backends.loaded import LoadedModel
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

SMALL = 5e9  # multiplications of one descriptor, below which there is no trial: a tenth of a second on a slow core
MARGIN = 1.2  # times faster than torch in float32 that another way must be
PLAINLY = 3  # times slower than torch in float32 in a first look, after which a way is not tried further
LOWEST_INT8 = 0.95  # of int8 graphs on noise
PASSES = 2  # of each candidate; the faster one counts, the first may still make room and look for kernels


@dataclass(frozen=True)
class Run:
    """What a candidate did with the probe: seconds, and cosine to torch in float32."""

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
    """The backend for a model in memory.

    Args:
        source: The model, on its device, and its image processor, which gives the size of the probe, a ground image.
        backend: "torch", "openvino" or "auto".
        dtype: "float32", "bfloat16" or "auto".
        images: Number of images that will be encoded, where that is known; few are not worth a trial.
        directory: Of the checkpoint; int8 graphs in it are tried as well.

    Raises:
        GenGeoError: An unknown word, or what was asked for by name cannot be had here.
    """
    check_words(backend, dtype)
    model, processor = source.model, source.processor
    device = model.device.type.upper()
    if dtype == "float32" and model.dtype != torch.float32:
        raise GenGeoError(f"the weights are {model.dtype} values, float32 would gain nothing: leave --dtype out")
    if backend == "openvino":  # asked for: the flags of the CPU say the precision
        asked = dtype if dtype != "auto" else "bfloat16" if has_bfloat16() else "float32"
        found: Backend = OpenVinoBackend(model, asked)
        lacking = "" if found.dtype == asked else f"; {asked} was asked for, which this CPU has no instructions for"
        return Choice(found, f"{device}: openvino {found.dtype}" + (lacking or ", as asked"))
    if device != "CPU" or model.dtype != torch.float32 or multiplications(model, processor) < SMALL:
        return Choice(TorchBackend(model, "bfloat16" if dtype == "bfloat16" else None))
    plain = TorchBackend(model)
    if dtype == "bfloat16":
        return Choice(TorchBackend(model, dtype), f"{device}: torch bfloat16, as asked")
    ways = _candidates(source, backend, dtype, directory)
    if not ways:
        return Choice(plain, _nothing_else(backend, dtype))
    if images is not None and images < FEW:
        return Choice(plain, f"{device}: torch float32; a trial of {' and '.join(ways)} is not worth it for {images}")
    key = trial_key(model=source.fingerprint(), sizes=processor.view_sizes, ways=sorted(ways), device=device)
    if (known := _as_before(key, plain, ways)) is not None:
        return known
    choice = settle(plain, ways, _probe(processor), device, _first_probe(source))
    remember(key, choice.name, choice.reason)
    return choice


def _as_before(key: str, plain: Backend, ways: dict[str, Callable[[], Backend]]) -> Choice | None:
    """What an earlier trial of the same model on the same machine took, where it can be had."""
    found = remembered(key)
    if found is None or found["name"] not in ("", *ways):
        return None
    try:
        backend = ways[found["name"]]() if found["name"] else plain
    except GenGeoError:
        return None
    return Choice(backend, f"{found['reason']} (remembered)", found["name"])


def has_bfloat16() -> bool:
    """Whether this CPU has instructions that multiply bfloat16, so that it can be faster than float32."""
    able = torch.cpu.get_capabilities()
    if able.get("architecture") == "x86_64":
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplications(model: GenGeoModel, processor: GenGeoImageProcessor) -> float:
    """About how many one ground descriptor takes: each weight of the backbone once for each token."""
    from gengeo_hf.model.backbones import patch_sides

    high, wide = patch_sides(model.config.backbone_config)
    size = processor.view_sizes["ground"]
    weights = sum(parameter.numel() for parameter in model.backbone.parameters())
    return float(weights * (size["height"] // high) * (size["width"] // wide))


def settle(
    plain: Backend,
    ways: dict[str, Callable[[], Backend]],
    pixels: torch.Tensor,
    device: str,
    first: torch.Tensor | None = None,
) -> Choice:
    """Run the probe through each way and take the fastest that agrees with `plain` and beats it by the margin.

    Args:
        plain: torch in float32, which the others must agree with.
        ways: What makes each other backend, by name.
        pixels: (B, 3, H, W), the probe.
        device: For the reason.
        first: A part of the probe. A way that is plainly slower with it has no more: without the instructions for it
            one photo in bfloat16 can take a quarter of a minute.
    """
    expected = plain.encode_pixels(pixels, "ground")
    base, start = _run(plain, pixels, expected), _seconds(plain, first)
    runs, unusable = {}, []
    for name, make in ways.items():
        try:
            backend = make()
            if (slower := _seconds(backend, first)) > PLAINLY * start:
                unusable.append(f"{name} {start / slower:.1f}x in a first look")
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
    """What descriptors of a way must reach; int8 was compared on photos when it was exported, and noise is harder."""
    return LOWEST_INT8 if name.endswith("int8") else LOWEST_COSINE


def _candidates(
    source: LoadedModel, backend: str, dtype: str, directory: Path | None
) -> dict[str, Callable[[], Backend]]:
    """What may be faster than torch in float32, by name; nothing is built yet."""
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
        there = (directory / f"{engine}_int8" / MANIFEST).is_file() and importlib.util.find_spec(package) is not None
        if there:
            ways[f"{engine} int8"] = partial(_int8_graphs, source, directory, engine)
    return ways


def _int8_graphs(source: LoadedModel, directory: Path, engine: str) -> Backend:
    """The int8 graphs of this very model.

    Raises:
        GenGeoError: They are damaged, or belong to other weights.
    """
    from gengeo_hf.encoding.backends.graphs import graph_backend

    graphs = find_export(directory, f"{engine}_int8")[0]
    if graphs.manifest["fingerprint"] != whole_fingerprint(source.model, source.processor):
        raise GenGeoError("exported from other weights")
    return graph_backend(graphs, engine)


def _run(backend: Backend, pixels: torch.Tensor, expected: np.ndarray) -> Run:
    """Time of the probe, the least of some passes, and the cosine of its descriptor."""
    taken = []
    for _ in range(PASSES):
        started = time.perf_counter()
        found = backend.encode_pixels(pixels, "ground")
        taken.append(time.perf_counter() - started)
    width = min(found.shape[1], expected.shape[1])
    ours, theirs = torch.from_numpy(found[:, :width]), torch.from_numpy(expected[:, :width])
    return Run(backend, min(taken), float(torch.nn.functional.cosine_similarity(ours, theirs).min()))


def _seconds(backend: Backend, pixels: torch.Tensor | None) -> float:
    """One pass over a part of the probe; 0 where there is none."""
    if pixels is None:
        return 0.0
    started = time.perf_counter()
    backend.encode_pixels(pixels, "ground")
    return time.perf_counter() - started


def _first_probe(source: LoadedModel) -> torch.Tensor | None:
    """A fifth of the probe's width, None where that gives too few tokens for the head."""
    (high, wide), size = source.patch_sides, source.processor.view_sizes["ground"]
    columns = size["width"] // wide // 5
    if columns * (size["height"] // high) < source.fewest_tokens:
        return None
    return _probe(source.processor)[..., : columns * wide]


def _probe(processor: GenGeoImageProcessor) -> torch.Tensor:
    """Pixel values of one made-up photo of the model's size."""
    size = processor.view_sizes["ground"]
    return torch.randn(1, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0))


def _nothing_else(backend: str, dtype: str) -> str:
    """Why torch in float32 is all there is."""
    if dtype == "float32" and backend == "torch":
        return "CPU: torch float32, as asked"
    lacking = "" if has_bfloat16() else "; this CPU has no bfloat16 instructions"
    more = "" if backend == "torch" or installed() else "; pip install 'gengeo_hf[openvino]' may make it faster"
    return f"CPU: torch float32{lacking}{more}"
