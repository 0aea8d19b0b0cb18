"""A checkpoint as an ONNX graph, for machines that describe images without torch's kernels.

Before: a GenGeo model and its image processor. After: a folder with one graph for each head (one where both views
share it) that takes any batch size and any image size, the weights, and what `gengeo_hf.onnx_encoder` must know.
"""

import contextlib
import hashlib
import logging
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gengeo_hf.errors import GenGeoError
from gengeo_hf.files import atomic_folder, write_json
from gengeo_hf.fingerprint import preprocessing, whole_fingerprint

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

FORMAT = 1
FOLDER = "onnx"  # inside a checkpoint folder
MANIFEST = "gengeo_onnx.json"
WEIGHTS = "weights.bin"
VIEWS = ("ground", "aerial")
INPUT, OUTPUT = "pixel_values", "descriptor"
SMALL = 1024  # bytes; what is smaller stays inside the graph
LOWEST_COSINE = 0.9999  # between a descriptor of the graph and that of torch
BATCHES = (1, 3)  # neither is the batch size that the graph is traced with
TRACED = (2, 3, 5)  # batch, rows and columns of patches


def export_onnx(model: "GenGeoModel", processor: "GenGeoImageProcessor", folder: str | Path) -> float:
    """Write the graphs, and compare them with torch at both views' sizes before anything appears.

    Args:
        model: its weights are exported as float32; it is put into evaluation mode on the CPU.
        processor: says the image size of each view.
        folder: it appears whole or not at all.

    Returns:
        The lowest cosine between descriptors of the graphs and of torch, on random images.

    Raises:
        GenGeoError: the packages of `gengeo_hf[onnx]` are missing, or a graph does not agree with the model.
    """
    _require()
    from gengeo_hf.model.backbones import patch_sides

    model = model.cpu().float().eval()
    config: Any = model.config
    graphs = {name: _traced(model, name) for name in model.heads}
    graph_of = {view: f"{'shared' if config.share_aggregator else view}.onnx" for view in VIEWS}
    with atomic_folder(folder) as target:
        _save(graphs, target)
        lowest = min(_lowest_cosine(model, target / graph_of[view], view, processor) for view in VIEWS)
        if not lowest >= LOWEST_COSINE:
            raise GenGeoError(
                f"the ONNX graph does not agree with torch: cosine {lowest:.6f}, expected at least {LOWEST_COSINE}; "
                "nothing was written"
            )
        head: Any = next(iter(model.heads.values()))
        manifest = {
            "format": FORMAT,
            "fingerprint": whole_fingerprint(model, processor),
            "truncate_dim": config.truncate_dim,
            "dim": config.truncate_dim or config.descriptor_dim or head.aggregator.width_out,
            "patch": patch_sides(config.backbone_config),
            "whole_patches": config.backbone_config.model_type != "convnext",
            "fewest_tokens": config.num_clusters + 1 if config.aggregator == "salad" and config.use_dustbin else 1,
            "preprocessing": preprocessing(processor),
            "lowest_cosine_to_torch": lowest,
            "graphs": graph_of,
            "files": {path.name: described(path) for path in sorted(target.iterdir())},
        }
        write_json(target / MANIFEST, manifest)
    return lowest


def described(path: Path) -> dict[str, Any]:
    """Size and hash of a file, as the manifest states them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _require() -> None:
    try:
        import onnx_ir  # noqa: F401  # comes with onnxscript
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise GenGeoError(f"ONNX needs {error.name}: pip install 'gengeo_hf[onnx]'") from error


class _Descriptor(torch.nn.Module):
    """Pixel values in, descriptors out; without the model's checks, which the encoder makes before it runs a graph."""

    def __init__(self, model: "GenGeoModel", head: str) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.heads[head]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        from gengeo_hf.model.backbones import read_tokens

        descriptor: torch.Tensor = self.head(*read_tokens(self.backbone, self.backbone(pixel_values)))[0]
        return descriptor


