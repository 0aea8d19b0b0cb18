"""Draws strips: a query and its best tiles.

Right, semi-positive and wrong tiles differ by colour and by badge, so the pictures work without colour vision.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gengeo_hf.common.drawing import (
    FAINT,
    GRID,
    INK,
    PAPER,
    RIGHT,
    SCALE,
    SEMI,
    WRONG,
    paste_rounded,
    shorten,
    to_rgb,
    write,
)
from gengeo_hf.common.errors import GenGeoError

COLOURS = {"right": RIGHT, "semi": SEMI, "wrong": WRONG}
_GAP, _BORDER = 14, 5


def strip(
    query_image: Any,
    tile_images: Sequence[Any],
    labels: Sequence[str],
    captions: Sequence[str] = (),
    *,
    title: str = "",
    true_tile: tuple[Any, str] | None = None,
    tile_side: int = 190,
) -> Image.Image:
    """Draw one query next to its best tiles, each with a frame and a badge for right, semi-positive or wrong.

    Args:
        query_image: The photo, PIL or uint8 (height, width, 3); panoramas are not cropped.
        tile_images: Images of the best tiles, best first.
        labels: "right", "semi" or "wrong" for each tile; "" draws a plain frame.
        captions: Text below each tile, for example its score or distance.
        title: Text below the query.
        true_tile: Image and caption of the true tile where it is not among the best; it is drawn last, after a
            vertical line.
        tile_side: Side of a tile in the picture, pixels.

    Returns:
        An RGB picture on white.

    Raises:
        GenGeoError: The numbers of labels and tiles differ, or a label has another value.
    """
    if len(labels) != len(tile_images):
        raise GenGeoError(f"found {len(labels)} labels for {len(tile_images)} tiles; each tile needs one")
    if wrong := sorted(set(labels) - {*COLOURS, ""}):
        raise GenGeoError(f'unknown label {wrong[0]!r}; expected one of {", ".join(COLOURS)} or ""')
    side, gap, scale = tile_side * SCALE, _GAP * SCALE, SCALE
    photo = _fitted(to_rgb(query_image), side)
    names = [*captions, *[""] * (len(labels) - len(captions))]
    lefts = [gap + photo.width + 2 * gap + number * (side + gap) for number in range(len(labels))]
    shown = list(zip(tile_images, labels, names, lefts, strict=True))
    width = gap + photo.width + 2 * gap + len(labels) * (side + gap)
    if true_tile is not None:
        shown.append((true_tile[0], "right", true_tile[1], width + gap))
        width += side + 2 * gap
    height = side + 2 * gap + (24 * scale if title or any(name for _, _, name, _ in shown) else 0)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = gap + (side - photo.height) // 2
    paste_rounded(canvas, photo, (gap, top), 6 * scale)
    _write_below(draw, title, (gap + photo.width / 2, top + photo.height + 6 * scale), photo.width, INK)
    for tile, label, name, left in shown:
        _framed_tile(canvas, draw, to_rgb(tile), (left, gap), side, label)
        _write_below(draw, name, (left + side / 2, gap + side + 6 * scale), side, COLOURS.get(label, FAINT))
    if true_tile is not None:
        draw.line([(shown[-1][3] - gap, gap), (shown[-1][3] - gap, gap + side)], fill=FAINT, width=scale)
    return canvas.resize((width // scale, height // scale), Image.Resampling.LANCZOS)


def _fitted(photo: Image.Image, side: int) -> Image.Image:
    """Resize a photo to the height of a tile, or to 2.6 times its width where it would be wider (panoramas)."""
    scale = min(side / photo.height, 2.6 * side / photo.width)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return photo.resize(size, Image.Resampling.LANCZOS)


def stack(strips: Sequence[Image.Image], heading: str = "", explanation: str = "") -> Image.Image:
    """Stack strips vertically under a heading.

    Args:
        strips: Pictures, from top to bottom.
        heading: Text above the strips; "" draws none.
        explanation: Smaller text under the heading.

    Raises:
        GenGeoError: There are no strips.
    """
    if not strips:
        raise GenGeoError("there are no strips to stack")
    width, head = max(image.width for image in strips), 56 if heading else 0
    canvas = Image.new("RGB", (width, head + sum(image.height for image in strips)), PAPER)
    draw = ImageDraw.Draw(canvas)
    if heading:
        draw.text((_GAP, 12), heading, fill=INK, font=ImageFont.load_default(20))
        draw.text((_GAP, 38), explanation, fill=FAINT, font=ImageFont.load_default(13))
    top = head
    for image in strips:
        canvas.paste(image, (0, top))
        top += image.height
        draw.line([(_GAP, top - 1), (width - _GAP, top - 1)], fill=GRID)
    return canvas


def crop_panorama(image: Any, fov: int, heading: float) -> Image.Image:
    """Crop a panorama to a limited field of view, at its own resolution.

    Args:
        image: Panorama whose centre column faces north.
        fov: Horizontal field of view in degrees; 360 only rotates.
        heading: Heading of the centre of the crop, degrees clockwise from north.
    """
    panorama = to_rgb(image)
    width, wanted = panorama.width, max(1, round(panorama.width * fov / 360))
    left = round(width * heading / 360) + (width - wanted) // 2
    columns = (left + np.arange(wanted)) % width
    return Image.fromarray(np.asarray(panorama)[:, columns])


def format_distance(distance: float) -> str:
    """Format a distance in metres for a caption: "35 m", "4.2 km"."""
    if not np.isfinite(distance):
        return "nowhere"
    if distance < 999.5:  # rounded to whole metres, less than a kilometre
        return f"{distance:.0f} m"
    return f"{distance / 1000:,.{1 if distance < 99_950 else 0}f} km"


def _framed_tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: Image.Image, corner: tuple[int, int], side: int, label: str
) -> None:
    """Draw a tile in its coloured frame, with a badge in the corner."""
    border = _BORDER * SCALE if label else 0
    left, top = corner
    if label:
        box = (left, top, left + side - 1, top + side - 1)
        draw.rounded_rectangle(box, 10 * SCALE, fill=COLOURS[label])
    inner = side - 2 * border
    paste_rounded(
        canvas, tile.resize((inner, inner), Image.Resampling.LANCZOS), (left + border, top + border), 6 * SCALE
    )
    if label:
        _badge(draw, (left + side - 19 * SCALE, top + 19 * SCALE), 13 * SCALE, label)


def _badge(draw: ImageDraw.ImageDraw, centre: tuple[int, int], radius: int, label: str) -> None:
    """Draw a disc with a tick (right), a bar (semi) or a cross (wrong)."""
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[label], outline=PAPER, width=2 * SCALE)
    arm, width = radius * 0.45, 3 * SCALE
    if label == "right":
        tick = [(x - arm, y), (x - arm * 0.2, y + arm * 0.8), (x + arm * 1.1, y - arm * 0.8)]
        draw.line(tick, fill=PAPER, width=width, joint="curve")
    elif label == "semi":
        draw.line([(x - arm, y), (x + arm, y)], fill=PAPER, width=width)
    else:
        draw.line([(x - arm, y - arm), (x + arm, y + arm)], fill=PAPER, width=width)
        draw.line([(x - arm, y + arm), (x + arm, y - arm)], fill=PAPER, width=width)


def _write_below(draw: ImageDraw.ImageDraw, text: str, at: tuple[float, float], width: float, colour: str) -> None:
    """Write a caption centred below a picture, shortened to its width; sizes in pixels of the canvas."""
    write(draw, shorten(text, 13, width / SCALE), (at[0] / SCALE, at[1] / SCALE), 13, colour, "ma")
