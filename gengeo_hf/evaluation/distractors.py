"""Recall@1 over the size of the gallery, which grows by tiles of other areas (distractors).

Recall@1 falls as the gallery grows, so a value measured with a few thousand tiles is too optimistic for a country. The
distractors are shuffled once; a gallery with n distractors holds the first n of them, so each gallery contains all
smaller ones. A query stays a hit while none of the n distractors scores as high as its true tile. Only the first
distractor that does is stored for each query, so memory does not grow with the number of tiles.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import chord, great_circle_m, to_unit_vectors
from gengeo_hf.data.registry import parse_data
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.intervals import mean_interval
from gengeo_hf.evaluation.protocols import Protocol
from gengeo_hf.evaluation.ranks import SCORE_TOLERANCE, Ties
from gengeo_hf.evaluation.results import Result
from gengeo_hf.evaluation.run import EncodedData, encode_data, model_name, process_state
from gengeo_hf.imagery import open_imagery
from gengeo_hf.imagery.addresses import is_address
from gengeo_hf.imagery.dataset import DatasetTiles
from gengeo_hf.imagery.tiles import TileSource
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.manifest import has_manifest
from gengeo_hf.index.work import work_key

APART_M = 200.0  # a tile whose centre is nearer to a query may show the query's position
TIMES = (
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1000,
    2000,
    5000,
    10_000,
)  # gallery sizes of the curve, as multiples of the gallery without distractors
BLOCK = 8192  # distractors compared at a time
QUERIES = 2048  # queries compared at a time
METRIC = "recall@1"


@dataclass(frozen=True)
class GallerySize:
    """Recall at one size of the gallery.

    Args:
        gallery: Number of tiles, distractors included.
        times: `gallery` divided by the number of tiles without distractors.
        recall: Recall@1, 0 to 1.
        low, high: Bounds of its 95 % interval.
    """

    gallery: int
    times: float
    recall: float
    low: float
    high: float


@dataclass(frozen=True)
class DistractorCurve:
    """Recall@1 over the size of the gallery.

    Args:
        source: Name of the source of the distractors.
        distractors: Number of distractors.
        left_out: Number of tiles of the source that are near a query or in the gallery, and so are not distractors.
        seed: Seed of the order of the distractors.
        sizes: One entry for each size, from no distractors to all.
        interval: How the intervals were computed.
    """

    source: str
    distractors: int
    left_out: int
    seed: int
    sizes: tuple[GallerySize, ...]
    interval: str

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON, rates in percent."""
        lines = [
            {
                "gallery": size.gallery,
                "times": round(size.times, 4),
                "R@1": round(100 * size.recall, 4),
                "R@1_interval": [round(100 * size.low, 4), round(100 * size.high, 4)],
            }
            for size in self.sizes
        ]
        about = {"source": self.source, "distractors": self.distractors, "left_out": self.left_out, "seed": self.seed}
        return about | {"interval": self.interval, "sizes": lines}

    def __str__(self) -> str:
        lines = [
            f"distractors: {self.distractors:,} tiles of {self.source}, {self.left_out:,} left out (within "
            f"{APART_M:g} m of a query, or in the gallery); nested random subsets, seed {self.seed}",
            f"  {'gallery':>12}  {'times':>8}  {'R@1':>8}   {self.interval}",
        ]
        lines += [
            f"  {size.gallery:12,}  {size.times:7,.4g}x  {100 * size.recall:6.2f} %   "
            f"({100 * size.low:.2f} to {100 * size.high:.2f})"
            for size in self.sizes
        ]
        return "\n".join(lines)


