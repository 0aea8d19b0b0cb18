"""Triangle mesh of a layout: each triangle has a kind and the row of its object in the table of the kind."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gengeo_hf.world.layout import Layout
from gengeo_hf.world.shapes import CROWNS, car_shell, conifer_variants, crown_variants, prism
from gengeo_hf.world.tables import BUSH, CONIFER, FLAT, GABLE, HIP

GROUND, WALL, ROOF, CROWN, TRUNK, BOX, CAR, LAMP = range(8)  # kinds of triangle
GROUND_STEP = 12.0  # metres between the vertices of the ground
HORIZON_METRES = 260.0  # width of the ground around the region
EAVES_OVERHANG = 0.35  # metres


@dataclass(frozen=True)
class Mesh:
    """Triangles with their objects.

    Args:
        vertices: Vertices in metres, float32 (v, 3).
        faces: Vertex indices of the triangles, int32 (f, 3).
        kind: Kind of each triangle, GROUND to LAMP, uint8 (f,).
        owner: Row of the object in the table of the kind, int32 (f,).
        side: Side of the object, uint8 (f,). Walls: 0 is y = -half_y, then counter-clockwise; cars: 0 body, 1 cabin;
            lamps: 0 pole, 1 head.
    """

    vertices: np.ndarray
    faces: np.ndarray
    kind: np.ndarray
    owner: np.ndarray
    side: np.ndarray


def join(pieces: list[Mesh]) -> Mesh:
    """Join several meshes into one."""
    shifts = np.cumsum([0, *(len(piece.vertices) for piece in pieces[:-1])])
    return Mesh(
        np.concatenate([p.vertices for p in pieces]).astype(np.float32),
        np.concatenate([p.faces + shift for p, shift in zip(pieces, shifts, strict=True)]).astype(np.int32),
        np.concatenate([p.kind for p in pieces]),
        np.concatenate([p.owner for p in pieces]),
        np.concatenate([p.side for p in pieces]),
    )


def static_mesh(layout: Layout) -> Mesh:
    """Build the mesh of everything except cars, which both views share."""
    return join([_ground(layout), *_buildings(layout), *_trees(layout), _boxes(layout), *_lamps(layout)])


def car_mesh(cars: np.ndarray) -> Mesh:
    """Build the mesh of the cars of one view.

    Args:
        cars: Rows of `tables.CAR`, shape (cars,).
    """
    vertices, faces, side = car_shell()
    return _copies(cars, vertices * cars["size"][:, None, None], faces, side, CAR)


def _copies(
    table: np.ndarray,
    local: np.ndarray,
    faces: np.ndarray,
    side: np.ndarray,
    kind: int,
    owner: np.ndarray | None = None,
    rotate: bool = True,
) -> Mesh:
    """Copy a shape (n, v, 3), given in the axes of each row, to the position of every row of a table."""
    count, corners = local.shape[:2]
    cos = table["cos"][:, None] if rotate else np.ones((count, 1), np.float32)
    sin = table["sin"][:, None] if rotate else np.zeros((count, 1), np.float32)
    x = table["x"][:, None] + local[..., 0] * cos - local[..., 1] * sin
    y = table["y"][:, None] + local[..., 0] * sin + local[..., 1] * cos
    z = table["ground"][:, None] + local[..., 2]
    all_faces = (faces[None] + (np.arange(count) * corners)[:, None, None]).reshape(-1, 3)
    rows = np.arange(count) if owner is None else owner
    return Mesh(
        np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32),
        all_faces,
        np.full(len(all_faces), kind, np.uint8),
        np.repeat(rows, len(faces)).astype(np.int32),
        np.tile(side, count).astype(np.uint8),
    )


def _ground(layout: Layout) -> Mesh:
    half = layout.domain.extent / 2 + HORIZON_METRES
    axis = np.linspace(-half, half, int(2 * half / GROUND_STEP) + 1)
    x, y = np.meshgrid(axis, axis)
    vertices = np.stack([x, y, layout.land.height(x, y)], -1).reshape(-1, 3).astype(np.float32)
    n = len(axis)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + n], 1), np.stack([corner + 1, corner + n + 1, corner + n], 1)]
    )
    zero = np.zeros(len(faces), np.int32)
    return Mesh(vertices, faces, np.full(len(faces), GROUND, np.uint8), zero, zero.astype(np.uint8))


def _local(*columns: Any) -> np.ndarray:
    """Broadcast columns and stack them into (n, 3)."""
    return np.stack(np.broadcast_arrays(*columns), -1)


def _buildings(layout: Layout) -> list[Mesh]:
    """Build walls with gable ends, and roofs by kind."""
    parts = layout.parts
    px, py, top = parts["half_x"], parts["half_y"], parts["eaves"]
    corners = [
        _local(sx * px, sy * py, z) for z in (np.float32(-3.0), top) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    quads = [(i, (i + 1) % 4, 4 + (i + 1) % 4, 4 + i) for i in range(4)]
    faces = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])
    pieces = [_copies(parts, np.stack(corners, 1), faces, np.repeat(np.arange(4), 2), WALL)]
    for kind, build in ((FLAT, _flat_roof), (GABLE, _gable_roof), (HIP, _hip_roof)):
        rows = np.flatnonzero(parts["roof_kind"] == kind)
        if len(rows):
            local, roof_faces = build(parts[rows])
            pieces.append(_copies(parts[rows], local, roof_faces, np.zeros(len(roof_faces)), ROOF, rows))
    gables = np.flatnonzero(parts["roof_kind"] == GABLE)
    if len(gables):
        some = parts[gables]
        px, py, top, ridge = some["half_x"], some["half_y"], some["eaves"], some["eaves"] + some["rise"]
        local = np.stack([_local(s * px, t * py, z) for s in (1, -1) for t, z in ((-1, top), (1, top), (0, ridge))], 1)
        pieces.append(_copies(some, local, np.array([[0, 1, 2], [3, 5, 4]]), np.array([1, 3]), WALL, gables))
    return pieces


def _flat_roof(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    px, py, z = parts["half_x"], parts["half_y"], parts["eaves"]
    local = np.stack([_local(s * px, t * py, z) for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))], 1)
    return local, np.array([[0, 1, 2], [0, 2, 3]])


def _eaves(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return half sides and height of the lower edge of the roof, which overhangs the walls."""
    drop = parts["eaves"] - EAVES_OVERHANG * parts["rise"] / parts["half_y"] + 0.06
    return parts["half_x"] + EAVES_OVERHANG, parts["half_y"] + EAVES_OVERHANG, drop


