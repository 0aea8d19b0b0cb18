"""Trees outside the lots: along streets, in woods and in the hedgerows of parcels."""

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
HEDGE_SPACING = 3.2  # metres between the plants of a hedgerow


def plant(domain: Domain, roads: Roads, land: Land, lots: LotMap, rng: np.random.Generator) -> np.ndarray:
    """Draw all trees outside the lots.

    Args:
        domain: Domain with the densities.
        roads: Roads of the region; trees do not stand on them.
        land: Land of the region; trees do not stand in water.
        lots: Lots of the region; trees do not stand on them.
        rng: Generator for all random choices.

    Returns:
        Rows of `tables.TREE`, shape (trees,), with `ground` 0.
    """
    groups = [_street(domain, roads, rng)]
    if domain.farmed:
        groups += [_woods(domain, land, rng), _hedgerows(domain, land, rng)]
    else:
        groups.append(_scattered(domain, rng))
    trees = np.concatenate(groups)
    x, y = trees["x"], trees["y"]
    reach = np.where(trees["clear"] > 2.6, 0.0, trees["radius"] * 1.15)
    keep = (roads.edge_distance(x, y) > 0.9 + reach) & (land.shore(x, y) > 0.6)
    column = np.clip((x + lots.half_extent) / CELL, 0, lots.count - 1).astype(int)
    row = np.clip((y + lots.half_extent) / CELL, 0, lots.count - 1).astype(int)
    free = lots.owner[row, column] < 0
    return trees[keep & free & (np.maximum(abs(x), abs(y)) < domain.extent / 2)]


def _table(x: np.ndarray, y: np.ndarray, kind: np.ndarray, height: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Build rows of trees with the proportions and colours of their kinds."""
    trees = np.zeros(len(x), TREE)
    slim = np.array([0.4, 0.24, 0.16, 0.65])[kind]
    trunk = np.array([0.3, 0.08, 0.12, 0.0])[kind]
    trees["x"], trees["y"], trees["kind"], trees["height"] = x, y, kind, height
    trees["radius"] = height * slim * rng.uniform(0.85, 1.15, len(x))
    trees["clear"] = height * trunk
    bank = np.where(
        (kind == CONIFER_TREE)[:, None],
        CONIFER[rng.integers(0, len(CONIFER), len(x))],
        FOLIAGE[rng.integers(0, len(FOLIAGE), len(x))],
    )
    trees["colour"] = bank * rng.uniform(0.8, 1.25, (len(x), 1)) * rng.uniform(0.92, 1.08, (len(x), 3))
    trees["seed"] = rng.integers(0, 2**31, len(x))
    return trees


def _street(domain: Domain, roads: Roads, rng: np.random.Generator) -> np.ndarray:
    """Draw trees behind the kerb; a road has either none or many, so that roads differ."""
    rows = []
    for road in range(len(roads.road_length)):
        own = np.flatnonzero(roads.road == road)
        share = domain.street_trees * 2 * float(rng.random() < 0.5)
        along = np.arange(8.0, float(roads.road_length[road]) - 8.0, 9.5)
        for side in (1.0, -1.0):
            picked = along[rng.random(len(along)) < share]
            segment = own[np.searchsorted(roads.arc[own], picked, side="right") - 1] if len(picked) else own[:0]
            middle = roads.start[segment] + roads.direction[segment] * (picked - roads.arc[segment])[:, None]
            normal = np.stack([-roads.direction[segment, 1], roads.direction[segment, 0]], 1) * side
            offset = roads.half_width[segment] + (1.3 if domain.pavement else 3.5)
            rows.append(middle + normal * offset[:, None])
    position = np.concatenate(rows)
    kind = np.full(len(position), ROUND)
    height = rng.uniform(8.0, 11.0, len(position)) * (0.95 if domain.pavement else 1.1)
    trees = _table(position[:, 0], position[:, 1], kind, height, rng)
    trees["radius"] *= 0.85
    trees["clear"] = np.maximum(trees["clear"], 2.7)
    return trees


def _scattered(domain: Domain, rng: np.random.Generator) -> np.ndarray:
    """Draw a few trees on the common land of a town."""
    count = int(domain.extent**2 / 700)
    x, y = rng.uniform(-0.5, 0.5, (2, count)) * domain.extent
    return _table(x, y, rng.choice([ROUND, ROUND, POPLAR, BUSH, BUSH], count), rng.uniform(1.6, 2.6, count) * 3, rng)


def _jittered(domain: Domain, spacing: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(-domain.extent / 2, domain.extent / 2, spacing)
    x, y = np.meshgrid(axis, axis)
    x, y = (c.ravel() + rng.uniform(-0.45, 0.45, c.size) * spacing for c in (x, y))
    return x.astype(np.float32), y.astype(np.float32)


def _woods(domain: Domain, land: Land, rng: np.random.Generator) -> np.ndarray:
    x, y = _jittered(domain, WOOD_SPACING, rng)
    kind, unit = land.parcels(*land.parcel_coordinates(x, y))
    keep = (kind == WOOD) & (rng.random(len(x)) < 0.85)
    x, y, unit = x[keep], y[keep], unit[keep]
    needles = rng.random(len(x)) < np.where(unit < 0.35, 0.85, 0.15)
    shape = np.where(needles, CONIFER_TREE, ROUND)
    return _table(x, y, shape, rng.uniform(6.5, 11.5, len(x)) * np.where(needles, 1.15, 1.0), rng)


def _hedgerows(domain: Domain, land: Land, rng: np.random.Generator) -> np.ndarray:
    """Draw bushes and trees along the borders of parcels; a border is planted over its whole length or not at all."""
    x, y = _jittered(domain, HEDGE_SPACING, rng)
    u, v = land.parcel_coordinates(x, y)
    lengthwise = np.abs(u - np.rint(u)) * land.parcel[1] < np.abs(v - np.rint(v)) * land.parcel[2]
    line = np.where(lengthwise, np.rint(u), np.rint(v)).astype(int)
    cell = np.where(lengthwise, np.floor(v), np.floor(u)).astype(int)
    planted = hash_unit(land.parcel[4] + 5, lengthwise.astype(int), line, cell) < 0.55
    keep = (land.border_distance(u, v) < 1.6) & planted
    x, y = x[keep], y[keep]
    tall = rng.random(len(x)) < 0.12
    kind = np.where(tall, ROUND, BUSH)
    return _table(x, y, kind, np.where(tall, rng.uniform(6, 10, len(x)), rng.uniform(1.4, 2.6, len(x))), rng)
