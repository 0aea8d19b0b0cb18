"""View transforms: crops of panoramas, polar-transformed tiles, and panoramas projected to the ground plane.

They are used for training with a limited field of view, and by models that take such inputs (SAFA and GeoDTR: polar
tiles; P-BEV and AuxGeo: bird's-eye views). Directions are kept: north is up in a tile and in a bird's-eye view, and in
the centre column of a panorama and of a polar tile.

All but `limited_fov` and `cropped_width` are imported from `gengeo_hf.model.view_transforms`, which is copied into
checkpoints.
"""

import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model.view_transforms import downward_view, ground_bev, padded_sphere, polar_tile, sampled

__all__ = ["cropped_width", "downward_view", "ground_bev", "limited_fov", "padded_sphere", "polar_tile", "sampled"]


def cropped_width(full: int, fov: float, multiple_of: int = 1) -> int:
    """Width in pixels of `fov` degrees of a panorama that is `full` pixels wide; a multiple of `multiple_of`."""
    return full if fov == 360 else min(full, max(1, round(full * fov / 360 / multiple_of)) * multiple_of)


def limited_fov(panorama: torch.Tensor, fov: float, heading: torch.Tensor, multiple_of: int = 1) -> torch.Tensor:
    """Crop panoramas, whose centre column shows north, to a horizontal field of view.

    Args:
        panorama: (B, 3, H, W), with the azimuth increasing to the right over 360 degrees.
        fov: Horizontal field of view in degrees, more than 0 and at most 360. The width of the crop is W x fov / 360,
            rounded to a multiple of `multiple_of`, and at least one multiple.
        heading: Heading of the centre of each crop in degrees clockwise from north, (B,); rounded to whole columns.
        multiple_of: Divisor of the width in pixels, for example the patch size of the model.

    Returns:
        (B, 3, H, width) of the same dtype.

    Raises:
        GenGeoError: `fov` is out of range.
    """
    if not 0 < fov <= 360:
        raise GenGeoError(f"fov must lie in 0..360 degrees, found {fov:g}")
    full = panorama.shape[-1]
    width = cropped_width(full, fov, multiple_of)
    shift = torch.round(heading.to(panorama.device).double() * full / 360).long()
    columns = (torch.arange(width, device=panorama.device) + (full - width) // 2 + shift[:, None]) % full
    return panorama.gather(-1, columns[:, None, None].expand(-1, *panorama.shape[1:3], -1))
