"""Evaluates a model on a data set by a protocol.

    from gengeo_hf import evaluate

    result = evaluate("runs/cvusa/model", "cvact:val /data/CVACT", "cvusa-to-cvact")
    print(result.percent()["R@1"])
    result.save("results/x.json")

With several processes (`accelerate launch -m gengeo_hf.cli evaluate ...`) each process encodes a part of the images
into one directory that all must be able to read. The metrics are the same for any number of processes. An interrupted
run resumes if `descriptors` is a directory.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.data.registry import DataNotation, parse_data
from gengeo_hf.data.view_checks import check_views
from gengeo_hf.encoding.adaptation import adaptation_name
from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.encoding.engine import DescriptorStore, Transform, encode_images, encode_to_store, images_fingerprint
from gengeo_hf.evaluation.adapt import adapt_encoder
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.protocols import Protocol, default_protocol, find_protocol, fov_shown, view_headings
from gengeo_hf.evaluation.ranks import Ties
from gengeo_hf.evaluation.results import Result, compute_result

if TYPE_CHECKING:
    from collections.abc import Iterator

Encode = Callable[[Sequence[Any], View], np.ndarray]


def evaluate(
    model: "str | Path | Encoder",
    data: "str | DataNotation | CrossViewDataset | None" = None,
    protocol: str | Protocol | None = None,
    *,
    name: str | None = None,
    ground_size: str | None = None,
    aerial_size: str | None = None,
    ties: Ties = "pessimistic",
    seed: int = 0,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    descriptors: str | Path | None = None,
    encode: Encode | None = None,
    centering: str | None = None,
    flip: bool = False,
    show_progress_bar: bool = False,
) -> Result:
    """Evaluate a model: encode both views, rank all tiles for each query, compute metrics.

    Args:
        model: Checkpoint directory, Hub id, or an `Encoder`.
        data: `"NAME[:SPLIT] [ROOT] [key=value ...]"`, a loaded data set, or None for the protocol's data set if it
            needs no files. The default split is that of the protocol, "test" without a protocol.
        protocol: Name of a protocol or a `Protocol`. None takes the published protocol of this data set and split if
            there is one, otherwise recall over the whole gallery.
        name: Name of the model in tables; None takes the name of its directory, or of its run.
        ground_size, aerial_size: Size in pixels as "HxW", for example "154x770"; None takes the model's own.
        ties: Rule for tiles of equal score, see `rank_of_positives`.
        seed: Seed of random headings.
        batch_size: Images in one forward pass; ignored for an `Encoder`.
        device: Device on which the model runs; None takes a GPU if there is one. Ignored for an `Encoder`.
        descriptors: Directory in which descriptors are stored for later evaluations; None stores none. Required with
            several processes.
        encode: Function that encodes the images of one view, float32 (images, dim), instead of the encoder; for a model
            in training.
        centering: Subtract means of this data set's descriptors: "gallery" or "queries", see
            `gengeo_hf.evaluation.adapt`. No published protocol does this; the result states it.
        flip: Also compare mirror images. No published protocol does this; the result states it.
        show_progress_bar: Show images per second on stderr.

    Returns:
        The result, the same on every process.

    Raises:
        GenGeoError: Model, data or protocol cannot be used or do not fit together, or the model was trained on some of
            these pairs.

    Example:
        >>> evaluate("demo/gengeo-world-urban", "world-urban num_pairs=100").percent()["R@1"]
    """
    options: dict[str, Any] = {"name": name, "ground_size": ground_size, "aerial_size": aerial_size, "encode": encode}
    options |= {"seed": seed, "batch_size": batch_size, "device": device, "descriptors": descriptors}
    options |= {"centering": centering, "flip": flip, "show_progress_bar": show_progress_bar}
    return encode_data(model, data, protocol, **options).compute_result(ties)


@dataclass(frozen=True)
class EncodedData:
    """Descriptors of both views of a data set, with everything that `compute_result` needs.

    Args:
        ground, aerial: float32 (queries, dim) and (tiles, dim) descriptors of unit length.
        truth: Ground truth of the data set.
        rules: Protocol of the evaluation.
        model, settings: Facts for the summary of the result.
        device: Device on which blocks are multiplied.
    """

    ground: np.ndarray
    aerial: np.ndarray
    truth: GroundTruth
    rules: Protocol
    model: dict[str, Any]
    settings: dict[str, Any]
    device: torch.device | None = None

    def compute_result(self, ties: Ties = "pessimistic") -> Result:
        """Rank all tiles for each query and compute metrics."""
        given = (self.ground, self.aerial, self.truth, self.rules)
        return compute_result(*given, model=self.model, settings=self.settings, ties=ties, device=self.device)


def encode_data(
    model: "str | Path | Encoder",
    data: "str | DataNotation | CrossViewDataset | None" = None,
    protocol: str | Protocol | None = None,
    *,
    name: str | None = None,
    ground_size: str | None = None,
    aerial_size: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    descriptors: str | Path | None = None,
    encode: Encode | None = None,
    centering: str | None = None,
    flip: bool = False,
    show_progress_bar: bool = False,
) -> EncodedData:
    """Encode both views of a data set; arguments and errors as in `evaluate`."""
    notation = parse_data(data) if isinstance(data, str) else data
    rules = choose_protocol(protocol, notation)
    state = process_state()
    if device is None and state.num_processes > 1:
        device = state.device
    encoder = (
        model if isinstance(model, Encoder) else Encoder.from_pretrained(model, device=device, batch_size=batch_size)
    )
    notation = DataNotation(rules.dataset) if notation is None else notation
    loaded = notation if isinstance(notation, CrossViewDataset) else _load(notation, rules, state)
    truth = GroundTruth.from_dataset(loaded)
    overlap = training_overlap(encoder.training_record, truth, rules)
    check_limited_view(rules, loaded.queries["fov"][:])
    check_views(loaded, encoder.processor)
    if rules.has_limited_view and (changed := (encoder.processor.view_transforms or {}).get("ground")):
        raise GenGeoError(
            f"protocol {rules.name} crops panoramas to {rules.fov} degrees, and this model's view {changed} needs the "
            "whole panorama"
        )
    if encode is not None and (centering or flip):
        raise GenGeoError("centering and flip cannot be combined with encode")
    label = name or model_name(model, encoder)
    with _at_size(encoder, ground_size, aerial_size):
        sizes = {view: dict(size) for view, size in encoder.processor.view_sizes.items()}
        shown = fov_shown(rules, sizes["ground"]["width"], encoder.patch) if rules.has_limited_view else None
        encoder = adapt_encoder(encoder, loaded, centering, flip)
        ground, aerial, images = _descriptors(
            encoder, loaded, truth, rules, seed, descriptors, encode, state, show_progress_bar
        )
        adaptation = adaptation_name(encoder)
        about = model_summary(encoder, f"{label} ({adaptation})" if adaptation else label)
    settings = (
        {
            "view_sizes": sizes,
            "data": str(notation) if isinstance(notation, DataNotation) else loaded.name,
            "loader": notation.options if isinstance(notation, DataNotation) else {},
            "seed": seed,
            "images": images,
        }
        | ({"training_pairs": overlap} if overlap else {})
        | ({"adaptation": adaptation} if adaptation else {})
        | ({} if shown is None else {"fov_shown": shown})
    )
    return EncodedData(ground, aerial, truth, rules, about, settings, encoder.device)


def choose_protocol(protocol: str | Protocol | None, data: "DataNotation | CrossViewDataset | None") -> Protocol:
    """Find the protocol of an evaluation and check it against the data.

    Args:
        protocol: Name of a protocol or a `Protocol`; None takes that of the data.
        data: Parsed notation or loaded data set; None takes that of the protocol.

    Raises:
        GenGeoError: Neither is given, the protocol is unknown, or it belongs to another data set or split.
    """
    if protocol is None:
        if data is None:
            raise GenGeoError("nothing to evaluate on: give a data set, a protocol, or both")
        if isinstance(data, DataNotation):
            return default_protocol(data.name, data.split or "test")
        name, _, split = data.name.rpartition("/")
        return default_protocol(name or data.name, split)
    rules = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if isinstance(data, DataNotation):
        if data.name != rules.dataset:
            found = f'; for files of it write "{rules.dataset} {data.name}"' if Path(data.name).exists() else ""
            raise GenGeoError(f"protocol {rules.name} is for the data set {rules.dataset}, found {data.name!r}{found}")
        if data.split not in (None, rules.split):
            raise GenGeoError(
                f"protocol {rules.name} is for the split {rules.split}, found {data.split!r}: leave out one of them"
            )
    return rules


def process_state() -> PartialState:
    """Return the state of this process. Reads `ACCELERATE_USE_CPU`, which `PartialState` alone ignores."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def _load(notation: DataNotation, rules: Protocol, state: PartialState) -> CrossViewDataset:
    """Load the data set; the main process first, because it may build a synthetic world."""
    with state.main_process_first():
        return notation.load(rules.split)


