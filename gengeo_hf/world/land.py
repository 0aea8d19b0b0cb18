"""Land of a region: hills, water, and the parcels of farmland.

Everything is a formula of (x, y), so that images are sharp at any resolution.
"""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.domains import Domain
from gengeo_hf.world.noise import hash_integers, hash_unit

PLOUGH, WHEAT, CROP, PASTURE, RAPE, STUBBLE, WOOD = range(7)
_PARCEL_KINDS = np.array([PLOUGH, WHEAT, CROP, PASTURE, PASTURE, RAPE, STUBBLE, CROP, WOOD, WOOD, PASTURE, WHEAT])


@dataclass
class Land:
    """Hills, water and parcels of one region.

    Args:
        waves: Waves of the hills, shape (n, 4): wave vector x, y (radians per metre), phase, height in metres.
        ponds: Ponds, shape (n, 4): centre x, y and radius in metres, phase of the shore.
        river: River (angle in radians, offset and half width in metres, phase); None for no river.
        parcel: Parcels (angle in radians, width and height in metres, phase, seed).
        seed: Seed of the zones of towns (grass, dry, bare).
    """

    waves: np.ndarray
    ponds: np.ndarray
    river: tuple[float, float, float, float] | None
    parcel: tuple[float, float, float, float, int]
    seed: int

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the height of the ground in metres.

        Args:
            x, y: Metres east and north of the centre of the region, any shape.

        Returns:
            Heights, float64, of the shape of x.
        """
        total = np.zeros(np.shape(x), np.float64)
        for kx, ky, phase, size in self.waves:
            total += size * np.sin(kx * np.asarray(x, np.float64) + ky * np.asarray(y, np.float64) + phase)
        return total

    def shore(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the distance to the shore in metres: negative in water, at most 99.

        Args:
            x, y: Metres east and north of the centre of the region, any shape.

        Returns:
            Distances, float32, of the shape of x; 99 where the region has no water.
        """
        distance = np.full(np.shape(x), 99.0, np.float32)
        for cx, cy, radius, phase in self.ponds.astype(np.float32):
            dx, dy = x - cx, y - cy
            turn = np.arctan2(dy, dx)
            wobble = 1 + 0.14 * np.sin(3 * turn + phase) + 0.08 * np.sin(5 * turn - 2 * phase)
            distance = np.minimum(distance, np.hypot(dx, dy) - radius * wobble)
        if self.river is not None:
            angle, offset, width, phase = (np.float32(value) for value in self.river)
            along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            bed = offset + 22 * np.sin(along / 70 + phase) + 7 * np.sin(along / 23 - phase)
            distance = np.minimum(distance, np.abs(across - bed) * np.float32(0.94) - width)
        return distance

    def parcel_coordinates(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert positions to units of parcels; the integer parts identify the parcel.

        Args:
            x, y: Metres east and north of the centre of the region, any shape.

        Returns:
            Coordinates (u, v) for `parcels` and `border_distance`, of the shape of x.
        """
        angle, width, height, phase, _ = self.parcel
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = x * c + y * s, y * c - x * s
        u = along + 14 * np.sin(across * np.float32(1 / 85) + np.float32(phase))
        v = across + 14 * np.sin(along * np.float32(1 / 105) - np.float32(phase))
        return u * np.float32(1 / width), v * np.float32(1 / height)

    def parcels(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the kind and a hash in [0, 1) of the parcels at parcel coordinates."""
        column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
        seed = self.parcel[4]
        kind = _PARCEL_KINDS[hash_integers(seed, column, row) % np.uint32(len(_PARCEL_KINDS))]
        return kind, hash_unit(seed + 1, column, row)

    def border_distance(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the approximate distance in metres to the nearest border of a parcel.

        Args:
            u, v: Parcel coordinates of any shape; the result has the same shape.
        """
        fu, fv = u - np.floor(u), v - np.floor(v)
        return np.minimum(np.minimum(fu, 1 - fu) * self.parcel[1], np.minimum(fv, 1 - fv) * self.parcel[2])


def make_land(domain: Domain, rng: np.random.Generator) -> Land:
    """Draw a random land for a region."""
    wavelength = rng.uniform(190, 420, 4)
    turn = rng.uniform(0, 2 * np.pi, 4)
    size = domain.relief * rng.uniform(0.15, 0.45, 4)
    waves = np.stack(
        [2 * np.pi / wavelength * np.cos(turn), 2 * np.pi / wavelength * np.sin(turn), rng.uniform(0, 6.3, 4), size],
        1,
    )
    wet = rng.random() < domain.water
    count = int(rng.integers(1, 5)) if wet else 0
    reach = domain.extent / 2 - 40
    ponds = np.stack(
        [
            rng.uniform(-reach, reach, count),
            rng.uniform(-reach, reach, count),
            rng.uniform(7, 17 if not domain.farmed else 26, count),
            rng.uniform(0, 6.3, count),
        ],
        1,
    )
    river = None
    if wet and rng.random() < 0.6:
        river = (
            float(rng.uniform(0, np.pi)),
            float(rng.uniform(-0.3, 0.3) * domain.extent),
            float(rng.uniform(3.0, 6.5)),
            float(rng.uniform(0, 6.3)),
        )
    parcel = (
        float(rng.uniform(0, np.pi)),
        float(rng.uniform(55, 85)),
        float(rng.uniform(80, 120)),
        float(rng.uniform(0, 6.3)),
        int(rng.integers(2**31)),
    )
    return Land(waves, ponds, river, parcel, int(rng.integers(2**31)))
