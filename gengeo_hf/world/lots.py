"""Lots along the roads and in the courtyards: where buildings, gardens, parks and car parks go."""

import bisect
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from gengeo_hf.world.domains import Domain
from gengeo_hf.world.land import Land
from gengeo_hf.world.roads import Roads

CELL = 0.75  # metres; lots keep 1.1 m apart, more than the diagonal of a cell, so a cell meets one lot at most
GAP = 1.1
MARGIN = GAP / 2 + CELL * 0.71  # beyond its edge a lot keeps the cells that its edge may cut
GARDEN, PAVED, GRAVEL, DIRT, PARKING, PARK = range(6)  # what covers a lot


@dataclass(frozen=True)
class Lot:
    """A rectangle of land. Its x axis runs along the road, its y axis away from the road; metres.

    Args:
        x, y: centre. `cos`, `sin`: direction of its x axis. `half_width`, `half_depth`: half sides.
        kind: key of `Domain.lots`.
    """

    x: float
    y: float
    cos: float
    sin: float
    half_width: float
    half_depth: float
    kind: str

    def place(self, along: np.ndarray | float, deep: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """World (x, y) of a position in the lot's axes.

        Args:
            along, deep: metres from the centre along the road and away from it, any shape.

        Returns:
            Metres east and north of the region's centre, of that shape.
        """
        along, deep = np.asarray(along, float), np.asarray(deep, float)
        return self.x + along * self.cos - deep * self.sin, self.y + along * self.sin + deep * self.cos


class LotMap:
    """Which lot covers which cell of the region; refuses lots that would meet roads, water or one another."""

    def __init__(self, domain: Domain, roads: Roads, land: Land) -> None:
        self.domain, self.roads, self.land = domain, roads, land
        self.half_extent = domain.extent / 2
        self.count = int(np.ceil(domain.extent / CELL))
        self.owner = np.full((self.count, self.count), -1, np.int32)
        self.lots: list[Lot] = []
        self.verge = max(domain.pavement, 1.2) + 0.3
        axis = ((np.arange(self.count) + 0.5) * CELL - self.half_extent).astype(np.float32)
        # Cells that no lot may come near: the margin that a lot is tested with is taken off again.
        self.blocked = roads.edge_distance(axis[None], axis[:, None]) < self.verge - MARGIN
        self.blocked |= land.shore(*np.meshgrid(axis, axis)) < 2.0 - MARGIN

    def cells(self, lot: Lot, margin: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """The box of cells around a lot and which lie within `margin` metres of it; None if it leaves the map.

        Returns:
            Row and column slices of the map, and bool (rows, columns) of that box.
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
        """Take the land of a lot if all of it is free."""
        for along, deep in (
            (0.0, 0.0),
            (-0.95, -0.95),
            (0.95, -0.95),
            (-0.95, 0.95),
            (0.95, 0.95),
        ):  # the cheap test first
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


def make_lots(domain: Domain, roads: Roads, land: Land, random: np.random.Generator) -> LotMap:
    """Lots along both sides of every road, then lots in what is left inside the blocks.

    Args:
        domain: kinds of lots and their shares.
        roads, land: what lots keep away from.
        random: draws kinds and sizes.
    """
    lots = LotMap(domain, roads, land)
    kinds, shares = list(domain.lots), np.cumsum(list(domain.lots.values()))
    shares /= shares[-1]
    for road in range(len(roads.road_length)):
        for side in (1.0, -1.0):
            _line(lots, road, side, kinds, shares.tolist(), random)
    if not domain.farmed:
        _courtyards(lots, kinds, random)
    return lots


def _line(
    lots: LotMap, road: int, side: float, kinds: list[str], shares: list[float], random: np.random.Generator
) -> None:
    """Lots along one side of one road. `shares`: running sum of the weights of `kinds`, up to 1."""
    domain, roads = lots.domain, lots.roads
    own = np.flatnonzero(roads.road == road)
    arcs, starts, directions = roads.arc[own].tolist(), roads.start[own].tolist(), roads.direction[own].tolist()
    reach = float(roads.half_width[own[0]]) + lots.verge + 0.25
    end = float(roads.road_length[road])
    position = 6.0 + random.uniform(0, 3)
    while position < end - 8:
        width = random.uniform(*domain.frontage)
        kind = kinds[bisect.bisect_right(shares, random.random())]
        depth = random.uniform(*domain.lot_depth)
        if random.random() > domain.lot_share:
            position += width
            continue
        for fit in (1.0, 0.72, 0.5):  # corner lots and narrow blocks need smaller ones
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


def _courtyards(lots: LotMap, kinds: list[str], random: np.random.Generator) -> None:
    """Square lots in the free middle of the blocks."""
    axis = (np.arange(lots.count) + 0.5) * CELL - lots.half_extent
    x, y = np.meshgrid(axis[::2], axis[::2])
    free = ~lots.blocked[::2, ::2]
    room = distance_transform_edt(free) * CELL * 2
    candidates = np.flatnonzero((room > 6.5).ravel())
    inner = [kind for kind in ("house", "flats", "park", "parking") if kind in kinds]
    for index in random.permutation(candidates)[:900]:
        half = min(room.ravel()[index] * 0.7, 13.0)
        angle = random.uniform(0, 2 * np.pi)
        segment = int(lots.roads.nearest_segment(x.ravel()[index], y.ravel()[index]))
        if segment >= 0:
            angle = float(np.arctan2(lots.roads.direction[segment, 1], lots.roads.direction[segment, 0]))
        kind = inner[int(random.integers(len(inner)))]
        lots.add(Lot(x.ravel()[index], y.ravel()[index], np.cos(angle), np.sin(angle), half, half, kind))
