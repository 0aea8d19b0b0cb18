"""Geometry of a camera at a position in a tile: azimuth bins and radius classes of aerial patches.

There are no learned parameters. Positions are metres east and north of the tile's centre, angles are degrees clockwise
from north. `visibility` holds direction and distance of every aerial patch from every candidate position,
`azimuth_weights` the directions of a photo's columns; `score_matrix` combines both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

SUB_POINTS = 6  # sample points on each axis of a patch
LEAST_MASS = 0.02  # directions with less than this share of a patch have less weight
POSITION_SIGMA_M = 2.0  # width of the target of the pose loss
SIZE_STEP_M = 0.5  # tile sizes are rounded to this, so that tiles of one index share their geometry


@dataclass(frozen=True)
class Layout:
    """Parameters of the geometry of a tile.

    Args:
        width_m, height_m: Sides of the tile from west to east and from south to north, metres.
        rows, columns: Number of rows and columns of aerial patches.
        coverage: Share of each side in which positions are searched, centred; 1 is the whole tile.
        step_m: Spacing of the positions, metres.
        radius_edges_m: Inner edges of the radius classes, metres.
        bins: Number of azimuth bins of the circle; bin b is centred on b x 360 / bins degrees.
        sigma_deg: Standard deviation of the blur over azimuth.
    """

    width_m: float
    height_m: float
    rows: int
    columns: int
    coverage: float
    step_m: float
    radius_edges_m: tuple[float, ...]
    bins: int
    sigma_deg: float

    def rounded(self) -> Layout:
        """Return a layout with sides rounded to `SIZE_STEP_M`."""
        width, height = (round(side / SIZE_STEP_M) * SIZE_STEP_M for side in (self.width_m, self.height_m))
        return replace(self, width_m=width, height_m=height)


def positions_of(layout: Layout) -> torch.Tensor:
    """Candidate positions including the tile's centre: float32 (P, 2), metres east and north of the centre."""
    axes = []
    for side in (layout.width_m, layout.height_m):
        reach = max(1, round(layout.coverage * side / 2 / layout.step_m))
        axes.append(torch.arange(-reach, reach + 1) * layout.step_m)
    north, east = torch.meshgrid(axes[1], axes[0], indexing="ij")
    return torch.stack([east, north], dim=-1).reshape(-1, 2).float()


def position_target(layout: Layout, offset_m: torch.Tensor) -> torch.Tensor:
    """Distribution over the positions of a layout around true positions, a Gaussian: the target of the pose loss.

    Args:
        layout: Geometry of the tiles.
        offset_m: (N, 2) true positions, metres east and north of the tile's centre.

    Returns:
        (N, P); rows sum to 1.
    """
    positions = positions_of(layout).to(offset_m)
    square = ((positions[None] - offset_m[:, None]) ** 2).sum(-1)
    return (-square / (2 * POSITION_SIGMA_M**2)).softmax(dim=1)


def patch_points(layout: Layout) -> torch.Tensor:
    """Sample points of the patches in row-major order: float32 (K, SUB_POINTS^2, 2), metres east and north."""

    def axis(count: int, side: float) -> torch.Tensor:
        inside = (torch.arange(SUB_POINTS) + 0.5) / SUB_POINTS
        return ((torch.arange(count)[:, None] + inside) / count - 0.5) * side  # (count, SUB_POINTS)

    east, north = axis(layout.columns, layout.width_m), -axis(layout.rows, layout.height_m)
    shape = (layout.rows, layout.columns, SUB_POINTS, SUB_POINTS)
    points = torch.stack([east[None, :, None, :].expand(shape), north[:, None, :, None].expand(shape)], dim=-1)
    return points.reshape(layout.rows * layout.columns, SUB_POINTS**2, 2)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # cached tensors must be usable in training
