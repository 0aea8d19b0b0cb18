"""A validation part cut out of the training pairs by area, or by id where no positions are known.

Training and validation share no place, so that the checkpoint is picked without a look at the test split.

The Earth is cut into blocks of equal height and nearly equal width in metres along the great circles; whole blocks go
to one side or the other. Which ones follows from a hash of the block and the seed, never from the order of the list.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M, chord, to_unit_vectors

METHODS = ("area", "id")

BY_ID = (
    "validation_by=id, of a table or folder split_by=id; when training, data.train.split_by=id "
    "data.validation.split_by=id"
)


@dataclass(frozen=True)
class Split:
    """Which pairs train and which validate; those too near to the border do neither.

    Args:
        train: bool (N,).
        validation: bool (N,).
        block_m: side of a block in metres; 0 where the split is by id.
        blocks: (row, column) of each block of the validation part.
    """

    train: np.ndarray
    validation: np.ndarray
    block_m: float = 0.0
    blocks: frozenset[tuple[int, int]] = frozenset()

    def part(self, split: str) -> np.ndarray:
        """The pairs of "train" or "validation": bool (N,).

        Raises:
            GenGeoError: there are none.
        """
        chosen = self.train if split == "train" else self.validation
        if not chosen.any():
            raise GenGeoError(f"no pair belongs to {split}; validation_share and the validation margin leave none")
        return chosen

    def covers(self, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """Whether positions in degrees lie in the validation blocks: bool (M,)."""
        if not self.blocks:
            return np.zeros(len(lat), dtype=bool)
        return np.array([tuple(block) in self.blocks for block in blocks_of(lat, lon, self.block_m).tolist()])


def split_training(
    ids: Sequence[str],
    lat: np.ndarray | None,
    lon: np.ndarray | None,
    share: float,
    *,
    method: str = "area",
    block_m: float,
    margin_m: float,
    seed: int = 0,
) -> Split:
    """Cut a validation part from training pairs.

    Args:
        ids: of the pairs (or of the places, where several pairs show one: they are then kept together).
        lat, lon: degrees, (N,); None or NaN where unknown.
        share: of the pairs that validate, about; 0 trains on all.
        method: "area" cuts whole blocks; "id" draws single ids, for data without positions.
        block_m: side of a block in metres.
        margin_m: training pairs nearer than this to a pair that validates are left out of both parts.
        seed: another seed, other blocks.

    Raises:
        GenGeoError: a share outside 0..0.5, an unknown method, missing positions, or all pairs in one block.
    """
    if not 0 <= share <= 0.5:
        raise GenGeoError(f"validation_share must lie in 0..0.5, found {share}")
    if method not in METHODS:
        raise GenGeoError(f"validation_by must be one of {', '.join(METHODS)}, found {method!r}")
    if share == 0:
        return Split(np.ones(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool))
    if method == "id":
        return _by_id(ids, share, seed)
    if lat is None or lon is None or np.isnan(lat).any() or np.isnan(lon).any():
        raise GenGeoError(
            "a part can only be cut by area where every pair has a position: supply the positions, or set "
            f"{BY_ID} (single pairs are drawn, and their neighbours stay in training)"
        )
    blocks = blocks_of(lat, lon, block_m)
    chosen = _chosen_blocks(blocks, share, seed, block_m)
    validation = np.array([tuple(block) in chosen for block in blocks.tolist()])
    near = _nearer_than(lat, lon, validation, margin_m)
    return Split(~validation & ~near, validation, block_m, frozenset(chosen))


def blocks_of(lat: np.ndarray, lon: np.ndarray, block_m: float) -> np.ndarray:
    """Block of each position: int64 (N, 2), row from the equator and column from Greenwich.

    A row is `block_m` high along the meridian. Its circle at mid-height is divided into the whole number of columns
    that comes nearest to `block_m`, so no block lies across the date line.
    """
    step = np.degrees(block_m / EARTH_RADIUS_M)
    row = np.floor(np.asarray(lat, dtype=np.float64) / step)
    circle_m = 2 * np.pi * EARTH_RADIUS_M * np.cos(np.radians(np.clip((row + 0.5) * step, -90, 90)))
    columns = np.maximum(1, np.rint(circle_m / block_m))
    column = np.floor((np.asarray(lon, dtype=np.float64) % 360.0) / 360.0 * columns)
    return np.stack([row, np.minimum(column, columns - 1)], axis=1).astype(np.int64)


def fitting_block_m(lat: np.ndarray, lon: np.ndarray, share: float) -> float:
    """The largest round block side in metres, of 20 km down to 50 m, that leaves enough blocks to choose from.

    Enough: no block holds more than half of the part that is to be cut. For people's own data, whose extent may be a
    country or a village.

    Args:
        lat, lon: (N,) degrees.
        share: of the part that is to be cut, 0 to 1.
    """
    sides = (20_000.0, 10_000.0, 5_000.0, 2_000.0, 1_000.0, 500.0, 200.0, 100.0, 50.0)
    for side in sides:
        sizes = np.unique(blocks_of(lat, lon, side), axis=0, return_counts=True)[1]
        if sizes.max() <= max(1.0, share * len(lat) / 2):
            return side
    return sides[-1]


def _chosen_blocks(blocks: np.ndarray, share: float, seed: int, block_m: float) -> set[tuple[int, int]]:
    """Blocks in the order of their hash until the share is reached; those larger than the whole part stay out."""
    unique, sizes = np.unique(blocks, axis=0, return_counts=True)
    wanted = share * len(blocks)
    order = sorted(range(len(unique)), key=lambda i: _hash(seed, f"{unique[i, 0]},{unique[i, 1]}"))
    chosen, total = set(), 0
    for index in order:
        if total >= wanted:
            break
        if sizes[index] <= max(1.0, wanted):
            chosen.add((int(unique[index, 0]), int(unique[index, 1])))
            total += int(sizes[index])
    if not chosen or total == len(blocks):
        raise GenGeoError(
            f"{len(blocks):,} pairs lie in {len(unique)} blocks of {block_m:g} m: none can be set aside; split by id "
            f"instead ({BY_ID}), or choose smaller blocks (there, block_m)"
        )
    return chosen


def _by_id(ids: Sequence[str], share: float, seed: int) -> Split:
    """The ids with the smallest hashes validate; equal ids stay together."""
    hashes = {name: _hash(seed, name) for name in set(ids)}
    wanted = round(share * len(hashes))
    if not 0 < wanted < len(hashes):
        raise GenGeoError(f"{len(hashes)} places are too few to set {share:.0%} of them aside")
    chosen = set(sorted(hashes, key=hashes.__getitem__)[:wanted])
    validation = np.array([name in chosen for name in ids])
    return Split(~validation, validation)


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()


def _nearer_than(lat: np.ndarray, lon: np.ndarray, validation: np.ndarray, margin_m: float) -> np.ndarray:
    """Whether each pair lies nearer than the margin to a pair that validates: bool (N,)."""
    if margin_m <= 0:
        return np.zeros(len(lat), dtype=bool)
    from scipy.spatial import cKDTree

    points = to_unit_vectors(lat, lon)
    reach = chord(margin_m)
    distance, _ = cKDTree(points[validation]).query(points, distance_upper_bound=reach)
    return np.asarray(distance < reach)
