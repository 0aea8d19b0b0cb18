"""Augmentation of training pairs: random changes of one view, and joint changes of both views.

It is applied to a batch of resized pairs from `PairSource`, before normalisation and the model.

The order is that of Sample4Geo (compression after the resize instead of before it): joint flip, compression, colour,
blur or sharpening, dropout, joint rotation. After flip and rotation the top of the tile still corresponds to the centre
column of the panorama.
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
GRID_RATIO = {"ground": 0.5, "aerial": 0.4}  # Sample4Geo's share of a grid cell's side that is masked


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a batch of pairs, reproducible by a seed. By default only flip and rotation are applied.

    Args:
        flip: Mirror both views of a pair with probability 0.5.
        rotate: Turn the tile counter-clockwise by r quarter turns and roll the panorama left by r quarters of its
            width, with r uniform in 0..3. Pairs whose ground image is not a panorama (`batch["panorama"]`) are not
            rotated.
        colour: Maximum relative change of brightness, contrast and saturation, and of the hue in turns; 0 disables it.
        colour_chance: Probability of the change of colour, independently for each view.
        blur_chance: Probability that an image is blurred or sharpened.
        dropout_chance: Probability that a grid or some squares of an image are masked (black before normalisation).
        jpeg_chance: Probability that an image is compressed as JPEG. PIL does this on the CPU, which is slow.
        jpeg_quality: Minimum and maximum JPEG quality.
        fov: Minimum and maximum horizontal field of view in degrees to which panoramas are cropped; one value is drawn
            per batch. None keeps whole panoramas. Ordinary photos are resized to the width of the crop.
        unknown_heading: Roll each panorama by a random angle instead of keeping north in its centre, so that the views
            are not aligned. For ordinary photos, the tile is turned by a random number of quarter turns instead.
        ground_is_map: Whether ground images are bird's-eye views, which are turned as tiles are instead of rolled.
        aerial_is_polar: Whether tiles are polar-transformed, so that they are rolled as panoramas are.
        input_scales: Factors by which the size of both views may be multiplied, each 0.1 to 1; one is drawn per batch,
            and sides are rounded to multiples of `multiple_of`. A model trained with several sizes can encode at a
            smaller one (`Encoder.scale_input`). Empty keeps the size.
        multiple_of: Divisor of the sides that `fov` and `input_scales` give, in pixels: the patch size of the model.

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
            raise GenGeoError(f"fov must be (minimum, maximum) within 0..360 degrees, found {self.fov}")
        if (self.fov is not None or self.unknown_heading) and (self.ground_is_map or self.aerial_is_polar):
            raise GenGeoError(
                "fov and unknown_heading crop and roll panoramas, but bird's-eye views and polar tiles need whole "
                "panoramas with known headings; remove them from augment.options"
            )

    @classmethod
    def sample4geo(cls, **changes: Any) -> "Augmentation":
        """Augmentation with the probabilities and strengths of Sample4Geo.

        Args:
            changes: Fields that replace those of Sample4Geo.
        """
        return cls(**{"colour": 0.15, "blur_chance": 0.3, "dropout_chance": 0.3, "jpeg_chance": 0.5, **changes})

    @property
    def only_flips(self) -> bool:
        """Whether mirroring both views of some pairs is the only change."""
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
        """Height and width in pixels of the smallest image that augmentation can make of an image.

        Args:
            view: "ground" or "aerial".
            height, width: Size of the image in pixels before augmentation.
        """
        if view == "ground" and self.fov is not None:
            width = cropped_width(width, self.fov[0], self.multiple_of)
        return scaled_size(height, width, min(self.input_scales, default=1), self.multiple_of)

    @staticmethod
    def draw_mirrored(count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw which of `count` pairs are mirrored, bool (count,). This is the first draw of `__call__`."""
        return rng.random(count) < 0.5

    def __call__(self, batch: Batch, seed: Sequence[int]) -> Batch:
        """Augment one batch.

        Args:
            batch: `ground` (B, 3, H, W) and `aerial` (B, 3, S, S), uint8, or float in 0..1. Optional keys are
                `panorama`, bool (B,), whether each ground image is a panorama (default: all are); `auxiliary`, a
                bird's-eye view (B, 3, S, S); and `position` (B, 2), fractions of the tile from its upper left corner.
                Other keys are returned unchanged.
            seed: Non-negative integers, for example (seed of the run, step, process).

        Returns:
            A new batch of the same dtypes. Shapes differ only with `fov` or `input_scales`.

        Raises:
            GenGeoError: Tiles that are not square are to be rotated.
        """
        rng = np.random.default_rng([int(part) for part in seed])
        ground, aerial, third = batch["ground"], batch["aerial"], batch.get("auxiliary")
        position, count = batch.get("position"), len(ground)
        panorama = batch.get("panorama", torch.ones(count, dtype=torch.bool)).cpu().numpy()
        if self.flip:
            mirrored = self.draw_mirrored(count, rng)
            ground, aerial = _mirror_images(ground, mirrored), _mirror_images(aerial, mirrored)
            third = None if third is None else _mirror_images(third, mirrored)
            position = None if position is None else _mirror_positions(position, mirrored)
        ground, aerial = self._change_view(ground, "ground", rng), self._change_view(aerial, "aerial", rng)
        third = None if third is None else self._change_view(third, "aerial", rng)
        if self.rotate:
            turns = np.where(panorama, rng.integers(0, 4, count), 0)
            ground = (turn_tiles if self.ground_is_map else roll_panoramas)(ground, turns)
            aerial = (roll_panoramas if self.aerial_is_polar else turn_tiles)(aerial, turns)
            third = None if third is None else turn_tiles(third, turns)
            position = None if position is None else turn_positions(position, turns)
        if self.fov is not None or self.unknown_heading:
            ground = self._crop_panoramas(ground, panorama, rng)
        if self.unknown_heading and not panorama.all():
            aerial = turn_tiles(aerial, np.where(panorama, 0, rng.integers(0, 4, count)))
        if self.input_scales:
            scale = float(rng.choice(self.input_scales))
            ground, aerial = (_rescale(images, scale, self.multiple_of) for images in (ground, aerial))
        more = {"auxiliary": third, "position": position}
        return {**batch, "ground": ground, "aerial": aerial, **{k: v for k, v in more.items() if v is not None}}

    def _change_view(self, images: torch.Tensor, view: str, rng: np.random.Generator) -> torch.Tensor:
        """Apply compression, colour, blur and dropout to one view."""
        count, dtype = len(images), images.dtype
        if self.jpeg_chance > 0:
            images = _compress(images, self._draw_rows(self.jpeg_chance, count, rng), self.jpeg_quality, rng)
        colour = self._draw_rows(self.colour_chance if self.colour > 0 else 0.0, count, rng)
        blur = self._draw_rows(self.blur_chance, count, rng)
        dropout = self._draw_rows(self.dropout_chance, count, rng)
        touched = np.flatnonzero(np.isin(np.arange(count), np.concatenate([colour, blur])))
        images = images.clone() if len(touched) or len(dropout) else images
        if len(touched):
            some = images[touched].float()
            if dtype == torch.uint8:
                some /= 255.0
            _apply_to_rows(some, touched, colour, lambda x: jitter(x, *_draw_jitter(len(x), self.colour, rng)))
            _apply_to_rows(some, touched, blur, lambda x: _blur_or_sharpen(x, rng))
            images[touched] = (some * 255.0).round_().clamp_(0, 255).to(dtype) if dtype == torch.uint8 else some
        if len(dropout):
            hidden = _draw_masks(len(dropout), (images.shape[-2], images.shape[-1]), GRID_RATIO[view], rng).to(
                images.device
            )
            images[dropout] = images[dropout].masked_fill(hidden[:, None], 0)
        return images

    @staticmethod
    def _draw_rows(share: float, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the rows that are changed, each with the probability `share`."""
        return np.flatnonzero(rng.random(count) < share)

    def _crop_panoramas(self, ground: torch.Tensor, panorama: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Crop a field of view, to the north or a random direction, from panoramas; resize photos to its width."""
        fov = 360.0 if self.fov is None else float(rng.uniform(*self.fov))
        heading = rng.uniform(0, 360, len(ground)) if self.unknown_heading else np.zeros(len(ground))
        crop = limited_fov(ground, fov, torch.from_numpy(heading), self.multiple_of)
        if not panorama.all():
            photos = torch.from_numpy(np.flatnonzero(~panorama)).to(ground.device)
            size = (crop.shape[-2], crop.shape[-1])
            resized = functional.interpolate(ground[photos].float(), size, mode="bilinear", antialias=True)
            crop[photos] = (resized.round() if crop.dtype == torch.uint8 else resized).to(crop.dtype)
        return crop


def scaled_size(height: int, width: int, scale: float, multiple_of: int) -> tuple[int, int]:
    """Height and width in pixels after scaling, rounded to multiples of `multiple_of`; unchanged for a scale of 1."""
    if scale == 1:
        return height, width
    high, wide = (max(1, round(side * scale / multiple_of)) * multiple_of for side in (height, width))
    return high, wide


def _rescale(images: torch.Tensor, scale: float, multiple_of: int) -> torch.Tensor:
    """Resize images (B, 3, H, W) by `scale`, with sides rounded to multiples of `multiple_of`, as `Encoder` does."""
    if scale == 1:
        return images
    size = scaled_size(images.shape[-2], images.shape[-1], scale, multiple_of)
    resized = functional.interpolate(images.float(), size, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(images.dtype) if images.dtype == torch.uint8 else resized.clamp(0, 1)


def _mirror_images(images: torch.Tensor, mirrored: np.ndarray) -> torch.Tensor:
    """Mirror the images that `mirrored`, bool (B,), selects, left to right."""
    chosen = torch.from_numpy(mirrored).to(images.device)[:, None, None, None]
    return torch.where(chosen, images.flip(-1), images)


def _mirror_positions(position: torch.Tensor, mirrored: np.ndarray) -> torch.Tensor:
    """Mirror positions (B, 2) in the tiles that `mirrored`, bool (B,), selects, left to right."""
    out = position.clone()
    out[mirrored, 0] = 1 - out[mirrored, 0]
    return out


def turn_positions(position: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Transform positions (B, 2) in tiles that `turn_tiles` turns: each quarter turn moves (x, y) to (y, 1 - x)."""
    out = position.clone()
    for turn in (1, 2, 3):
        rows = np.flatnonzero(turns >= turn)
        x, y = out[rows].unbind(1)
        out[rows] = torch.stack([y, 1 - x], dim=1)
    return out


def turn_tiles(aerial: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Turn tiles (B, 3, S, S) counter-clockwise.

    Args:
        aerial: Tiles, (B, 3, S, S).
        turns: Number of quarter turns of each tile, 0 to 3, int (B,).

    Raises:
        GenGeoError: The tiles are not square.
    """
    if aerial.shape[-1] != aerial.shape[-2]:
        raise GenGeoError(
            f"tiles of {aerial.shape[-2]} x {aerial.shape[-1]} pixels cannot be turned: they must be square; set "
            "rotate=False"
        )
    out = aerial.clone()
    for turn in (1, 2, 3):
        rows = np.flatnonzero(turns == turn)
        out[rows] = torch.rot90(aerial[rows], turn, dims=(-2, -1))
    return out


def roll_panoramas(ground: torch.Tensor, turns: np.ndarray) -> torch.Tensor:
    """Roll panoramas (B, 3, H, W) left by round(turns x W / 4) columns each; W need not be a multiple of 4."""
    out, width = ground.clone(), ground.shape[-1]
    for turn in (1, 2, 3):
        rows = np.flatnonzero(turns == turn)
        out[rows] = torch.roll(ground[rows], -round(turn * width / 4), dims=-1)
    return out


def _apply_to_rows(some: torch.Tensor, rows: np.ndarray, chosen: np.ndarray, change: Any) -> None:
    """Apply `change`, in place, to those images of `some` whose row in the batch is in `chosen`."""
    where = np.flatnonzero(np.isin(rows, chosen))
    if len(where):
        some[where] = change(some[where]).clamp_(0.0, 1.0)


def _draw_jitter(count: int, amount: float, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Draw brightness, contrast, saturation (factors) and hue (turns) for `count` images, float32 (count,) each."""
    factors = [rng.uniform(1 - amount, 1 + amount, count) for _ in range(3)]
    return tuple(torch.from_numpy(x).float() for x in (*factors, rng.uniform(-amount, amount, count)))


def jitter(
    images: torch.Tensor,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
    hue: torch.Tensor,
) -> torch.Tensor:
    """Change the colours of images.

    All four changes are linear in the colour, so each image needs one 3 x 3 matrix and an offset. The hue rotates
    colours about the grey axis at constant luminance (YIQ), without a conversion to another colour space per pixel.

    Args:
        images: Images in 0..1, float (B, 3, H, W).
        brightness, contrast, saturation: Factor of each image, (B,); 1 keeps it.
        hue: Rotation of each image's hue in turns, (B,); 0 keeps it.

    Returns:
        Images, float (B, 3, H, W), not clipped to 0..1.
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
    mean = (images.mean(dim=(-2, -1)) @ weights) * brightness  # hue and saturation keep the luminance
    offset = (mean * (1 - contrast))[:, None, None].expand(-1, 3, 1)
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)


def _blur_or_sharpen(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur half of the images (Gaussian, sigma 0.5-1.5 pixels) and sharpen the others (by 0.2-0.5 of the detail)."""
    count = len(images)
    sigma = torch.from_numpy(rng.uniform(0.5, 1.5, count)).float().to(images.device)
    weight = np.where(rng.random(count) < 0.5, 1.0, -rng.uniform(0.2, 0.5, count))
    taps = torch.arange(-2, 3, device=images.device).float()
    kernel = torch.softmax(-(taps[None] ** 2) / (2 * sigma[:, None] ** 2), dim=1).repeat_interleave(3, 0)
    flat = functional.pad(images.flatten(0, 1)[None], (2, 2, 2, 2), mode="replicate")
    flat = functional.conv2d(flat, kernel[:, None, :, None], groups=3 * count)
    smooth = functional.conv2d(flat, kernel[:, None, None, :], groups=3 * count).view_as(images)
    return torch.lerp(images, smooth, torch.from_numpy(weight).float().to(images.device)[:, None, None, None])


def _draw_masks(count: int, size: tuple[int, int], ratio: float, rng: np.random.Generator) -> torch.Tensor:
    """Draw masks, bool (count, H, W), of dropped pixels: a regular grid or 10 to 25 squares, equally likely."""
    height, width = size
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    masks = np.empty((count, height, width), dtype=bool)
    for mask in masks:
        if rng.random() < 0.5:
            cell = max(2.0, rng.uniform(height / 16, height / 4))
            start = rng.uniform(0, cell, 2)
            mask[:] = np.outer((y + start[0]) % cell < ratio * cell, (x + start[1]) % cell < ratio * cell)
        else:
            number = int(rng.integers(10, 26))
            side = rng.uniform(0.1, 0.2, number)[:, None] * height
            top = rng.uniform(0, 1, number)[:, None] * (height - side)
            left = rng.uniform(0, 1, number)[:, None] * np.maximum(width - side, 0)
            down, across = (y >= top) & (y < top + side), (x >= left) & (x < left + side)
            mask[:] = down.astype(np.float32).T @ across.astype(np.float32) > 0
    return torch.from_numpy(masks)


def _compress(
    images: torch.Tensor, rows: np.ndarray, quality: tuple[int, int], rng: np.random.Generator
) -> torch.Tensor:
    """Compress the images of some rows as JPEG and decode them again."""
    from PIL import Image

    out = images.clone()
    for row in rows:
        level = int(rng.integers(quality[0], quality[1] + 1))
        one = images[row] if images.dtype == torch.uint8 else (images[row] * 255).round().clamp(0, 255).to(torch.uint8)
        file = io.BytesIO()
        Image.fromarray(one.permute(1, 2, 0).contiguous().cpu().numpy()).save(file, "JPEG", quality=level)
        back = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        out[row] = (back if images.dtype == torch.uint8 else back / 255.0).to(images)
    return out
