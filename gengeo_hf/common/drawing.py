"""Drawing with Pillow: colours, text, rounded pictures. Every figure of the package is drawn with these parts.

Sizes are in pixels of the finished picture. Figures draw at `SCALE` times that size and reduce it at the end, for
smooth edges; the functions below take finished pixels and multiply themselves.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER, GRID = "#1d2733", "#5b6776", "#ffffff", "#d9dee4"
RIGHT, SEMI, WRONG = "#0a9b6c", "#e3a008", "#d1495b"  # of an answer; told apart by signs as well
SERIES = ("#e07a1f", "#1f78b4", "#0a9b6c", "#c2409a", "#b8960c", "#6a51a3", "#d1495b", "#2b8c9e")
SCALE = 2


def to_rgb(image: Any) -> Image.Image:
    """Return a picture or a uint8 array (height, width, 3) as an RGB picture."""
    return (image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))).convert("RGB")


def write(
    draw: ImageDraw.ImageDraw,
    text: str,
    position: tuple[float, float],
    size: int,
    colour: str = INK,
    anchor: str = "la",
) -> None:
    """Write a line of text.

    Args:
        draw: Drawing context of a canvas that is `SCALE` times as large as the finished picture.
        text: One line.
        position: x and y of the anchor, finished pixels.
        size: Height of the font, finished pixels.
        colour: Colour of the text.
        anchor: Pillow's text anchor: "la" left and top, "ma" middle and top, "mm" middle.
    """
    x, y = position
    draw.text((x * SCALE, y * SCALE), text, fill=colour, font=ImageFont.load_default(size * SCALE), anchor=anchor)


def shorten(text: str, size: int, width: float) -> str:
    """Shorten a line of text to a width in finished pixels; "…" marks what is left out."""
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
    """Paste a picture with rounded corners; all sizes in pixels of the canvas."""
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), radius, fill=255)
    canvas.paste(image, corner, mask)
