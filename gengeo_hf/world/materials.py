"""Appearance of surfaces where rays hit them: colour, class, reflectance.

Patterns are formulas of the position: they are sharp at any resolution and fade where they are finer than a pixel.
"""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.world import mesh
from gengeo_hf.world.ground_material import BUILDING, CAR, OTHER, TREE, GroundTables, ground_colour
from gengeo_hf.world.layout import Layout
from gengeo_hf.world.light import Day
from gengeo_hf.world.noise import blotches, grain, hash_unit
from gengeo_hf.world.palette import linear
from gengeo_hf.world.scene import Hits
from gengeo_hf.world.tables import BARN, BUSH, CONIFER, FENCE, FLAT, FLATS, GLASS, HEDGE, SHED, SHOP

_PANE, _CURTAIN, _BARK, _POLE, _TYRE, _DOOR, _SOLAR = linear(
    "2b333c", "c9c1b0", "5a4636", "6f7376", "1b1b1d", "5b3a2a", "1f2a44"
)


@dataclass
class Surface:
    """Appearance of n hits.

    Args:
        colour: Linear light, shape (n, 3).
        kind: Class of each hit, index of `CLASS_NAMES`, shape (n,).
        mirror: Fraction of the sky that is reflected, shape (n,).
        soft: Fraction of the light that passes through (leaves), shape (n,).
        normal: Unit normal for shading, shape (n, 3).
    """

    colour: np.ndarray
    kind: np.ndarray
    mirror: np.ndarray
    soft: np.ndarray
    normal: np.ndarray


def surface_of(layout: Layout, tables: GroundTables, cars: np.ndarray, day: Day, hits: Hits) -> Surface:
    """Compute the appearance of every hit.

    Args:
        layout: Layout of the region.
        tables: Lots of the layout.
        cars: Cars of the view, rows of `tables.CAR`.
        day: Season and light.
        hits: Hits of rays, n of them.

    Returns:
        Appearance in the order of the hits.
    """
    count = len(hits.ray)
    surface = Surface(
        np.zeros((count, 3), np.float32),
        np.full(count, OTHER, np.uint8),
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
        hits.normal.copy(),
    )
    order = np.argsort(hits.kind, kind="stable")
    ends = np.searchsorted(hits.kind[order], np.arange(9))
    for kind in range(8):
        rows = order[ends[kind] : ends[kind + 1]]
        if not len(rows):
            continue
        some = hits.only(rows)
        if kind == mesh.GROUND:
            surface.colour[rows], surface.kind[rows], surface.mirror[rows] = ground_colour(layout, tables, day, some)
        elif kind == mesh.WALL:
            surface.colour[rows], surface.mirror[rows] = _walls(layout.parts[some.owner], some)
            surface.kind[rows] = BUILDING
        elif kind == mesh.ROOF:
            surface.colour[rows], surface.mirror[rows] = _roofs(layout.parts[some.owner], some)
            surface.kind[rows] = BUILDING
        elif kind == mesh.CROWN:
            surface.colour[rows], surface.normal[rows] = _crowns(layout.trees[some.owner], day, some)
            surface.kind[rows], surface.soft[rows] = TREE, 0.35
        elif kind == mesh.TRUNK:
            surface.colour[rows] = _BARK * (0.9 + 0.25 * grain(some.point[:, 0] * 6, some.point[:, 2], 0.08))[:, None]
            surface.kind[rows] = TREE
        elif kind == mesh.BOX:
            surface.colour[rows], surface.kind[rows], surface.soft[rows] = _boxes(layout.boxes[some.owner], day, some)
        elif kind == mesh.CAR:
            surface.colour[rows], surface.mirror[rows] = _cars(cars[some.owner], some)
            surface.kind[rows] = CAR
        else:
            surface.colour[rows] = _POLE if layout.domain.pavement else _BARK * 1.3
    return surface


