"""Evaluate a model on a data set by a protocol: data, descriptors, ranks, one result.

    from gengeo_hf import evaluate

    result = evaluate("runs/cvusa/model", "cvact:val /data/CVACT", "cvusa-to-cvact")
    print(result.percent()["R@1"])
    result.save("results/x.json")

With several processes (`accelerate launch -m gengeo_hf.cli evaluate ...`) each one encodes its share of the images into
one directory, which all must see. The numbers are the same for any number of processes. A run that was stopped goes on
where it was, if `descriptors` names a directory.
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
from gengeo_hf.evaluation.adapt import adapt_to
from gengeo_hf.evaluation.ground_truth import Truth
from gengeo_hf.evaluation.protocols import Protocol, default_protocol, find_protocol, view_headings
from gengeo_hf.evaluation.ranks import Ties
from gengeo_hf.evaluation.results import Result, judge

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
    """Evaluate a model: encode both views, rank all tiles for each query, count.

    Args:
        model: Checkpoint directory, Hub id, or an `Encoder`.
        data: `"NAME[:SPLIT] [ROOT] [key=value ...]"`, a loaded data set, or None for the protocol's own data set where
            it needs no files. Default split: the protocol's, "test" without a protocol.
        protocol: Name of a protocol or a `Protocol`. None takes the published protocol of this data set and split where
            there is one, otherwise plain recall over the whole gallery.
        name: What tables call the model; default: the name of its directory, or of its run.
        ground_size, aerial_size: Size in pixels as "HxW", for example "154x770"; None takes the model's own.
        ties: Which tile wins when two score the same, see `Ties`.
        seed: Seed of random headings.
        batch_size: Images in one forward pass; an `Encoder` has its own.
        device: Where the model runs; None takes a GPU if there is one. An `Encoder` has its own.
        descriptors: Directory in which descriptors are kept for another evaluation; None keeps none. Several processes
            need it.
        encode: Encodes the images of one view instead of the engine, float32 (images, dim); for a model in training.
        centering: Subtract means of this data set's descriptors, an extension that no published protocol has and that
            the result names: "gallery" or "queries", see `gengeo_hf.evaluation.adapt`.
        flip: Compare mirror images too, likewise.
        show_progress_bar: Show images per second on stderr.

    Returns:
        The result, the same on every process.

    Raises:
        GenGeoError: Model, data or protocol cannot be used, do not belong together, or the model was trained on these
            very pairs.

    Example:
        >>> evaluate("demo/gengeo-world-urban", "world-urban num_pairs=100").percent()["R@1"]
    """
    options: dict[str, Any] = {"name": name, "ground_size": ground_size, "aerial_size": aerial_size, "encode": encode}
    options |= {"seed": seed, "batch_size": batch_size, "device": device, "descriptors": descriptors}
    options |= {"centering": centering, "flip": flip, "show_progress_bar": show_progress_bar}
    return encode_data(model, data, protocol, **options).judge(ties)


@dataclass(frozen=True)
class EncodedData:
    """Descriptors of both views of a data set, with all that is needed to judge them.

    Args:
        ground, aerial: float32 (queries, dim) and (tiles, dim), unit length.
        truth: What is right.
        rules: Of the protocol.
        model, settings: What a result says of them.
        device: Where blocks are multiplied.
    """

    ground: np.ndarray
    aerial: np.ndarray
    truth: Truth
    rules: Protocol
    model: dict[str, Any]
    settings: dict[str, Any]
    device: torch.device | None = None

    def judge(self, ties: Ties = "pessimistic") -> Result:
        """Rank all tiles for each query and count."""
        given = (self.ground, self.aerial, self.truth, self.rules)
        return judge(*given, model=self.model, settings=self.settings, ties=ties, device=self.device)


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
    """The first half of `evaluate`: encode both views; arguments and errors as there."""
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
    truth = Truth.from_dataset(loaded)
    overlap = training_overlap(encoder.training_record, truth, rules)
    check_limited_view(rules, loaded.queries["fov"][:])
    check_views(loaded, encoder.processor)
    if rules.limited and (changed := (encoder.processor.view_transforms or {}).get("ground")):
        raise GenGeoError(
            f"protocol {rules.name} crops panoramas to {rules.fov} degrees, and this model's view {changed} needs the "
            "whole one"
        )
    if encode is not None and (centering or flip):
        raise GenGeoError("centering and flip need the encoder's own images: leave encode out")
    label = name or model_name(model, encoder)
    with _at_size(encoder, ground_size, aerial_size):
        encoder = adapt_to(encoder, loaded, centering, flip)
        ground, aerial, images = _descriptors(
            encoder, loaded, truth, rules, seed, descriptors, encode, state, show_progress_bar
        )
        done = adaptation_name(encoder)
        about = about_model(encoder, f"{label} ({done})" if done else label)
        sizes = {view: dict(size) for view, size in encoder.processor.view_sizes.items()}
    settings = (
        {
            "view_sizes": sizes,
            "data": str(notation) if isinstance(notation, DataNotation) else loaded.name,
            "loader": notation.options if isinstance(notation, DataNotation) else {},
            "seed": seed,
            "images": images,
        }
        | ({"training_pairs": overlap} if overlap else {})
        | ({"adaptation": done} if done else {})
    )
    return EncodedData(ground, aerial, truth, rules, about, settings, encoder.device)


def choose_protocol(protocol: str | Protocol | None, data: "DataNotation | CrossViewDataset | None") -> Protocol:
    """The protocol of an evaluation, checked against its data.

    Args:
        protocol: See `evaluate`.
        data: See `evaluate`, parsed.

    Raises:
        GenGeoError: Neither is given, the protocol is unknown, or it is one of other data.
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
            raise GenGeoError(f"protocol {rules.name} is of the data set {rules.dataset}, found {data.name!r}{found}")
        if data.split not in (None, rules.split):
            raise GenGeoError(
                f"protocol {rules.name} is of the split {rules.split}, found {data.split!r}: leave one of them out"
            )
    return rules


