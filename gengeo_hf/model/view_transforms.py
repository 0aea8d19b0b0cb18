# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""View transforms: polar transforms of tiles and bird's-eye views of panoramas, as functions and by name.

SAFA and GeoDTR use polar tiles, P-BEV and AuxGeo bird's-eye views. North is up in a tile and in a bird's-eye view, and
at the centre column of a panorama and of a polar tile.

The published formulas count pixels from their corners, and assume that a panorama is a full sphere. `pixel_centres` and
`vertical_fov` select the exact geometry, which matters for small images and for panoramas that were cropped or resized.
This file is copied into published checkpoints and therefore imports only torch.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

_NUMBER = r"(\d*\.?\d+)"
_FORMS = {
    "polar": r"([1-9]\d*)x([1-9]\d*)(?::(exact))?",  # height x width
    # side, metres per pixel, metres from the ground to the camera, vertical field of view in degrees
    "bev": rf"([1-9]\d*)(?::{_NUMBER}(?::{_NUMBER}(?::{_NUMBER})?)?)?",
    # height x width, field of view in degrees, vertical field of view of the panorama in degrees
    "downward": rf"([1-9]\d*)x([1-9]\d*)(?::{_NUMBER}(?::{_NUMBER})?)?",
}
_EXAMPLES = {"aerial": ("polar:112x616",), "ground": ("bev:512:0.06:1.5:70", "downward:512x512:170:70")}
_MIN_ASPECT = 1.95  # width over height: 2 for a full sphere, more for one that was cropped at the top and bottom


@dataclass(frozen=True)
class ViewTransform:
    """A named transform of images to another view; see `parse_view`.

    Args:
        text: Name of the transform.
        view: View of the input images, "ground" or "aerial".
        change: Function of images (B, C, H, W) that returns float32 (B, C, height, width) in the same range.
    """

    text: str
    view: str
    change: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Transform images (B, C, H, W) of any type.

        Returns:
            Images, float32 (B, C, height, width), in the range of the input.

        Raises:
            ValueError: Ground images are not whole panoramas, or tiles are not square.
        """
        height, width = images.shape[2:]
        if self.view == "ground" and width < _MIN_ASPECT * height:
            raise ValueError(
                f"the view {self.text} needs a whole panorama, at least twice as wide as high; found {height} x "
                f"{width} pixels (height x width): a photo with a smaller field of view has no bird's-eye view"
            )
        return self.change(images)


def parse_view(text: str, view: str) -> ViewTransform:
    """Parse the name of a transform.

    Args:
        text: For tiles `polar:HxW` (the published form) or `polar:HxW:exact`; for panoramas
            `bev:SIDE[:METRES_PER_PIXEL[:CAMERA_HEIGHT[:VERTICAL_FOV]]]` or `downward:HxW[:FOV[:VERTICAL_FOV]]`, in
            pixels, metres and degrees. Without VERTICAL_FOV, panoramas that are not twice as wide as high are padded
            with black to the full sphere, with the horizon in the middle, which is correct only if pixels are square in
            degrees.
        view: View of the input images, "ground" or "aerial".

    Raises:
        ValueError: The name is unknown, or is that of a transform of the other view.
    """
    kind, _, rest = text.partition(":")
    match = re.fullmatch(_FORMS.get(kind, "(?!)"), rest)
    if match is None or not any(example.startswith(f"{kind}:") for example in _EXAMPLES[view]):
        raise ValueError(f"{text!r} is not a view of {view} images: write it as {' or '.join(_EXAMPLES[view])}")
    if kind == "polar":
        size = int(match[1]), int(match[2])
        return ViewTransform(text, view, functools.partial(polar_tile, size=size, pixel_centres=bool(match[3])))
    rows = float(match[4]) if match[4] else None
    change: Callable[[torch.Tensor], torch.Tensor]
    if kind == "bev":
        change = functools.partial(
            ground_bev,
            side=int(match[1]),
            metres_per_pixel=float(match[2] or 0.06),
            camera_height_m=float(match[3] or 1.5),
            vertical_fov=rows,
        )
    else:
        size = int(match[1]), int(match[2])
        change = functools.partial(downward_view, size=size, fov=float(match[3] or 170.0), vertical_fov=rows)
    return ViewTransform(text, view, change if rows else functools.partial(_of_sphere, change=change))


def _of_sphere(panorama: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Apply `change` to panoramas after padding them to a full sphere."""
    return change(padded_sphere(panorama))


