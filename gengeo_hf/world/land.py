"""The land under everything: gentle hills, water, and the parcels of farmed country.

All of it is a formula of (x, y), so that pictures are crisp at any resolution.
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
        waves: (n, 4) wave vector x, y (radians per metre), phase, height in metres.
        ponds: (n, 4) centre x, y, radius, phase of the shore.
        river: (angle, offset, width, phase) of the river, or None.
        parcel: (angle, width, height, phase, seed) of the parcels.
        seed: seed of the zones of towns (grass, dry, bare).
    """

    waves: np.ndarray
    ponds: np.ndarray
    river: tuple[float, float, float, float] | None
    parcel: tuple[float, float, float, float, int]
    seed: int

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height of the ground, metres.

        Args:
            x, y: metres east and north of the region's centre, any shape.

        Returns:
            float64, of the shape of x.
        """
        total = np.zeros(np.shape(x), np.float64)
        for kx, ky, phase, size in self.waves:
            total += size * np.sin(kx * np.asarray(x, np.float64) + ky * np.asarray(y, np.float64) + phase)
        return total

    def shore(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Metres to the shore: negative in water, 99 where the region has none.

        Args:
            x, y: metres east and north of the region's centre, any shape.

        Returns:
            float32, of the shape of x.
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
        """Position in units of parcels; the whole parts number the parcel.

        Args:
            x, y: metres, any shape.

        Returns:
            (u, v) for `parcels` and `border_distance`, of the shape of x.
        """
        angle, width, height, phase, _ = self.parcel
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = x * c + y * s, y * c - x * s
        u = along + 14 * np.sin(across * np.float32(1 / 85) + np.float32(phase))
        v = across + 14 * np.sin(along * np.float32(1 / 105) - np.float32(phase))
        return u * np.float32(1 / width), v * np.float32(1 / height)

    def parcels(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(kind, hash 0..1) of the parcel at parcel coordinates."""
        column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
        seed = self.parcel[4]
        kind = _PARCEL_KINDS[hash_integers(seed, column, row) % np.uint32(len(_PARCEL_KINDS))]
        return kind, hash_unit(seed + 1, column, row)

    def border_distance(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Metres (nearly) to the nearest border of a parcel.

        Args:
            u, v: parcel coordinates, any shape; the result has the same.
        """
        fu, fv = u - np.floor(u), v - np.floor(v)
        return np.minimum(np.minimum(fu, 1 - fu) * self.parcel[1], np.minimum(fv, 1 - fv) * self.parcel[2])


def make_land(domain: Domain, random: np.random.Generator) -> Land:
    """Draw the land of a region."""
    wavelength = random.uniform(190, 420, 4)
    turn = random.uniform(0, 2 * np.pi, 4)
    size = domain.relief * random.uniform(0.15, 0.45, 4)
    waves = np.stack(
        [2 * np.pi / wavelength * np.cos(turn), 2 * np.pi / wavelength * np.sin(turn), random.uniform(0, 6.3, 4), size],
        1,
    )
    wet = random.random() < domain.water
    count = int(random.integers(1, 5)) if wet else 0
    reach = domain.extent / 2 - 40
    ponds = np.stack(
        [
            random.uniform(-reach, reach, count),
            random.uniform(-reach, reach, count),
            random.uniform(7, 17 if not domain.farmed else 26, count),
            random.uniform(0, 6.3, count),
        ],
        1,
    )
    river = None
    if wet and random.random() < 0.6:
        river = (
            float(random.uniform(0, np.pi)),
            float(random.uniform(-0.3, 0.3) * domain.extent),
            float(random.uniform(3.0, 6.5)),
            float(random.uniform(0, 6.3)),
        )
    parcel = (
        float(random.uniform(0, np.pi)),
        float(random.uniform(55, 85)),
        float(random.uniform(80, 120)),
        float(random.uniform(0, 6.3)),
        int(random.integers(2**31)),
    )
    return Land(waves, ponds, river, parcel, int(random.integers(2**31)))
