"""Layout of a region: buildings, trees, hedges, cars and cameras.

Every table is a structured array with one row for each object; positions are metres, colours linear light.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from gengeo_hf.world.buildings import Filler
from gengeo_hf.world.domains import MINIMUM_GAP_METRES, Domain
from gengeo_hf.world.land import Land, make_land
from gengeo_hf.world.lots import Lot, make_lots
from gengeo_hf.world.noise import hash_unit
from gengeo_hf.world.palette import CARS
from gengeo_hf.world.planting import plant
from gengeo_hf.world.roads import Roads, make_roads
from gengeo_hf.world.tables import CAR, LAMP

VIEWS = ("aerial", "ground")
_SLOT_METRES = 6.6  # length of kerb for a parked car
MAX_ATTEMPTS = 40


@dataclass
class Layout:
    """All objects of a region. `tables.py` defines the columns of the structured arrays.

    Args:
        domain: Domain of the region.
        roads: Road network.
        land: Hills, water and parcels.
        lots: Lots along the roads and in the courtyards.
        lot_owner: Raster with the index of the lot that covers each cell, -1 for none (see `lots.LotMap`).
        lot_cover: Cover of each lot, GARDEN to PARK of `lots`, shape (lots,).
        lot_drive: Drive of each lot, shape (lots, 4): x in the axes of the lot, half width and depth in metres, and the
            tone of the lot in 0..1.
        parts: Parts of buildings, rows of `tables.PART`.
        trees: Trees and bushes, rows of `tables.TREE`.
        boxes: Hedges, fences and machines on roofs, rows of `tables.BOX`.
        lamps: Street lamps and telegraph poles, rows of `tables.LAMP`.
        cars: Cars of each view, rows of `tables.CAR`; the two images of a pair are taken on different days.
        cameras: Camera positions in metres, shape (n, 2), in the order in which a world uses them.
    """

    domain: Domain
    roads: Roads
    land: Land
    lots: list[Lot]
    lot_owner: np.ndarray
    lot_cover: np.ndarray
    lot_drive: np.ndarray
    parts: np.ndarray
    trees: np.ndarray
    boxes: np.ndarray
    lamps: np.ndarray
    cars: dict[str, np.ndarray]
    cameras: np.ndarray


def make_layout(domain: Domain, seed: tuple[int, ...]) -> Layout:
    """Draw the layout of a region; the same domain and seed give the same region.

    A layout with too few camera positions (because of water or missing roads) is drawn again.

    Args:
        domain: Domain with the parameters of the region.
        seed: Integers that identify the region.

    Raises:
        RuntimeError: No layout has enough camera positions within `MAX_ATTEMPTS`: the parameters of the domain are
            inconsistent.
    """
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng([*seed, attempt])
        land = make_land(domain, rng)
        roads = make_roads(domain, rng)
        cameras = _camera_positions(domain, roads, rng)
        if len(cameras) == domain.pairs_per_region:
            return _fill(domain, land, roads, cameras, rng)
    raise RuntimeError(f"no {domain.name} layout has room for {domain.pairs_per_region} cameras")


def _fill(domain: Domain, land: Land, roads: Roads, cameras: np.ndarray, rng: np.random.Generator) -> Layout:
    lot_map = make_lots(domain, roads, land, rng)
    filler = Filler(domain, land, rng)
    for lot in lot_map.lots:
        filler.fill(lot)
    trees = np.concatenate([filler.trees.array(), plant(domain, roads, land, lot_map, rng)])
    trees = trees[_clear_of_cameras(trees, cameras)]
    lamps = _lamps(domain, roads, rng)
    cars = {view: _cars(domain, roads, filler.car_slots, view, cameras, rng) for view in VIEWS}
    parts, boxes = filler.parts.array(), filler.boxes.array()
    parts["ground"] = land.height(parts["x"], parts["y"])
    for table in (trees, boxes, lamps, *cars.values()):
        table["ground"] += land.height(table["x"], table["y"])
    return Layout(
        domain,
        roads,
        land,
        lot_map.lots,
        lot_map.owner,
        np.array(filler.covers, np.int32),
        np.array(filler.drives, np.float32).reshape(-1, 4),
        parts,
        trees,
        boxes,
        lamps,
        cars,
        cameras,
    )


def _camera_positions(domain: Domain, roads: Roads, rng: np.random.Generator) -> np.ndarray:
    """Draw positions on the roads inside the core, at least `MINIMUM_GAP_METRES` apart, in random order."""
    half = domain.core / 2
    middle = roads.start + roads.direction * (roads.length * rng.random(len(roads.length)))[:, None]
    side = rng.uniform(-0.55, 0.55, len(middle)) * roads.half_width
    positions = middle + np.stack([-roads.direction[:, 1], roads.direction[:, 0]], 1) * side[:, None]
    positions = positions[np.all(np.abs(positions) < half, axis=1)]
    positions = positions[rng.permutation(len(positions))].astype(np.float64)
    neighbours = cKDTree(positions).query_ball_point(positions, MINIMUM_GAP_METRES)
    free, chosen = np.ones(len(positions), bool), []
    for index, near in enumerate(neighbours):
        if free[index]:
            chosen.append(index)
            free[near] = False
            if len(chosen) == domain.pairs_per_region:
                break
    return positions[chosen]


def _clear_of_cameras(trees: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Return whether the crown of each tree is clear of all cameras, bool (trees,)."""
    position = np.stack([trees["x"], trees["y"]], 1)
    distance, _ = cKDTree(cameras).query(position)
    return distance > np.where(trees["clear"] > 2.6, 1.5, trees["radius"] * 1.25 + 0.8)


