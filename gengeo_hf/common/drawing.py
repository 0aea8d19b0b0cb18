"""Drawing with Pillow: the colours, text and rounded images of every figure of the package.

Sizes are pixels of the finished image. Figures are drawn at `SCALE` times that size and reduced at the end, for smooth
edges; functions that take finished pixels multiply by `SCALE` themselves.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER, GRID = "#1d2733", "#5b6776", "#ffffff", "#d9dee4"
RIGHT, SEMI, WRONG = "#0a9b6c", "#e3a008", "#d1495b"  # of an answer; figures also mark them with different signs
SERIES = ("#e07a1f", "#1f78b4", "#0a9b6c", "#c2409a", "#b8960c", "#6a51a3", "#d1495b", "#2b8c9e")
SCALE = 2


def to_rgb(image: Any) -> Image.Image:
    """Return an image or a uint8 array (height, width, 3) as an RGB image."""
    return (image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))).convert("RGB")


def write(
    draw: ImageDraw.ImageDraw,
    text: str,
    position: tuple[float, float],
    size: int,
    colour: str = INK,
    anchor: str = "la",
) -> None:
    """Draw one line of text.

    Args:
        draw: Drawing context of a canvas that is `SCALE` times as large as the finished image.
        text: Text without line breaks.
        position: Coordinates x and y of the anchor in finished pixels.
        size: Height of the font in finished pixels.
        colour: Colour of the text, as Pillow takes it.
        anchor: Text anchor of Pillow: "la" left and top, "ma" middle and top, "mm" middle.
    """
    x, y = position
    draw.text((x * SCALE, y * SCALE), text, fill=colour, font=ImageFont.load_default(size * SCALE), anchor=anchor)


def shorten(text: str, size: int, width: float) -> str:
    """Shorten a line of text to a width in finished pixels; "…" replaces the omitted end."""
    font = ImageFont.load_default(size)
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2].rstrip() + "…"
    return text


def wrap(text: str, size: int, width: float) -> list[str]:
    """Split a paragraph into lines of at most `width` finished pixels."""
    font, lines, line = ImageFont.load_default(size), list[str](), ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def paste_rounded(canvas: Image.Image, image: Image.Image, corner: tuple[int, int], radius: int) -> None:
    """Paste an image with rounded corners; sizes are pixels of the canvas."""
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), radius, fill=255)
    canvas.paste(image, corner, mask)
