"""Appearance of the ground: roads and their markings, pavements, gardens, car parks, fields, water.

Every edge is a formula of (x, y) and therefore sharp at any resolution.
"""

import numpy as np

from gengeo_hf.world.land import CROP, PLOUGH, RAPE, STUBBLE, WHEAT, WOOD
from gengeo_hf.world.layout import Layout
from gengeo_hf.world.light import Day
from gengeo_hf.world.lots import CELL, DIRT, GARDEN, GRAVEL, PARK, PARKING, PAVED
from gengeo_hf.world.noise import blotches, grain, hash_unit
from gengeo_hf.world.palette import FIELDS, linear
from gengeo_hf.world.scene import Hits

SKY, ROAD, PAVEMENT, BUILDING, TREE, GRASS, WATER, CAR, OTHER = range(9)  # classes of a pixel
CLASS_NAMES = ("sky", "road", "pavement", "building", "tree", "grass", "water", "car", "other")

_LAWN, _DRY, _SOIL, _GRAVEL, _SLAB, _ASPHALT, _PAINT, _WATER, _TRACK = linear(
    "6f8f45", "9a8f55", "8a7358", "a59c8e", "b3aea5", "5d5f63", "e6e5df", "3f5d63", "a08a68"
)


class GroundTables:
    """The lots of a layout as arrays, for lookups by position."""

    def __init__(self, layout: Layout) -> None:
        rows = [(lot.x, lot.y, lot.cos, lot.sin, lot.half_width, lot.half_depth) for lot in layout.lots]
        self.lots = np.array(rows, np.float32).reshape(-1, 6)
        self.owner, self.half = layout.lot_owner, layout.domain.extent / 2


