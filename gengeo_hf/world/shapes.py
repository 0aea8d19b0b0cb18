"""Meshes of shapes that occur many times in a region: crowns, trunks, cars."""

import functools

import numpy as np
from scipy.spatial import ConvexHull

CROWNS = 5  # number of crown shapes of each kind


@functools.lru_cache(maxsize=1)
def _sphere() -> tuple[np.ndarray, np.ndarray]:
    """Return a sphere of 42 vertices and 80 triangles: an icosahedron with subdivided edges."""
    g = (1 + 5**0.5) / 2
    corners = np.array([(0, a, b * g) for a in (-1, 1) for b in (-1, 1)], float)
    points = np.concatenate([corners, np.roll(corners, 1, 1), np.roll(corners, 2, 1)])
    middles = [
        (points[i] + points[j]) / 2
        for i in range(12)
        for j in range(i)
        if np.isclose(np.linalg.norm(points[i] - points[j]), 2)
    ]
    points = np.concatenate([points, middles])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, ConvexHull(points).simplices


@functools.lru_cache(maxsize=1)
def crown_variants() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `CROWNS` irregular crowns in the unit ball: vertices (42, 3) and faces (80, 3) of each."""
    rng = np.random.default_rng(7)
    points, faces = _sphere()
    shapes = []
    for _ in range(CROWNS):
        lumps = rng.standard_normal((6, 3))
        lumps /= np.linalg.norm(lumps, axis=1, keepdims=True)
        swell = np.clip(points @ lumps.T - 0.55, 0, None).sum(1) * 0.5 + rng.uniform(-0.09, 0.09, len(points))
        shape = points * (0.86 + swell)[:, None]
        shape[:, 2] = np.clip(shape[:, 2], -0.9, None)
        shapes.append((shape / np.abs(shape).max(), faces))
    return shapes


@functools.lru_cache(maxsize=1)
def conifer_variants() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `CROWNS` conifers: tiers of jagged cones from z = -1 to z = 1, with radius 1 at the lowest tier.

    Returns:
        Vertices, float64 (v, 3), and faces, int (f, 3), of each variant.
    """
    rng, sides = np.random.default_rng(11), 10
    shapes = []
    for _ in range(CROWNS):
        vertices: list[tuple[float, float, float]] = []
        faces: list[tuple[int, int, int]] = []
        for low, high, radius in ((-1.0, -0.1, 1.0), (-0.55, 0.35, 0.78), (-0.1, 0.72, 0.56), (0.3, 1.0, 0.34)):
            turn = np.arange(sides) * 2 * np.pi / sides + rng.uniform(0, 1)
            wide = radius * np.where(np.arange(sides) % 2, 0.72, 1.0) * rng.uniform(0.88, 1.12, sides)
            first = len(vertices)
            vertices += [
                (w * np.cos(t), w * np.sin(t), low + rng.uniform(0, 0.1)) for w, t in zip(wide, turn, strict=True)
            ]
            vertices.append((0.0, 0.0, high))
            faces += [(first + i, first + (i + 1) % sides, first + sides) for i in range(sides)]
        shapes.append((np.array(vertices), np.array(faces)))
    return shapes


def prism(sides: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an upright prism of radius 1 from z = 0 to z = 1 with a top.

    Args:
        sides: Number of sides.

    Returns:
        Vertices, float64 (2 * sides, 3), and faces, int (f, 3).
    """
    turn = np.arange(sides) * 2 * np.pi / sides
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    vertices = np.concatenate([np.c_[ring, np.zeros(sides)], np.c_[ring, np.ones(sides)]])
    faces = []
    for i in range(sides):
        j = (i + 1) % sides
        faces += [(i, j, sides + j), (i, sides + j, sides + i)]
    faces += [(sides, sides + i, sides + i + 1) for i in range(1, sides - 1)]
    return vertices, np.array(faces)


def car_shell() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mesh of a car of 4.3 m along x.

    Returns:
        Vertices in metres, float64 (16, 3), faces, int (f, 3), and the side of each face, 0 (body) or 1 (cabin), (f,).
    """
    body = [
        (x, y, z)
        for z, k in ((0.2, 1.0), (0.85, 0.95))
        for x, y in ((-2.15 * k, -0.88), (2.15 * k, -0.88), (2.15 * k, 0.88), (-2.15 * k, 0.88))
    ]
    cabin = [
        *((x, y, 0.85) for x, y in ((-1.75, -0.82), (0.95, -0.82), (0.95, 0.82), (-1.75, 0.82))),
        *((x, y, 1.45) for x, y in ((-1.25, -0.62), (0.3, -0.62), (0.3, 0.62), (-1.25, 0.62))),
    ]
    quads = [*((i, (i + 1) % 4, 4 + (i + 1) % 4, 4 + i) for i in range(4)), (4, 5, 6, 7)]
    box = np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])
    return np.array(body + cabin), np.concatenate([box, box + 8]), np.repeat([0, 1], len(box))