def _kerb(roads: Roads, spacing: float, clearance: float) -> tuple[np.ndarray, ...]:
    """Return points along every kerb: centre line point (n, 2), road direction (n, 2), side (+1 left), segment."""
    rows = []
    for road in range(len(roads.road_length)):
        own = np.flatnonzero(roads.road == road)
        along = np.arange(clearance, float(roads.road_length[road]) - clearance, spacing)
        segment = own[np.searchsorted(roads.arc[own], along, side="right") - 1] if len(along) else own[:0]
        rows += [(segment, along, np.full(len(along), side)) for side in (1.0, -1.0)]
    segment, along, side = (np.concatenate(column) for column in zip(*rows, strict=True))
    middle = roads.start[segment] + roads.direction[segment] * (along - roads.arc[segment])[:, None]
    return middle, roads.direction[segment], side, segment


def _cars(
    domain: Domain,
    roads: Roads,
    lot_slots: list[tuple[float, float, float, float]],
    view: str,
    cameras: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the cars at the kerbs, in the lanes and in car parks on the day of one view."""
    middle, direction, side, segment = _kerb(roads, _SLOT_METRES, 11.0)
    parked = (rng.random(len(side)) < domain.parked) & ~roads.dirt[roads.road[segment]]
    driving = ~parked & (rng.random(len(side)) < 0.03)
    offset = np.where(parked, roads.half_width[segment] - 1.05, roads.half_width[segment] * 0.5) * side
    # Traffic keeps to the right, so cars on the left drive against the direction of the road.
    heading = np.where(side[:, None] > 0, -direction, direction)
    position = middle + np.stack([-direction[:, 1], direction[:, 0]], 1) * offset[:, None]
    keep = parked | driving
    slots = np.array(lot_slots, float).reshape(-1, 4)
    slots = slots[rng.random(len(slots)) < 0.55]
    table = np.zeros(int(keep.sum()) + len(slots), CAR)
    table["x"], table["y"] = np.concatenate([position[keep], slots[:, :2]]).T
    table["cos"], table["sin"] = np.concatenate([heading[keep], slots[:, 2:]]).T
    table["colour"] = CARS[rng.integers(0, len(CARS), len(table))]
    table["seed"] = rng.integers(0, 2**31, len(table))
    table["size"] = rng.uniform(0.92, 1.12, len(table))
    if view == "ground" and len(table):
        distance, _ = cKDTree(cameras).query(np.stack([table["x"], table["y"]], 1))
        table = table[distance > 4.2]
    return table


def _lamps(domain: Domain, roads: Roads, rng: np.random.Generator) -> np.ndarray:
    """Draw street lamps behind one kerb, or telegraph poles along a road without pavement."""
    middle, direction, side, segment = _kerb(roads, 27.0 if domain.pavement else 42.0, 9.0)
    keep = (hash_unit(roads.road[segment], 77) < 0.7) & (side > 0)
    offset = roads.half_width[segment] + (0.5 if domain.pavement else 2.2)
    position = middle + np.stack([-direction[:, 1], direction[:, 0]], 1) * offset[:, None]
    position, direction = position[keep], direction[keep]
    clear = roads.edge_distance(position[:, 0], position[:, 1]) > 0.3
    table = np.zeros(int(clear.sum()), LAMP)
    table["x"], table["y"] = position[clear].T
    table["cos"], table["sin"] = direction[clear, 1], -direction[clear, 0]  # the arm extends over the road
    table["height"] = rng.uniform(6.0, 7.5, len(table))
    table["pole_only"] = domain.pavement == 0
    return table