def _local(table: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert points to the axes of their objects, in metres."""
    dx, dy = point[:, 0] - table["x"], point[:, 1] - table["y"]
    cos, sin = table["cos"], table["sin"]
    return dx * cos + dy * sin, dy * cos - dx * sin, point[:, 2] - table["ground"]


def _walls(parts: np.ndarray, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and reflectance of facades: render, brick or boards, windows, doors, shop fronts."""
    a, b, up = _local(parts, hits.point)
    crosswise = (hits.side & 1).astype(bool)
    length = np.where(crosswise, parts["half_y"], parts["half_x"]) * 2
    run = np.where(crosswise, b, a) + length / 2
    style, eaves, storey = parts["style"], parts["eaves"], parts["storey"]
    fade = np.clip(0.25 / (hits.footprint + 0.03), 0.1, 1.0)
    colour = (
        parts["facade"]
        * (1 + 0.05 * fade * grain(run, up, 0.06) + 0.035 * blotches(run + parts["seed"] % 512, up, 0.2))[:, None]
    )
    brick = (parts["seed"] % 3 == 0) & (hits.footprint < 0.09)
    colour[brick & ((up % 0.3 < 0.04) | ((run + (up % 0.6 > 0.3) * 0.3) % 0.6 < 0.04))] *= 0.8
    boards = (style == BARN) & (run % 0.9 < 0.12) & (hits.footprint < 0.5)
    colour[boards] *= 0.8
    level = np.floor(up / storey)
    band = (style != SHED) & (style != BARN) & (np.abs(up - eaves + 0.12) < 0.14)
    colour[band] = parts["trim"][band]
    colour[(up < 0.45) & (style != GLASS)] *= 0.62
    count = np.maximum(np.floor(length / parts["pitch"]), 1)
    cell = run / length * count
    pane_u, pane_v = (cell - np.floor(cell) - 0.5) * length / count, up - level * storey - storey * 0.53
    wide = np.choose(np.clip(style, 0, 5), [0.55, 0.62, 0.6, 0.0, 0.0, parts["pitch"] * 0.46]).astype(np.float32)
    tall = np.choose(np.clip(style, 0, 5), [0.68, 0.72, 0.6, 0.0, 0.0, 1.25]).astype(np.float32)
    blank = hash_unit(parts["seed"], hits.side, np.floor(cell), level) < np.where(style == GLASS, 0.0, 0.1)
    fits = (level >= 0) & ((level + 1) * storey < eaves + 0.45) & (length > 2.0) & ~blank
    frame = fits & (np.abs(pane_u) < wide + 0.12) & (np.abs(pane_v) < tall + 0.12) & (wide > 0) & (style != GLASS)
    colour[frame] = parts["trim"][frame]
    glass = fits & (np.abs(pane_u) < wide) & (np.abs(pane_v) < tall)
    mirror = np.zeros(len(run), np.float32)
    _panes(parts, hits, cell, level, glass, colour, mirror)
    bars = (
        glass & (hits.footprint < 0.12) & ((np.abs(pane_u) < 0.035) | (np.abs(pane_v - 0.2) < 0.03)) & (style != GLASS)
    )
    colour[bars], mirror[bars] = parts["trim"][bars], 0
    sill = fits & (wide > 0) & (np.abs(pane_u) < wide + 0.2) & (np.abs(pane_v + tall + 0.14) < 0.07) & (style != GLASS)
    colour[sill] = parts["trim"][sill] * 0.8
    _ground_floor(parts, hits, run, up, cell, pane_u, colour, mirror)
    return colour, mirror


def _panes(
    parts: np.ndarray,
    hits: Hits,
    cell: np.ndarray,
    level: np.ndarray,
    glass: np.ndarray,
    colour: np.ndarray,
    mirror: np.ndarray,
) -> None:
    """Paint window glass, dark or with a curtain, which reflects some sky, in place."""
    rows = np.flatnonzero(glass)
    unit = hash_unit(parts["seed"][rows] + 9, hits.side[rows], np.floor(cell[rows]), level[rows])
    tint = np.where((unit < 0.3)[:, None], _CURTAIN * 0.75, _PANE)
    towers = (parts["style"][rows] == GLASS)[:, None]
    colour[rows] = np.where(towers, parts["facade"][rows] * 0.45 + 0.01, tint)
    mirror[rows] = np.where(towers[:, 0], 0.34, 0.22)


def _ground_floor(
    parts: np.ndarray,
    hits: Hits,
    run: np.ndarray,
    up: np.ndarray,
    cell: np.ndarray,
    pane_u: np.ndarray,
    colour: np.ndarray,
    mirror: np.ndarray,
) -> None:
    """Paint shop windows with a coloured fascia and the doors of houses, barns and garages, in place."""
    style, front = parts["style"], hits.side == 0
    shop = (style == SHOP) & (up < 3.5) & (up > 0.1)
    fascia = shop & (up > 2.7)
    colour[fascia] = parts["shop"][fascia]
    show = shop & (up > 0.5) & (up < 2.65) & ((run % 3.0) > 0.25)
    colour[show], mirror[show] = _PANE * 1.6, 0.3
    which = np.floor(hash_unit(parts["seed"], 3) * 3)
    door = front & (style <= FLATS) & (np.floor(cell) == which) & (np.abs(pane_u) < 0.55) & (up < 2.15)
    colour[door], mirror[door] = parts["shop"][door] * 0.9 + 0.01, 0
    gate = (style == BARN) & ((hits.side & 1) == 1) & (up < 3.3) & (np.abs(run - parts["half_y"]) < 1.9)
    gate |= (style == SHED) & (up < 2.1) & (np.abs(run - run.dtype.type(1.6)) < 1.25) & ((hits.side & 1) == 0)
    colour[gate] = parts["trim"][gate] * np.where(np.abs(run[gate] % 0.6 - 0.3) < 0.04, 0.7, 0.95)[:, None]


def _roofs(parts: np.ndarray, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and reflectance of roofs: rows of tiles, ridge, skylights, solar panels; parapets of flat roofs."""
    a, b, up = _local(parts, hits.point)
    flat = parts["roof_kind"] == FLAT
    fade = np.clip(0.3 / (hits.footprint + 0.04), 0.1, 1.0)
    mottled = 1 + 0.07 * fade * grain(a, b, 0.09) + 0.05 * blotches(a + parts["seed"] % 512, b, 0.23)
    colour = parts["roof"] * mottled[:, None]
    rows = ~flat & (hits.footprint < 0.35)
    colour[rows & (up % 0.28 < 0.06)] *= 0.8
    ridge = ~flat & (up > parts["eaves"] + parts["rise"] - 0.16)
    colour[ridge] *= 0.72
    inner_a, inner_b = parts["half_x"] - np.abs(a), parts["half_y"] - np.abs(b)
    rim = flat & (np.minimum(inner_a, inner_b) < 0.38)
    colour[rim] = parts["trim"][rim] * 0.6 + parts["facade"][rim] * 0.4
    gutter = flat & ~rim & (np.minimum(inner_a, inner_b) < 0.75)
    colour[gutter] *= 0.75
    mirror = np.zeros(len(a), np.float32)
    unit = hash_unit(parts["seed"], 41)
    solar = (
        ~flat
        & (unit < 0.16)
        & (b < 0)
        & (np.abs(a) < parts["half_x"] * 0.6)
        & (np.abs(b + parts["half_y"] * 0.5) < parts["half_y"] * 0.3)
    )
    colour[solar], mirror[solar] = _SOLAR, 0.16
    sky_light = (
        ~flat
        & (unit > 0.6)
        & (np.abs((a + 50) % 3.4 - 1.7) < 0.4)
        & (np.abs(np.abs(b) - parts["half_y"] * 0.5) < 0.5)
        & (inner_a > 1.5)
    )
    colour[sky_light], mirror[sky_light] = _PANE * 1.5, 0.35
    return colour, mirror


def _crowns(trees: np.ndarray, day: Day, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and normal of tree crowns: seasonal colour, light and dark clumps, rounded rough normals."""
    x, y, z = hits.point.T
    needles = trees["kind"] == CONIFER
    tint = np.where(needles[:, None], 0.6 + 0.4 * day.foliage, day.foliage)
    odd = 1 + 0.14 * (hash_unit(trees["seed"], day.seed)[:, None] - 0.5) * np.array([2.0, 0.6, 0.0], np.float32)
    fade = np.clip(0.5 / (hits.footprint + 0.1), 0.2, 1.0)
    leaf = grain(x + z * 0.7, y - z * 0.8, 0.09) * fade
    clump = blotches(x * 1.3 + z, y * 1.3 - z, 0.11)
    low = (z - trees["ground"]) / trees["height"]
    shade = (0.62 + 0.5 * np.clip(low, 0, 1)) * (1 + 0.2 * leaf + 0.17 * clump)
    colour = trees["colour"] * tint * odd * np.clip(shade, 0.25, 1.9)[:, None]
    middle = trees["clear"] + (trees["height"] - trees["clear"]) * np.where(needles, 0.2, 0.5)
    middle = np.where(trees["kind"] == BUSH, 0.2 * trees["height"], middle)
    out = np.stack([x - trees["x"], y - trees["y"], (z - trees["ground"] - middle) * 0.8], 1)
    out /= np.linalg.norm(out, axis=1, keepdims=True) + 1e-6
    rough = np.stack([leaf, clump, leaf * clump], 1) * 0.22
    normal = out * 0.75 + hits.normal * 0.45 + rough
    return colour, normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6)


def _boxes(boxes: np.ndarray, day: Day, hits: Hits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return colour, class and translucency of hedges, fences, machines and chimneys."""
    a, b, up = _local(boxes, hits.point)
    hedge = boxes["kind"] == HEDGE
    fade = np.clip(0.3 / (hits.footprint + 0.05), 0.15, 1.0)
    leaf = grain(a + up * 0.9, b - up, 0.08) * fade
    colour = (
        boxes["colour"] * np.where(hedge[:, None], day.foliage, 1.0) * (1 + np.where(hedge, 0.26, 0.06) * leaf)[:, None]
    )
    slats = (boxes["kind"] == FENCE) & (hits.footprint < 0.15) & ((a + b) % 0.24 < 0.05)
    colour[slats] *= 0.6
    kind = np.where(hedge, TREE, np.where(boxes["kind"] == FENCE, OTHER, BUILDING)).astype(np.uint8)
    return colour, kind, np.where(hedge, 0.25, 0.0).astype(np.float32)


def _cars(cars: np.ndarray, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and reflectance of cars: paint, windows, wheels, lamps."""
    a, b, up = _local(cars, hits.point)
    scale = cars["size"]
    a, b, up = a / scale, b / scale, up / scale
    colour, mirror = cars["colour"].copy(), np.full(len(a), 0.08, np.float32)
    cabin = hits.side == 1
    glass = cabin & (up > 0.92) & (up < 1.36) & (np.abs(hits.normal[:, 2]) < 0.8)
    pillar = (np.abs(a + 0.4) < 0.05) & (np.abs(b) > 0.5)
    colour[glass & ~pillar], mirror[glass] = _PANE, 0.3
    wheel = ~cabin & (np.hypot(np.abs(a) - 1.3, up - 0.3) < 0.36) & (np.abs(b) > 0.8)
    colour[wheel | (~cabin & (up < 0.3))] = _TYRE
    front = ~cabin & (np.abs(a) > 2.0) & (np.abs(up - 0.65) < 0.1) & (np.abs(b) > 0.5)
    colour[front & (a > 0)], colour[front & (a < 0)] = (0.9, 0.88, 0.8), (0.5, 0.03, 0.02)
    return colour, mirror
