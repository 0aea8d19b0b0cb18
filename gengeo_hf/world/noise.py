"""Pseudo-random values as functions of keys or positions: integer hashes, value noise, tileable textures.

The functions have no state: equal keys give equal values.
"""

import functools

import numpy as np

TEXTURE_SIZE = 512  # texels along one side of the detail texture; a power of two, so that wrapping is a bit mask


def hash_integers(*keys: np.ndarray | int) -> np.ndarray:
    """Hash integer arrays to uint32 (the "lowbias32" finaliser after each key).

    Args:
        keys: Integers, or integer arrays that broadcast against each other.

    Returns:
        Hashes, uint32, of the broadcast shape, at least (1,).
    """
    mixed = np.atleast_1d(np.uint32(0x9E3779B9))
    for key in keys:
        mixed = mixed ^ np.atleast_1d(np.asarray(key)).astype(np.int64).astype(np.uint32)
        mixed = (mixed ^ (mixed >> np.uint32(16))) * np.uint32(0x7FEB352D)
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x846CA68B)
        mixed = mixed ^ (mixed >> np.uint32(16))
    return mixed


def hash_unit(*keys: np.ndarray | int) -> np.ndarray:
    """Hash integer arrays to float32 in [0, 1).

    Args:
        keys: Integers, or integer arrays that broadcast against each other.

    Returns:
        Hashes, float32, of the broadcast shape, at least (1,).
    """
    return (hash_integers(*keys) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def smooth_noise(x: np.ndarray, y: np.ndarray, wavelength: float, seed: int) -> np.ndarray:
    """Value noise in [0, 1] on a square lattice.

    Args:
        x, y: Positions in metres, any shape.
        wavelength: Metres between the nodes of the lattice.
        seed: Seed of the noise.

    Returns:
        Noise, float32, of the shape of x.
    """
    u, v = np.asarray(x, np.float64) / wavelength, np.asarray(y, np.float64) / wavelength
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fx, fy = u - column, v - row
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    corners = [hash_unit(seed, column + i, row + j).reshape(u.shape) for j in (0, 1) for i in (0, 1)]
    low = corners[0] * (1 - fx) + corners[1] * fx
    high = corners[2] * (1 - fx) + corners[3] * fx
    return (low * (1 - fy) + high * fy).astype(np.float32)


@functools.lru_cache(maxsize=1)
def detail_textures() -> tuple[np.ndarray, np.ndarray]:
    """Return two tileable textures, fine grain and soft blotches, with mean 0 and standard deviation 1.

    Returns:
        Two float32 arrays of shape (TEXTURE_SIZE**2,), the same at every call.
    """
    rng = np.random.default_rng(20260818)
    fine = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), np.float32)
    soft = np.zeros_like(fine)
    for octave in range(2, 10):
        layer = _tileable_layer(rng.standard_normal((2**octave, 2**octave)).astype(np.float32))
        fine += layer * np.float32(0.86 ** (9 - octave))
        soft += layer * np.float32(0.55**octave)
    return tuple(((a - a.mean()) / a.std()).astype(np.float32).ravel() for a in (fine, soft))


def _tileable_layer(lattice: np.ndarray) -> np.ndarray:
    """Interpolate a periodic lattice smoothly to the size of the texture."""
    size = lattice.shape[0]
    position = np.arange(TEXTURE_SIZE, dtype=np.float32) * (size / TEXTURE_SIZE)
    low = position.astype(np.int64)
    weight = position - low
    weight = weight * weight * (3 - 2 * weight)
    high = (low + 1) % size
    rows = lattice[low] * (1 - weight)[:, None] + lattice[high] * weight[:, None]
    return rows[:, low] * (1 - weight) + rows[:, high] * weight


def _texel(x: np.ndarray, y: np.ndarray, metres: float) -> np.ndarray:
    """Return the index into a flat texture whose texels are `metres` wide."""
    mask = TEXTURE_SIZE - 1
    column = np.floor(x * np.float32(1 / metres)).astype(np.int32) & mask
    row = np.floor(y * np.float32(1 / metres)).astype(np.int32) & mask
    return row * TEXTURE_SIZE + column


def grain(x: np.ndarray, y: np.ndarray, metres: float) -> np.ndarray:
    """Fine grain at positions, with mean 0 and standard deviation 1.

    Args:
        x, y: Positions in metres, any shape.
        metres: Width of a texel; the texture repeats after 512 texels.

    Returns:
        Grain, float32, of the shape of x.
    """
    return detail_textures()[0][_texel(x, y, metres)]


def blotches(x: np.ndarray, y: np.ndarray, metres: float) -> np.ndarray:
    """Soft blotches at positions, with mean 0 and standard deviation 1.

    Args:
        x, y: Positions in metres, any shape.
        metres: Width of a texel; the texture repeats after 512 texels.

    Returns:
        Blotches, float32, of the shape of x.
    """
    return detail_textures()[1][_texel(x, y, metres)]