def evaluate_with_distractors(
    model: str | Path | Encoder,
    data: str | None,
    protocol: str | Protocol | None,
    source: str,
    *,
    ties: Ties = "pessimistic",
    seed: int = 0,
    device: str | None = None,
    batch_size: int = 32,
    descriptors: str | Path | None = None,
    name: str | None = None,
    show_progress_bar: bool = False,
    **options: Any,
) -> tuple[Result, DistractorCurve] | None:
    """Evaluate a model, first on its gallery, then on galleries that grow by distractors.

    Args:
        model, data, protocol, device, batch_size, name, options: As in `gengeo_hf.evaluate`.
        source: See `distractor_index`.
        ties: "pessimistic" or "sample4geo".
        seed: Seed of random headings and of the order of the distractors.
        descriptors: Directory in which descriptors are stored, those of the distractors too.
        show_progress_bar: Show images per second on stderr.

    Returns:
        The result, which also holds the curve, and the curve. None on every process except the first.

    Raises:
        GenGeoError: As `evaluate` and `distractor_curve`; or centering, flip or aerial_size is given.
    """
    if given := [option for option in ("centering", "flip", "aerial_size") if options.get(option)]:
        named = given[0].replace("_", "-")
        raise GenGeoError(f"--distractors and --{named} exclude one another: distractors are encoded without --{named}")
    encoder = (
        model if isinstance(model, Encoder) else Encoder.from_pretrained(model, device=device, batch_size=batch_size)
    )
    if has_manifest(source):
        GeoIndex.load(source, verify=False).check_model(encoder)  # fail before encoding
    options |= {"seed": seed, "descriptors": descriptors, "show_progress_bar": show_progress_bar}
    encoded = encode_data(encoder, data, protocol, name=name or model_name(model, encoder), **options)
    if not process_state().is_main_process:
        return None
    result = encoded.compute_result(ties)
    with distractor_index(source, encoder, descriptors, show_progress_bar) as index:
        curve = distractor_curve(encoded, result, index, source=source, ties=ties, seed=seed)
    return replace(result, summary=result.summary | {"distractors": curve.to_dict()}), curve


def distractor_curve(
    encoded: EncodedData,
    result: Result,
    index: GeoIndex,
    *,
    source: str = "",
    ties: Ties = "pessimistic",
    seed: int = 0,
) -> DistractorCurve:
    """Compute recall@1 of an evaluation whose gallery grows by the tiles of an index.

    Args:
        encoded: Descriptors and ground truth of the evaluation.
        result: Result of these descriptors, computed with the same `ties`.
        index: Index that holds the distractors, encoded with the same model.
        source: Name of the distractors in the output; the name of the index directory if empty.
        ties: "pessimistic" or "sample4geo".
        seed: Seed of the order of the distractors.

    Raises:
        GenGeoError: The index is from another model, `ties` has another value, or no tile of the index is a
            distractor.
    """
    if ties not in ("pessimistic", "sample4geo"):
        raise GenGeoError(f"distractors are counted with --ties pessimistic or sample4geo, found {ties!r}")
    if index.manifest.model.fingerprint != encoded.model["fingerprint"]:
        raise GenGeoError(f"the distractors {index.path} were made by another model: build their index with this one")
    wanted = _distractor_rows(index, encoded.truth)
    total = sum(map(len, wanted))
    if not total:
        raise GenGeoError(f"no tile of {index.path} is a distractor: all are in the gallery or near a query")
    positions = np.random.default_rng(seed).permutation(np.arange(total, dtype=np.int32))
    first_loss = _first_loss(
        encoded.ground, result.queries["positive_score"].to_numpy(), index, wanted, positions, ties
    )
    hits = result.outcomes[METRIC]
    gallery = len(encoded.truth.tile_ids)
    sizes = []
    for more in _distractor_counts(gallery, total):
        found = hits * (first_loss >= more)
        low, high = mean_interval(found, result.groups)
        sizes.append(GallerySize(gallery + more, (gallery + more) / gallery, float(found.mean()), low, high))
    rule = result.summary["rules"]["interval"]
    return DistractorCurve(source or index.path.name, total, len(index) - total, seed, tuple(sizes), rule)


def _distractor_counts(gallery: int, total: int) -> list[int]:
    """Number of distractors in each gallery of the curve."""
    sizes = [gallery * (times - 1) for times in TIMES]
    return [size for size in sizes if size < total] + [total]


def _distractor_rows(index: GeoIndex, truth: GroundTruth) -> list[np.ndarray]:
    """Rows of each segment that are neither in the gallery nor near a query."""
    known = truth.query_positions[~np.isnan(truth.query_positions).any(axis=1)]
    tree = cKDTree(to_unit_vectors(known[:, 0], known[:, 1])) if len(known) else None
    row_of = {name: row for row, name in enumerate(truth.tile_ids)}
    found = []
    for segment in index.segments:
        kept = []
        rows = segment.live_rows()
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            tiles = segment.tiles.take(some)
            lat, lon = tiles["lat"].to_numpy(), tiles["lon"].to_numpy()
            far = ~_in_gallery(tiles["tile_id"].to_pylist(), lat, lon, truth, row_of)
            if tree is not None:
                far &= np.isinf(tree.query(to_unit_vectors(lat, lon), distance_upper_bound=chord(APART_M))[0])
            kept.append(some[far])
        found.append(np.concatenate([np.empty(0, np.int64), *kept]))
    return found


