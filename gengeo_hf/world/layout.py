"""The layout of a region: positions of buildings, trees, hedges, cars and cameras.

Every table is a structured array, one row for each object; positions in metres, colours in linear light.
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
_SLOT_METRES = 6.6  # of kerb for a parked car
MAX_ATTEMPTS = 40


@dataclass
class Layout:
    """Everything in a region. See `tables.py` for the columns.

    Args:
        domain, roads, land: what it was made of.
        lots, lot_owner: the lots, and the raster of which lot covers a cell (see `lots.LotMap`).
        lot_cover: (lots,) what covers each, see `lots`.
        lot_drive: (lots, 4) of its drive: x in the lot's axes, half width and depth in metres; 0..1, the lot's tone.
        parts: parts of buildings. trees, boxes (hedges, fences, roof machines), lamps.
        cars: for each view its own cars: the two pictures were taken on different days.
        cameras: (n, 2) places of the cameras in the order in which a world uses them.
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
    """Lay a region out; the same domain and seed give the same region.

    A layout that has too few places for cameras (a lake, many missing roads) is drawn again.

    Args:
        domain: what stands there, and how densely.
        seed: integers that name the region.

    Raises:
        RuntimeError: no layout of this domain holds its cameras: the domain's numbers contradict one another.
    """
    for attempt in range(MAX_ATTEMPTS):
        random = np.random.default_rng([*seed, attempt])
        land = make_land(domain, random)
        roads = make_roads(domain, random)
        cameras = _camera_places(domain, roads, random)
        if len(cameras) == domain.pairs_per_region:
            return _fill(domain, land, roads, cameras, random)
    raise RuntimeError(f"no {domain.name} layout has room for {domain.pairs_per_region} cameras")


def _fill(domain: Domain, land: Land, roads: Roads, cameras: np.ndarray, random: np.random.Generator) -> Layout:
    lot_map = make_lots(domain, roads, land, random)
    filler = Filler(domain, land, random)
    for lot in lot_map.lots:
        filler.fill(lot)
    trees = np.concatenate([filler.trees.array(), plant(domain, roads, land, lot_map, random)])
    trees = trees[_clear_of_cameras(trees, cameras)]
    lamps = _lamps(domain, roads, random)
    cars = {view: _cars(domain, roads, filler.car_slots, view, cameras, random) for view in VIEWS}
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


def _camera_places(domain: Domain, roads: Roads, random: np.random.Generator) -> np.ndarray:
    """Places on the roads inside the core, at least `MINIMUM_GAP_METRES` apart, in a random order."""
    half = domain.core / 2
    middle = roads.start + roads.direction * (roads.length * random.random(len(roads.length)))[:, None]
    side = random.uniform(-0.55, 0.55, len(middle)) * roads.half_width
    places = middle + np.stack([-roads.direction[:, 1], roads.direction[:, 0]], 1) * side[:, None]
    places = places[np.all(np.abs(places) < half, axis=1)]
    places = places[random.permutation(len(places))].astype(np.float64)
    neighbours = cKDTree(places).query_ball_point(places, MINIMUM_GAP_METRES)
    free, chosen = np.ones(len(places), bool), []
    for index, near in enumerate(neighbours):
        if free[index]:
            chosen.append(index)
            free[near] = False
            if len(chosen) == domain.pairs_per_region:
                break
    return places[chosen]


def _clear_of_cameras(trees: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Whether each tree leaves every camera outside its crown."""
    position = np.stack([trees["x"], trees["y"]], 1)
    distance, _ = cKDTree(cameras).query(position)
    return distance > np.where(trees["clear"] > 2.6, 1.5, trees["radius"] * 1.25 + 0.8)


def _kerb(roads: Roads, spacing: float, clearance: float) -> tuple[np.ndarray, ...]:
    """Places along every kerb: x, y, unit direction (n, 2) of the lane, side (+1 left), segment."""
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
    random: np.random.Generator,
) -> np.ndarray:
    """Cars at the kerbs, in the lanes and in car parks on the day of one view."""
    middle, direction, side, segment = _kerb(roads, _SLOT_METRES, 11.0)
    parked = (random.random(len(side)) < domain.parked) & ~roads.dirt[roads.road[segment]]
    driving = ~parked & (random.random(len(side)) < 0.03)
    offset = np.where(parked, roads.half_width[segment] - 1.05, roads.half_width[segment] * 0.5) * side
    # Traffic keeps to the right, so it drives against the road's direction on the left.
    heading = np.where(side[:, None] > 0, -direction, direction)
    place = middle + np.stack([-direction[:, 1], direction[:, 0]], 1) * offset[:, None]
    keep = parked | driving
    slots = np.array(lot_slots, float).reshape(-1, 4)
    slots = slots[random.random(len(slots)) < 0.55]
    table = np.zeros(int(keep.sum()) + len(slots), CAR)
    table["x"], table["y"] = np.concatenate([place[keep], slots[:, :2]]).T
    table["cos"], table["sin"] = np.concatenate([heading[keep], slots[:, 2:]]).T
    table["colour"] = CARS[random.integers(0, len(CARS), len(table))]
    table["seed"] = random.integers(0, 2**31, len(table))
    table["size"] = random.uniform(0.92, 1.12, len(table))
    if view == "ground" and len(table):
        distance, _ = cKDTree(cameras).query(np.stack([table["x"], table["y"]], 1))
        table = table[distance > 4.2]
    return table


def _lamps(domain: Domain, roads: Roads, random: np.random.Generator) -> np.ndarray:
    """Street lamps behind one kerb, or telegraph poles along a country road."""
    middle, direction, side, segment = _kerb(roads, 27.0 if domain.pavement else 42.0, 9.0)
    keep = (hash_unit(roads.road[segment], 77) < 0.7) & (side > 0)
    offset = roads.half_width[segment] + (0.5 if domain.pavement else 2.2)
    place = middle + np.stack([-direction[:, 1], direction[:, 0]], 1) * offset[:, None]
    place, direction = place[keep], direction[keep]
    clear = roads.edge_distance(place[:, 0], place[:, 1]) > 0.3
    table = np.zeros(int(clear.sum()), LAMP)
    table["x"], table["y"] = place[clear].T
    table["cos"], table["sin"] = direction[clear, 1], -direction[clear, 0]  # the arm reaches over the road
    table["height"] = random.uniform(6.0, 7.5, len(table))
    table["pole_only"] = domain.pavement == 0
    return table