def visibility(layout: Layout) -> torch.Tensor:
    """Direction and distance of each patch from each position.

    M[p, k, r, b] is the share of patch k whose points lie in azimuth bin b and radius class r as seen from position p,
    blurred over b by a circular Gaussian and divided by its sum over k (at least `LEAST_MASS`).

    Args:
        layout: Geometry of the tile.

    Returns:
        float32 (P, K, R, B); zero where no patch lies in that direction and class.
    """
    positions, points, bins = positions_of(layout), patch_points(layout), layout.bins
    edges = torch.tensor(layout.radius_edges_m)
    patches, classes = len(points), len(edges) + 1
    visible = torch.zeros(len(positions), patches * classes * bins)
    offset = (torch.arange(patches) * classes * bins)[:, None]
    for row, position in enumerate(positions):
        east, north = (points - position).unbind(-1)  # (K, points)
        azimuth = torch.rad2deg(torch.atan2(east, north)) % 360 * bins / 360
        low = azimuth.floor()
        share = azimuth - low
        cell = offset + torch.bucketize(torch.hypot(east, north), edges) * bins
        for bin_, weight in ((low, 1 - share), (low + 1, share)):
            visible[row].scatter_add_(0, (cell + bin_.long() % bins).flatten(), weight.flatten() / SUB_POINTS**2)
    visible = visible.view(len(positions), patches, classes, bins) @ _circular_gaussian(bins, layout.sigma_deg)
    return visible / visible.sum(dim=1, keepdim=True).clamp(min=LEAST_MASS)


def _circular_gaussian(bins: int, sigma_deg: float) -> torch.Tensor:
    """Blur over azimuth bins: float32 (B, B), rows sum to 1."""
    gap = torch.arange(bins) * 360.0 / bins
    gap = torch.minimum(gap, 360.0 - gap)
    kernel = torch.exp(-0.5 * (gap / sigma_deg) ** 2)
    kernel = kernel / kernel.sum()
    return torch.stack([kernel.roll(shift) for shift in range(bins)])


def column_azimuths(columns: int, fov: float, flat: bool = False) -> torch.Tensor:
    """Directions of a photo's patch columns relative to its centre column: float32 (C,), degrees, left is negative.

    Args:
        columns: Number of patch columns.
        fov: Horizontal field of view in degrees, from the left to the right edge.
        flat: True for perspective images; False if azimuth is linear in the column.
    """
    middle = (torch.arange(columns) + 0.5) / columns * 2 - 1  # -1..1 over the width
    if flat:
        return torch.rad2deg(torch.atan(middle * math.tan(math.radians(fov) / 2)))
    return middle * fov / 2


def azimuth_weights(azimuths: torch.Tensor, headings: Sequence[float], bins: int) -> torch.Tensor:
    """Directions of the columns of a photo for each candidate heading, as linear weights on azimuth bins.

    Args:
        azimuths: (C,) degrees relative to the centre column, see `column_azimuths`.
        headings: H candidate headings in degrees.
        bins: Number of azimuth bins of the circle.

    Returns:
        float32 (C, H, B); rows sum to 1.
    """
    where = (azimuths[:, None].double() + torch.tensor(list(headings), dtype=torch.float64)) % 360 * bins / 360
    low = where.floor()
    share = (where - low).float()
    weights = torch.zeros(*where.shape, bins)
    for bin_, weight in ((low, 1 - share), (low + 1, share)):
        weights.scatter_add_(2, (bin_.long() % bins)[..., None], weight[..., None])
    return weights


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # cached tensors must be usable in training
def visibility_spectrum(layout: Layout) -> torch.Tensor:
    """Fourier transform of `visibility` over azimuth bins.

    Returns:
        complex64 (B // 2 + 1, R x K, P).
    """
    return torch.fft.rfft(visibility(layout), dim=3).permute(3, 2, 1, 0).flatten(1, 2).contiguous()


def is_circle(headings: Sequence[float], bins: int) -> bool:
    """Whether there is one candidate heading for each azimuth bin, in order, as for a circular correlation."""
    step = 360.0 / bins
    return len(headings) == bins and all(
        abs((heading - headings[0]) - number * step) < 1e-6 for number, heading in enumerate(headings)
    )


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # cached tensors must be usable in training
def score_matrix(layout: Layout, azimuths: tuple[float, ...], headings: tuple[float, ...]) -> torch.Tensor:
    """`visibility` in the directions of the columns: a matrix that maps products of features to scores.

    Returns:
        float32 (C x R x K, H x P).
    """
    weights = azimuth_weights(torch.tensor(azimuths), headings, layout.bins)
    matrix = torch.einsum("pkrb,chb->crkhp", visibility(layout), weights)
    return matrix.reshape(-1, matrix.shape[3] * matrix.shape[4]).contiguous()
