# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""Other views of a place: the unrolled tile, the panorama projected to the ground; by name, and as functions.

SAFA and GeoDTR work on polar tiles, P-BEV and AuxGeo on bird's-eye views. All keep the directions of the data: north is
up in a tile and in a bird's-eye view, and in the centre column of a panorama and of an unrolled tile.

The published formulas count pixels from their corners, and read each panorama as a whole sphere. `pixel_centres` and
`vertical_fov` give the exact geometry, which matters for small images and for panoramas that were cropped or resized.
This file travels with published checkpoints, so it imports only torch.
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
_FLATTEST = 1.95  # width over height: 2 for a whole sphere, more for one that was cropped above and below


@dataclass(frozen=True)
class ViewTransform:
    """A view by its name; see `parse_view`.

    Args:
        text: The name.
        view: "ground" or "aerial".
        change: Pixels (B, C, H, W) to float32 (B, C, height, width) in the same range.
    """

    text: str
    view: str
    change: Callable[[torch.Tensor], torch.Tensor]

    @property
    def is_map(self) -> bool:
        """Whether the result is seen from above and turns as a tile does; a polar tile rolls as a panorama does."""
        return self.view == "ground"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Transform images (B, C, H, W) of any type.

        Returns:
            float32 (B, C, height, width), in the range of the input.

        Raises:
            ValueError: Ground images that are not whole panoramas, or tiles that are not square.
        """
        height, width = images.shape[-2:]
        if self.view == "ground" and width < _FLATTEST * height:
            raise ValueError(
                f"the view {self.text} needs a whole panorama, at least twice as wide as high; found {height} x "
                f"{width} pixels (height x width): a photo with a smaller field of view has no bird's-eye view"
            )
        return self.change(images)


def parse_view(text: str, view: str) -> ViewTransform:
    """The transform of a name.

    Args:
        text: For tiles `polar:HxW` (the published form) or `polar:HxW:exact`; for panoramas
            `bev:SIDE[:METRES_PER_PIXEL[:CAMERA_HEIGHT[:VERTICAL_FOV]]]` or `downward:HxW[:FOV[:VERTICAL_FOV]]`. Without
            VERTICAL_FOV, panoramas that are not twice as wide as high are padded with black to the whole sphere, the
            horizon in the middle: right only where a row covers as many degrees as a column.
        view: "ground" or "aerial".

    Raises:
        ValueError: An unknown name, or one of the other view.
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
    """The change of panoramas that are padded to a whole sphere first."""
    whole = panorama.shape[-1] == 2 * panorama.shape[-2]
    return change(panorama if whole else padded_sphere(panorama))


def polar_tile(aerial: torch.Tensor, size: tuple[int, int], *, pixel_centres: bool = False) -> torch.Tensor:
    """Unroll tiles about their centre: columns are azimuths, the bottom row is the centre, the top row the edge.

    For target row i, column j: radius (S/2) (H-1-i)/H, angle theta = 2 pi j/W, source row S/2 + r cos(theta), source
    column S/2 - r sin(theta); bilinear, zeros outside (Shi et al., SAFA, NeurIPS 2019, section 3.1). Column 0 is south,
    W/4 west, W/2 north. It means something only where the photo stands in the tile's centre: not in VIGOR.

    Args:
        aerial: (B, C, S, S), any type.
        size: (height, width) of the result in pixels; SAFA takes 112 x 616, GeoDTR 122 x 671.
        pixel_centres: Turn about (S - 1) / 2, the centre of the tile, instead of S / 2 as published, and count radii
            and angles at pixel centres, as panoramas have them: a mirrored tile then is a mirrored polar tile.

    Returns:
        float32 (B, C, height, width) in the range of the input.

    Raises:
        ValueError: the tiles are not square.
    """
    side = aerial.shape[-1]
    if aerial.shape[-2] != side:
        raise ValueError(f"only square tiles can be unrolled, found {aerial.shape[-2]} x {side} pixels")
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
    """Project panoramas to flat ground, as seen from above: P-BEV's view.

    Published form (`vertical_fov` None), with c = S/2 - 0.5, pixel (i, j): distance rho = hypot(i - c, j - c), azimuth
    (atan2(i - c, j - c) - pi/2) mod 2 pi, source column W az / (2 pi), source row H atan2(rho m, -h) / pi; bilinear,
    around the seam. Exact form: the same directions, at pixel centres, in a panorama of known vertical field of view.

    Args:
        panorama: (B, C, H, W), any type. For the published form the whole sphere (W = 2 H); pad a cropped one with
            `padded_sphere` if its degrees per row equal those per column.
        side: Side of the result in pixels.
        metres_per_pixel: Ground sampling distance of the result; 0.06 at 512 pixels is what P-BEV takes for CVACT.
        camera_height_m: Height of the camera above the ground; 2.0 in the synthetic world.
        vertical_fov: Degrees that the H rows cover, evenly; 70 in the synthetic world. Selects the exact form.
        horizon_row: Row index of the horizon, pixel centres at whole numbers; None is the middle, (H - 1) / 2.

    Returns:
        float32 (B, C, side, side); up is the centre of the panorama, the middle is below the camera. Ground that lies
        below the last row is 0.

    Raises:
        ValueError: A panorama that is not twice as wide as high without `vertical_fov`, or a length or an angle that
            is out of range.
    """
    if metres_per_pixel <= 0 or camera_height_m <= 0:
        raise ValueError("metres_per_pixel and camera_height_m must be positive")
    offset = torch.arange(side, dtype=torch.float64) - (side / 2 - 0.5)
    down, right = offset[:, None].expand(side, side), offset[None].expand(side, side)
    ground = torch.hypot(down, right) * metres_per_pixel
    if vertical_fov is not None:
        depression = torch.atan2(torch.full_like(ground, camera_height_m), ground)
        return _looking(panorama, torch.atan2(right, -down), depression, vertical_fov, horizon_row)
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
    """What a pinhole camera sees that looks straight down from the panorama's place: AuxGeo's view.

    With f = (Wo/2) / tan(fov/2), pixel (u, v) looks along (x, y, z) = (Ho/2 - u, Wo/2 - v, -f); source row
    H (1 - (atan2(z, hypot(x, y)) + pi/2) / pi), source column W (1 - (atan2(y, x) + pi) / (2 pi)).

    Args:
        panorama: (B, C, H, W), any type; see `ground_bev`.
        size: (height, width) of the result in pixels.
        fov: Horizontal field of view in degrees.
        vertical_fov, horizon_row: Of the panorama, for the exact form; see `ground_bev`.

    Returns:
        float32 (B, C, height, width); up is the centre of the panorama.

    Raises:
        ValueError: A panorama that is not twice as wide as high without `vertical_fov`, or a field of view outside
            0..180 degrees.
    """
    if not 0 < fov < 180:
        raise ValueError(f"the field of view of a pinhole lies between 0 and 180 degrees, found {fov:g}")
    focal = size[1] / 2 / math.tan(math.radians(fov) / 2)
    corner = 0.0 if vertical_fov is None else 0.5  # the published form counts from the corner of a pixel
    x = (size[0] / 2 - corner - torch.arange(size[0], dtype=torch.float64))[:, None].expand(size)
    y = (size[1] / 2 - corner - torch.arange(size[1], dtype=torch.float64))[None].expand(size)
    if vertical_fov is not None:
        depression = torch.atan2(torch.full_like(x, focal), torch.hypot(x, y))
        return _looking(panorama, torch.atan2(-y, x), depression, vertical_fov, horizon_row)
    height, width = _sphere(panorama)
    rows = height * (1 - (torch.atan2(torch.full_like(x, -focal), torch.hypot(x, y)) + math.pi / 2) / math.pi)
    columns = width * (1 - (torch.atan2(y, x) + math.pi) / (2 * math.pi))
    return sampled(panorama, rows, columns, sphere=True)


