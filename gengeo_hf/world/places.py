"""Camera positions and tiles of a region, and the positive tile of each position."""

import functools
from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.domains import DOMAINS, TILE_METRES
from gengeo_hf.world.geography import SPLITS
from gengeo_hf.world.light import Day, make_day
from gengeo_hf.world.noise import hash_unit
from gengeo_hf.world.render import Picture, Renderer
from gengeo_hf.world.scene import RegionScene, region_scene

GRID_STEP = TILE_METRES / 2  # off-centre tiles overlap by half
DISTRACTORS = 0.1  # share of off-centre tiles that answer no place, beside those that do
_MAX_LEAN = 0.06  # metres that a metre of height seems to move in a tile: the satellite is not overhead
_MAX_CENTRE_ERROR = 1.5  # metres, east and north, between a camera and the centre of its tile


@dataclass(frozen=True)
class Tile:
    """A tile of a region: its number for random draws, its name, its centre in metres."""

    number: int
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class CameraPlace:
    """A camera place: its number in the region, metres, the tiles that cover it (the first is the true one)."""

    number: int
    x: float
    y: float
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Region:
    """One region of a world; a pure function of these.

    Args:
        domain, split, seed, number: which region.
        tile_shift_m: tiles of centred domains are moved by up to this, east and north, off their camera.
        tile_m: side of a tile in metres; tiles of another side have the same centres.
    """

    domain: str
    split: str
    seed: int
    number: int
    tile_shift_m: float = 0.0
    tile_m: float = TILE_METRES

    @property
    def area(self) -> str:
        """What the tables call it."""
        return f"{self.domain}-{self.split}-{self.seed}-{self.number:04d}"

    @property
    def scene(self) -> RegionScene:
        """Its scene, cached."""
        return region_scene(self.domain, self.split, self.seed, self.number)

    @property
    def renderer(self) -> Renderer:
        """Its renderer, cached."""
        return _renderer(self)

    def _key(self) -> list[int]:
        return [self.seed, list(DOMAINS).index(self.domain), SPLITS.index(self.split), self.number]

    def places(self, count: int) -> list[CameraPlace]:
        """The first `count` camera places.

        Args:
            count: at most `Domain.pairs_per_region`.

        Returns:
            Positions in metres east and north of the region's centre, each with the tiles that cover it.
        """
        off_centre = DOMAINS[self.domain].off_centre
        found = []
        for number, (x, y) in enumerate(self.scene.layout.cameras[:count].tolist()):
            tiles = self._grid_tiles(x, y) if off_centre else (self._own_tile(number, x, y),)
            found.append(CameraPlace(number, x, y, tiles))
        return found

    def tiles(self, places: list[CameraPlace]) -> list[Tile]:
        """Every tile that covers one of the places, in order of name, and the off-centre domain's distractors."""
        wanted = {tile.name: tile for place in places for tile in place.tiles}
        if DOMAINS[self.domain].off_centre:
            half = int(DOMAINS[self.domain].core / 2 // GRID_STEP)
            others = [self._grid_tile(i, j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
            others = [tile for tile in others if tile.name not in wanted]
            order = np.argsort(hash_unit(self.number, np.array([tile.number for tile in others], np.int64)))
            for index in order[: int(DISTRACTORS * len(wanted))]:
                wanted[others[index].name] = others[index]
        return [wanted[name] for name in sorted(wanted)]

    def _own_tile(self, number: int, x: float, y: float) -> Tile:
        error = np.random.default_rng([*self._key(), number, 3]).uniform(-_MAX_CENTRE_ERROR, _MAX_CENTRE_ERROR, 2)
        error += self.tile_shift_m * np.random.default_rng([*self._key(), number, 4]).uniform(-1, 1, 2)
        return Tile(number, f"{self.area}-{number:03d}", x + error[0], y + error[1])

    def _grid_tile(self, column: int, row: int) -> Tile:
        return Tile(
            (column + 500) * 1000 + row + 500,
            f"{self.area}-{column + 500:03d}-{row + 500:03d}",
            column * GRID_STEP,
            row * GRID_STEP,
        )

    def _grid_tiles(self, x: float, y: float) -> tuple[Tile, ...]:
        """The four grid tiles around a place, the one in whose central quarter it lies first."""
        column, row = round(x / GRID_STEP), round(y / GRID_STEP)
        beside = column + (1 if x > column * GRID_STEP else -1)
        above = row + (1 if y > row * GRID_STEP else -1)
        return tuple(self._grid_tile(i, j) for i, j in ((column, row), (beside, row), (column, above), (beside, above)))

    def day(self, view: str, number: int) -> Day:
        """The day on which a picture was taken.

        Args:
            view: "ground" or "aerial".
            number: of the place or of the tile.
        """
        return make_day(view, np.random.default_rng([*self._key(), number, 1 if view == "aerial" else 2]))

    def draw_ground(self, place: CameraPlace, size: tuple[int, int], samples: int, truth: bool = False) -> Picture:
        """The panorama of a place; `size` (height, width) pixels.

        Args:
            place: from `places`.
            size: (height, width) pixels.
            samples: rays for each pixel on an edge; 1, 2 or 4.
            truth: give the class of each pixel too.
        """
        return self.renderer.panorama(self.day("ground", place.number), place.x, place.y, size, samples, truth)

    def draw_aerial(self, tile: Tile, size: tuple[int, int], samples: int, truth: bool = False) -> Picture:
        """A tile; `size` (height, width) pixels.

        Args:
            tile: from `tiles`.
            size: (height, width) pixels.
            samples, truth: as in `draw_ground`.
        """
        turn, far = (
            hash_unit(np.array(tile.number), self.number, 8)[0] * 6.2832,
            hash_unit(np.array(tile.number), self.number, 9)[0],
        )
        lean = (float(np.sin(turn) * far * _MAX_LEAN), float(np.cos(turn) * far * _MAX_LEAN))
        day, sides = self.day("aerial", tile.number), (self.tile_m, self.tile_m)
        return self.renderer.tile(day, tile.x, tile.y, size, sides, lean=lean, samples=samples, truth=truth)


@functools.lru_cache(maxsize=2)
def _renderer(region: Region) -> Renderer:
    return Renderer(region.scene)
