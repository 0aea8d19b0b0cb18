"""Ray-traced images of a region: panoramas from the street and tiles from above."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.domains import TILE_METRES
from gengeo_hf.world.ground_material import SKY, GroundTables
from gengeo_hf.world.light import Day, develop, expose, sky
from gengeo_hf.world.materials import surface_of
from gengeo_hf.world.scene import Hits, RegionScene

TOP_DEGREES, BOTTOM_DEGREES = 35.0, -35.0  # vertical range of a panorama, as in the crops of CVUSA and CVACT
EYE_METRES = 2.0  # height of the camera above the road
_AERIAL_HEIGHT = 240.0  # height in metres at which aerial rays start
_CHUNK = 1 << 17  # rays that are traced at a time, which bounds the memory of large images
_CONTRAST = 0.12  # difference of sRGB values in 0..1 above which neighbouring pixels are rendered with all samples
_SHIFTS = {  # positions of the samples inside a pixel, down and right, 0..1
    1: [(0.5, 0.5)],
    2: [(0.25, 0.3), (0.75, 0.7)],
    4: [(0.2, 0.4), (0.4, 0.8), (0.6, 0.2), (0.8, 0.6)],
}


@dataclass(frozen=True)
class Picture:
    """A rendered image.

    Args:
        image: RGB image, uint8 (height, width, 3).
        kinds: Class of each pixel, index of `CLASS_NAMES`, uint8 (height, width); None without labels.
        depth: Distance of each pixel in metres, infinite in the sky, float32 (height, width); None without labels.
    """

    image: np.ndarray
    kinds: np.ndarray | None = None
    depth: np.ndarray | None = None


def panorama_rays(size: tuple[int, int], shift: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """Return the directions of the pixels of a panorama.

    The centre column faces north; the azimuth grows to the right, so that the left edge faces south.

    Args:
        size: Height and width in pixels.
        shift: Position inside each pixel, down and right, 0..1.

    Returns:
        Unit vectors, float32 (height * width, 3), row by row.
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
    """Return the ground positions of the pixels of a north-up tile.

    Args:
        size: Height and width in pixels.
        centre: Centre in metres east and north of the centre of the region.
        sides: Sides in metres from north to south and from west to east.
        shift: Position inside each pixel, down and right, 0..1.

    Returns:
        x and y in metres, float32 (height * width,), row by row.
    """
    height, width = size
    x = centre[0] + ((np.arange(width) + shift[1]) / width - 0.5) * sides[1]
    y = centre[1] - ((np.arange(height) + shift[0]) / height - 0.5) * sides[0]
    return tuple(a.ravel().astype(np.float32) for a in np.meshgrid(x, y))  # type: ignore[return-value]


def _rough(image: np.ndarray) -> np.ndarray:
    """Return whether each pixel of (h, w, 3) differs from a neighbour by more than `_CONTRAST`, bool (h * w,)."""
    rough = np.zeros(image.shape[:2], bool)
    for axis in (0, 1):
        edge = (np.abs(np.diff(image, axis=axis)) > _CONTRAST).any(-1)
        lead, trail = [slice(None)] * 2, [slice(None)] * 2
        lead[axis], trail[axis] = slice(None, -1), slice(1, None)
        rough[tuple(lead)] |= edge
        rough[tuple(trail)] |= edge
    return rough.ravel()