def polar_tile(aerial: torch.Tensor, size: tuple[int, int], *, pixel_centres: bool = False) -> torch.Tensor:
    """Polar transform of tiles: columns are azimuths, the bottom row is the centre of the tile, the top row its edge.

    For target row i, column j: radius (S/2) (H-1-i)/H, angle theta = 2 pi j/W, source row S/2 + r cos(theta), source
    column S/2 - r sin(theta); bilinear, zeros outside (Shi et al., SAFA, NeurIPS 2019, section 3.1). Column 0 is south,
    W/4 west, W/2 north. It is only meaningful if the photo was taken at the centre of the tile, unlike in VIGOR.

    Args:
        aerial: Tiles of any dtype, shape (B, C, S, S).
        size: Height and width of the result in pixels; SAFA uses 112 x 616, GeoDTR 122 x 671.
        pixel_centres: Whether to rotate about (S - 1) / 2, the centre of the tile, instead of S / 2 as published, and
            to measure radii and angles at pixel centres, as in panoramas. A mirrored tile then gives a mirrored result.

    Returns:
        Polar tiles, float32 (B, C, height, width), in the range of the input.

    Raises:
        ValueError: The tiles are not square.
    """
    high, side = aerial.shape[2:]
    if high != side:
        raise ValueError(f"the polar transform needs square tiles, found {high} x {side} pixels")
    height, width = size
    inside = 0.5 if pixel_centres else 0.0
    radius = side / 2 * (height - 1 + inside - torch.arange(height, dtype=torch.float64)) / height
    theta = 2 * math.pi * (torch.arange(width, dtype=torch.float64) + inside) / width
    centre = (side - pixel_centres) / 2
    rows = centre + radius[:, None] * torch.cos(theta)
    columns = centre - radius[:, None] * torch.sin(theta)
    return sampled(aerial, rows, columns)


def ground_bev(
    panorama: torch.Tensor,
    side: int,
    metres_per_pixel: float = 0.06,
    camera_height_m: float = 1.5,
    *,
    vertical_fov: float | None = None,
    horizon_row: float | None = None,
) -> torch.Tensor:
    """Project panoramas to flat ground, seen from above: the view of P-BEV.

    Published form (`vertical_fov` None), with c = S/2 - 0.5, pixel (i, j): distance rho = hypot(i - c, j - c), azimuth
    (atan2(i - c, j - c) - pi/2) mod 2 pi, source column W az / (2 pi), source row H atan2(rho m, -h) / pi; bilinear,
    across the seam. Exact form: the same directions, at pixel centres, in a panorama of known vertical field of view.

    Args:
        panorama: Panoramas of any dtype, shape (B, C, H, W). The published form needs a full sphere (W = 2 H); pad a
            cropped one with `padded_sphere` if its pixels are square in degrees.
        side: Side of the result in pixels.
        metres_per_pixel: Ground sampling distance of the result; P-BEV uses 0.06 at 512 pixels for CVACT.
        camera_height_m: Height of the camera above the ground; 2.0 in the synthetic world.
        vertical_fov: Degrees of elevation of the H rows; 70 in the synthetic world. Selects the exact form.
        horizon_row: Row index of the horizon, with pixel centres at integers; None is the middle, (H - 1) / 2.

    Returns:
        Bird's-eye views, float32 (B, C, side, side): up is the centre column of the panorama, the middle is below the
        camera. Ground below the last row of the panorama is 0.

    Raises:
        ValueError: A panorama is not twice as wide as high and `vertical_fov` is None, or a value is out of range.
    """
    if metres_per_pixel <= 0 or camera_height_m <= 0:
        raise ValueError("metres_per_pixel and camera_height_m must be positive")
    offset = torch.arange(side, dtype=torch.float64) - (side / 2 - 0.5)
    down, right = offset[:, None].expand(side, side), offset[None].expand(side, side)
    ground = torch.hypot(down, right) * metres_per_pixel
    if vertical_fov is not None:
        depression = torch.atan2(torch.full_like(ground, camera_height_m), ground)
        return _sample_directions(panorama, torch.atan2(right, -down), depression, vertical_fov, horizon_row)
    height, width = _sphere(panorama)
    azimuth = (torch.atan2(down, right) - math.pi / 2) % (2 * math.pi)
    rows = height * torch.atan2(ground, torch.full_like(ground, -camera_height_m)) / math.pi
    return sampled(panorama, rows, width * azimuth / (2 * math.pi), sphere=True)


