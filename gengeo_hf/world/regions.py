"""Regions of the synthetic world: their camera positions, tiles and images."""

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
DISTRACTORS = 0.1  # number of off-centre tiles without a camera, as a fraction of those with one
_MAX_LEAN = 0.06  # maximum displacement in a tile per metre of height: the satellite is not at the zenith
_MAX_CENTRE_ERROR = 1.5  # metres, east and north, between a camera and the centre of its tile


@dataclass(frozen=True)
class Tile:
    """A tile of a region.

    Args:
        number: Number of the tile, which seeds its random values.
        name: Id of the tile in the gallery.
        x, y: Centre in metres east and north of the centre of the region.
    """

    number: int
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class CameraPosition:
    """A camera position of a region.

    Args:
        number: Zero-based number in the region.
        x, y: Position in metres east and north of the centre of the region.
        tiles: Tiles that cover the position; the first is the positive tile, the others are semi-positives.
    """

    number: int
    x: float
    y: float
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Region:
    """One region of a world; its content is a pure function of the fields.

    Args:
        domain: Name of the domain.
        split: Split "train", "validation" or "test".
        seed: Seed of the world.
        number: Zero-based number of the region in the split.
        tile_shift_m: Maximum offset in metres, east and north, between tile and camera in domains that are not
            off-centre.
        tile_m: Side of a tile in metres; it does not change the centres of tiles.
    """

    domain: str
    split: str
    seed: int
    number: int
    tile_shift_m: float = 0.0
    tile_m: float = TILE_METRES

    @property
    def area(self) -> str:
        """Name of the region in the column `area`."""
        return f"{self.domain}-{self.split}-{self.seed}-{self.number:04d}"

    @property
    def scene(self) -> RegionScene:
        """The scene of the region, cached."""
        return region_scene(self.domain, self.split, self.seed, self.number)

    @property
    def renderer(self) -> Renderer:
        """The renderer of the region, cached."""
        return _renderer(self)

    def _key(self) -> list[int]:
        return [self.seed, list(DOMAINS).index(self.domain), SPLITS.index(self.split), self.number]

    def camera_positions(self, count: int) -> list[CameraPosition]:
        """Return the first `count` camera positions with the tiles that cover them.

        Args:
            count: Number of positions, at most `Domain.pairs_per_region`.
        """
        off_centre = DOMAINS[self.domain].off_centre
        found = []
        for number, (x, y) in enumerate(self.scene.layout.cameras[:count].tolist()):
            tiles = self._grid_tiles(x, y) if off_centre else (self._own_tile(number, x, y),)
            found.append(CameraPosition(number, x, y, tiles))
        return found

    def tiles(self, positions: list[CameraPosition]) -> list[Tile]:
        """Return all tiles that cover one of the positions, and the distractors of the off-centre domain, by name."""
        wanted = {tile.name: tile for position in positions for tile in position.tiles}
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
        """Return the four grid tiles around a position, starting with the tile whose central quarter contains it."""
        column, row = round(x / GRID_STEP), round(y / GRID_STEP)
        beside = column + (1 if x > column * GRID_STEP else -1)
        above = row + (1 if y > row * GRID_STEP else -1)
        return tuple(self._grid_tile(i, j) for i, j in ((column, row), (beside, row), (column, above), (beside, above)))

    def day(self, view: str, number: int) -> Day:
        """Return light, season and camera of an image.

        Args:
            view: View, "ground" or "aerial".
            number: Number of the camera position or of the tile.
        """
        return make_day(view, np.random.default_rng([*self._key(), number, 1 if view == "aerial" else 2]))

    def draw_ground(
        self, position: CameraPosition, size: tuple[int, int], samples: int, with_labels: bool = False
    ) -> Picture:
        """Render the panorama of a camera position.

        Args:
            position: Camera position, from `camera_positions`.
            size: Height and width in pixels.
            samples: Rays per pixel at edges: 1, 2 or 4.
            with_labels: Whether to return the class and the depth of each pixel too.
        """
        return self.renderer.panorama(
            self.day("ground", position.number), position.x, position.y, size, samples, with_labels
        )

    def draw_aerial(self, tile: Tile, size: tuple[int, int], samples: int, with_labels: bool = False) -> Picture:
        """Render a tile.

        Args:
            tile: Tile, from `tiles`.
            size: Height and width in pixels.
            samples: Rays per pixel at edges: 1, 2 or 4.
            with_labels: Whether to return the class and the depth of each pixel too.
        """
        turn, far = (
            hash_unit(np.array(tile.number), self.number, 8)[0] * 6.2832,
            hash_unit(np.array(tile.number), self.number, 9)[0],
        )
        lean = (float(np.sin(turn) * far * _MAX_LEAN), float(np.cos(turn) * far * _MAX_LEAN))
        day, sides = self.day("aerial", tile.number), (self.tile_m, self.tile_m)
        return self.renderer.tile(day, tile.x, tile.y, size, sides, lean=lean, samples=samples, with_labels=with_labels)


@functools.lru_cache(maxsize=2)
def _renderer(region: Region) -> Renderer:
    return Renderer(region.scene)
