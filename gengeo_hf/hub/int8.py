"""Export of int8 graphs, calibrated on given images and written only if the descriptors hardly change.

Static post-training quantisation of the linear layers of the backbone: activations uint8 per tensor, weights int8 per
output channel (Jacob et al. 2018). Layer norms, attention, the head and the projection stay in float32. The layers with
the largest quantisation error of their output on the calibration images are left in float32 until the descriptors pass
the gate; such layers have the outlier channels of pretrained transformers (Dettmers et al. 2022).
"""

import contextlib
import hashlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, write_json
from gengeo_hf.encoding.backends.exported import FOLDER, INPUT, MANIFEST, OUTPUT, VIEWS, ExportedGraphs, size_and_sha256
from gengeo_hf.hub.calibration_images import CalibrationImages

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoModel

ENGINES = ("onnx", "openvino")
LOWEST_COSINE, MEAN_COSINE = 0.98, 0.995  # allowed between int8 and float32 descriptors of the evaluation images
MAX_RECALL_LOSS = 0.005  # loss of R@1
FLOAT_SHARES = (0.0, 1 / 12, 1 / 6, 1 / 3, 1 / 2)  # shares of layers in float32, tried until the gate is passed
ROWS = 512  # rows of a layer's input for the measurement of its error


@dataclass(frozen=True)
class Gate:
    """Comparison of int8 descriptors with float32 descriptors.

    Args:
        lowest: Lowest cosine between the two descriptors of an image.
        mean: Mean cosine over the images.
        recall: R@1 of float32 and of int8, 0 to 1; None if the images are not pairs.
        images: Number of compared images.
    """

    lowest: float
    mean: float
    recall: tuple[float, float] | None
    images: int

    @property
    def is_passed(self) -> bool:
        """Whether the int8 descriptors are near enough to be used instead of float32."""
        near = self.lowest >= LOWEST_COSINE and self.mean >= MEAN_COSINE
        return near and (self.recall is None or self.recall[0] - self.recall[1] <= MAX_RECALL_LOSS)

    def __str__(self) -> str:
        shown = f"lowest cosine to float32 {self.lowest:.4f}, mean {self.mean:.4f} ({self.images} images)"
        return shown + (f", R@1 {self.recall[1]:.1%} ({self.recall[0]:.1%} in float32)" if self.recall else "")


def export_int8(model: "GenGeoModel", folder: Path, images: CalibrationImages) -> dict[str, str]:
    """Write `onnx_int8` and, if nncf is installed, `openvino_int8` beside an ONNX export of the same model.

    Args:
        model: The exported model.
        folder: Directory with the export in `onnx/`.
        images: Images for calibration and evaluation.

    Returns:
        A summary for each engine: layers in float32, cosines, R@1.

    Raises:
        GenGeoError: A package is missing, or no share of float32 layers passes the gate; then nothing is written for
            this engine.
    """
    _require_packages()
    source = ExportedGraphs(folder / FOLDER, images.processor)
    layers = {path: _linear_layers(path, model) for path in {source.graph(view) for view in VIEWS}}
    errors: dict[str, float] = {}
    for path, names in layers.items():
        errors |= _layer_errors(path, names, images.calibration_pixels(_views_of(source, path)))
    ranked = sorted(errors, key=lambda name: -errors[name])
    expected = _descriptors(_onnx_session, {view: source.graph(view) for view in VIEWS}, images, "in float32")
    summaries = {}
    engines = [engine for engine in ENGINES if engine == "onnx" or _has_nncf()]
    with tempfile.TemporaryDirectory() as temporary:
        for engine in engines:
            work = Path(temporary) / engine
            gate, left, target = _quantise(engine, source, layers, ranked, images, expected, work)
            summaries[engine] = f"{len(left)} of {len(ranked)} linear layers left in float32, {gate}"
            _write(folder / f"{engine}_int8", target, source, gate, sorted(left), images)
    return summaries


