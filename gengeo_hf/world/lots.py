"""Lots along the roads and in the courtyards, for buildings, gardens, parks and car parks."""

import bisect
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from gengeo_hf.world.domains import Domain
from gengeo_hf.world.land import Land
from gengeo_hf.world.roads import Roads

CELL = 0.75  # metres; the diagonal of a cell is smaller than GAP, so that a cell overlaps at most one lot
GAP = 1.1  # metres between lots
MARGIN = GAP / 2 + CELL * 0.71  # metres around a lot within which cells are reserved for it
GARDEN, PAVED, GRAVEL, DIRT, PARKING, PARK = range(6)  # covers of a lot


@dataclass(frozen=True)
class Lot:
    """A rectangular lot. Its x axis runs along the road, its y axis away from the road.

    Args:
        x, y: Centre in metres east and north of the centre of the region.
        cos, sin: Direction of the x axis of the lot.
        half_width, half_depth: Half sides in metres.
        kind: Kind of the lot, a key of `Domain.lots`.
    """

    x: float
    y: float
    cos: float
    sin: float
    half_width: float
    half_depth: float
    kind: str

    def to_world(self, along: np.ndarray | float, deep: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Convert positions in the axes of the lot to positions in the region.

        Args:
            along, deep: Metres from the centre along the road and away from it, any shape.

        Returns:
            Metres east and north of the centre of the region, of the same shape.
        """
        along, deep = np.asarray(along, float), np.asarray(deep, float)
        return self.x + along * self.cos - deep * self.sin, self.y + along * self.sin + deep * self.cos


class LotMap:
    """Raster of the lot that covers each cell of the region; refuses lots that overlap roads, water or other lots.

    Args:
        domain: Domain of the region.
        roads: Roads of the region.
        land: Land of the region.
    """

    def __init__(self, domain: Domain, roads: Roads, land: Land) -> None:
        self.domain, self.roads, self.land = domain, roads, land
        self.half_extent = domain.extent / 2
        self.count = int(np.ceil(domain.extent / CELL))
        self.owner = np.full((self.count, self.count), -1, np.int32)
        self.lots: list[Lot] = []
        self.verge = max(domain.pavement, 1.2) + 0.3
        axis = ((np.arange(self.count) + 0.5) * CELL - self.half_extent).astype(np.float32)
        # Cells that a lot including its MARGIN must not cover; MARGIN is subtracted because `add` includes it.
        self.blocked = roads.edge_distance(axis[None], axis[:, None]) < self.verge - MARGIN
        self.blocked |= land.shore(*np.meshgrid(axis, axis)) < 2.0 - MARGIN

    def cells(self, lot: Lot, margin: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """Return the cells within `margin` metres of a lot.

        Returns:
            Row and column slices of the bounding box, and a bool mask (rows, columns) of the cells inside; None if the
            box leaves the map.
        """
        reach_x = abs(lot.cos) * lot.half_width + abs(lot.sin) * lot.half_depth + margin
        reach_y = abs(lot.sin) * lot.half_width + abs(lot.cos) * lot.half_depth + margin
        low = [int((lot.x - reach_x + self.half_extent) / CELL), int((lot.y - reach_y + self.half_extent) / CELL)]
        high = [
            int((lot.x + reach_x + self.half_extent) / CELL) + 1,
            int((lot.y + reach_y + self.half_extent) / CELL) + 1,
        ]
        if min(low) < 0 or max(high) > self.count:
            return None
        x = (np.arange(low[0], high[0]) + 0.5) * CELL - self.half_extent - lot.x
        y = ((np.arange(low[1], high[1]) + 0.5) * CELL - self.half_extent - lot.y)[:, None]
        inside = np.abs(x * lot.cos + y * lot.sin) < lot.half_width + margin
        inside &= np.abs(y * lot.cos - x * lot.sin) < lot.half_depth + margin
        return (slice(low[1], high[1]), slice(low[0], high[0])), inside

    def add(self, lot: Lot) -> bool:
        """Add a lot if all of its cells are free, and return whether it was added."""
        for along, deep in (
            (0.0, 0.0),
            (-0.95, -0.95),
            (0.95, -0.95),
            (-0.95, 0.95),
            (0.95, 0.95),
        ):  # test centre and corners first, which is cheap
            p, q = along * lot.half_width, deep * lot.half_depth
            column = int((lot.x + p * lot.cos - q * lot.sin + self.half_extent) / CELL)
            row = int((lot.y + p * lot.sin + q * lot.cos + self.half_extent) / CELL)
            if not (0 <= column < self.count and 0 <= row < self.count) or self.blocked[row, column]:
                return False
        box = self.cells(lot, MARGIN)
        if box is None or (self.blocked[box[0]] & box[1]).any():
            return False
        self.owner[box[0]][box[1]] = len(self.lots)
        self.blocked[box[0]] |= box[1]
        self.lots.append(lot)
        return True


def make_lots(domain: Domain, roads: Roads, land: Land, rng: np.random.Generator) -> LotMap:
    """Draw lots along both sides of every road, then lots in the free space inside the blocks.

    Args:
        domain: Domain with the kinds of lots and their weights.
        roads: Roads of the region, which lots do not overlap.
        land: Land of the region; lots do not overlap water.
        rng: Generator for kinds and sizes.
    """
    lots = LotMap(domain, roads, land)
    kinds, shares = list(domain.lots), np.cumsum(list(domain.lots.values()))
    shares /= shares[-1]
    for road in range(len(roads.road_length)):
        for side in (1.0, -1.0):
            _add_along_road(lots, road, side, kinds, shares.tolist(), rng)
    if not domain.farmed:
        _add_courtyards(lots, kinds, rng)
    return lots


def _add_along_road(
    lots: LotMap, road: int, side: float, kinds: list[str], shares: list[float], rng: np.random.Generator
) -> None:
    """Add lots along one side of one road. `shares` is the cumulative sum of the weights of `kinds`, up to 1."""
    domain, roads = lots.domain, lots.roads
    own = np.flatnonzero(roads.road == road)
    arcs, starts, directions = roads.arc[own].tolist(), roads.start[own].tolist(), roads.direction[own].tolist()
    reach = float(roads.half_width[own[0]]) + lots.verge + 0.25
    end = float(roads.road_length[road])
    position = 6.0 + rng.uniform(0, 3)
    while position < end - 8:
        width = rng.uniform(*domain.frontage)
        kind = kinds[bisect.bisect_right(shares, rng.random())]
        depth = rng.uniform(*domain.lot_depth)
        if rng.random() > domain.lot_share:
            position += width
            continue
        for fit in (1.0, 0.72, 0.5):  # smaller lots fit at corners and in narrow blocks
            w, d = max(width * fit, 7.0), max(depth * (fit + 1) / 2, 10.0)
            middle = position + w / 2
            segment = bisect.bisect_right(arcs, middle) - 1
            (x, y), (tx, ty), rest = starts[segment], directions[segment], middle - arcs[segment]
            out_x, out_y, far = -ty * side, tx * side, reach + d / 2
            lot = Lot(
                x + tx * rest + out_x * far, y + ty * rest + out_y * far, out_y, -out_x, (w - GAP) / 2, d / 2, kind
            )
            if lots.add(lot):
                position += w
                break
        else:
            position += 4.0


def _add_courtyards(lots: LotMap, kinds: list[str], rng: np.random.Generator) -> None:
    """Add square lots in the free space inside the blocks."""
    axis = (np.arange(lots.count) + 0.5) * CELL - lots.half_extent
    x, y = np.meshgrid(axis[::2], axis[::2])
    free = ~lots.blocked[::2, ::2]
    room = distance_transform_edt(free) * CELL * 2
    candidates = np.flatnonzero((room > 6.5).ravel())
    inner = [kind for kind in ("house", "flats", "park", "parking") if kind in kinds]
    for index in rng.permutation(candidates)[:900]:
        half = min(room.ravel()[index] * 0.7, 13.0)
        angle = rng.uniform(0, 2 * np.pi)
        segment = int(lots.roads.nearest_segment(x.ravel()[index], y.ravel()[index]))
        if segment >= 0:
            angle = float(np.arctan2(lots.roads.direction[segment, 1], lots.roads.direction[segment, 0]))
        kind = inner[int(rng.integers(len(inner)))]
        lots.add(Lot(x.ravel()[index], y.ravel()[index], np.cos(angle), np.sin(angle), half, half, kind))