def ground_colour(
    layout: Layout, tables: GroundTables, day: Day, hits: Hits
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the appearance of points on the ground.

    Args:
        layout: Layout of the region.
        tables: Lots of the layout.
        day: Season and light.
        hits: Points on the ground, n of them.

    Returns:
        Colours (n, 3) as linear light, float32; classes (n,), indices of `CLASS_NAMES`; and the fraction of the sky
        that is reflected (n,), 0 to 1.
    """
    x, y = hits.point[:, 0], hits.point[:, 1]
    fade = np.clip(0.35 / (hits.footprint + 0.05), 0.12, 1.0)  # reduces fine grain where a pixel covers much of it
    speck = grain(x, y, 0.07) * fade
    patch = blotches(x, y, 0.31)
    colour, kind = _open_land(layout, day, hits, speck, patch)
    mirror = np.zeros(len(x), np.float32)
    _lots(layout, tables, day, hits, speck, patch, colour, kind)
    shore = layout.land.shore(x, y)
    wet = shore < 0
    colour[wet], kind[wet] = _WATER * (1 + 0.06 * patch[wet, None]), WATER
    mirror[wet] = 0.42
    bank = (shore >= 0) & (shore < 1.4)
    colour[bank] = _SOIL * (0.9 + 0.1 * speck[bank, None])
    _roads(layout, hits, speck, patch, colour, kind, mirror)
    return colour, kind, mirror


def _lawn(day: Day, speck: np.ndarray, patch: np.ndarray, rich: np.ndarray | float = 1.0) -> np.ndarray:
    """Return the colour of grass in the season, with patches of dry grass."""
    share = np.clip(day.dry + 0.16 * patch, 0, 1)[:, None]
    return (_LAWN * day.grass * (1 - share) + _DRY * share) * (1 + 0.13 * speck[:, None]) * np.asarray(rich, np.float32)


def _open_land(
    layout: Layout, day: Day, hits: Hits, speck: np.ndarray, patch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and class of the common land of a town, or of fields and woods."""
    x, y = hits.point[:, 0], hits.point[:, 1]
    kind = np.full(len(x), GRASS, np.uint8)
    if not layout.domain.farmed:
        colour = _lawn(day, speck, patch)
        bare = blotches(x + layout.land.seed % 997, y, 0.9) + 0.25 * speck > 0.9
        colour[bare] = _SOIL * (1 + 0.1 * speck[bare, None])
        return colour.astype(np.float32), kind
    u, v = layout.land.parcel_coordinates(x, y)
    crop, unit = layout.land.parcels(u, v)
    colour = _lawn(day, speck, patch, 0.9)
    for which in (PLOUGH, WHEAT, CROP, RAPE, STUBBLE):
        rows = np.flatnonzero(crop == which)
        if not len(rows):
            continue
        period = {PLOUGH: 2.2, WHEAT: 3.4, CROP: 1.6, RAPE: 4.5, STUBBLE: 2.8}[which]
        along = np.where(unit[rows] < 0.5, u[rows] * layout.land.parcel[1], v[rows] * layout.land.parcel[2])
        depth = np.clip(period / (2.2 * hits.footprint[rows]) - 0.4, 0, 1) * (0.3 if which == PLOUGH else 0.17)
        wave = 1 + depth * np.sin(along * np.float32(2 * np.pi / period))
        tint = FIELDS[which] * (day.grass if which in (CROP, RAPE) else 1) * (0.85 + 0.3 * unit[rows, None])
        colour[rows] = tint * (wave * (1 + 0.08 * speck[rows] + 0.05 * patch[rows]))[:, None]
    wood = crop == WOOD
    colour[wood] = (_SOIL * 0.55 + _LAWN * day.grass * 0.3) * (1 + 0.15 * speck[wood, None])
    border = layout.land.border_distance(u, v) < 1.3
    colour[border] = _lawn(day, speck[border], patch[border], 0.85)
    return colour.astype(np.float32), kind


def _lots(
    layout: Layout,
    tables: GroundTables,
    day: Day,
    hits: Hits,
    speck: np.ndarray,
    patch: np.ndarray,
    colour: np.ndarray,
    kind: np.ndarray,
) -> None:
    """Paint gardens, yards, parks and car parks over the open land, in place."""
    count = tables.owner.shape[0]
    column = np.floor((hits.point[:, 0] + tables.half) / CELL).astype(np.int32)
    row = np.floor((hits.point[:, 1] + tables.half) / CELL).astype(np.int32)
    inside = (column >= 0) & (row >= 0) & (column < count) & (row < count)
    owner = np.full(len(column), -1, np.int32)
    owner[inside] = tables.owner[row[inside], column[inside]]
    some = np.flatnonzero(owner >= 0)
    lot = tables.lots[owner[some]]
    dx, dy = hits.point[some, 0] - lot[:, 0], hits.point[some, 1] - lot[:, 1]
    a, b = dx * lot[:, 2] + dy * lot[:, 3], dy * lot[:, 2] - dx * lot[:, 3]
    within = (np.abs(a) < lot[:, 4]) & (np.abs(b) < lot[:, 5])
    some, a, b, lot = some[within], a[within], b[within], lot[within]
    cover, drive = layout.lot_cover[owner[some]], layout.lot_drive[owner[some]]
    grain_, patch_ = speck[some], patch[some]
    tone = 0.85 + 0.3 * drive[:, 3:4]
    rough = (1 + 0.08 * grain_ + 0.05 * patch_)[:, None]
    new = _lawn(day, grain_, patch_, tone)
    for which, base in ((PAVED, _SLAB), (GRAVEL, _GRAVEL), (DIRT, _SOIL), (PARKING, _ASPHALT * 1.15)):
        rows = cover == which
        new[rows] = base * tone[rows] * rough[rows]
    slab = (cover == PAVED) & (hits.footprint[some] < 0.3)
    joint = slab & ((np.abs(a % 1.2 - 0.6) > 0.56) | (np.abs(b % 1.2 - 0.6) > 0.56))
    new[joint] *= 0.82
    on_drive = (np.abs(a - drive[:, 0]) < drive[:, 1]) & (b + lot[:, 5] < drive[:, 2])
    new[on_drive] = (_GRAVEL * rough)[on_drive] * np.where(drive[on_drive, 3:4] < 0.5, 0.72, 1.05)
    parks = (cover == PARK) & (np.abs(a - b * 0.35 * np.sin(drive[:, 3] * 9)) < 1.1)
    new[parks] = (_GRAVEL * rough)[parks]
    deep = (b + lot[:, 5] - 3.2) % 11.0
    bays = (cover == PARKING) & ((a + lot[:, 4] - 0.7) % 2.6 < 0.13) & ((deep < 2.5) | (deep > 8.5))
    new[bays] = _PAINT * 0.85
    colour[some] = new
    hard = (cover != GARDEN) & (cover != PARK) & (cover != DIRT)
    kind[some] = np.where(hard | on_drive | parks, PAVEMENT, GRASS)


def _roads(
    layout: Layout,
    hits: Hits,
    speck: np.ndarray,
    patch: np.ndarray,
    colour: np.ndarray,
    kind: np.ndarray,
    mirror: np.ndarray,
) -> None:
    """Paint pavements, kerbs, asphalt or dirt, and markings over everything else, in place."""
    roads, domain = layout.roads, layout.domain
    x, y = hits.point[:, 0], hits.point[:, 1]
    edge = roads.edge_distance(x, y)
    if domain.pavement:
        rows = np.flatnonzero((edge > 0) & (edge < domain.pavement))
        tone = _SLAB * (1.02 + 0.06 * speck[rows] + 0.03 * patch[rows])[:, None]
        tone[edge[rows] < 0.18] *= 1.22
        tone[(hits.footprint[rows] < 0.2) & (np.abs(edge[rows] % 0.75) < 0.03)] *= 0.85
        colour[rows], kind[rows], mirror[rows] = tone, PAVEMENT, 0
    else:
        rows = np.flatnonzero((edge > 0) & (edge < 0.7 + 0.25 * patch))
        colour[rows], mirror[rows] = _TRACK * (0.85 + 0.12 * speck[rows])[:, None], 0
    rows = np.flatnonzero(edge <= 0)
    if not len(rows):
        return
    segment = np.maximum(roads.nearest_segment(x[rows], y[rows]), 0)
    road = roads.road[segment]
    along, across = roads.along_and_across(segment, x[rows], y[rows])
    half, junction = roads.half_width[segment], roads.to_junction(segment, along)
    worn = 1 - 0.08 * np.exp(-((np.abs(across) - half * 0.5) ** 2) * 3)
    tone = 0.78 + 0.5 * roads.tone[road] + 0.07 * speck[rows] + 0.05 * patch[rows]
    surface = _ASPHALT * (tone * worn)[:, None]
    mended = (hash_unit(road, np.floor(along / 6.5), across > 0) < 0.05) & (np.abs(across) < half * 0.8)
    surface[mended] *= 0.72
    _markings(layout, road, along, across, half, junction, hits.footprint[rows], surface)
    dirt = roads.dirt[road]
    ruts = 1 - 0.2 * np.exp(-((np.abs(across[dirt]) - 0.8) ** 2) * 6)
    surface[dirt] = _TRACK * (ruts * (0.95 + 0.1 * speck[rows][dirt] + 0.06 * patch[rows][dirt]))[:, None]
    colour[rows], kind[rows], mirror[rows] = surface, ROAD, 0


def _markings(
    layout: Layout,
    road: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
    half: np.ndarray,
    junction: np.ndarray,
    footprint: np.ndarray,
    surface: np.ndarray,
) -> None:
    """Paint centre lines, edge lines of main roads, zebra crossings and stop lines before junctions, in place."""
    roads = layout.roads
    main, clear = roads.main[road], junction > half + 4.5
    dashed = (np.abs(across) < 0.11) & (along % 6.0 < 3.0) & ~main
    solid = (np.abs(np.abs(across) - 0.22) < 0.09) & main
    border = (np.abs(np.abs(across) - (half - 0.35)) < 0.08) & main
    painted = (dashed | solid | border) & clear
    if layout.domain.pavement:
        zebra = hash_unit(road, 31) < 0.6
        band = (junction > half + 1.6) & (junction < half + 4.0) & zebra & (np.abs(across) < half - 0.3)
        painted |= band & ((across + 40.0) % 1.0 < 0.5)
        painted |= (np.abs(junction - half - 5.0) < 0.2) & zebra & (across < 0) & (np.abs(across) < half - 0.3)
    wear = 0.72 + 0.25 * hash_unit(road, 32)
    surface[painted] = (_PAINT * wear[:, None])[painted]
