"""The road network of a region: a warped, jittered lattice with gaps, and its distance raster."""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.domains import Domain
from gengeo_hf.world.noise import smooth_noise

CELL = 1.0  # metres between the nodes of the distance raster
REACH = 16.0  # metres beyond the road's edge to which the raster knows the distance
FAR = 30.0  # what it says further out


@dataclass
class Roads:
    """Straight segments of curved roads. Lengths in metres.

    Args:
        start: (s, 2) where each segment starts; `direction` (s, 2) unit vector, `length` (s,).
        half_width: (s,).
        arc: (s,) distance of the segment's start from the start of its road.
        road: (s,) number of the road that it belongs to.
        road_length: (roads,).
        junctions: (roads, 2) whether the road's start and end meet other roads.
        main, dirt: (roads,) kind of road.
        tone: (roads,) 0..1, age of the asphalt.
        edge: (n, n) distance to the nearest road's edge, negative on the road, row 0 in the south.
        nearest: (n, n) the segment whose edge is nearest, -1 where none is in reach.
        half_extent: half the side of the raster.
    """

    start: np.ndarray
    direction: np.ndarray
    length: np.ndarray
    half_width: np.ndarray
    arc: np.ndarray
    road: np.ndarray
    road_length: np.ndarray
    junctions: np.ndarray
    main: np.ndarray
    dirt: np.ndarray
    tone: np.ndarray
    edge: np.ndarray
    nearest: np.ndarray
    half_extent: float

    def edge_distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distance to the nearest road's edge (negative on it), between raster nodes by bilinear interpolation.

        Args:
            x, y: metres east and north of the region's centre, of shapes that broadcast.

        Returns:
            Metres, of the common shape.
        """
        last = self.edge.shape[0] - 1.001
        u = np.clip((x + np.float32(self.half_extent)) * np.float32(1 / CELL), 0, last)
        v = np.clip((y + np.float32(self.half_extent)) * np.float32(1 / CELL), 0, last)
        column, row = u.astype(np.int32), v.astype(np.int32)
        fx, fy = u - column, v - row
        flat = self.edge.ravel()
        index = row * self.edge.shape[1] + column
        low = flat[index] * (1 - fx) + flat[index + 1] * fx
        index += self.edge.shape[1]
        return low * (1 - fy) + (flat[index] * (1 - fx) + flat[index + 1] * fx) * fy

    def nearest_segment(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The segment nearest to each point, -1 where none is in reach.

        Args:
            x, y: metres east and north of the region's centre, any shape.

        Returns:
            int (rows of `start`), of the shape of x.
        """
        last = self.edge.shape[0] - 1
        column = np.clip(np.rint((x + self.half_extent) / CELL), 0, last).astype(np.int32)
        row = np.clip(np.rint((y + self.half_extent) / CELL), 0, last).astype(np.int32)
        return self.nearest[row, column]

    def along_and_across(self, segment: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Metres along the road from its start, and metres to the left of its centre line (exact, no raster).

        Args:
            segment: (n,) rows of `start`.
            x, y: (n,) metres.
        """
        start, direction = self.start[segment], self.direction[segment]
        dx, dy = x - start[:, 0], y - start[:, 1]
        along = dx * direction[:, 0] + dy * direction[:, 1]
        return along + self.arc[segment], dy * direction[:, 0] - dx * direction[:, 1]

    def to_junction(self, segment: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Metres along the road to the nearer junction; large where the road has none.

        Args:
            segment: (n,) rows of `start`.
            along: (n,) metres, from `along_and_across`.

        Returns:
            (n,)
        """
        road = self.road[segment]
        first = np.where(self.junctions[road, 0], along, 1e3)
        last = np.where(self.junctions[road, 1], self.road_length[road] - along, 1e3)
        return np.minimum(first, last)


def make_roads(domain: Domain, random: np.random.Generator) -> Roads:
    """Draw the network of a region and its raster."""
    lines, ends, node_count = _lattice(domain, random)
    degree = np.bincount(ends.ravel(), minlength=node_count)
    near = [index for index, line in enumerate(lines) if np.abs(line[0]).max(axis=1).min() < domain.extent / 2 + 10]
    lines, ends = [lines[index] for index in near], ends[near]  # the turned lattice sticks out of the region
    roads = len(lines)
    # Main roads follow whole lines of the lattice, so they run through the region.
    main = np.array([line[1] for line in lines])
    dirt = (random.random(roads) < domain.dirt_roads) & ~main
    half = np.where(main, domain.half_widths[1], domain.half_widths[0]) * random.uniform(0.92, 1.08, roads)
    segments = [_segments(line[0], number, half[number]) for number, line in enumerate(lines)]
    start, direction, length, half_width, arc, road = (np.concatenate(parts) for parts in zip(*segments, strict=True))
    edge, nearest = _rasterise(start, direction, length, half_width, domain.extent / 2)
    return Roads(
        start=start.astype(np.float32),
        direction=direction.astype(np.float32),
        length=length.astype(np.float32),
        half_width=half_width.astype(np.float32),
        arc=arc.astype(np.float32),
        road=road,
        road_length=np.array([segment[2].sum() for segment in segments], np.float32),
        junctions=degree[ends] >= 3,
        main=main,
        dirt=dirt,
        tone=random.random(roads).astype(np.float32),
        edge=edge,
        nearest=nearest,
        half_extent=domain.extent / 2,
    )


def _lattice(domain: Domain, random: np.random.Generator) -> tuple[list[tuple[np.ndarray, bool]], np.ndarray, int]:
    """Curves (points (n, 2), whether main) and the pair of lattice nodes that each joins."""
    spacing, angle = domain.road_spacing, random.uniform(0, np.pi / 2)
    side = int(np.ceil(domain.extent * 1.45 / spacing)) + 1
    grid = (np.indices((side, side)).transpose(1, 2, 0)[..., ::-1] - (side - 1) / 2) * spacing
    grid = grid + random.uniform(-1, 1, grid.shape) * domain.road_jitter * spacing
    seed = int(random.integers(2**31))
    warp = np.stack([smooth_noise(grid[..., 0], grid[..., 1], 260.0, seed + k) - 0.5 for k in (0, 1)], -1)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    nodes = (grid + warp * spacing * 0.9) @ rotation
    every = 3 if domain.road_spacing < 100 else 2
    shift = random.integers(0, every, 2)
    lines, ends = [], []
    for row in range(side):
        for column in range(side):
            for axis, (down, right) in enumerate(((0, 1), (1, 0))):
                if row + down >= side or column + right >= side:
                    continue
                main = ((row if axis == 0 else column) + shift[axis]) % every == 0
                dropped, bow = random.random() < domain.road_drop * (0.3 if main else 1.3), random.uniform(-0.09, 0.09)
                if dropped:
                    continue
                a, b = nodes[row, column], nodes[row + down, column + right]
                lines.append((_bend(a, b, bow), bool(main)))
                ends.append((row * side + column, (row + down) * side + column + right))
    return lines, np.array(ends), side * side


def _bend(a: np.ndarray, b: np.ndarray, bow: float) -> np.ndarray:
    """Points about 7 m apart on an arc from `a` to `b` whose height is `bow` times its chord."""
    chord = b - a
    t = np.linspace(0, 1, max(3, int(np.ceil(np.hypot(*chord) / 7))))[:, None]
    return a + chord * t + 4 * t * (1 - t) * bow * np.array([-chord[1], chord[0]])


def _segments(points: np.ndarray, number: int, half_width: float) -> tuple[np.ndarray, ...]:
    step = np.diff(points, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    arc = np.concatenate([[0.0], np.cumsum(length)[:-1]])
    count = len(length)
    return points[:-1], step / length[:, None], length, np.full(count, half_width), arc, np.full(count, number)


def _rasterise(
    start: np.ndarray, direction: np.ndarray, length: np.ndarray, half_width: np.ndarray, half_extent: float
) -> tuple[np.ndarray, np.ndarray]:
    """Edge distance and nearest segment at raster nodes: each segment updates the box around it."""
    count = round(2 * half_extent / CELL) + 1
    edge = np.full((count, count), FAR, np.float32)
    nearest = np.full((count, count), -1, np.int32)
    stop = start + direction * length[:, None]
    low = np.floor((np.minimum(start, stop) - (REACH + half_width[:, None]) + half_extent) / CELL).astype(int)
    high = np.ceil((np.maximum(start, stop) + (REACH + half_width[:, None]) + half_extent) / CELL).astype(int) + 1
    low, high = np.clip(low, 0, count), np.clip(high, 0, count)
    axis = (np.arange(count) * CELL - half_extent).astype(np.float32)
    for index in np.flatnonzero(np.all(high > low, axis=1)):
        columns, rows = slice(low[index, 0], high[index, 0]), slice(low[index, 1], high[index, 1])
        dx, dy = axis[None, columns] - start[index, 0], axis[rows, None] - start[index, 1]
        along = np.clip(dx * direction[index, 0] + dy * direction[index, 1], 0, length[index])
        distance = np.hypot(dx - along * direction[index, 0], dy - along * direction[index, 1]) - half_width[index]
        closer = distance < edge[rows, columns]
        np.copyto(edge[rows, columns], distance, casting="same_kind", where=closer)
        np.copyto(nearest[rows, columns], index, casting="same_kind", where=closer)
    return edge, nearest