def _in_gallery(
    ids: Sequence[str], lat: np.ndarray, lon: np.ndarray, truth: GroundTruth, row_of: dict[str, int]
) -> np.ndarray:
    """Whether each tile has the id and, where both are known, the position of a gallery tile: bool (tiles,)."""
    rows = np.array([row_of.get(name, -1) for name in ids], np.int64)
    same = truth.gallery_positions[rows]  # row -1 (no such id) gives the last tile; masked below
    away = great_circle_m(lat, lon, same[:, 0], same[:, 1]) > APART_M  # False where a position is unknown
    inside: np.ndarray = (rows >= 0) & ~away
    return inside


def _first_loss(
    ground: np.ndarray,
    scores: np.ndarray,
    index: GeoIndex,
    wanted: Sequence[np.ndarray],
    positions: np.ndarray,
    ties: Ties,
) -> np.ndarray:
    """For each query, index in the shuffled order of the first distractor above the true tile: int64 (queries,)."""
    first = np.full(len(ground), len(positions), np.int64)
    done = 0
    for segment, rows in zip(index.segments, wanted, strict=True):
        for start in range(0, len(rows), BLOCK):
            vectors = segment.descriptors[rows[start : start + BLOCK]].astype(np.float32)
            order = positions[done : done + len(vectors)].astype(np.int64)
            done += len(vectors)
            for begin in range(0, len(ground), QUERIES):
                some = slice(begin, begin + QUERIES)
                above = _scores_above(np.asarray(ground[some], np.float32), scores[some], vectors, ties)
                earliest = np.where(above, order, len(positions)).min(axis=1)
                first[some] = np.minimum(first[some], earliest)
    return first


def _scores_above(ground: np.ndarray, scores: np.ndarray, vectors: np.ndarray, ties: Ties) -> np.ndarray:
    """Whether each distractor ranks before the true tile: bool (queries, distractors). Near ties use float64."""
    margin = ground @ vectors.T - scores[:, None]
    above: np.ndarray = margin > 0
    for query, tile in np.argwhere(np.abs(margin) <= SCORE_TOLERANCE):
        exact = float(ground[query].astype(np.float64) @ vectors[tile].astype(np.float64)) - scores[query]
        above[query, tile] = exact >= 0 if ties == "pessimistic" else exact > 0
    return above


@contextmanager
def distractor_index(
    source: str, encoder: Encoder, descriptors: str | Path | None = None, show_progress_bar: bool = False
) -> Iterator[GeoIndex]:
    """Open an index of distractors, or build one from imagery.

    Args:
        source: Directory of an index of the same model; or imagery as `gengeo index` takes it, with the default tile
            size; or a data set `NAME[:SPLIT] [ROOT] [key=value ...]`, whose gallery is used.
        encoder: The evaluated model.
        descriptors: Directory in which the built index is stored for later evaluations and an interrupted build
            resumes; None builds in a temporary directory that is deleted afterwards.
        show_progress_bar: Show images per second on stderr.

    Yields:
        The open index.

    Raises:
        GenGeoError: The source cannot be read.
    """
    if has_manifest(source):
        yield GeoIndex.load(source, verify=False)
        return
    tiles = _tiles(source)
    root = Path(tempfile.mkdtemp()) if descriptors is None else Path(descriptors)
    path = root / f"distractors-{work_key(encoder.fingerprint, tiles, 0)[:16]}.gengeo"
    try:
        yield GeoIndex.build(encoder, tiles, path, thumbnail_pixels=0, progress=show_progress_bar)
    finally:
        if descriptors is None:
            shutil.rmtree(root, ignore_errors=True)


def _tiles(source: str) -> TileSource:
    """Open imagery, or the gallery of a data set."""
    if Path(source).exists() or is_address(source):
        return open_imagery(source)
    return DatasetTiles(parse_data(source).load("test"))
