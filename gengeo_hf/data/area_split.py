"""Validation split of the training pairs: by area, or by id where positions are unknown.

Training and validation pairs lie in different blocks, so that checkpoints can be selected without the test split.

The Earth is divided into blocks of equal height and nearly equal width in metres along the great circles. Each block
belongs to one split as a whole. The choice depends on a hash of the block and the seed, not on the order of the pairs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M, chord, to_unit_vectors

METHODS = ("area", "id")

BY_ID = (
    "validation_by=id, of a table or directory split_by=id; when training, data.train.split_by=id "
    "data.validation.split_by=id"
)


@dataclass(frozen=True)
class Split:
    """Training and validation pairs; pairs within the margin around validation pairs belong to neither.

    Args:
        train: Whether each pair is used for training, bool (N,).
        validation: Whether each pair is used for validation, bool (N,).
        block_m: Side of a block in metres; 0 for a split by id.
        blocks: (row, column) of each validation block; empty for a split by id.
    """

    train: np.ndarray
    validation: np.ndarray
    block_m: float = 0.0
    blocks: frozenset[tuple[int, int]] = frozenset()

    def mask(self, split: str) -> np.ndarray:
        """Whether each pair belongs to the split "train" or "validation", bool (N,).

        Raises:
            GenGeoError: The split has no pairs.
        """
        mask = self.train if split == "train" else self.validation
        if not mask.any():
            raise GenGeoError(
                f"the split {split} has no pairs with this validation_share and validation margin; change one of them"
            )
        return mask

    def covers(self, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """Whether each position, (M,) latitudes and longitudes in degrees, lies in a validation block: bool (M,)."""
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
    """Split pairs into training and validation pairs.

    Args:
        ids: Id of each pair, length N. Pairs with equal ids are kept together by the method "id".
        lat, lon: Positions in degrees, (N,); None or NaN where unknown. Needed by the method "area".
        share: Approximate share of validation pairs, 0 to 0.5; 0 uses all pairs for training.
        method: "area" selects whole blocks; "id" selects single ids, for data without positions.
        block_m: Side of a block in metres.
        margin_m: Training pairs nearer than this many metres to a validation pair are excluded from both splits.
        seed: Seed of the choice of blocks or ids.

    Raises:
        GenGeoError: The share is outside 0..0.5, the method is unknown, positions are missing, or no block is small
            enough to be set aside.
    """
    if not 0 <= share <= 0.5:
        raise GenGeoError(f"validation_share must lie in 0..0.5, found {share}")
    if method not in METHODS:
        raise GenGeoError(f"validation_by must be one of {', '.join(METHODS)}, found {method!r}")
    if share == 0:
        return Split(np.ones(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool))
    if method == "id":
        return _split_by_id(ids, share, seed)
    if lat is None or lon is None or np.isnan(lat).any() or np.isnan(lon).any():
        raise GenGeoError(
            "a split by area needs the position of every pair: supply the positions, or set "
            f"{BY_ID} (this selects single pairs, whose neighbours stay in the training split)"
        )
    blocks = blocks_of(lat, lon, block_m)
    chosen = _choose_blocks(blocks, share, seed, block_m)
    validation = np.array([tuple(block) in chosen for block in blocks.tolist()])
    near = _within_margin(lat, lon, validation, margin_m)
    return Split(~validation & ~near, validation, block_m, frozenset(chosen))


def blocks_of(lat: np.ndarray, lon: np.ndarray, block_m: float) -> np.ndarray:
    """Block of each position: int64 (N, 2), row counted from the equator and column counted from Greenwich.

    A row is `block_m` high along the meridian. Its parallel at mid-height is divided into the whole number of columns
    whose width is nearest to `block_m`. Longitudes are taken modulo 360, so there is no seam at the date line.

    Args:
        lat, lon: Positions in degrees, (N,).
        block_m: Side of a block in metres.
    """
    step = np.degrees(block_m / EARTH_RADIUS_M)
    row = np.floor(np.asarray(lat, dtype=np.float64) / step)
    circle_m = 2 * np.pi * EARTH_RADIUS_M * np.cos(np.radians(np.clip((row + 0.5) * step, -90, 90)))
    columns = np.maximum(1, np.rint(circle_m / block_m))
    column = np.floor((np.asarray(lon, dtype=np.float64) % 360.0) / 360.0 * columns)
    return np.stack([row, np.minimum(column, columns - 1)], axis=1).astype(np.int64)


def choose_block_m(lat: np.ndarray, lon: np.ndarray, share: float) -> float:
    """The largest of some round block sides, 20 km to 50 m, that leaves enough blocks to choose from.

    With enough blocks, no block holds more than half of the pairs that are to be set aside. This is for users' own
    data, whose extent may be that of a country or of a village.

    Args:
        lat, lon: Positions in degrees, (N,).
        share: Share of the pairs that is to be set aside, 0 to 1.

    Returns:
        Side of a block in metres; 50 where no side leaves enough blocks.
    """
    sides = (20_000.0, 10_000.0, 5_000.0, 2_000.0, 1_000.0, 500.0, 200.0, 100.0, 50.0)
    for side in sides:
        sizes = np.unique(blocks_of(lat, lon, side), axis=0, return_counts=True)[1]
        if sizes.max() <= max(1.0, share * len(lat) / 2):
            return side
    return sides[-1]


def _choose_blocks(blocks: np.ndarray, share: float, seed: int, block_m: float) -> set[tuple[int, int]]:
    """Blocks in the order of their hash until the share is reached; blocks with more pairs than that are skipped."""
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
            f"{len(blocks):,} pairs lie in {len(unique)} blocks of {block_m:g} m, and no block can be set aside; split "
            f"by id instead ({BY_ID}), or set a smaller block_m"
        )
    return chosen


def _split_by_id(ids: Sequence[str], share: float, seed: int) -> Split:
    """Use the ids with the smallest hashes for validation; pairs with equal ids stay together."""
    hashes = {name: _hash(seed, name) for name in set(ids)}
    wanted = round(share * len(hashes))
    if not 0 < wanted < len(hashes):
        raise GenGeoError(f"{len(hashes)} different ids are too few to set {share:.0%} of them aside")
    chosen = set(sorted(hashes, key=hashes.__getitem__)[:wanted])
    validation = np.array([name in chosen for name in ids])
    return Split(~validation, validation)


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}/{text}".encode()).digest()


def _within_margin(lat: np.ndarray, lon: np.ndarray, validation: np.ndarray, margin_m: float) -> np.ndarray:
    """Whether each pair lies nearer than the margin to a validation pair: bool (N,)."""
    if margin_m <= 0:
        return np.zeros(len(lat), dtype=bool)
    from scipy.spatial import cKDTree

    points = to_unit_vectors(lat, lon)
    limit = chord(margin_m)
    distance, _ = cKDTree(points[validation]).query(points, distance_upper_bound=limit)
    return np.asarray(distance < limit)