def _descriptors(
    encoder: Encoder,
    data: CrossViewDataset,
    truth: GroundTruth,
    rules: Protocol,
    seed: int,
    root: str | Path | None,
    encode: Encode | None,
    state: PartialState,
    show_progress_bar: bool,
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Encode or load descriptors of both views, float32 (rows, dim), with the fingerprints of their images."""
    photos, tiles = GroundImages(data), AerialImages(data)
    if encode is not None:
        return encode(photos, "ground"), encode(tiles, "aerial"), {}
    headings = view_headings(rules, len(truth.query_ids), seed)
    transform = limited_view(rules.fov, headings, encoder.patch) if rules.has_limited_view else None
    bar = show_progress_bar and state.is_main_process
    if root is None:
        if state.num_processes > 1:
            raise GenGeoError("several processes need a directory for descriptors that all of them can read")
        images = {
            "ground": images_fingerprint(photos, truth.query_ids),
            "aerial": images_fingerprint(tiles, truth.tile_ids),
        }
        ground = encode_images(encoder, photos, "ground", transform=transform, show_progress_bar=bar)
        return ground, encode_images(encoder, tiles, "aerial", show_progress_bar=bar), images
    common: dict[str, Any] = {
        "process": state.process_index,
        "processes": state.num_processes,
        "show_progress_bar": bar,
    }
    headings_digest = None if headings is None else hashlib.sha256(headings.tobytes()).hexdigest()
    key = [rules.fov, headings_digest] if rules.has_limited_view else None
    stores: list[DescriptorStore] = [
        encode_to_store(
            encoder, photos, "ground", truth.query_ids, root, transform=transform, transform_key=key, **common
        ),
        encode_to_store(encoder, tiles, "aerial", truth.tile_ids, root, **common),
    ]
    state.wait_for_everyone()
    return stores[0].load(), stores[1].load(), {"ground": str(stores[0].images), "aerial": str(stores[1].images)}


def limited_view(fov: int, headings: np.ndarray | None, patch: int) -> Transform:
    """Return a transform that crops panoramas to a field of view after resizing, as in training.

    Args:
        fov: Horizontal field of view in degrees. The crop keeps the scale: its width is fov / 360 of the panorama, in
            whole patches.
        headings: (queries,) heading of the centre of each crop, degrees clockwise from north; None is north.
        patch: Width of a patch in pixels.
    """
    from gengeo_hf.data.views import limited_fov

    def crop(pixels: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        degrees = np.zeros(len(rows)) if headings is None else headings[np.asarray(rows)]
        return limited_fov(pixels, fov, torch.from_numpy(degrees.astype(np.float64)), patch)

    return crop


@contextmanager
def _at_size(encoder: Encoder, ground: str | None, aerial: str | None) -> "Iterator[None]":
    """Set other image sizes on the encoder and restore its own afterwards."""
    before = encoder.processor.view_sizes
    encoder.processor.view_sizes = view_sizes(encoder, ground, aerial)
    try:
        yield
    finally:
        encoder.processor.view_sizes = before


def view_sizes(encoder: Encoder, ground: str | None, aerial: str | None) -> dict[str, dict[str, int]]:
    """Image sizes of the evaluation: those given as "HxW", else the model's own.

    Raises:
        GenGeoError: A size is not of the form HxW in multiples of the patch.
    """
    sizes = {view: dict(encoder.processor.view_sizes[view]) for view in ("ground", "aerial")}
    for view, text in (("ground", ground), ("aerial", aerial)):
        if text is None:
            continue
        numbers = text.lower().split("x")
        if len(numbers) != 2 or not all(n.isdigit() and int(n) and int(n) % encoder.patch == 0 for n in numbers):
            raise GenGeoError(f"--{view}-size must be HxW in multiples of {encoder.patch} pixels, found {text!r}")
        sizes[view] = {"height": int(numbers[0]), "width": int(numbers[1])}
    return sizes


def check_limited_view(protocol: Protocol, fields: Sequence[float | None]) -> None:
    """Raise an error if the protocol crops photos that are not known to be panoramas."""
    if protocol.has_limited_view and any(field is None or field < 360 for field in fields):
        raise GenGeoError(
            f"{protocol.name} crops panoramas, but {protocol.dataset} holds photos whose field of view is smaller or "
            "unknown; for a table of panoramas give the option fov=360"
        )


def training_overlap(record: Any, truth: GroundTruth, protocol: Protocol) -> int:
    """Count the queries that are training pairs of the model.

    Args:
        record: Training record of the model; older records do not hold the pairs, which counts as 0.
        truth: Ground truth with the queries.
        protocol: Protocol; with the split "train" or "all", training pairs are allowed.

    Raises:
        GenGeoError: There are training pairs in another split.
    """
    overlap = truth.count_known_pairs(record.get("training_pairs"))
    if overlap and protocol.split not in ("train", "all"):
        options = (record.get("settings") or {}).get("data", {}).get("train") or {}
        given = " ".join(f"{key}={value}" for key, value in options.items()) or "none"
        raise GenGeoError(
            f"{overlap:,} of {len(truth.query_ids):,} queries of {truth.name} are pairs that the model was trained on: "
            f"the result would be wrong. Options of the training data were: {given}; give the same, or evaluate on "
            "the split train or all"
        )
    return overlap


def model_summary(encoder: Encoder, name: str) -> dict[str, Any]:
    """Facts about the model for the summary of a result."""
    record = encoder.training_record
    named = (record.get("settings") or {}).get("data", {}).get("name")
    return {
        "name": name,
        "fingerprint": encoder.fingerprint,
        "descriptor_dim": encoder.dim,
        "trained_on": named or record.get("trained_on"),
        "validated_on": record.get("validated_on"),
    }


def model_name(model: "str | Path | Encoder", encoder: Encoder) -> str:
    """Name of a checkpoint: name of its directory, or of `<run>` for `<run>/model`."""
    if isinstance(model, Encoder):
        output = (encoder.training_record.get("settings") or {}).get("output")
        return Path(output).name if output else "model"
    path = Path(model).resolve()
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def format_summary(result: Result) -> str:
    """Format a result for a terminal: every metric with its interval, and notes."""
    summary = result.summary
    data, model, metrics = (summary[key] for key in ("dataset", "model", "metrics"))
    lines = [
        f"{model['name']} on {data['name']}: {data['queries']:,} queries, {data['gallery']:,} tiles, "
        f"protocol {summary['protocol']['name']}"
    ]
    width = max(map(len, summary["intervals"]))
    for name, (low, high) in summary["intervals"].items():
        scale, unit = (1, "m") if name.endswith("_m") else (100, "%")
        lines.append(
            f"  {name:{width}} {scale * metrics[name]:10,.2f} {unit}   ({scale * low:,.2f} to {scale * high:,.2f})"
        )
    return "\n".join([*lines, *(f"  {note}" for note in result.notes)])