class Renderer:
    """Renders images of one region.

    Args:
        scene: Scene of the region.
    """

    def __init__(self, scene: RegionScene) -> None:
        self.scene, self.tables = scene, GroundTables(scene.layout)

    def panorama(
        self, day: Day, x: float, y: float, size: tuple[int, int], samples: int = 2, with_labels: bool = False
    ) -> Picture:
        """Render the panorama of 360 degrees at a position; its centre column faces north.

        Args:
            day: Season and light.
            x, y: Position of the camera in metres east and north of the centre of the region.
            size: Height and width in pixels.
            samples: Rays per pixel at edges: 1, 2 or 4.
            with_labels: Whether to return the class and the depth of each pixel too.
        """
        eye = np.array([x, y, float(self.scene.layout.land.height(np.array(x), np.array(y))) + EYE_METRES], np.float32)
        spread = np.radians((TOP_DEGREES - BOTTOM_DEGREES) / size[0])

        def rays(shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
            direction = panorama_rays(size, shift)
            return np.broadcast_to(eye, direction.shape), direction

        return self._draw("ground", day, size, rays, samples, float(spread), 0.0, with_labels)

    def tile(
        self,
        day: Day,
        x: float,
        y: float,
        size: tuple[int, int],
        sides: tuple[float, float] = (TILE_METRES, TILE_METRES),
        lean: tuple[float, float] = (0.0, 0.0),
        samples: int = 2,
        with_labels: bool = False,
    ) -> Picture:
        """Render the north-up tile around a position.

        Args:
            day: Season and light.
            x, y: Centre in metres east and north of the centre of the region.
            size: Height and width in pixels.
            sides: Sides in metres from north to south and from west to east.
            lean: Displacement in metres, east and north, of points one metre above the ground.
            samples: Rays per pixel at edges: 1, 2 or 4.
            with_labels: Whether to return the class and the depth of each pixel too.
        """
        base = float(self.scene.layout.land.height(np.array(x), np.array(y)))
        down = np.array([-lean[0], -lean[1], -1.0])
        down = (down / np.linalg.norm(down)).astype(np.float32)

        def rays(shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
            px, py = tile_points(size, (x, y), sides, shift)
            rise = _AERIAL_HEIGHT - base
            origin = np.stack([px + lean[0] * rise, py + lean[1] * rise, np.full_like(px, _AERIAL_HEIGHT)], 1)
            return origin, np.broadcast_to(down, origin.shape)

        return self._draw("aerial", day, size, rays, samples, 0.0, sides[0] / size[0], with_labels)

    def _draw(
        self,
        view: str,
        day: Day,
        size: tuple[int, int],
        rays: Callable[..., tuple[np.ndarray, np.ndarray]],
        samples: int,
        spread: float,
        width: float,
        with_labels: bool,
    ) -> Picture:
        """Render an image, and its labels at the centres of the pixels.

        Only pixels that differ from a neighbour are the mean of all samples; patterns inside a surface need one sample
        because they fade where they are fine (materials.py).
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
        if not with_labels:
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
        """Return the exposed sRGB values (n, 3) in 0..1 along each ray, computed in chunks."""
        parts = [slice(start, start + _CHUNK) for start in range(0, len(direction), _CHUNK)] or [slice(0)]
        return np.concatenate(
            [expose(day, self._radiance(view, day, origin[p], direction[p], spread, width)) for p in parts]
        )

    def _radiance(
        self, view: str, day: Day, origin: np.ndarray, direction: np.ndarray, spread: float, width: float
    ) -> np.ndarray:
        """Return the light (n, 3) that arrives along each ray."""
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
        """Return the light of hit surfaces: sun with shadows, skylight, light from the ground, reflections, haze."""
        surface = surface_of(self.scene.layout, self.tables, self.scene.layout.cars[view], day, hits)
        facing = surface.normal @ day.sun
        sunny = np.clip(facing, 0, 1) * (1 - surface.soft) + np.clip(facing * 0.5 + 0.5, 0, 1) * surface.soft
        rows = np.flatnonzero(sunny > 0.01)
        dark = rows[self.scene.shaded(view, hits.point[rows] + hits.normal[rows] * np.float32(0.03), day.sun)]
        sunny[dark] *= surface.soft[dark] * 0.5 + np.float32(0.04)
        above = (0.62 + 0.38 * surface.normal[:, 2])[:, None]
        light = sunny[:, None] * day.sun_colour + above * day.sky_colour
        light += (np.clip(0.5 - 0.5 * surface.normal[:, 2], 0, 1) * 0.25 * day.sun_colour.mean())[:, None] * np.array(
            [1.0, 0.95, 0.85], np.float32
        )
        colour = surface.colour * light
        mirror = np.flatnonzero(surface.mirror > 0)
        if len(mirror):
            d, n = hits.direction[mirror], hits.normal[mirror]
            bounced = d - 2 * np.einsum("ij,ij->i", d, n)[:, None] * n
            bounced[:, 2] = np.abs(bounced[:, 2])
            share = surface.mirror[mirror, None]
            colour[mirror] = colour[mirror] * (1 - share) + sky(day, bounced) * share
        path = hits.distance if view == "ground" else np.full(len(hits.ray), 45.0, np.float32)
        air = np.exp(-np.float32(day.haze) * path)[:, None]
        return colour * air + day.horizon * (1 - air)
