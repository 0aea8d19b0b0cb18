"""Trees outside of lots: along streets, in woods, in the hedgerows of the parcels."""

import numpy as np

from gengeo_hf.world.domains import Domain
from gengeo_hf.world.land import WOOD, Land
from gengeo_hf.world.lots import CELL, LotMap
from gengeo_hf.world.noise import hash_unit
from gengeo_hf.world.palette import CONIFER, FOLIAGE
from gengeo_hf.world.roads import Roads
from gengeo_hf.world.tables import BUSH, POPLAR, ROUND, TREE
from gengeo_hf.world.tables import CONIFER as CONIFER_TREE

WOOD_SPACING = 6.2  # metres between the trees of a wood
HEDGE_SPACING = 3.2


def plant(domain: Domain, roads: Roads, land: Land, lots: LotMap, random: np.random.Generator) -> np.ndarray:
    """All trees outside gardens, as rows of `TREE` (their `ground` still 0).

    Args:
        domain: kinds and densities.
        roads, land, lots: what trees keep away from.
        random: draws them.

    Returns:
        (trees,) structured array.
    """
    groups = [_street(domain, roads, random)]
    if domain.farmed:
        groups += [_woods(domain, land, random), _hedgerows(domain, land, random)]
    else:
        groups.append(_scattered(domain, random))
    trees = np.concatenate(groups)
    x, y = trees["x"], trees["y"]
    reach = np.where(trees["clear"] > 2.6, 0.0, trees["radius"] * 1.15)
    keep = (roads.edge_distance(x, y) > 0.9 + reach) & (land.shore(x, y) > 0.6)
    column = np.clip((x + lots.half_extent) / CELL, 0, lots.count - 1).astype(int)
    row = np.clip((y + lots.half_extent) / CELL, 0, lots.count - 1).astype(int)
    free = lots.owner[row, column] < 0
    return trees[keep & free & (np.maximum(abs(x), abs(y)) < domain.extent / 2)]


def _table(
    x: np.ndarray, y: np.ndarray, kind: np.ndarray, height: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Rows of trees with the proportions and colours of their kinds."""
    trees = np.zeros(len(x), TREE)
    slim = np.array([0.4, 0.24, 0.16, 0.65])[kind]
    trunk = np.array([0.3, 0.08, 0.12, 0.0])[kind]
    trees["x"], trees["y"], trees["kind"], trees["height"] = x, y, kind, height
    trees["radius"] = height * slim * random.uniform(0.85, 1.15, len(x))
    trees["clear"] = height * trunk
    bank = np.where(
        (kind == CONIFER_TREE)[:, None],
        CONIFER[random.integers(0, len(CONIFER), len(x))],
        FOLIAGE[random.integers(0, len(FOLIAGE), len(x))],
    )
    trees["colour"] = bank * random.uniform(0.8, 1.25, (len(x), 1)) * random.uniform(0.92, 1.08, (len(x), 3))
    trees["seed"] = random.integers(0, 2**31, len(x))
    return trees


def _street(domain: Domain, roads: Roads, random: np.random.Generator) -> np.ndarray:
    """Trees behind the kerb; whole streets have them or not, so that streets differ."""
    rows = []
    for road in range(len(roads.road_length)):
        own = np.flatnonzero(roads.road == road)
        share = domain.street_trees * 2 * float(random.random() < 0.5)
        along = np.arange(8.0, float(roads.road_length[road]) - 8.0, 9.5)
        for side in (1.0, -1.0):
            picked = along[random.random(len(along)) < share]
            segment = own[np.searchsorted(roads.arc[own], picked, side="right") - 1] if len(picked) else own[:0]
            middle = roads.start[segment] + roads.direction[segment] * (picked - roads.arc[segment])[:, None]
            normal = np.stack([-roads.direction[segment, 1], roads.direction[segment, 0]], 1) * side
            offset = roads.half_width[segment] + (1.3 if domain.pavement else 3.5)
            rows.append(middle + normal * offset[:, None])
    place = np.concatenate(rows)
    kind = np.full(len(place), ROUND)
    height = random.uniform(8.0, 11.0, len(place)) * (0.95 if domain.pavement else 1.1)
    trees = _table(place[:, 0], place[:, 1], kind, height, random)
    trees["radius"] *= 0.85
    trees["clear"] = np.maximum(trees["clear"], 2.7)
    return trees


def _scattered(domain: Domain, random: np.random.Generator) -> np.ndarray:
    """A few trees on the common land of a town."""
    count = int(domain.extent**2 / 700)
    x, y = random.uniform(-0.5, 0.5, (2, count)) * domain.extent
    return _table(
        x, y, random.choice([ROUND, ROUND, POPLAR, BUSH, BUSH], count), random.uniform(1.6, 2.6, count) * 3, random
    )


def _jittered(domain: Domain, spacing: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(-domain.extent / 2, domain.extent / 2, spacing)
    x, y = np.meshgrid(axis, axis)
    x, y = (c.ravel() + random.uniform(-0.45, 0.45, c.size) * spacing for c in (x, y))
    return x.astype(np.float32), y.astype(np.float32)


def _woods(domain: Domain, land: Land, random: np.random.Generator) -> np.ndarray:
    x, y = _jittered(domain, WOOD_SPACING, random)
    kind, luck = land.parcels(*land.parcel_coordinates(x, y))
    keep = (kind == WOOD) & (random.random(len(x)) < 0.85)
    x, y, luck = x[keep], y[keep], luck[keep]
    needles = random.random(len(x)) < np.where(luck < 0.35, 0.85, 0.15)
    shape = np.where(needles, CONIFER_TREE, ROUND)
    return _table(x, y, shape, random.uniform(6.5, 11.5, len(x)) * np.where(needles, 1.15, 1.0), random)


def _hedgerows(domain: Domain, land: Land, random: np.random.Generator) -> np.ndarray:
    """Bushes and trees along the borders of parcels; a border is planted or open along its whole length."""
    x, y = _jittered(domain, HEDGE_SPACING, random)
    u, v = land.parcel_coordinates(x, y)
    lengthwise = np.abs(u - np.rint(u)) * land.parcel[1] < np.abs(v - np.rint(v)) * land.parcel[2]
    line = np.where(lengthwise, np.rint(u), np.rint(v)).astype(int)
    cell = np.where(lengthwise, np.floor(v), np.floor(u)).astype(int)
    planted = hash_unit(land.parcel[4] + 5, lengthwise.astype(int), line, cell) < 0.55
    keep = (land.border_distance(u, v) < 1.6) & planted
    x, y = x[keep], y[keep]
    tall = random.random(len(x)) < 0.12
    kind = np.where(tall, ROUND, BUSH)
    return _table(x, y, kind, np.where(tall, random.uniform(6, 10, len(x)), random.uniform(1.4, 2.6, len(x))), random)
