"""Other views of a place: part of a panorama, the unrolled tile, the panorama projected to the ground.

For training with a limited field of view, and for models that work on such transforms (SAFA and GeoDTR on polar tiles,
P-BEV and AuxGeo on bird's-eye views). All keep the directions of the data: north is up in a tile and in a bird's-eye
view, and in the centre column of a panorama and of an unrolled tile.

The published formulas count pixels from their corners, and read each panorama as a whole sphere. `pixel_centres` and
`vertical_fov` give the exact geometry, which matters for small images and for panoramas that were cropped or resized.
"""

import math

import torch
from torch.nn import functional

from gengeo_hf.common.errors import GenGeoError


def limited_fov(panorama: torch.Tensor, fov: float, heading: torch.Tensor, multiple_of: int = 1) -> torch.Tensor:
    """Cut a field of view from panoramas whose centre column looks north.

    Args:
        panorama: (B, 3, H, W), azimuth growing to the right over 360 degrees.
        fov: horizontal degrees; the width is W x fov / 360, rounded to `multiple_of`, at least one multiple.
        heading: (B,) degrees clockwise from north: what the centre of the cut looks at, to the nearest column.
        multiple_of: of the width in pixels, for example the patch size of the model.

    Returns:
        (B, 3, H, width) of the same type.

    Raises:
        GenGeoError: `fov` is not in 0..360 degrees.
    """
    if not 0 < fov <= 360:
        raise GenGeoError(f"a field of view lies in 0..360 degrees, found {fov:g}")
    full = panorama.shape[-1]
    width = full if fov == 360 else min(full, max(1, round(full * fov / 360 / multiple_of)) * multiple_of)
    shift = torch.round(heading.to(panorama.device).double() * full / 360).long()
    columns = (torch.arange(width, device=panorama.device) + (full - width) // 2 + shift[:, None]) % full
    return panorama.gather(-1, columns[:, None, None].expand(-1, *panorama.shape[1:3], -1))


def polar_tile(aerial: torch.Tensor, size: tuple[int, int], *, pixel_centres: bool = False) -> torch.Tensor:
    """Unroll tiles about their centre: columns are azimuths, the bottom row is the centre, the top row the edge.

    For target row i, column j: radius (S/2) (H-1-i)/H, angle theta = 2 pi j/W, source row S/2 + r cos(theta), source
    column S/2 - r sin(theta); bilinear, zeros outside (Shi et al., SAFA, NeurIPS 2019, section 3.1). Column 0 is south,
    W/4 west, W/2 north. It means something only where the photo stands in the tile's centre: not in VIGOR.

    Args:
        aerial: (B, C, S, S), any type.
        size: (height, width) of the result in pixels; SAFA takes 112 x 616, GeoDTR 122 x 671.
        pixel_centres: Turn about (S - 1) / 2, the centre of the tile, instead of S / 2 as published.

    Returns:
        float32 (B, C, height, width) in the range of the input.

    Raises:
        GenGeoError: the tiles are not square.
    """
    side = aerial.shape[-1]
    if aerial.shape[-2] != side:
        raise GenGeoError(f"only square tiles can be unrolled, found {aerial.shape[-2]} x {side} pixels")
    height, width = size
    radius = side / 2 * (height - 1 - torch.arange(height, dtype=torch.float64)) / height
    theta = 2 * math.pi * torch.arange(width, dtype=torch.float64) / width
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
        GenGeoError: A panorama that is not twice as wide as high without `vertical_fov`, or a length or an angle that
            is out of range.
    """
    if metres_per_pixel <= 0 or camera_height_m <= 0:
        raise GenGeoError("metres_per_pixel and camera_height_m must be positive")
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
        GenGeoError: A panorama that is not twice as wide as high without `vertical_fov`, or a field of view outside
            0..180 degrees.
    """
    if not 0 < fov < 180:
        raise GenGeoError(f"the field of view of a pinhole lies between 0 and 180 degrees, found {fov:g}")
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
        raise GenGeoError(f"a vertical field of view lies in 0..180 degrees, found {vertical_fov:g}")
    horizon = (height - 1) / 2 if horizon_row is None else horizon_row
    rows = horizon + torch.rad2deg(depression) * height / vertical_fov
    columns = width * (azimuth / (2 * math.pi) + 0.5) - 0.5
    visible = (rows >= -0.5) & (rows <= height - 0.5)
    return sampled(panorama, rows, columns, sphere=True) * visible.to(panorama.device)


def padded_sphere(panorama: torch.Tensor) -> torch.Tensor:
    """Vertically cropped panoramas (B, C, H, W), the horizon in the middle, with black above and below: (B, C, W/2, W).

    CVUSA's 224 rows become 616.

    Raises:
        GenGeoError: a panorama is higher than half its width already, or the rows cannot be shared out evenly.
    """
    height, width = panorama.shape[-2:]
    missing = width // 2 - height
    if missing < 0 or missing % 2 or width % 2:
        raise GenGeoError(f"{height} x {width} pixels cannot be padded evenly to {width / 2:g} x {width}")
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
        raise GenGeoError(f"{height} x {width} pixels are not a whole sphere (2:1); see `padded_sphere`")
    return height, width
