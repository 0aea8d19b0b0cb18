"""Other views of a place: part of a panorama, the unrolled tile, the panorama projected to the ground.

For training with a limited field of view, and for models that work on such transforms (SAFA and GeoDTR on polar tiles,
P-BEV and AuxGeo on bird's-eye views). All keep the directions of the data: north is up in a tile and in a bird's-eye
view, and in the centre column of a panorama and of an unrolled tile.

The transforms themselves travel with checkpoints: `gengeo_hf.model.view_transforms`.
"""

import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model.view_transforms import downward_view, ground_bev, padded_sphere, polar_tile, sampled

__all__ = ["cropped_width", "downward_view", "ground_bev", "limited_fov", "padded_sphere", "polar_tile", "sampled"]


def cropped_width(full: int, fov: float, multiple_of: int = 1) -> int:
    """Width in pixels of `fov` degrees of a panorama that is `full` pixels wide; a multiple of `multiple_of`."""
    return full if fov == 360 else min(full, max(1, round(full * fov / 360 / multiple_of)) * multiple_of)


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
    width = cropped_width(full, fov, multiple_of)
    shift = torch.round(heading.to(panorama.device).double() * full / 360).long()
    columns = (torch.arange(width, device=panorama.device) + (full - width) // 2 + shift[:, None]) % full
    return panorama.gather(-1, columns[:, None, None].expand(-1, *panorama.shape[1:3], -1))