def _quantise(
    engine: str,
    source: ExportedGraphs,
    layers: dict[Path, dict[str, str]],
    ranked: list[str],
    images: CalibrationImages,
    expected: dict[str, np.ndarray],
    folder: Path,
) -> tuple[Gate, set[str], Path]:
    """Quantise the graphs for one engine, with the smallest share of float32 layers that passes the gate.

    Returns:
        The comparison, the names of the float32 layers, and the directory of the graphs.
    """
    make, run, suffix = _ENGINES[engine]
    for share in FLOAT_SHARES:
        left, target = set(ranked[: round(share * len(ranked))]), folder / f"{share:.3f}"
        target.mkdir(parents=True)
        for path, names in layers.items():
            float_nodes = [node for node, layer in names.items() if layer in left]
            make(
                path,
                target / (path.stem + suffix),
                [*names],
                float_nodes,
                images.calibration_pixels(_views_of(source, path)),
            )
        graphs = {view: target / (source.graph(view).stem + suffix) for view in VIEWS}
        label = f"in int8 ({engine}), {share:.0%} of the layers in float32"
        gate = _compare(expected, _descriptors(run, graphs, images, label), images)
        if gate.is_passed:
            return gate, left, target
    raise GenGeoError(
        f"int8 ({engine}) changes descriptors too much even with half of the layers in float32: {gate}; nothing was "
        "written: use float32 or bfloat16, or calibrate with images that are more similar to your photos"
    )


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401  # checks that it is installed
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise GenGeoError(f"--int8 needs {error.name}: pip install 'gengeo_hf[onnx]'") from error


def _has_nncf() -> bool:
    import importlib.util

    return all(importlib.util.find_spec(name) is not None for name in ("nncf", "openvino"))


def _views_of(source: ExportedGraphs, path: Path) -> list[str]:
    """Views whose images a graph encodes."""
    return [view for view in VIEWS if source.graph(view) == path]


