"""The day on which a picture was taken: sun, clouds, haze, season, camera. Each view of a pair has its own."""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.world.noise import blotches, grain
from gengeo_hf.world.palette import linear

_SKIES = linear("5b8fc9", "7fa9d6", "9db4c8", "b9c3cc")  # zenith from clear to overcast
_HORIZONS = linear("c6d9e8", "d3dde4", "cfd4d8", "d8d9d8")


@dataclass(frozen=True)
class Day:
    """Light, season and camera of one picture. Colours in linear light.

    Args:
        sun: unit vector towards the sun. sun_colour, sky_colour: (3,) light from the sun and from the sky.
        zenith, horizon: (3,) colours of the sky. cloud: 0 clear to 1 covered. cloud_shift: (2,) metres.
        haze: share of the light that is lost in 1 m of air.
        foliage, grass: (3,) what the season multiplies leaves and grass with. dry: 0..1.
        gain: (3,) exposure and white balance. contrast: exponent around middle grey. noise: deviation, of 1.
        seed: of the picture's noise.
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


def make_day(view: str, random: np.random.Generator) -> Day:
    """Draw the day of one picture of a view."""
    elevation = np.radians(random.uniform(32, 62) if view == "aerial" else random.uniform(22, 62))
    azimuth = np.radians(random.uniform(105, 255))  # from east by south to west: these places lie north of the tropic
    sun = np.array([np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    cloud = float(random.beta(1.2, 1.6)) * (0.7 if view == "aerial" else 1.0)
    warmth = 1.25 - 0.35 * np.sin(elevation)
    strength = 2.5 * (1 - 0.8 * cloud**1.4)
    sun_colour = strength * np.array([1.0 * warmth, 0.97, 0.97 / warmth**1.5])
    sky_colour = (0.75 + 0.45 * cloud) * np.array([0.86 + 0.1 * cloud, 0.97, 1.16 - 0.12 * cloud])
    step = cloud * (len(_SKIES) - 1.001)
    low, part = int(step), step - int(step)
    season = random.uniform(-1, 1)  # -1 fresh green, +1 autumn
    foliage = np.array([1 + 0.42 * max(season, 0) + 0.06 * season, 1 - 0.08 * max(season, 0), 1 - 0.25 * abs(season)])
    dry = float(np.clip(random.normal(0.3, 0.22), 0, 0.85))
    balance = 1 + random.normal(0, 0.035, 3)
    return Day(
        sun=sun.astype(np.float32),
        sun_colour=sun_colour.astype(np.float32),
        sky_colour=sky_colour.astype(np.float32),
        zenith=(_SKIES[low] * (1 - part) + _SKIES[low + 1] * part) * np.float32(random.uniform(0.85, 1.15)),
        horizon=_HORIZONS[low] * (1 - part) + _HORIZONS[low + 1] * part,
        cloud=cloud,
        cloud_shift=random.uniform(0, 5000, 2).astype(np.float32),
        haze=float(random.uniform(0.0004, 0.0032)),
        foliage=(foliage * random.uniform(0.88, 1.12)).astype(np.float32),
        grass=np.array([1 + 0.55 * dry, 1.05 - 0.05 * dry, 1 - 0.1 * dry], np.float32)
        * np.float32(random.uniform(0.88, 1.12)),
        dry=dry,
        gain=(balance * random.uniform(0.84, 1.16) * 0.6 / (0.55 + 0.2 * strength)).astype(np.float32),
        contrast=float(random.uniform(0.92, 1.12)),
        noise=float(random.uniform(0.006, 0.022)),
        seed=int(random.integers(2**31)),
    )


def sky(day: Day, direction: np.ndarray) -> np.ndarray:
    """Colour of the sky in directions (n, 3): gradient, clouds, glow around the sun, far hills. Linear light (n, 3)."""
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
    """Linear light (..., 3) to sRGB values in 0..1 with the day's exposure, white balance and contrast.

    Args:
        day: gives exposure (`gain`) and contrast.
        radiance: (..., 3) linear light.

    Returns:
        (..., 3), for the screen.
    """
    value = np.maximum(radiance * day.gain, 0)
    value = (
        value * (1 + value * np.float32(0.09)) / (1 + value * np.float32(0.55))
    )  # a shoulder, so that white walls keep their colour
    value = np.power(np.clip(value, 1e-5, 1), np.float32(1 / 2.2))
    return np.clip(np.float32(0.5) + (value - np.float32(0.5)) * np.float32(day.contrast), 0, 1)


def develop(day: Day, image: np.ndarray) -> np.ndarray:
    """Add the camera's noise to sRGB values (h, w, 3) and round to uint8."""
    random = np.random.default_rng(day.seed)
    noisy = image + random.standard_normal(image.shape, dtype=np.float32) * np.float32(day.noise)
    return np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