def _traced(model: "GenGeoModel", head: str) -> Any:
    """The graph of one head, an `onnx_ir.Model`, with free batch size, height and width."""
    from gengeo_hf.model.backbones import patch_sides

    high, wide = patch_sides(model.config.backbone_config)
    batch, rows, columns = TRACED
    free = {
        0: torch.export.Dim("batch", min=1, max=4096),
        2: high * torch.export.Dim("rows", min=2, max=512),
        3: wide * torch.export.Dim("columns", min=2, max=512),
    }
    with _quiet(), _free_positions(model):
        program = torch.onnx.export(
            _Descriptor(model, head).eval(),
            (torch.randn(batch, 3, rows * high, columns * wide),),
            dynamo=True,
            dynamic_shapes={INPUT: free},
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # they hold where the exporting machine keeps its files
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about packages that nothing here needs, and about its own insides."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        registration.setLevel(before)


@contextlib.contextmanager
def _free_positions(model: "GenGeoModel") -> Iterator[None]:
    """Inside, the position grid is resized by matrices that follow the image size.

    The exporter would otherwise write the scale of the image that it traced into the graph.
    """
    from gengeo_hf.model.backbones import HUB_OFFSET, GenGeoDinov2Embeddings

    embeddings: Any = getattr(model.backbone, "embeddings", None)
    if not hasattr(embeddings, "interpolate_pos_encoding"):
        yield  # no grid to resize: rotary positions, or none
        return
    offset = HUB_OFFSET if isinstance(embeddings, GenGeoDinov2Embeddings) else 0.0
    backbone: Any = model.config.backbone_config
    smooth = backbone.model_type == "dinov2_with_registers"

    def resize(self: Any, tokens: torch.Tensor, height: Any, width: Any) -> torch.Tensor:
        rows, columns = height // backbone.patch_size, width // backbone.patch_size
        return resized_positions(self.position_embeddings, rows, columns, offset, smooth)

    embeddings.interpolate_pos_encoding = types.MethodType(resize, embeddings)
    try:
        yield
    finally:
        del embeddings.interpolate_pos_encoding  # the class's own shows again


def resized_positions(positions: torch.Tensor, rows: Any, columns: Any, offset: float, smooth: bool) -> torch.Tensor:
    """DINOv2's position embeddings (1, 1 + side^2, C) for a grid of rows x columns, (1, 1 + rows columns, C).

    The same numbers as bicubic `torch.nn.functional.interpolate` by the scale (new + offset) / side, with antialiasing
    where `smooth`, from operations on tensors alone. A grid of the native size is passed on.
    """
    side, width = round((positions.shape[1] - 1) ** 0.5), positions.shape[2]
    down, across = (torch.arange(count, dtype=torch.float32) for count in (rows, columns))
    native = (down[-1] == side - 1) & (across[-1] == side - 1)
    grid = positions[0, 1:].reshape(side, side * width)
    grid = (_axis_weights(down, side, offset, smooth, native) @ grid).reshape(-1, side, width)
    grid = (_axis_weights(across, side, offset, smooth, native) @ grid).reshape(1, -1, width)
    return torch.cat((positions[:, :1], grid), dim=1)


def _axis_weights(target: torch.Tensor, side: int, offset: float, smooth: bool, native: torch.Tensor) -> torch.Tensor:
    """Bicubic weights (new, side) of one axis for the positions `target` = 0 .. new - 1."""
    source = torch.arange(side, dtype=torch.float32)
    scale = side / (target[-1] + 1 + offset)
    centre = (target + 0.5) * scale - 0.5
    if smooth:
        weights = _cubic((source - centre[:, None]) / scale.clamp(min=1), -0.5)
        weights = weights / weights.sum(dim=1, keepdim=True)
    else:
        taps = centre.floor()[:, None] + torch.arange(-1.0, 3.0)
        hits = taps.clamp(0, side - 1)[:, :, None] == source  # beyond the border its last value is repeated
        weights = (_cubic(centre[:, None] - taps, -0.75)[:, :, None] * hits).sum(dim=1)
    return torch.where(native, (target[:, None] == source).float(), weights)


def _cubic(distance: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' cubic convolution kernel (1981, equation 4)."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _save(graphs: dict[str, Any], folder: Path) -> None:
    """Write the graphs, with one copy of each weight for all of them."""
    import onnx_ir

    shared: dict[tuple[str, tuple[int, ...], str], Any] = {}
    places = []
    for graph in graphs.values():
        for value in graph.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < SMALL:
                continue
            key = (str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).hexdigest())
            shared.setdefault(key, tensor)
            places.append((value, key))
    stored = onnx_ir.external_data.convert_tensors_to_external(list(shared.values()), folder, WEIGHTS)
    by_key = dict(zip(shared, stored, strict=True))
    for value, key in places:
        value.const_value = by_key[key]
    for name, graph in graphs.items():
        onnx_ir.save(graph, folder / f"{name}.onnx")


@torch.inference_mode()
def _lowest_cosine(model: "GenGeoModel", graph: Path, view: str, processor: "GenGeoImageProcessor") -> float:
    """Over batches of random images of the view's size."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator, lowest = torch.Generator().manual_seed(0), 1.0
    size = processor.view_sizes[view]
    for count in BATCHES:
        pixels = torch.randn(count, 3, size["height"], size["width"], generator=generator)
        expected = model(pixels, view=view).pooler_output.numpy()
        found = session.run([OUTPUT], {INPUT: pixels.numpy()})[0]
        if found.shape != expected.shape:
            raise GenGeoError(f"the ONNX graph gives {found.shape} for {count} images, expected {expected.shape}")
        lowest = min(lowest, float(np.einsum("nd,nd->n", found, expected).min()))
    return lowest
