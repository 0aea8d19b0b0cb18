"""Joint and separate changes of the two views of a training pair.

Before: a batch of uint8 images from `loading`. After: the same batch, changed, with the north of both views still in
agreement: tiles are north-up and panoramas have north in their centre column, so a turn of the one is a roll of the
other (Sample4Geo's augmentation; the paper says nothing of its own).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each pair.

    Args:
        flip: mirror both views, one pair in two.
        rotate: turn the tile counter-clockwise by 90, 180 or 270 degrees and roll the panorama left by as much, three
            pairs in four. Only for north-aligned panoramas of 360 degrees and square tiles.
        colour: largest relative change of brightness, contrast and saturation, for each view on its own.
    """

    flip: bool = True
    rotate: bool = True
    colour: float = 0.0

    def __call__(self, batch: dict[str, Tensor], seed: Sequence[int]) -> dict[str, Tensor]:
        """Change a batch; equal seeds give equal changes.

        Args:
            batch: `ground` and `aerial`, uint8 (batch, 3, height, width); other keys are passed on.
            seed: for example (seed of the run, step, process).

        Returns:
            A new batch; images are uint8, or float32 in 0..255 after a change of colour.
        """
        generator = torch.Generator().manual_seed(_mix(seed))
        ground, aerial = batch["ground"], batch["aerial"]
        count = len(ground)
        if self.flip:
            mirrored = (torch.rand(count, generator=generator) < 0.5).to(ground.device)[:, None, None, None]
            ground = torch.where(mirrored, ground.flip(-1), ground)
            aerial = torch.where(mirrored, aerial.flip(-1), aerial)
        if self.colour:
            ground, aerial = (_jitter(view, self.colour, generator) for view in (ground, aerial))
        if self.rotate:
            ground, aerial = _turn(ground, aerial, torch.randint(4, (count,), generator=generator))
        return {**batch, "ground": ground, "aerial": aerial}


def _turn(ground: Tensor, aerial: Tensor, quarters: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each tile counter-clockwise by its number of quarters, and roll its panorama left by as many."""
    if aerial.shape[-1] != aerial.shape[-2]:
        raise ValueError(f"only square tiles can be turned, found {tuple(aerial.shape[-2:])}: set rotate to false")
    ground, aerial = ground.clone(), aerial.clone()
    width = ground.shape[-1]
    for quarter in (1, 2, 3):
        chosen = (quarters == quarter).nonzero()[:, 0].to(ground.device)
        aerial[chosen] = torch.rot90(aerial[chosen], quarter, (-2, -1))
        # Rounded once from r W / 4: a width that is no multiple of 4 must not add up three rounding errors.
        ground[chosen] = ground[chosen].roll(-round(quarter * width / 4), dims=-1)
    return ground, aerial


def _jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation, each scaled by 1 +- strength."""
    factors = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = factors.to(images.device)
    images = images.float() * brightness
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * contrast + mean
    grey = images.mean(dim=1, keepdim=True)
    return ((images - grey) * saturation + grey).clamp(0, 255)


def _mix(seed: Sequence[int]) -> int:
    """Several small numbers to one seed, so that (1, 2) and (2, 1) differ."""
    mixed = 0
    for part in seed:
        mixed = (mixed * 1_000_003 + int(part) + 1) % (2**63)
    return mixed