def downward_view(
    panorama: torch.Tensor,
    size: tuple[int, int],
    fov: float = 170.0,
    *,
    vertical_fov: float | None = None,
    horizon_row: float | None = None,
) -> torch.Tensor:
    """Render the view of a pinhole camera that looks straight down at the position of the panorama: AuxGeo.

    With f = (Wo/2) / tan(fov/2), pixel (u, v) has the direction (x, y, z) = (Ho/2 - u, Wo/2 - v, -f); source row
    H (1 - (atan2(z, hypot(x, y)) + pi/2) / pi), source column W (1 - (atan2(y, x) + pi) / (2 pi)).

    Args:
        panorama: Panoramas of any dtype, shape (B, C, H, W); see `ground_bev`.
        size: Height and width of the result in pixels.
        fov: Horizontal field of view of the result in degrees.
        vertical_fov, horizon_row: Geometry of the panorama for the exact form; see `ground_bev`.

    Returns:
        Views, float32 (B, C, height, width); up is the centre column of the panorama.

    Raises:
        ValueError: A panorama is not twice as wide as high and `vertical_fov` is None, or a field of view is outside
            0..180 degrees.
    """
    if not 0 < fov < 180:
        raise ValueError(f"the field of view of a pinhole camera lies between 0 and 180 degrees, found {fov:g}")
    focal = size[1] / 2 / math.tan(math.radians(fov) / 2)
    corner = 0.0 if vertical_fov is None else 0.5  # the published form counts from the corner of a pixel
    x = (size[0] / 2 - corner - torch.arange(size[0], dtype=torch.float64))[:, None].expand(size)
    y = (size[1] / 2 - corner - torch.arange(size[1], dtype=torch.float64))[None].expand(size)
    if vertical_fov is not None:
        depression = torch.atan2(torch.full_like(x, focal), torch.hypot(x, y))
        return _sample_directions(panorama, torch.atan2(-y, x), depression, vertical_fov, horizon_row)
    height, width = _sphere(panorama)
    rows = height * (1 - (torch.atan2(torch.full_like(x, -focal), torch.hypot(x, y)) + math.pi / 2) / math.pi)
    columns = width * (1 - (torch.atan2(y, x) + math.pi) / (2 * math.pi))
    return sampled(panorama, rows, columns, sphere=True)


def _sample_directions(
    panorama: torch.Tensor,
    azimuth: torch.Tensor,
    depression: torch.Tensor,
    vertical_fov: float,
    horizon_row: float | None,
) -> torch.Tensor:
    """Sample panoramas in directions in radians: clockwise from the centre column, and below the horizon."""
    height, width = panorama.shape[2:]
    if not 0 < vertical_fov <= 180:
        raise ValueError(f"a vertical field of view lies in 0..180 degrees, found {vertical_fov:g}")
    horizon = (height - 1) / 2 if horizon_row is None else horizon_row
    rows = horizon + torch.rad2deg(depression) * height / vertical_fov
    columns = (width - 1) / 2 + width * azimuth / (2 * math.pi)
    visible = (rows >= -0.5) & (rows <= height - 0.5)
    return sampled(panorama, rows, columns, sphere=True) * visible.to(panorama.device)


def padded_sphere(panorama: torch.Tensor) -> torch.Tensor:
    """Pad vertically cropped panoramas (B, C, H, W) with black at the top and bottom to a full sphere (B, C, W/2, W).

    The horizon must be in the middle. The 224 rows of CVUSA become 616.

    Raises:
        ValueError: A panorama is higher than half its width, or cannot be padded symmetrically.
    """
    height, width = panorama.shape[2:]
    missing = width // 2 - height
    if missing < 0 or missing % 2 or width % 2:
        raise ValueError(f"{height} x {width} pixels cannot be padded evenly to {width / 2:g} x {width}")
    return functional.pad(panorama, (0, 0, missing // 2, missing // 2))


def sampled(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, sphere: bool = False) -> torch.Tensor:
    """Sample images bilinearly at (row, column) in pixel indices.

    Args:
        images: Images of any dtype, shape (B, C, H, W).
        rows, columns: Source position of each value of the result, shape (h, w).
        sphere: Whether columns wrap around and rows are clamped; otherwise values outside are zero.

    Returns:
        Sampled images, float32 (B, C, h, w).
    """
    pixels = images.float()
    height, width = pixels.shape[2:]
    if sphere:
        rows, columns = rows.clamp(0, height - 1), columns % width
        pixels = torch.cat([pixels, pixels[..., :1]], dim=-1)  # repeat the first column after the last
        width += 1
    grid = torch.stack([columns * 2 / (width - 1) - 1, rows * 2 / (height - 1) - 1], dim=-1).float().to(pixels.device)
    grid = grid[None].expand(len(pixels), *grid.shape)
    return functional.grid_sample(pixels, grid, padding_mode="zeros", align_corners=True)


def _sphere(panorama: torch.Tensor) -> tuple[int, int]:
    """Return height and width of a panorama of a full sphere; refuse other aspect ratios."""
    height, width = panorama.shape[2:]
    if width != 2 * height:
        raise ValueError(f"{height} x {width} pixels are not a full sphere (2:1): pad it with `padded_sphere`")
    return height, width


__all__ = ["ViewTransform", "downward_view", "ground_bev", "padded_sphere", "parse_view", "polar_tile", "sampled"]
