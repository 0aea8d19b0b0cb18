"""Figures of patch grids: heat maps over pictures, marks, bars, and sheets of panels with text.

Everything is drawn with Pillow (`common/drawing.py`), so the web page does not need matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gengeo_hf.common.drawing import FAINT, GRID, INK, PAPER, SCALE, SERIES, shorten, wrap, write
from gengeo_hf.explain.attribution import as_picture

SCALE_NOTE = (
    "Scaled for each image by itself, from the 2nd to the 98th percentile of its patches, and blended between them: "
    "the dustbin's total share is fixed by SALAD's marginals, so the brightness of two images must not be compared."
)
_VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_SIGNED = ((27, 95, 160), (146, 187, 219), (244, 244, 242), (240, 172, 113), (200, 84, 16))
_GAP, _MARGIN, _HEAD, _NOTE = 14, 18, 24, 13


def stretch(values: np.ndarray) -> np.ndarray:
    """Scale one map (rows, columns) from its 2nd to its 98th percentile to 0..1: one odd patch must not darken all."""
    low, high = np.percentile(values, [2, 98])
    scaled: np.ndarray = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return scaled


def stretch_signed(values: np.ndarray) -> np.ndarray:
    """Scale one map (rows, columns) to 0..1: zero becomes 0.5, the 98th percentile of the sizes an end of the scale."""
    limit = max(float(np.percentile(np.abs(values), 98)), 1e-9)
    scaled: np.ndarray = np.clip(0.5 + values / (2 * limit), 0, 1)
    return scaled


def overlay(
    image: Any, values: np.ndarray, opacity: float = 0.62, signed: bool = False, smooth: bool = True
) -> Image.Image:
    """Lay a map of patches over the greys of an image: dark violet is least, yellow most.

    The picture's own colours are taken out, for they would mix with those of the map.

    Args:
        image: a path or a PIL image.
        values: (rows, columns) in 0..1, see `stretch`.
        opacity: weight of the colours, 0 to 1.
        signed: use a scale from blue (0) over white (0.5) to orange (1), see `stretch_signed`.
        smooth: blend neighbouring patches; False shows each patch as it is.

    Returns:
        A picture of the image's shape, at least 392 pixels high or wide so that patches can be distinguished.
    """
    picture = as_picture(image)
    factor = max(1, -(-392 // max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    grey = picture.resize(size, Image.Resampling.BICUBIC).convert("L").convert("RGB")
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    blown_up = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, how))
    colours = Image.fromarray(_coloured(np.clip(blown_up, 0, 1), _SIGNED if signed else _VIRIDIS))
    return Image.blend(grey, colours, opacity)


def heat(values: np.ndarray, pixels: int) -> Image.Image:
    """A map of patches alone, each `pixels` wide and high; `values` (rows, columns) in 0..1."""
    plain = Image.fromarray(_coloured(values, _VIRIDIS))
    return plain.resize((plain.width * pixels, plain.height * pixels), Image.Resampling.NEAREST)


def _coloured(values: np.ndarray, anchors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Values in 0..1 as colours between anchors: a colour map where matplotlib is not installed."""
    table = np.array(anchors)
    position = values * (len(table) - 1)
    channels = [np.interp(position, np.arange(len(table)), table[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


@dataclass
class Panel:
    """A picture with a heading, and marks on it.

    Args:
        picture: what is shown.
        heading: a few words above it.
        marks: (x, y, label, colour) with x and y in shares of width and height.
        boxes: (left, top, right, bottom, colour) in shares.
        frame: colour of a border, or None.
        small: a second, fainter line under the heading.
    """

    picture: Image.Image
    heading: str = ""
    marks: list[tuple[float, float, str, str]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    frame: str | None = None
    small: str = ""


@dataclass
class Row:
    """Panels side by side, all `height` pixels high.

    Args:
        panels: from left to right.
        height: of the pictures in the sheet, pixels.
        title: a line above the row.
        links: ((panel, mark), (row offset, panel, mark), colour): lines from marks of this row to marks of a later one.
    """

    panels: list[Panel]
    height: int
    title: str = ""
    links: list[tuple[tuple[int, int], tuple[int, int, int], str]] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """What the colours of a sheet's maps mean.

    Args:
        least, most: words at the two ends.
        signed: from blue over white to orange instead of from violet to yellow.
    """

    least: str = "least"
    most: str = "most"
    signed: bool = False


def sheet(rows: Sequence[Row], title: str = "", notes: Sequence[str] = (), scale: Scale | None = None) -> Image.Image:
    """Lay rows of panels on a page, with a title above and notes below.

    Args:
        rows: from top to bottom.
        title: the heading of the page.
        notes: paragraphs below the pictures, wrapped to the page's width.
        scale: the colours of the maps, drawn above the notes.

    Returns:
        An RGB picture on white.
    """
    width = max([_row_width(row) for row in rows]) + 2 * _MARGIN
    width = max(width, 560)
    lines = [line for note in notes for line in [*wrap(note, _NOTE, width - 2 * _MARGIN), ""]][:-1]
    top, tops = _MARGIN + (34 if title else 0), []
    for row in rows:
        tops.append(top)
        top += _row_height(row) + _GAP
    words = top + (26 if scale else 0)
    height = words + 19 * len(lines) + _MARGIN
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        write(draw, title, (_MARGIN, _MARGIN - 4), 19)
    places = [_draw_row(canvas, draw, row, start) for row, start in zip(rows, tops, strict=True)]
    _draw_links(draw, rows, places)
    for row, spots in zip(rows, places, strict=True):
        _draw_headings(draw, row, spots)
        _draw_marks(draw, row, spots)
    for number, line in enumerate(lines):
        write(draw, line, (_MARGIN, words + 2 + 19 * number), _NOTE, FAINT)
    if scale:
        _draw_scale(canvas, draw, scale, top + 3)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def legend(lines: Sequence[tuple[str, str]], width: int, height: int) -> Image.Image:
    """Lines of (text, colour) at the bottom of an empty panel."""
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (text, colour) in enumerate(lines):
        write(draw, text, (0, height - 24 * (len(lines) - number)), 13, colour)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def bars(
    series: Sequence[np.ndarray],
    labels: Sequence[str],
    width: int,
    height: int,
    names: Sequence[str] | None = None,
    percent: bool = True,
) -> Image.Image:
    """Grouped bars, one group for each entry of the series, all from zero.

    Args:
        series: arrays of equal length, (groups,) each.
        labels: of the series, for the legend; empty draws none.
        width, height: pixels.
        names: below the groups; default their numbers, every eighth where there are many.
        percent: write the axis in percent, else as numbers.
    """
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(canvas)
    count, most = len(series[0]), max(float(np.max(values)) for values in series) or 1.0
    left, right, top, bottom = 46, width - 6, 26 if labels else 10, height - 22
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line([(left * SCALE, y * SCALE), (right * SCALE, y * SCALE)], fill=GRID, width=SCALE)
        write(draw, f"{100 * share * most:.0f} %" if percent else f"{share * most:.2f}", (left - 6, y), 11, FAINT, "rm")
    slot = (right - left) / count
    thick = slot * 0.8 / len(series)
    for number, values in enumerate(series):
        for group, value in enumerate(values):
            x = left + group * slot + slot * 0.1 + number * thick
            y = bottom - max(0.0, float(value)) / most * (bottom - top)
            box = (x * SCALE, y * SCALE, (x + thick) * SCALE, bottom * SCALE)
            draw.rectangle(box, fill=SERIES[number])
    every = 1 if count <= 32 else 8
    for group in range(0, count, every):
        text = names[group] if names else str(group)
        write(draw, text, (left + (group + 0.5) * slot, bottom + 4), 11, FAINT, "ma")
    x = float(left)
    for number, label in enumerate(labels):
        draw.rectangle((x * SCALE, 6 * SCALE, (x + 11) * SCALE, 17 * SCALE), fill=SERIES[number])
        write(draw, label, (x + 16, 4), 12)
        x += 34 + ImageFont.load_default(12).getlength(label)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def _draw_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, scale: Scale, top: int) -> None:
    """The colours of the maps between the words for their two ends, 10 pixels high."""
    x = _MARGIN + round(ImageFont.load_default(_NOTE).getlength(scale.least)) + 10
    ramp = _coloured(np.tile(np.linspace(0, 1, 160 * SCALE), (10 * SCALE, 1)), _SIGNED if scale.signed else _VIRIDIS)
    write(draw, scale.least, (_MARGIN, top + 5), _NOTE, FAINT, "lm")
    canvas.paste(Image.fromarray(ramp), (x * SCALE, top * SCALE))
    write(draw, scale.most, (x + 170, top + 5), _NOTE, FAINT, "lm")


def _panel_width(panel: Panel, height: int) -> int:
    return max(1, round(panel.picture.width * height / panel.picture.height))


def _row_width(row: Row) -> int:
    return sum(_panel_width(panel, row.height) for panel in row.panels) + _GAP * (len(row.panels) - 1)


def _row_height(row: Row) -> int:
    heading = _HEAD if any(panel.heading for panel in row.panels) else 0
    small = 18 if any(panel.small for panel in row.panels) else 0
    return (28 if row.title else 0) + heading + small + row.height


def _draw_row(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, top: int
) -> list[tuple[float, float, float, float]]:
    """Paste a row; gives each picture's left, top, width, height on the page."""
    if row.title:
        write(draw, row.title, (_MARGIN, top + 2), 15)
    y = top + _row_height(row) - row.height
    x, spots = float(_MARGIN), []
    for panel in row.panels:
        wide = _panel_width(panel, row.height)
        size = (wide * SCALE, row.height * SCALE)
        canvas.paste(panel.picture.resize(size, Image.Resampling.LANCZOS), (round(x * SCALE), y * SCALE))
        if panel.frame:
            box = (x * SCALE, y * SCALE, (x + wide) * SCALE - 1, (y + row.height) * SCALE - 1)
            draw.rectangle(box, outline=panel.frame, width=4 * SCALE)
        for left, up, right, down, colour in panel.boxes:
            corners = (x + left * wide, y + up * row.height, x + right * wide, y + down * row.height)
            draw.rectangle([c * SCALE for c in corners], outline=PAPER, width=5 * SCALE)
            draw.rectangle([c * SCALE for c in corners], outline=colour, width=3 * SCALE)
        spots.append((x, float(y), float(wide), float(row.height)))
        x += wide + _GAP
    return spots


def _draw_headings(draw: ImageDraw.ImageDraw, row: Row, spots: list[tuple[float, float, float, float]]) -> None:
    """The words above the panels, on paper, so that no line runs through them."""
    small = 18 if any(panel.small for panel in row.panels) else 0
    for panel, (x, y, wide, _) in zip(row.panels, spots, strict=True):
        for text, size, colour, rise in ((panel.heading, 14, INK, small + 22), (panel.small, 12, FAINT, 18)):
            if text:
                shown = shorten(text, size, wide + _GAP - 4)
                length = ImageFont.load_default(size).getlength(shown)
                box = ((x - 2) * SCALE, (y - rise) * SCALE, (x + length + 4) * SCALE, (y - rise + 17) * SCALE)
                draw.rectangle(box, fill=PAPER)
                write(draw, shown, (x, y - rise), size, colour)


def _at(row: Row, spots: list[tuple[float, float, float, float]], panel: int, mark: int) -> tuple[float, float]:
    """Where a mark is on the page."""
    x, y, wide, tall = spots[panel]
    return x + row.panels[panel].marks[mark][0] * wide, y + row.panels[panel].marks[mark][1] * tall


def _draw_links(draw: ImageDraw.ImageDraw, rows: Sequence[Row], places: list[Any]) -> None:
    for number, row in enumerate(rows):
        for (panel, mark), (offset, other_panel, other_mark), colour in row.links:
            start = _at(row, places[number], panel, mark)
            end = _at(rows[number + offset], places[number + offset], other_panel, other_mark)
            points = [(start[0] * SCALE, start[1] * SCALE), (end[0] * SCALE, end[1] * SCALE)]
            draw.line(points, fill=PAPER, width=5 * SCALE)
            draw.line(points, fill=colour, width=2 * SCALE)


def _draw_marks(draw: ImageDraw.ImageDraw, row: Row, spots: list[tuple[float, float, float, float]]) -> None:
    radius = 11
    for panel, content in enumerate(row.panels):
        for mark, (_, _, label, colour) in enumerate(content.marks):
            x, y = _at(row, spots, panel, mark)
            box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE]
            draw.ellipse(box, fill=colour, outline=PAPER, width=2 * SCALE)
            write(draw, label, (x, y), 13, PAPER, "mm")
