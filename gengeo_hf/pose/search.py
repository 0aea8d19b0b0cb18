"""Estimates position and heading without a head, by the similarities of moved tiles and rolled panoramas.

The similarity of a model trained on centred tiles falls with the distance from the tile's centre to the photo, so the
similarities of moved tiles (padded by reflection) indicate the position, and those of rolled panoramas the heading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gengeo_hf.pose.posterior import Poses
from gengeo_hf.pose.samples import padded_move
from gengeo_hf.pose.tokens import normalised

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder

STEP = 8.4 / 65  # spacing of moved tiles, relative to the tile's side; measured on the synthetic world
TEMPERATURE = 0.1  # temperature of the softmax over similarities
NEAR_STEPS = 1.5  # the mean is taken over moved tiles within this many steps of the best one
ROLLS = 21  # rolls of a panorama over the whole circle
CENTRED = ("cvusa", "cvact", "world-urban", "world-rural")  # data sets whose photos are at the centre of their tile


@dataclass(frozen=True)
class SearchSettings:
    """Numbers of moved tiles and rolls.

    Args:
        moves: Number of moved tiles on each axis; 5 gives 25 tiles, 7 gives 49.
        rolls: Number of rolls of a panorama over the whole circle, if the heading is not known.
    """

    moves: int = 5
    rolls: int = ROLLS

    @classmethod
    def for_prior(cls, prior: str) -> SearchSettings:
        """Settings for a heading prior: 25 tiles for a known heading, else 49."""
        return cls(5 if prior == "known" else 7)


def is_rough(record: dict[str, Any]) -> bool:
    """Whether a model was not trained on centred tiles, by its training record."""
    named = str((record.get("settings") or {}).get("data", {}).get("name") or record.get("trained_on") or "")
    name = "-".join(re.split(r"[/:\s]", named)[:2]) if named.startswith("world") else re.split(r"\W", named)[0]
    return not name.startswith(CENTRED)


def moved_tiles(tile: torch.Tensor, moves: int) -> tuple[torch.Tensor, np.ndarray]:
    """Move the centre of a tile to the points of a grid.

    Args:
        tile: uint8 (3, H, W).
        moves: Number of points on each axis.

    Returns:
        uint8 (moves^2, 3, H, W), and float64 (moves^2, 2) moves relative to the width (east) and height (north).
    """
    reach = moves // 2
    axis = np.arange(-reach, reach + 1) * STEP
    north, east = np.meshgrid(axis, axis, indexing="ij")
    shares = np.stack([east.ravel(), north.ravel()], 1)
    return padded_move(tile[None].expand(len(shares), -1, -1, -1), shares), shares


def rolls_within(reach: float, rolls: int) -> np.ndarray:
    """Candidate headings in degrees relative to the stated one, including 0: float64 (R,)."""
    step = 360.0 / rolls
    if reach >= 180:
        return np.arange(rolls) * step
    most = int(reach // step)
    return np.arange(-most, most + 1) * step


def search_pose(
    encoder: Encoder,
    photo: torch.Tensor,
    tile: torch.Tensor,
    size_m: Sequence[float],
    reach: float = 0.0,
    settings: SearchSettings | None = None,
) -> Poses:
    """Search position and heading of one panorama in one tile.

    Args:
        encoder: Encoder whose descriptors are compared.
        photo: uint8 (3, H, W) at the model's ground size, its centre column at the stated heading.
        tile: uint8 (3, H, W) at the model's aerial size.
        size_m: Width and height of the tile in metres.
        reach: Largest difference between true and stated heading, degrees; 0 for a known heading.
        settings: Numbers of tiles and rolls; None takes the defaults.

    Returns:
        One pose; its heading is relative to the stated one.
    """
    settings = settings or SearchSettings()
    tiles, shares = moved_tiles(tile, settings.moves)
    gaps = rolls_within(reach, settings.rolls) if reach else np.zeros(1)
    width = photo.shape[-1]
    # A photo with the heading `gap` is aligned with north after a roll to the right by the same angle.
    turned = torch.stack([torch.roll(photo, round(gap / 360 * width), dims=-1) for gap in gaps])
    table = _descriptors(encoder, tiles, "aerial") @ _descriptors(encoder, turned, "ground").T
    return poses_of_table(table, shares * np.asarray(size_m), gaps)


def poses_of_table(table: np.ndarray, moves_m: np.ndarray, gaps: np.ndarray) -> Poses:
    """Compute the pose from similarities of moved tiles and rolled panoramas.

    Args:
        table: float32 (M, R) cosines.
        moves_m: (M, 2) centres of the moved tiles, metres.
        gaps: (R,) candidate headings, degrees.
    """
    best, roll = np.unravel_index(int(table.argmax()), table.shape)
    column = table[:, roll].astype(np.float64)
    mass = np.exp((column - column.max()) / TEMPERATURE)
    distance = np.hypot(*(moves_m - moves_m[best]).T)
    step = np.min(distance[distance > 0])
    near = mass * (distance <= NEAR_STEPS * step)
    offset = near @ moves_m / near.sum()
    mass = mass / mass.sum()
    spread = np.sqrt(mass @ ((moves_m - offset) ** 2).sum(axis=1))
    heading = parabola_peak(table[best], gaps, int(roll)) % 360
    share = (mass * (distance <= NEAR_STEPS * step)).sum()
    return Poses(offset[None], np.array([heading]), np.array([spread]), np.array([share]))


def parabola_peak(scores: np.ndarray, headings: np.ndarray, top: int) -> float:
    """Heading at the peak of the parabola through the best roll and its neighbours on either side.

    Args:
        scores: (R,) score of each roll.
        headings: (R,) evenly spaced headings in degrees; they may cover the whole circle.
        top: Index of the best roll.
    """
    if len(headings) < 3:
        return float(headings[top])
    step = float(headings[1] - headings[0])
    closed = abs(step * len(headings) - 360) < 1e-6
    if not closed and not 0 < top < len(headings) - 1:
        return float(headings[top])
    left, middle, right = (float(scores[(top + shift) % len(headings)]) for shift in (-1, 0, 1))
    bend = left - 2 * middle + right
    return float(headings[top]) + (0.5 * (left - right) / bend * step if bend < 0 else 0.0)


def _descriptors(encoder: Encoder, images: torch.Tensor, view: Any) -> np.ndarray:
    parts = [
        encoder.encode_pixels(normalised(encoder, images[start : start + encoder.batch_size]), view)
        for start in range(0, len(images), encoder.batch_size)
    ]
    return np.concatenate(parts)
