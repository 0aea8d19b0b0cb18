"""Light, season and camera of an image: sun, clouds, haze, exposure, noise. Each view of a pair has its own day."""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.noise import blotches, grain
from gengeo_hf.world.palette import linear

_SKIES = linear("5b8fc9", "7fa9d6", "9db4c8", "b9c3cc")  # zenith from clear to overcast
_HORIZONS = linear("c6d9e8", "d3dde4", "cfd4d8", "d8d9d8")


@dataclass(frozen=True)
class Day:
    """Light, season and camera of one image. Colours are linear light of shape (3,).

    Args:
        sun: Unit vector towards the sun.
        sun_colour, sky_colour: Light from the sun and from the sky.
        zenith, horizon: Colours of the sky.
        cloud: Cloud cover from 0 (clear) to 1 (overcast).
        cloud_shift: Offset of the cloud texture in metres, shape (2,).
        haze: Fraction of the light that is lost per metre of air.
        foliage, grass: Factors of the season for the colours of leaves and grass.
        dry: Fraction of dry grass, 0 to 1.
        gain: Exposure and white balance, factors of the light.
        contrast: Factor of the contrast around middle grey.
        noise: Standard deviation of the camera noise, for values in 0..1.
        seed: Seed of the noise.
    """

    sun: np.ndarray
    sun_colour: np.ndarray
    sky_colour: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    cloud: float
    cloud_shift: np.ndarray
    haze: float
    foliage: np.ndarray
    grass: np.ndarray
    dry: float
    gain: np.ndarray
    contrast: float
    noise: float
    seed: int


def make_day(view: str, rng: np.random.Generator) -> Day:
    """Draw a random day for an image of a view ("ground" or "aerial")."""
    elevation = np.radians(rng.uniform(32, 62) if view == "aerial" else rng.uniform(22, 62))
    azimuth = np.radians(rng.uniform(105, 255))  # from east by south to west: the regions are north of the tropic
    sun = np.array([np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    cloud = float(rng.beta(1.2, 1.6)) * (0.7 if view == "aerial" else 1.0)
    warmth = 1.25 - 0.35 * np.sin(elevation)
    strength = 2.5 * (1 - 0.8 * cloud**1.4)
    sun_colour = strength * np.array([1.0 * warmth, 0.97, 0.97 / warmth**1.5])
    sky_colour = (0.75 + 0.45 * cloud) * np.array([0.86 + 0.1 * cloud, 0.97, 1.16 - 0.12 * cloud])
    step = cloud * (len(_SKIES) - 1.001)
    low, part = int(step), step - int(step)
    season = rng.uniform(-1, 1)  # -1 fresh green, +1 autumn
    foliage = np.array([1 + 0.42 * max(season, 0) + 0.06 * season, 1 - 0.08 * max(season, 0), 1 - 0.25 * abs(season)])
    dry = float(np.clip(rng.normal(0.3, 0.22), 0, 0.85))
    balance = 1 + rng.normal(0, 0.035, 3)
    return Day(
        sun=sun.astype(np.float32),
        sun_colour=sun_colour.astype(np.float32),
        sky_colour=sky_colour.astype(np.float32),
        zenith=(_SKIES[low] * (1 - part) + _SKIES[low + 1] * part) * np.float32(rng.uniform(0.85, 1.15)),
        horizon=_HORIZONS[low] * (1 - part) + _HORIZONS[low + 1] * part,
        cloud=cloud,
        cloud_shift=rng.uniform(0, 5000, 2).astype(np.float32),
        haze=float(rng.uniform(0.0004, 0.0032)),
        foliage=(foliage * rng.uniform(0.88, 1.12)).astype(np.float32),
        grass=np.array([1 + 0.55 * dry, 1.05 - 0.05 * dry, 1 - 0.1 * dry], np.float32)
        * np.float32(rng.uniform(0.88, 1.12)),
        dry=dry,
        gain=(balance * rng.uniform(0.84, 1.16) * 0.6 / (0.55 + 0.2 * strength)).astype(np.float32),
        contrast=float(rng.uniform(0.92, 1.12)),
        noise=float(rng.uniform(0.006, 0.022)),
        seed=int(rng.integers(2**31)),
    )


def sky(day: Day, direction: np.ndarray) -> np.ndarray:
    """Return the colour of the sky, linear light (n, 3), in directions (n, 3): clouds, glow of the sun, far hills."""
    up = direction[:, 2]
    height = np.sqrt(np.clip(up, 0, 1))[:, None]
    colour = day.horizon * (1 - height) + day.zenith * height
    reach = 900 / (np.maximum(up, 0) + 0.09)
    x, y = direction[:, 0] * reach + day.cloud_shift[0], direction[:, 1] * reach + day.cloud_shift[1]
    density = 0.72 * blotches(x, y, 11.0) + 0.34 * blotches(y, x, 3.1) + 0.14 * grain(x, y, 4.0)
    cover = np.clip((density + 2.6 * day.cloud - 1.25) * 0.9, 0, 1) * np.clip(up * 9, 0, 1)
    white = np.float32(0.82 - 0.22 * day.cloud) * (1 - 0.16 * np.clip(density, -1, 2))[:, None]
    colour = colour + (white - colour) * (cover * 0.9)[:, None]
    toward = np.clip(direction @ day.sun, 0, 1)
    glow = (toward**40 * 0.35 + toward**700 * 2.0) * np.float32(1 - 0.85 * day.cloud)
    colour = colour + glow[:, None] * np.array([1.0, 0.93, 0.8], np.float32)
    turn = np.arctan2(direction[:, 0], direction[:, 1]) * 40
    crest = (
        0.012 + 0.010 * np.sin(turn * 0.11) + 0.006 * np.sin(turn * 0.37 + 1) + 0.002 * blotches(turn, turn * 0, 0.35)
    )
    hills = np.clip((crest - up) * 400, 0, 1)[:, None] * np.float32(0.85)
    far = day.horizon * np.array([0.45, 0.52, 0.55], np.float32)
    return (colour * (1 - hills) + far * hills).astype(np.float32)


def expose(day: Day, radiance: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB values with the exposure, white balance and contrast of the day.

    Args:
        day: Day with exposure, white balance (`gain`) and contrast.
        radiance: Linear light, shape (..., 3).

    Returns:
        Values in 0..1 of shape (..., 3).
    """
    value = np.maximum(radiance * day.gain, 0)
    value = (
        value * (1 + value * np.float32(0.09)) / (1 + value * np.float32(0.55))
    )  # compresses highlights, so that white walls are not clipped
    value = np.power(np.clip(value, 1e-5, 1), np.float32(1 / 2.2))
    return np.clip(np.float32(0.5) + (value - np.float32(0.5)) * np.float32(day.contrast), 0, 1)


def develop(day: Day, image: np.ndarray) -> np.ndarray:
    """Add camera noise to sRGB values (h, w, 3) in 0..1 and round to uint8."""
    rng = np.random.default_rng(day.seed)
    noisy = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(day.noise)
    return np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