def _linear_layers(path: Path, model: "GenGeoModel") -> dict[str, str]:
    """Names of layers by names of nodes, of the linear layers of the backbone in a graph, matched by weights."""
    import onnx
    import torch

    def digest(values: np.ndarray) -> str:
        return hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes()).hexdigest()

    known = {}
    for name, module in model.backbone.named_modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.detach().float().cpu().numpy()
            known[digest(weight)] = known[digest(weight.T)] = name
    graph = onnx.load(path).graph
    weights = {value.name: value for value in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            values = onnx.numpy_helper.to_array(weights[node.input[1]])
            if (name := known.get(digest(values))) is not None:
                found[node.name] = name
    return found


def _layer_errors(path: Path, names: dict[str, str], pixels: list[np.ndarray]) -> dict[str, float]:
    """Relative error of the output of each layer if its input and weights are rounded to 8 bits."""
    import onnx
    import onnxruntime

    graph = onnx.load(path)
    stored = {value.name: value for value in graph.graph.initializer}
    nodes = [node for node in graph.graph.node if node.name in names]
    weights = {node.name: _weight_of(node, stored) for node in nodes}  # before `onnx.save` moves them out of the graph
    tensors = sorted({node.input[0] for node in nodes})
    for tensor in tensors:
        graph.graph.output.append(onnx.ValueInfoProto(name=tensor))
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(graph, Path(folder) / "a.onnx", save_as_external_data=True, location="a.bin")
        session = onnxruntime.InferenceSession(Path(folder) / "a.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for image in _bar(pixels[:8], "measure the error of each layer"):
        for name, values in zip(tensors, session.run(tensors, {INPUT: image}), strict=True):
            rows = values.reshape(-1, values.shape[-1])
            kept[name].append(rows[rng.permutation(len(rows))[: ROWS // 8]])
    inputs = {name: np.concatenate(rows) for name, rows in kept.items()}
    errors = {}
    for node in nodes:
        weight, values = weights[node.name], inputs[node.input[0]]
        exact = values @ weight
        rounded = _rounded_activations(values) @ _rounded_weights(weight)
        errors[names[node.name]] = float(np.linalg.norm(exact - rounded)) / max(float(np.linalg.norm(exact)), 1e-12)
    return errors


def _weight_of(node: Any, stored: dict[str, Any]) -> np.ndarray:
    """The weight (inputs, outputs) of a linear node."""
    import onnx

    weight: np.ndarray = onnx.numpy_helper.to_array(stored[node.input[1]])
    transposed = node.op_type == "Gemm" and any(value.name == "transB" and value.i for value in node.attribute)
    return weight.T if transposed else weight


def _rounded_activations(values: np.ndarray) -> np.ndarray:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = max((high - low) / 255, 1e-12)
    rounded: np.ndarray = np.rint(values / step) * step
    return rounded


def _rounded_weights(weight: np.ndarray) -> np.ndarray:
    step = np.maximum(np.abs(weight).max(axis=0, keepdims=True) / 127, 1e-12)
    rounded: np.ndarray = np.rint(weight / step) * step
    return rounded


def _bar(batches: list[np.ndarray], description: str) -> Iterable[np.ndarray]:
    """Iterate with a progress bar, on a terminal only."""
    from tqdm.auto import tqdm

    bar: Iterable[np.ndarray] = tqdm(batches, desc=description, unit="batch", leave=False, disable=None)
    return bar


class _Reader:
    """Calibration data reader of onnxruntime."""

    def __init__(self, pixels: list[np.ndarray]) -> None:
        self._left = iter(_bar(pixels, "calibrate"))

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self._left, None)
        return None if found is None else {INPUT: found}


def _quantise_onnx(
    source: Path, target: Path, nodes: list[str], float_nodes: list[str], pixels: list[np.ndarray]
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _quiet():
        quantize_static(
            source,
            target,
            _Reader(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=[node for node in nodes if node not in float_nodes],
            per_channel=True,
            # 7 bits for weights: products of 8 bits saturate on CPUs without VNNI, where the export may be used too
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _quantise_openvino(
    source: Path, target: Path, nodes: list[str], float_nodes: list[str], pixels: list[np.ndarray]
) -> None:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    graph = openvino.Core().read_model(source)
    kept = set(nodes) - set(float_nodes)
    left = [op.get_friendly_name() for op in graph.get_ops() if op.get_type_name() in ("MatMul", "Convolution")]
    scope = nncf.IgnoredScope(names=[name for name in left if name not in kept], validate=False)
    with _quiet():
        found = nncf.quantize(
            graph,
            nncf.Dataset(pixels),
            subset_size=len(pixels),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=scope,
        )
    openvino.save_model(found, target, compress_to_fp16=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings and progress bars of the libraries."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _onnx_session(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])


def _openvino_session(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.array(compiled(pixels)[0])


_ENGINES: dict[str, tuple[Callable[..., None], Callable[[Path], Callable[[np.ndarray], np.ndarray]], str]] = {
    "onnx": (_quantise_onnx, _onnx_session, ".onnx"),
    "openvino": (_quantise_openvino, _openvino_session, ".xml"),
}


def _descriptors(
    run: Callable[[Path], Callable[[np.ndarray], np.ndarray]],
    graphs: dict[str, Path],
    images: CalibrationImages,
    label: str,
) -> dict[str, np.ndarray]:
    """Descriptors of length 1 of the evaluation images of both views."""
    sessions = {path: run(path) for path in set(graphs.values())}
    found = {}
    for view, path in graphs.items():
        batches = _bar(images.evaluation_pixels(view), f"encode {view} {label}")
        vectors = np.concatenate([sessions[path](pixels) for pixels in batches])
        found[view] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def _compare(expected: dict[str, np.ndarray], found: dict[str, np.ndarray], images: CalibrationImages) -> Gate:
    cosines = np.concatenate([np.einsum("nd,nd->n", expected[view], found[view]) for view in expected])
    recall = None
    if images.positives is not None:
        recall = (_recall(expected, images.positives), _recall(found, images.positives))
    return Gate(float(cosines.min()), float(cosines.mean()), recall, len(cosines))


def _recall(descriptors: dict[str, np.ndarray], positives: np.ndarray) -> float:
    """R@1: share of the photos whose tile is strictly the most similar one."""
    scores = descriptors["ground"] @ descriptors["aerial"].T
    own = scores[np.arange(len(scores)), positives][:, None]
    return float(((scores >= own).sum(axis=1) == 1).mean())


def _write(
    folder: Path, graphs: Path, source: ExportedGraphs, gate: Gate, left: list[str], images: CalibrationImages
) -> None:
    """Write the graphs of one engine with their manifest, completely or not at all."""
    suffix = next(path.suffix for path in graphs.iterdir() if path.suffix in (".onnx", ".xml"))
    with atomic_folder(folder) as target:
        for path in sorted(graphs.iterdir()):
            (target / path.name).write_bytes(path.read_bytes())
        manifest = source.manifest | {
            "dtype": "int8",
            "graphs": {view: source.graph(view).stem + suffix for view in VIEWS},
            "files": {path.name: size_and_sha256(path) for path in sorted(target.iterdir())},
            "float_layers": left,
            "calibration": {"images": images.description, "calibrating": images.count, "judging": gate.images},
            "lowest_cosine_to_float32": gate.lowest,
            "mean_cosine_to_float32": gate.mean,
            "recall_at_1": {"float32": gate.recall[0], "int8": gate.recall[1]} if gate.recall else None,
        }
        write_json(target / MANIFEST, manifest)
