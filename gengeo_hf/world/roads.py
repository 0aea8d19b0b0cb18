"""Road network of a region: a warped, jittered lattice with gaps, and a raster of distances to it."""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.domains import Domain
from gengeo_hf.world.noise import smooth_noise

CELL = 1.0  # metres between the nodes of the distance raster
REACH = 16.0  # metres from the edge of a road up to which the raster contains distances
FAR = 30.0  # value of the raster at larger distances


@dataclass
class Roads:
    """Straight segments of curved roads, and a raster. Lengths are metres, s is the number of segments.

    Args:
        start: Start of each segment, shape (s, 2).
        direction: Unit vector of each segment, shape (s, 2).
        length: Length of each segment, shape (s,).
        half_width: Half width of each segment, shape (s,).
        arc: Distance along the road from its start to the start of the segment, shape (s,).
        road: Index of the road of each segment, shape (s,).
        road_length: Length of each road, shape (roads,).
        junctions: Whether start and end of each road meet other roads, shape (roads, 2).
        main, dirt: Whether each road is a main road, and whether it is unpaved, shape (roads,).
        tone: Age of the asphalt in 0..1, shape (roads,).
        edge: Distance to the nearest edge of a road, negative on roads, shape (n, n); row 0 is in the south.
        nearest: Index of the segment with the nearest edge, -1 where none is within `REACH`, shape (n, n).
        half_extent: Half the side of the raster.
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
        """Return the distance to the nearest edge of a road, interpolated bilinearly from the raster.

        Args:
            x, y: Metres east and north of the centre of the region; both broadcast against each other.

        Returns:
            Distances in metres, negative on roads, of the broadcast shape.
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
        """Return the nearest segment of each point.

        Args:
            x, y: Metres east and north of the centre of the region, any shape.

        Returns:
            Indices of segments, -1 where none is within `REACH`, of the shape of x.
        """
        last = self.edge.shape[0] - 1
        column = np.clip(np.rint((x + self.half_extent) / CELL), 0, last).astype(np.int32)
        row = np.clip(np.rint((y + self.half_extent) / CELL), 0, last).astype(np.int32)
        return self.nearest[row, column]

    def along_and_across(self, segment: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact metres along the road from its start, and to the left of its centre line.

        Args:
            segment: Index of the segment of each point, shape (n,).
            x, y: Metres east and north of the centre of the region, shape (n,).
        """
        start, direction = self.start[segment], self.direction[segment]
        dx, dy = x - start[:, 0], y - start[:, 1]
        along = dx * direction[:, 0] + dy * direction[:, 1]
        return along + self.arc[segment], dy * direction[:, 0] - dx * direction[:, 1]

    def to_junction(self, segment: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return the metres along the road to the nearer junction; 1000 or more where the road has none.

        Args:
            segment: Index of the segment of each point, shape (n,).
            along: Metres along the road, from `along_and_across`, shape (n,).

        Returns:
            Distances of shape (n,).
        """
        road = self.road[segment]
        first = np.where(self.junctions[road, 0], along, 1e3)
        last = np.where(self.junctions[road, 1], self.road_length[road] - along, 1e3)
        return np.minimum(first, last)


def make_roads(domain: Domain, rng: np.random.Generator) -> Roads:
    """Draw a random road network for a region, and compute its raster."""
    lines, ends, node_count = _lattice(domain, rng)
    degree = np.bincount(ends.ravel(), minlength=node_count)
    near = [index for index, line in enumerate(lines) if np.abs(line[0]).max(axis=1).min() < domain.extent / 2 + 10]
    lines, ends = [lines[index] for index in near], ends[near]  # the rotated lattice extends beyond the region
    roads = len(lines)
    # Main roads follow complete lines of the lattice, so that they cross the region.
    main = np.array([line[1] for line in lines])
    dirt = (rng.random(roads) < domain.dirt_roads) & ~main
    half = np.where(main, domain.half_widths[1], domain.half_widths[0]) * rng.uniform(0.92, 1.08, roads)
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
        tone=rng.random(roads).astype(np.float32),
        edge=edge,
        nearest=nearest,
        half_extent=domain.extent / 2,
    )


def _lattice(domain: Domain, rng: np.random.Generator) -> tuple[list[tuple[np.ndarray, bool]], np.ndarray, int]:
    """Return curves (points (n, 2), is main road), the pair of lattice nodes that each joins, and the node count."""
    spacing, angle = domain.road_spacing, rng.uniform(0, np.pi / 2)
    side = int(np.ceil(domain.extent * 1.45 / spacing)) + 1
    grid = (np.indices((side, side)).transpose(1, 2, 0)[..., ::-1] - (side - 1) / 2) * spacing
    grid = grid + rng.uniform(-1, 1, grid.shape) * domain.road_jitter * spacing
    seed = int(rng.integers(2**31))
    warp = np.stack([smooth_noise(grid[..., 0], grid[..., 1], 260.0, seed + k) - 0.5 for k in (0, 1)], -1)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    nodes = (grid + warp * spacing * 0.9) @ rotation
    every = 3 if domain.road_spacing < 100 else 2
    shift = rng.integers(0, every, 2)
    lines, ends = [], []
    for row in range(side):
        for column in range(side):
            for axis, (down, right) in enumerate(((0, 1), (1, 0))):
                if row + down >= side or column + right >= side:
                    continue
                main = ((row if axis == 0 else column) + shift[axis]) % every == 0
                dropped, bow = rng.random() < domain.road_drop * (0.3 if main else 1.3), rng.uniform(-0.09, 0.09)
                if dropped:
                    continue
                a, b = nodes[row, column], nodes[row + down, column + right]
                lines.append((_bend(a, b, bow), bool(main)))
                ends.append((row * side + column, (row + down) * side + column + right))
    return lines, np.array(ends), side * side


def _bend(a: np.ndarray, b: np.ndarray, bow: float) -> np.ndarray:
    """Return points about 7 m apart on an arc from `a` to `b` whose height is `bow` times its chord."""
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
    """Compute edge distance and nearest segment at the raster nodes; each segment updates the box around it."""
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