def _looking(
    panorama: torch.Tensor,
    azimuth: torch.Tensor,
    depression: torch.Tensor,
    vertical_fov: float,
    horizon_row: float | None,
) -> torch.Tensor:
    """Values of panoramas in given directions, in radians: clockwise from the centre column, and below the horizon."""
    height, width = panorama.shape[-2:]
    if not 0 < vertical_fov <= 180:
        raise ValueError(f"a vertical field of view lies in 0..180 degrees, found {vertical_fov:g}")
    horizon = (height - 1) / 2 if horizon_row is None else horizon_row
    rows = horizon + torch.rad2deg(depression) * height / vertical_fov
    columns = width * (azimuth / (2 * math.pi) + 0.5) - 0.5
    visible = (rows >= -0.5) & (rows <= height - 0.5)
    return sampled(panorama, rows, columns, sphere=True) * visible.to(panorama.device)


def padded_sphere(panorama: torch.Tensor) -> torch.Tensor:
    """Vertically cropped panoramas (B, C, H, W), the horizon in the middle, with black above and below: (B, C, W/2, W).

    CVUSA's 224 rows become 616.

    Raises:
        ValueError: a panorama is higher than half its width already, or the rows cannot be shared out evenly.
    """
    height, width = panorama.shape[-2:]
    missing = width // 2 - height
    if missing < 0 or missing % 2 or width % 2:
        raise ValueError(f"{height} x {width} pixels cannot be padded evenly to {width / 2:g} x {width}")
    return functional.pad(panorama, (0, 0, missing // 2, missing // 2))


def sampled(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, sphere: bool = False) -> torch.Tensor:
    """Bilinear values at (row, column) in pixel indices.

    Args:
        images: (B, C, H, W), any type.
        rows, columns: (h, w), where each value of the result comes from.
        sphere: columns wrap around and rows are held inside; without it, zeros lie outside.

    Returns:
        float32 (B, C, h, w).
    """
    pixels = images.float()
    if sphere:
        pixels = torch.cat([pixels, pixels[..., :1]], dim=-1)  # the first column once more: what follows the last
        rows, columns = rows.clamp(0, images.shape[-2] - 1), columns % images.shape[-1]
    height, width = pixels.shape[-2:]
    grid = torch.stack([columns * 2 / (width - 1) - 1, rows * 2 / (height - 1) - 1], dim=-1).float().to(pixels.device)
    grid = grid[None].expand(len(pixels), *grid.shape)
    return functional.grid_sample(pixels, grid, padding_mode="zeros", align_corners=True)


def _sphere(panorama: torch.Tensor) -> tuple[int, int]:
    """Height and width of a panorama that covers the whole sphere."""
    height, width = panorama.shape[-2:]
    if width != 2 * height:
        raise ValueError(f"{height} x {width} pixels are not a whole sphere (2:1); see `padded_sphere`")
    return height, width


__all__ = ["ViewTransform", "downward_view", "ground_bev", "padded_sphere", "parse_view", "polar_tile", "sampled"]
