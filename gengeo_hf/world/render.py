"""Both views of a place: rays, light, pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.domains import TILE_METRES
from gengeo_hf.world.ground_material import SKY, GroundTables
from gengeo_hf.world.light import Day, develop, expose, sky
from gengeo_hf.world.materials import surface_of
from gengeo_hf.world.scene import Hits, RegionScene

TOP_DEGREES, BOTTOM_DEGREES = 35.0, -35.0  # vertical range of a panorama, as the crops of CVUSA and CVACT
EYE_METRES = 2.0  # height of the camera above the road
_AERIAL_HEIGHT = 240.0  # metres above the ground from which aerial rays start
_CHUNK = 1 << 17  # rays at a time: a large picture must not need gigabytes
_CONTRAST = 0.12  # of sRGB, 0..1: neighbouring pixels that differ by more are drawn with all samples
_SHIFTS = {  # places of the samples inside a pixel, down and right, 0..1
    1: [(0.5, 0.5)],
    2: [(0.25, 0.3), (0.75, 0.7)],
    4: [(0.2, 0.4), (0.4, 0.8), (0.6, 0.2), (0.8, 0.6)],
}


@dataclass(frozen=True)
class Picture:
    """A drawn view: image (h, w, 3) uint8; on demand kinds (h, w) uint8 (see CLASS_NAMES) and depth (h, w) metres."""

    image: np.ndarray
    kinds: np.ndarray | None = None
    depth: np.ndarray | None = None


def panorama_rays(size: tuple[int, int], shift: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """Directions (h * w, 3) float32 of a panorama's pixels, row by row.

    North is the centre column; azimuth grows to the right, so the left edge is south.

    Args:
        size: (height, width) pixels.
        shift: the place inside each pixel, down and right, 0..1.
    """
    height, width = size
    up = np.radians(TOP_DEGREES + (np.arange(height) + shift[0]) * ((BOTTOM_DEGREES - TOP_DEGREES) / height))
    turn = ((np.arange(width) + shift[1]) / width - 0.5) * (2 * np.pi)
    flat = np.cos(up)[:, None]
    rays = np.stack(np.broadcast_arrays(np.sin(turn) * flat, np.cos(turn) * flat, np.sin(up)[:, None]), -1)
    return rays.reshape(-1, 3).astype(np.float32)


def tile_points(
    size: tuple[int, int],
    centre: tuple[float, float],
    sides: tuple[float, float],
    shift: tuple[float, float] = (0.5, 0.5),
) -> tuple[np.ndarray, np.ndarray]:
    """Ground x and y (h * w,) in metres of a tile's pixels, row by row, north up; `sides`: (north-south, east-west).

    Args:
        size: (height, width) pixels.
        centre: metres east and north of the region's centre.
        sides: metres.
        shift: the place inside each pixel, down and right, 0..1.
    """
    height, width = size
    x = centre[0] + ((np.arange(width) + shift[1]) / width - 0.5) * sides[1]
    y = centre[1] - ((np.arange(height) + shift[0]) / height - 0.5) * sides[0]
    return tuple(a.ravel().astype(np.float32) for a in np.meshgrid(x, y))  # type: ignore[return-value]


def _rough(image: np.ndarray) -> np.ndarray:
    """Whether each pixel of (h, w, 3) differs from a direct neighbour by more than `_CONTRAST`, (h * w,) bool."""
    rough = np.zeros(image.shape[:2], bool)
    for axis in (0, 1):
        edge = (np.abs(np.diff(image, axis=axis)) > _CONTRAST).any(-1)
        lead, trail = [slice(None)] * 2, [slice(None)] * 2
        lead[axis], trail[axis] = slice(None, -1), slice(1, None)
        rough[tuple(lead)] |= edge
        rough[tuple(trail)] |= edge
    return rough.ravel()


class Renderer:
    """Draws pictures of one region.

    Args:
        scene: the region.
    """

    def __init__(self, scene: RegionScene) -> None:
        self.scene, self.tables = scene, GroundTables(scene.layout)

    def panorama(
        self, day: Day, x: float, y: float, size: tuple[int, int], samples: int = 2, truth: bool = False
    ) -> Picture:
        """The 360 degree view from (x, y), metres east and north of the region's centre.

        Args:
            day: season and light.
            x, y: of the camera.
            size: (height, width) pixels; north is in the middle column.
            samples: rays for each pixel on an edge; 1, 2 or 4.
            truth: give the class of each pixel too.
        """
        eye = np.array([x, y, float(self.scene.layout.land.height(np.array(x), np.array(y))) + EYE_METRES], np.float32)
        spread = np.radians((TOP_DEGREES - BOTTOM_DEGREES) / size[0])

        def rays(shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
            direction = panorama_rays(size, shift)
            return np.broadcast_to(eye, direction.shape), direction

        return self._draw("ground", day, size, rays, samples, float(spread), 0.0, truth)

    def tile(
        self,
        day: Day,
        x: float,
        y: float,
        size: tuple[int, int],
        sides: tuple[float, float] = (TILE_METRES, TILE_METRES),
        lean: tuple[float, float] = (0.0, 0.0),
        samples: int = 2,
        truth: bool = False,
    ) -> Picture:
        """The view from above of a box around (x, y). `lean` is how far, east and north, a metre of height moves.

        Args:
            day: season and light.
            x, y: of the centre, metres east and north of the region's centre.
            size: (height, width) pixels, north up.
            sides: metres from north to south and from west to east.
            lean: metres for each metre of height.
            samples, truth: as in `panorama`.
        """
        base = float(self.scene.layout.land.height(np.array(x), np.array(y)))
        down = np.array([-lean[0], -lean[1], -1.0])
        down = (down / np.linalg.norm(down)).astype(np.float32)

        def rays(shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
            px, py = tile_points(size, (x, y), sides, shift)
            rise = _AERIAL_HEIGHT - base
            origin = np.stack([px + lean[0] * rise, py + lean[1] * rise, np.full_like(px, _AERIAL_HEIGHT)], 1)
            return origin, np.broadcast_to(down, origin.shape)

        return self._draw("aerial", day, size, rays, samples, 0.0, sides[0] / size[0], truth)

    def _draw(
        self,
        view: str,
        day: Day,
        size: tuple[int, int],
        rays: Callable[..., tuple[np.ndarray, np.ndarray]],
        samples: int,
        spread: float,
        width: float,
        truth: bool,
    ) -> Picture:
        """The picture, developed, and the truth at the centres of the pixels. Pixels that differ much from a neighbour
        get all samples and their mean, the others one: patterns inside a surface fade by themselves (materials.py).
        """
        shifts = _SHIFTS[samples]
        first = self._exposed(view, day, *rays(shifts[0]), spread, width)
        if len(shifts) > 1:
            rough = np.flatnonzero(_rough(first.reshape(*size, 3)))
            total = first[rough]
            for shift in shifts[1:]:
                origin, direction = rays(shift)
                total += self._exposed(view, day, origin[rough], direction[rough], spread, width)
            first[rough] = total / np.float32(len(shifts))
        image = develop(day, first.reshape(*size, 3))
        if not truth:
            return Picture(image)
        origin, direction = rays((0.5, 0.5))
        hits = self.scene.trace(view, np.ascontiguousarray(origin), np.ascontiguousarray(direction), spread, width)
        kinds, depth = np.full(len(direction), SKY, np.uint8), np.full(len(direction), np.inf, np.float32)
        kinds[hits.ray] = surface_of(self.scene.layout, self.tables, self.scene.layout.cars[view], day, hits).kind
        depth[hits.ray] = hits.distance
        return Picture(image, kinds.reshape(size), depth.reshape(size))

    def _exposed(
        self, view: str, day: Day, origin: np.ndarray, direction: np.ndarray, spread: float, width: float
    ) -> np.ndarray:
        """What the camera records (n, 3), 0..1, along each ray; a part at a time."""
        parts = [slice(start, start + _CHUNK) for start in range(0, len(direction), _CHUNK)] or [slice(0)]
        return np.concatenate(
            [expose(day, self._radiance(view, day, origin[p], direction[p], spread, width)) for p in parts]
        )

    def _radiance(
        self, view: str, day: Day, origin: np.ndarray, direction: np.ndarray, spread: float, width: float
    ) -> np.ndarray:
        """Light (n, 3) that arrives along each ray."""
        origin, direction = np.ascontiguousarray(origin), np.ascontiguousarray(direction)
        hits = self.scene.trace(view, origin, direction, spread, width)
        colour = np.empty((len(direction), 3), np.float32)
        if len(hits.ray) < len(direction):
            missed = np.ones(len(direction), bool)
            missed[hits.ray] = False
            colour[missed] = sky(day, direction[missed])
        colour[hits.ray] = self._lit(view, day, hits)
        return colour

    def _lit(self, view: str, day: Day, hits: Hits) -> np.ndarray:
        """Light that surfaces send back: sun with shadows, sky from above, light from the ground, mirrors, haze."""
        look = surface_of(self.scene.layout, self.tables, self.scene.layout.cars[view], day, hits)
        facing = look.normal @ day.sun
        sunny = np.clip(facing, 0, 1) * (1 - look.soft) + np.clip(facing * 0.5 + 0.5, 0, 1) * look.soft
        rows = np.flatnonzero(sunny > 0.01)
        dark = rows[self.scene.shaded(view, hits.point[rows] + hits.normal[rows] * np.float32(0.03), day.sun)]
        sunny[dark] *= look.soft[dark] * 0.5 + np.float32(0.04)
        above = (0.62 + 0.38 * look.normal[:, 2])[:, None]
        light = sunny[:, None] * day.sun_colour + above * day.sky_colour
        light += (np.clip(0.5 - 0.5 * look.normal[:, 2], 0, 1) * 0.25 * day.sun_colour.mean())[:, None] * np.array(
            [1.0, 0.95, 0.85], np.float32
        )
        colour = look.colour * light
        mirror = np.flatnonzero(look.mirror > 0)
        if len(mirror):
            d, n = hits.direction[mirror], hits.normal[mirror]
            bounced = d - 2 * np.einsum("ij,ij->i", d, n)[:, None] * n
            bounced[:, 2] = np.abs(bounced[:, 2])
            share = look.mirror[mirror, None]
            colour[mirror] = colour[mirror] * (1 - share) + sky(day, bounced) * share
        path = hits.distance if view == "ground" else np.full(len(hits.ray), 45.0, np.float32)
        air = np.exp(-np.float32(day.haze) * path)[:, None]
        return colour * air + day.horizon * (1 - air)