def _gable_roof(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    px, py, low = _eaves(parts)
    ridge = parts["eaves"] + parts["rise"] + 0.06
    local = np.stack(
        [_local(s * px, t * py, z) for t, z in ((-1, low), (0, ridge), (1, low)) for s in (-1, 1)], 1
    )  # 0, 1 low front; 2, 3 ridge; 4, 5 low back
    return local, np.array([[0, 1, 3], [0, 3, 2], [2, 3, 5], [2, 5, 4]])


def _hip_roof(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    px, py, low = _eaves(parts)
    ridge, run = parts["eaves"] + parts["rise"], np.maximum(parts["half_x"] - parts["half_y"], 0.15)
    local = np.stack(
        [
            *(_local(s * px, t * py, low) for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))),
            _local(-run, 0.0, ridge),
            _local(run, 0.0, ridge),
        ],
        1,
    )
    return local, np.array([[0, 1, 5], [0, 5, 4], [1, 2, 5], [2, 3, 4], [2, 4, 5], [3, 0, 4]])


def _trees(layout: Layout) -> list[Mesh]:
    """Build trunks, and crowns of a few shapes that are rotated and scaled for each tree."""
    trees, pieces = layout.trees, []
    for variant in range(CROWNS):
        for needles in (False, True):
            picked = (trees["seed"] % CROWNS == variant) & ((trees["kind"] == CONIFER) == needles)
            rows = np.flatnonzero(picked)
            if not len(rows):
                continue
            some = trees[rows]
            vertices, faces = (conifer_variants() if needles else crown_variants())[variant]
            turn = (some["seed"] // CROWNS % 1000) * (2 * np.pi / 1000)
            c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
            local = np.empty((len(rows), len(vertices), 3), np.float32)
            local[..., 0] = (vertices[:, 0] * c - vertices[:, 1] * s) * some["radius"][:, None]
            local[..., 1] = (vertices[:, 0] * s + vertices[:, 1] * c) * some["radius"][:, None]
            low = np.where(some["kind"] == BUSH, -0.25 * some["height"], some["clear"])
            local[..., 2] = low[:, None] + (vertices[:, 2] + 1) / 2 * (some["height"] - low)[:, None]
            pieces.append(_copies(some, local, faces, np.zeros(len(faces)), CROWN, rows, rotate=False))
    rows = np.flatnonzero(trees["clear"] > 0.3)
    if len(rows):
        some = trees[rows]
        vertices, faces = prism(5)
        scale = np.stack([some["height"] * 0.022 + 0.04] * 2 + [some["clear"] + some["height"] * 0.25], -1)
        pieces.append(_copies(some, vertices * scale[:, None], faces, np.zeros(len(faces)), TRUNK, rows, rotate=False))
    return pieces


def _boxes(layout: Layout) -> Mesh:
    """Build hedges, fences and machines on roofs. Boxes extend below their base, because the ground is not level."""
    boxes = layout.boxes
    corners = [
        _local(sx * boxes["half_x"], sy * boxes["half_y"], z)
        for z in (np.float32(-0.4), boxes["height"])
        for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    quads = [*((i, (i + 1) % 4, 4 + (i + 1) % 4, 4 + i) for i in range(4)), (4, 5, 6, 7)]
    faces = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])
    return _copies(boxes, np.stack(corners, 1), faces, np.repeat(np.arange(5), 2), BOX)


def _lamps(layout: Layout) -> list[Mesh]:
    """Build poles, and the arms of street lamps or the crossbars of telegraph poles."""
    lamps = layout.lamps
    if not len(lamps):
        return []
    vertices, faces = prism(4)
    scale = np.stack([np.full(len(lamps), 0.09)] * 2 + [lamps["height"]], -1)
    poles = _copies(lamps, vertices * scale[:, None], faces, np.zeros(len(faces)), LAMP)
    flat = vertices * np.array([1.0, 1.0, 0.12])
    reach = np.where(lamps["pole_only"], 0.08, 0.8)[:, None]
    arm = flat * np.stack([reach[:, 0], np.where(lamps["pole_only"], 0.9, 0.1), np.ones(len(lamps))], -1)[:, None]
    arm[..., 0] += reach
    arm[..., 2] += lamps["height"][:, None] - 0.15
    return [poles, _copies(lamps, arm, faces, np.ones(len(faces)), LAMP)]
