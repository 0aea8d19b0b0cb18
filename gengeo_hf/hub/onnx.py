"""Export of a checkpoint to ONNX, for machines that encode images without the kernels of torch.

The directory has one graph for each head (one graph if both views share the head), for any batch size and image size,
the weights, and the settings that `gengeo_hf.encoding.backends` reads.
"""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, write_json
from gengeo_hf.encoding.backends.exported import FORMAT, INPUT, MANIFEST, OUTPUT, VIEWS, size_and_sha256
from gengeo_hf.encoding.backends.traceable import Descriptor, free_positions
from gengeo_hf.encoding.fingerprint import preprocessing, whole_fingerprint

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

WEIGHTS = "weights.bin"
MIN_EXTERNAL_BYTES = 1024  # smaller tensors are stored in the graph
LOWEST_COSINE = 0.9999  # allowed cosine between descriptors of the graph and of torch
BATCHES = (1, 3)  # batch sizes of the comparison, other than that of TRACED
TRACED = (2, 3, 5)  # batch size, rows and columns of patches of the traced input


def export_onnx(
    model: "GenGeoModel", processor: "GenGeoImageProcessor", folder: str | Path, checkpoint: Path | None = None
) -> float:
    """Write the graphs, after a comparison with torch at the image sizes of both views.

    Args:
        model: Model to export. It is moved to the CPU, converted to float32 and set to evaluation mode.
        processor: Image processor with the image size of each view.
        folder: Directory to write, completely or not at all.
        checkpoint: Weights file beside the directory; its checksum is stored, so that an encoder can verify that graphs
            and weights belong together.

    Returns:
        The lowest cosine between descriptors of the graphs and of torch, on random images.

    Raises:
        GenGeoError: The packages of `gengeo_hf[onnx]` are missing, or a graph does not agree with the model.
    """
    _require_packages()
    from gengeo_hf.model.backbones import family_of, patch_sides

    model = model.cpu().float().eval()
    config: Any = model.config
    graphs = {name: _trace(model, name) for name in model.heads}
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
            "dim": config.truncate_dim or head.width_out,
            "patch": patch_sides(config.backbone_config),
            "whole_patches": family_of(config.backbone_config).whole_patches,
            "fewest_tokens": head.aggregator.fewest_tokens,
            "preprocessing": preprocessing(processor),
            "lowest_cosine_to_torch": lowest,
            "graphs": graph_of,
            "checkpoint": size_and_sha256(checkpoint) if checkpoint is not None and checkpoint.is_file() else None,
            "files": {path.name: size_and_sha256(path) for path in sorted(target.iterdir())},
        }
        write_json(target / MANIFEST, manifest)
    return lowest


def _require_packages() -> None:
    try:
        import onnx_ir  # noqa: F401  # installed with onnxscript
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise GenGeoError(f"ONNX needs {error.name}: pip install 'gengeo_hf[onnx]'") from error


def _trace(model: "GenGeoModel", head: str) -> Any:
    """Trace one head: an `onnx_ir.Model` with variable batch size, height and width."""
    from gengeo_hf.model.backbones import patch_sides

    high, wide = patch_sides(model.config.backbone_config)
    batch, rows, columns = TRACED
    free = {
        0: torch.export.Dim("batch", min=1, max=4096),
        2: high * torch.export.Dim("rows", min=2, max=512),
        3: wide * torch.export.Dim("columns", min=2, max=512),
    }
    with _quiet(), free_positions(model):
        program = torch.onnx.export(
            Descriptor(model, head).eval(),
            (torch.randn(batch, 3, rows * high, columns * wide),),
            dynamo=True,
            dynamic_shapes={INPUT: free},
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # contain paths of the exporting machine
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide messages of the exporter about packages that are not needed and about its own code."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        registration.setLevel(before)


def _save(graphs: dict[str, Any], folder: Path) -> None:
    """Write the graphs and one file of weights, with one copy of each weight that graphs share."""
    import onnx_ir

    shared: dict[tuple[str, tuple[int, ...], str], Any] = {}
    externals = []
    for graph in graphs.values():
        for value in graph.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < MIN_EXTERNAL_BYTES:
                continue
            key = (str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).hexdigest())
            shared.setdefault(key, tensor)
            externals.append((value, key))
    stored = onnx_ir.external_data.convert_tensors_to_external(list(shared.values()), folder, WEIGHTS)
    by_key = dict(zip(shared, stored, strict=True))
    for value, key in externals:
        value.const_value = by_key[key]
    for name, graph in graphs.items():
        onnx_ir.save(graph, folder / f"{name}.onnx")


@torch.inference_mode()
def _lowest_cosine(model: "GenGeoModel", graph: Path, view: str, processor: "GenGeoImageProcessor") -> float:
    """Lowest cosine between descriptors of the graph and of torch, over batches of random images."""
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
