"""Colours of buildings, cars and land, defined as sRGB hex and used as linear light."""

from dataclasses import dataclass

import numpy as np


def linear(*colours: str) -> np.ndarray:
    """Convert sRGB hex colours such as `aa5533` to linear light in 0..1, float32 (n, 3)."""
    values = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in colours], np.float32) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass(frozen=True)
class Palette:
    """Families of facade and roof colours in linear light.

    Args:
        facades: Facade colour of each family, shape (families, 3).
        roofs: Roof colour of each family, shape (families, 3).
        plain_roofs: Roof colours without a family, shape (n, 3).
        weights: Probability of each family, shape (families,).
    """

    facades: np.ndarray
    roofs: np.ndarray
    plain_roofs: np.ndarray
    weights: np.ndarray


def _palette(families: list[tuple[str, str, float]], plain: tuple[str, ...]) -> Palette:
    weights = np.array([family[2] for family in families])
    return Palette(
        linear(*(f[0] for f in families)), linear(*(f[1] for f in families)), linear(*plain), weights / weights.sum()
    )


URBAN_PALETTE = _palette(
    [
        ("b5523c", "9c3a2a", 1.2),  # brick red
        ("d98a4e", "b8602f", 1.0),  # apricot
        ("e3bd5a", "c0903a", 1.0),  # ochre
        ("ece0c4", "b3a184", 1.2),  # cream
        ("8fb573", "5d7d46", 0.8),  # pistachio
        ("5aa797", "3c7f74", 0.8),  # verdigris
        ("86b4d8", "557fa6", 0.9),  # sky
        ("4c6ea8", "3a5285", 0.8),  # cobalt
        ("c98aa8", "94567a", 0.7),  # rose
        ("8a6bab", "624a86", 0.5),  # lilac
        ("f2f0ea", "cfd0d0", 1.0),  # white
        ("8d9196", "5e646b", 0.9),  # slate
        ("7a5840", "54392a", 0.8),  # umber
        ("d66a5e", "b54034", 0.6),  # coral
    ],
    ("a55a3f", "6a6d72", "8a8378", "4d4f55"),
)
RURAL_PALETTE = _palette(
    [
        ("f1efe8", "6a6a70", 2.0),  # white boards, shingle
        ("9c3b30", "7d3128", 1.4),  # red barn
        ("d9cba8", "97805a", 1.4),  # straw
        ("8aa2b5", "51687d", 1.0),  # blue grey
        ("7d8f66", "4f6444", 0.8),  # sage
        ("7b5b43", "4a3528", 1.0),  # timber
        ("d8ad62", "a86a3c", 0.8),  # ochre, tiles
        ("b9bcc0", "a9b0b6", 0.8),  # tin
    ],
    ("55565c", "8d5a43", "77706a", "9aa3aa"),
)
OFFCENTER_PALETTE = _palette(
    [
        ("9a5a48", "8b5546", 1.4),  # brownstone
        ("b87a5a", "a97256", 1.0),  # brick
        ("d8c9a8", "c4b797", 1.2),  # limestone
        ("a5a7aa", "9b9da0", 1.2),  # concrete
        ("6f8ba3", "7f94a6", 1.0),  # blue glass
        ("5a5f66", "55585d", 0.8),  # dark panels
        ("e9e6de", "dddcd8", 1.0),  # white render
        ("7f9a84", "7a9180", 0.6),  # green glass
        ("c9a063", "b18f5c", 0.7),  # sandstone
        ("7c4a52", "6b454c", 0.6),  # oxblood
    ],
    ("d5d6d4", "86888a", "57585a", "b3aa9c"),
)
CARS = linear("e8e8e8", "1d1f22", "8f9499", "b01f24", "24468c", "d9b13b", "3d6b4a", "c9c3b4", "5b2b31", "efefef")
FOLIAGE = linear("4f6f34", "5d7f3b", "3f5f33", "6f8a45", "55702f", "7b8a4a")
CONIFER = linear("2f4a35", "36533a", "2a4230")
FIELDS = linear(
    "7b6248", "c9b066", "6d8a3f", "7d9a52", "d3c14a", "b39a68"
)  # plough, wheat, crop, pasture, rape, stubble