def process_state() -> PartialState:
    """This process among those of a launcher. `ACCELERATE_USE_CPU` counts, which `PartialState` alone does not read."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def _load(notation: DataNotation, rules: Protocol, state: PartialState) -> CrossViewDataset:
    """The data set; the first process builds a synthetic world, the others find it."""
    with state.main_process_first():
        return notation.load(rules.split)


def _descriptors(
    encoder: Encoder,
    data: CrossViewDataset,
    truth: Truth,
    rules: Protocol,
    seed: int,
    root: str | Path | None,
    encode: Encode | None,
    state: PartialState,
    show_progress_bar: bool,
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Descriptors of both views, float32 (rows, dim), and the fingerprints of their images."""
    photos, tiles = GroundImages(data), AerialImages(data)
    if encode is not None:
        return encode(photos, "ground"), encode(tiles, "aerial"), {}
    headings = view_headings(rules, len(truth.query_ids), seed)
    transform = limited_view(rules.fov, headings, encoder.patch) if rules.limited else None
    bar = show_progress_bar and state.is_main_process
    if root is None:
        if state.num_processes > 1:
            raise GenGeoError("several processes need a directory for descriptors that all of them see")
        images = {
            "ground": images_fingerprint(photos, truth.query_ids),
            "aerial": images_fingerprint(tiles, truth.tile_ids),
        }
        ground = encode_images(encoder, photos, "ground", transform=transform, show_progress_bar=bar)
        return ground, encode_images(encoder, tiles, "aerial", show_progress_bar=bar), images
    share: dict[str, Any] = {
        "process": state.process_index,
        "processes": state.num_processes,
        "show_progress_bar": bar,
    }
    looked = None if headings is None else hashlib.sha256(headings.tobytes()).hexdigest()
    key = [rules.fov, looked] if rules.limited else None
    stores: list[DescriptorStore] = [
        encode_to_store(
            encoder, photos, "ground", truth.query_ids, root, transform=transform, transform_key=key, **share
        ),
        encode_to_store(encoder, tiles, "aerial", truth.tile_ids, root, **share),
    ]
    state.wait_for_everyone()
    return stores[0].load(), stores[1].load(), {"ground": str(stores[0].images), "aerial": str(stores[1].images)}


def limited_view(fov: int, headings: np.ndarray | None, patch: int) -> Transform:
    """Crop panoramas, resized to the model's ground size, to a field of view: as in training.

    Args:
        fov: Horizontal degrees; the crop keeps the scale, so it is fov / 360 of the width, in whole patches.
        headings: (queries,) degrees clockwise from north at each crop's centre; None is north.
        patch: Width in pixels of one token.
    """
    from gengeo_hf.data.views import limited_fov

    def crop(pixels: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        looked = np.zeros(len(rows)) if headings is None else headings[np.asarray(rows)]
        return limited_fov(pixels, fov, torch.from_numpy(looked.astype(np.float64)), patch)

    return crop


@contextmanager
def _at_size(encoder: Encoder, ground: str | None, aerial: str | None) -> "Iterator[None]":
    """Encode at other image sizes, and at the encoder's own again afterwards."""
    before = encoder.processor.view_sizes
    encoder.processor.view_sizes = view_sizes(encoder, ground, aerial)
    try:
        yield
    finally:
        encoder.processor.view_sizes = before


def view_sizes(encoder: Encoder, ground: str | None, aerial: str | None) -> dict[str, dict[str, int]]:
    """The sizes to evaluate at: the model's own, or those asked for as "HxW".

    Raises:
        GenGeoError: A size is not HxW in multiples of the patch.
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
    """Refuse to crop what is not a panorama, or is not known to be one."""
    if protocol.limited and any(field is None or field < 360 for field in fields):
        raise GenGeoError(
            f"{protocol.name} crops panoramas, but {protocol.dataset} holds photos whose field of view is smaller or "
            "unknown; a table says fov=360 of its panoramas"
        )


def training_overlap(record: Any, truth: Truth, protocol: Protocol) -> int:
    """How many of the queries are pairs that the model was trained on, as far as its training record tells.

    Args:
        record: Training record of the model; older ones do not list the pairs.
        truth: Queries.
        protocol: Its split "train" or "all" asks for training pairs on purpose.

    Raises:
        GenGeoError: There are such pairs in a part that should have none.
    """
    overlap = truth.count_known_pairs(record.get("training_pairs"))
    if overlap and protocol.split not in ("train", "all"):
        options = (record.get("settings") or {}).get("data", {}).get("train") or {}
        given = " ".join(f"{key}={value}" for key, value in options.items()) or "none"
        raise GenGeoError(
            f"{overlap:,} of {len(truth.query_ids):,} queries of {truth.name} are pairs that the model was trained on: "
            f"the result would be wrong. Options of the training data were: {given}; give the same, or evaluate on the "
            "split train or all on purpose"
        )
    return overlap


def about_model(encoder: Encoder, name: str) -> dict[str, Any]:
    """What a result says about the model."""
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
    """Name of a checkpoint: that of its directory, or of the run which wrote `<run>/model`."""
    if isinstance(model, Encoder):
        output = (encoder.training_record.get("settings") or {}).get("output")
        return Path(output).name if output else "model"
    path = Path(model).resolve()
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def summary_text(result: Result) -> str:
    """What a terminal shows of a result: every metric with its interval, and what a reader must know."""
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
