"""Augmentation of training pairs: random changes of one view, and changes that both views share.

Runs on a batch of resized pairs from `PairSource`, before normalisation and the model.

The order is that of Sample4Geo (compression after the resize instead of before it): joint flip, compression, colour,
blur or sharpening, dropout, joint rotation. Flip and rotation keep "up in the tile = centre of the panorama".
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.views import cropped_width, limited_fov

Batch = dict[str, Any]
GREY = (0.299, 0.587, 0.114)  # luminance of red, green, blue (ITU-R BT.601)
GRID_RATIO = {"ground": 0.5, "aerial": 0.4}  # Sample4Geo's share of a grid cell's side that is cut out


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a batch of pairs; the same for the same seed. Only flip and rotation are on by default.

    Args:
        flip: mirror both views of every second pair.
        rotate: turn the tile counter-clockwise by r quarter turns and roll the panorama left by r quarters of its
            width, r = 0..3 with equal chance (Sample4Geo: three quarters of the pairs). The ground images of a batch
            that are no panoramas (`batch["panorama"]`) are left alone together with their tiles.
        colour: greatest relative change of brightness, contrast and saturation, and of the hue in turns; 0 is off.
        colour_chance: share of the images that get it, each view by itself.
        blur_chance: share of the images that are blurred or sharpened.
        dropout_chance: share of the images that lose a grid or some squares (black before normalisation).
        jpeg_chance: share of the images that are compressed; done by PIL on the CPU, and slow beside the rest.
        jpeg_quality: least and greatest quality of that.
        fov: least and greatest horizontal field of view in degrees, cut from panoramas; one value per batch. None
            keeps the whole panorama. Ordinary photos of the batch stay whole, squeezed to the same width.
        unknown_heading: look in a random direction instead of north: the views are no longer aligned. The tiles of
            ordinary photos take a random quarter turn instead.
        ground_is_map: ground images are bird's-eye views: they turn as tiles do, instead of rolling.
        aerial_is_polar: tiles are unrolled: they roll as panoramas do, instead of turning.
        input_scales: image sizes that a batch may get, times its own: both views are resized by one of them, drawn
            anew for each batch, to multiples of `multiple_of`. A model that has seen several sizes can encode at a
            smaller one (`Encoder.scale_input`). Empty keeps the size.
        multiple_of: sides that `fov` and `input_scales` may give, the patch size of the model.

    Example:
        >>> augment = Augmentation(colour=0.15)
        >>> batch = augment(batch, seed=(1, step, process))
    """

    flip: bool = True
    rotate: bool = True
    colour: float = 0.0
    colour_chance: float = 0.5
    blur_chance: float = 0.0
    dropout_chance: float = 0.0
    jpeg_chance: float = 0.0
    jpeg_quality: tuple[int, int] = (90, 100)
    fov: tuple[float, float] | None = None
    unknown_heading: bool = False
    ground_is_map: bool = False
    aerial_is_polar: bool = False
    input_scales: tuple[float, ...] = ()
    multiple_of: int = 14

    def __post_init__(self) -> None:
        for name in ("colour", "colour_chance", "blur_chance", "dropout_chance", "jpeg_chance"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise GenGeoError(f"{name} must lie in 0..1, found {getattr(self, name)}")
        if not all(0.1 <= scale <= 1 for scale in self.input_scales):
            raise GenGeoError(f"input_scales must lie in 0.1..1, found {list(self.input_scales)}")
        if self.fov is not None and not 0 < self.fov[0] <= self.fov[1] <= 360:
            raise GenGeoError(f"fov must be (least, greatest) within 0..360 degrees, found {self.fov}")
        if (self.fov is not None or self.unknown_heading) and (self.ground_is_map or self.aerial_is_polar):
            raise GenGeoError(
                "fov and unknown_heading cut and roll panoramas: bird's-eye views and polar tiles need the whole one, "
                "with its heading; leave them out of augment.options"
            )

    @classmethod
    def sample4geo(cls, **changes: Any) -> "Augmentation":
        """Everything that Sample4Geo does, with its shares and strengths."""
        return cls(**{"colour": 0.15, "blur_chance": 0.3, "dropout_chance": 0.3, "jpeg_chance": 0.5, **changes})

    @property
    def only_flips(self) -> bool:
        """Whether it does nothing but mirror both views of some pairs."""
        others = (
            self.rotate,
            self.colour and self.colour_chance,
            self.blur_chance,
            self.dropout_chance,
            self.jpeg_chance,
        )
        views = self.input_scales or self.unknown_heading or self.fov is not None
        return self.flip and not any(others) and not views

    def smallest(self, view: str, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of the smallest image that an image of this size can become.

        Args:
            view: "ground" or "aerial".
            height: Pixels before the augmentation.
            width: The same.
        """
        if view == "ground" and self.fov is not None:
            width = cropped_width(width, self.fov[0], self.multiple_of)
        return scaled_size(height, width, min(self.input_scales, default=1), self.multiple_of)

    @staticmethod
    def draw_mirrored(count: int, rng: np.random.Generator) -> np.ndarray:
        """Which of `count` pairs are mirrored, bool (count,): the first draw of a batch."""
        return rng.random(count) < 0.5

    def __call__(self, batch: Batch, seed: Sequence[int]) -> Batch:
        """Augment one batch.

        Args:
            batch: `ground` (B, 3, H, W) and `aerial` (B, 3, S, S), uint8, or float in 0..1; `panorama` bool (B,)
                where some ground images are none; `auxiliary`, a bird's-eye view (B, 3, S, S), and `position` (B, 2),
                fractions of the tile from its upper left corner, where there are such. Other keys are passed on.
            seed: not negative, for example (seed of the run, step, process).

        Returns:
            A new batch of the same types and, without `fov` and `input_scales`, shapes.

        Raises:
            GenGeoError: rotation of tiles that are not square.
        """
        chance = np.random.default_rng([int(part) for part in seed])
        ground, aerial, third = batch["ground"], batch["aerial"], batch.get("auxiliary")
        position, count = batch.get("position"), len(ground)
        panorama = batch.get("panorama", torch.ones(count, dtype=torch.bool)).cpu().numpy()
        if self.flip:
            mirrored = self.draw_mirrored(count, chance)
            ground, aerial = _flipped(ground, mirrored), _flipped(aerial, mirrored)
            third = None if third is None else _flipped(third, mirrored)
            position = None if position is None else _mirrored(position, mirrored)
        ground, aerial = self._changed(ground, "ground", chance), self._changed(aerial, "aerial", chance)
        third = None if third is None else self._changed(third, "aerial", chance)
        if self.rotate:
            turns = np.where(panorama, chance.integers(0, 4, count), 0)
            ground = (quarter_turned if self.ground_is_map else rolled)(ground, turns)
            aerial = (rolled if self.aerial_is_polar else quarter_turned)(aerial, turns)
            third = None if third is None else quarter_turned(third, turns)
            position = None if position is None else turned_positions(position, turns)
        if self.fov is not None or self.unknown_heading:
            ground = self._looked(ground, panorama, chance)
        if self.unknown_heading and not panorama.all():
            aerial = quarter_turned(aerial, np.where(panorama, 0, chance.integers(0, 4, count)))
        if self.input_scales:
            scale = float(chance.choice(self.input_scales))
            ground, aerial = (_resized(images, scale, self.multiple_of) for images in (ground, aerial))
        more = {"auxiliary": third, "position": position}
        return {**batch, "ground": ground, "aerial": aerial, **{k: v for k, v in more.items() if v is not None}}

    def _changed(self, images: torch.Tensor, view: str, chance: np.random.Generator) -> torch.Tensor:
        """Compression, colour, blur and dropout of one view."""
        count, dtype = len(images), images.dtype
        if self.jpeg_chance > 0:
            images = _compressed(images, self._chosen(self.jpeg_chance, count, chance), self.jpeg_quality, chance)
        colour = self._chosen(self.colour_chance if self.colour > 0 else 0.0, count, chance)
        blur = self._chosen(self.blur_chance, count, chance)
        dropout = self._chosen(self.dropout_chance, count, chance)
        touched = np.flatnonzero(np.isin(np.arange(count), np.concatenate([colour, blur])))
        images = images.clone() if len(touched) or len(dropout) else images
        if len(touched):
            some = images[touched].float()
            if dtype == torch.uint8:
                some /= 255.0
            _each(some, touched, colour, lambda x: jittered(x, *_jitter(len(x), self.colour, chance)))
            _each(some, touched, blur, lambda x: _blurred_or_sharp(x, chance))
            images[touched] = (some * 255.0).round_().clamp_(0, 255).to(dtype) if dtype == torch.uint8 else some
        if len(dropout):
            hidden = _holes(len(dropout), (images.shape[-2], images.shape[-1]), GRID_RATIO[view], chance).to(
                images.device
            )
            images[dropout] = images[dropout].masked_fill(hidden[:, None], 0)
        return images

    @staticmethod
    def _chosen(share: float, count: int, chance: np.random.Generator) -> np.ndarray:
        """Rows that get a change."""
        return np.flatnonzero(chance.random(count) < share)

    def _looked(self, ground: torch.Tensor, panorama: np.ndarray, chance: np.random.Generator) -> torch.Tensor:
        """Cut a field of view from every panorama, to the north or to a random side; photos get the same width."""
        fov = 360.0 if self.fov is None else float(chance.uniform(*self.fov))
        heading = chance.uniform(0, 360, len(ground)) if self.unknown_heading else np.zeros(len(ground))
        cut = limited_fov(ground, fov, torch.from_numpy(heading), self.multiple_of)
        if not panorama.all():
            photos = torch.from_numpy(np.flatnonzero(~panorama)).to(ground.device)
            size = (cut.shape[-2], cut.shape[-1])
            squeezed = functional.interpolate(ground[photos].float(), size, mode="bilinear", antialias=True)
            cut[photos] = (squeezed.round() if cut.dtype == torch.uint8 else squeezed).to(cut.dtype)
        return cut


def scaled_size(height: int, width: int, scale: float, multiple_of: int) -> tuple[int, int]:
    """Height and width in pixels of an image at `scale` times its size, multiples of `multiple_of` unless it is 1."""
    if scale == 1:
        return height, width
    high, wide = (max(1, round(side * scale / multiple_of)) * multiple_of for side in (height, width))
    return high, wide


def _resized(images: torch.Tensor, scale: float, multiple_of: int) -> torch.Tensor:
    """Images (B, 3, H, W) at `scale` times their size, each side a multiple of `multiple_of`, as an encoder does."""
    if scale == 1:
        return images
    size = scaled_size(*images.shape[-2:], scale, multiple_of)
    found = functional.interpolate(images.float(), size, mode="bicubic", antialias=True)
    return found.round().clamp(0, 255).to(images.dtype) if images.dtype == torch.uint8 else found.clamp(0, 1)


def _flipped(images: torch.Tensor, mirrored: np.ndarray) -> torch.Tensor:
    """Mirror the chosen images left to right."""
    chosen = torch.from_numpy(mirrored).to(images.device)[:, None, None, None]
    return torch.where(chosen, images.flip(-1), images)


def _mirrored(position: torch.Tensor, mirrored: np.ndarray) -> torch.Tensor:
    """Positions (B, 2) in the chosen tiles, mirrored left to right."""
    out = position.clone()
    out[mirrored, 0] = 1 - out[mirrored, 0]
    return out


def turned_positions(position: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Positions (B, 2) in tiles that `quarter_turned` turns: a quarter brings (x, y) to (y, 1 - x)."""
    out = position.clone()
    for turn in (1, 2, 3):
        rows = np.flatnonzero(turns >= turn)
        x, y = out[rows].unbind(1)
        out[rows] = torch.stack([y, 1 - x], dim=1)
    return out


def quarter_turned(aerial: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Turn tiles (B, 3, S, S) counter-clockwise by `turns` quarter turns each.

    Raises:
        GenGeoError: the tiles are not square.
    """
    if aerial.shape[-1] != aerial.shape[-2]:
        raise GenGeoError(f"tiles of {aerial.shape[-2]} x {aerial.shape[-1]} pixels cannot turn; use rotate=False")
    out = aerial.clone()
    for turn in (1, 2, 3):
        rows = np.flatnonzero(turns == turn)
        out[rows] = torch.rot90(aerial[rows], turn, dims=(-2, -1))
    return out


def rolled(ground: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Roll panoramas (B, 3, H, W) left by round(turns x W / 4) columns each (rounded once: W may not divide by 4)."""
    out, width = ground.clone(), ground.shape[-1]
    for turn in (1, 2, 3):
        rows = np.flatnonzero(turns == turn)
        out[rows] = torch.roll(ground[rows], -round(turn * width / 4), dims=-1)
    return out


def _each(some: torch.Tensor, rows: np.ndarray, chosen: np.ndarray, change: Any) -> None:
    """Change those of the images `rows` that are in `chosen`, in place."""
    where = np.flatnonzero(np.isin(rows, chosen))
    if len(where):
        some[where] = change(some[where]).clamp_(0.0, 1.0)


def _jitter(count: int, amount: float, chance: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Random brightness, contrast, saturation (factors) and hue (turns) for `count` images."""
    factors = [chance.uniform(1 - amount, 1 + amount, count) for _ in range(3)]
    return tuple(torch.from_numpy(x).float() for x in (*factors, chance.uniform(-amount, amount, count)))


def jittered(
    images: torch.Tensor,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
    hue: torch.Tensor,
) -> torch.Tensor:
    """Change colours of images (B, 3, H, W) in 0..1; one factor per image, hue in turns.

    All four are linear in the colour, so they are one 3 x 3 matrix and an offset. The hue turns the colour about the
    grey axis in the plane that keeps luminance (YIQ), which needs no conversion per pixel.
    """
    count, device = len(images), images.device
    brightness, contrast, saturation, hue = (x.to(device) for x in (brightness, contrast, saturation, hue))
    weights = torch.tensor(GREY, device=device)
    to_grey = weights.expand(3, 3)
    to_yiq = torch.tensor([GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], device=device)
    turn = torch.eye(3, device=device).repeat(count, 1, 1)
    angle = 2 * torch.pi * hue
    turn[:, 1, 1], turn[:, 1, 2] = angle.cos(), -angle.sin()
    turn[:, 2, 1], turn[:, 2, 2] = angle.sin(), angle.cos()
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    grey_share = (1 - saturation)[:, None, None]
    matrix = (saturation[:, None, None] * torch.eye(3, device=device) + grey_share * to_grey) @ matrix
    matrix = (brightness * contrast)[:, None, None] * matrix
    mean = (images.mean(dim=(-2, -1)) @ weights) * brightness  # turn and saturation keep the luminance
    offset = (mean * (1 - contrast))[:, None, None].expand(-1, 3, 1)
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)


def _blurred_or_sharp(images: torch.Tensor, chance: np.random.Generator) -> torch.Tensor:
    """Blur half of the images (Gaussian, sigma 0.5-1.5 pixels) and sharpen the others (by 0.2-0.5 of the detail)."""
    count = len(images)
    sigma = torch.from_numpy(chance.uniform(0.5, 1.5, count)).float().to(images.device)
    towards = np.where(chance.random(count) < 0.5, 1.0, -chance.uniform(0.2, 0.5, count))
    taps = torch.arange(-2, 3, device=images.device).float()
    kernel = torch.softmax(-(taps[None] ** 2) / (2 * sigma[:, None] ** 2), dim=1).repeat_interleave(3, 0)
    flat = functional.pad(images.flatten(0, 1)[None], (2, 2, 2, 2), mode="replicate")
    flat = functional.conv2d(flat, kernel[:, None, :, None], groups=3 * count)
    smooth = functional.conv2d(flat, kernel[:, None, None, :], groups=3 * count).view_as(images)
    return torch.lerp(images, smooth, torch.from_numpy(towards).float().to(images.device)[:, None, None, None])


def _holes(count: int, size: tuple[int, int], ratio: float, chance: np.random.Generator) -> torch.Tensor:
    """Masks bool (count, H, W) of what is cut out: a regular grid or 10 to 25 squares, with equal chance."""
    height, width = size
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    masks = np.empty((count, height, width), dtype=bool)
    for mask in masks:
        if chance.random() < 0.5:
            cell = max(2.0, chance.uniform(height / 16, height / 4))
            start = chance.uniform(0, cell, 2)
            mask[:] = np.outer((y + start[0]) % cell < ratio * cell, (x + start[1]) % cell < ratio * cell)
        else:
            number = int(chance.integers(10, 26))
            side = chance.uniform(0.1, 0.2, number)[:, None] * height
            top = chance.uniform(0, 1, number)[:, None] * (height - side)
            left = chance.uniform(0, 1, number)[:, None] * np.maximum(width - side, 0)
            down, across = (y >= top) & (y < top + side), (x >= left) & (x < left + side)
            mask[:] = down.astype(np.float32).T @ across.astype(np.float32) > 0
    return torch.from_numpy(masks)


def _compressed(
    images: torch.Tensor, rows: np.ndarray, quality: tuple[int, int], chance: np.random.Generator
) -> torch.Tensor:
    """Compress the chosen images as JPEG and decode them again."""
    from PIL import Image

    out = images.clone()
    for row in rows:
        level = int(chance.integers(quality[0], quality[1] + 1))
        one = images[row] if images.dtype == torch.uint8 else (images[row] * 255).round().clamp(0, 255).to(torch.uint8)
        file = io.BytesIO()
        Image.fromarray(one.permute(1, 2, 0).contiguous().cpu().numpy()).save(file, "JPEG", quality=level)
        back = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        out[row] = (back if images.dtype == torch.uint8 else back / 255.0).to(images)
    return out
