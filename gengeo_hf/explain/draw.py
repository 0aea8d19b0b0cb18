"""Figures of patch grids: heat maps over images, markers, bar charts, and sheets of panels with text.

All are drawn with Pillow (`common/drawing.py`), so the web page does not need matplotlib.
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
    "Each image is scaled by itself, from the 2nd to the 98th percentile of its patches, with blended edges. "
    "The dustbin's total share is fixed by SALAD's marginals, so the brightness of two images cannot be compared."
)
_VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_SIGNED = ((27, 95, 160), (146, 187, 219), (244, 244, 242), (240, 172, 113), (200, 84, 16))
_GAP, _MARGIN, _HEAD, _NOTE = 14, 18, 24, 13


def stretch(values: np.ndarray) -> np.ndarray:
    """Scale a map (rows, columns) to 0..1, from its 2nd to its 98th percentile: outliers must not darken it."""
    low, high = np.percentile(values, [2, 98])
    scaled: np.ndarray = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return scaled


def stretch_signed(values: np.ndarray) -> np.ndarray:
    """Scale a map (rows, columns) to 0..1: zero becomes 0.5, the 98th percentile of the absolute values 0 or 1."""
    limit = max(float(np.percentile(np.abs(values), 98)), 1e-9)
    scaled: np.ndarray = np.clip(0.5 + values / (2 * limit), 0, 1)
    return scaled


def overlay(
    image: Any, values: np.ndarray, opacity: float = 0.62, signed: bool = False, smooth: bool = True
) -> Image.Image:
    """Draw a map of patches over an image in greyscale, from dark violet (least) to yellow (most).

    The image is shown in greyscale because its colours would mix with those of the map.

    Args:
        image: A path, bytes or a PIL image.
        values: Map (rows, columns) with values from 0 to 1, see `stretch`.
        opacity: Weight of the colours of the map, 0 to 1.
        signed: Whether to use a scale from blue (0) through white (0.5) to orange (1), see `stretch_signed`.
        smooth: Whether to blend neighbouring patches; False gives each patch one colour.

    Returns:
        RGB picture with the proportions of the image, its longer side at least 392 pixels.
    """
    picture = as_picture(image)
    factor = max(1, -(-392 // max(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    grey = picture.resize(size, Image.Resampling.BICUBIC).convert("L").convert("RGB")
    resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    enlarged = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, resampling))
    colours = Image.fromarray(_coloured(np.clip(enlarged, 0, 1), _SIGNED if signed else _VIRIDIS))
    return Image.blend(grey, colours, opacity)


def heat(values: np.ndarray, pixels: int) -> Image.Image:
    """Draw a map of patches alone.

    Args:
        values: Map (rows, columns) with values from 0 to 1.
        pixels: Width and height of a patch, in pixels.
    """
    plain = Image.fromarray(_coloured(values, _VIRIDIS))
    return plain.resize((plain.width * pixels, plain.height * pixels), Image.Resampling.NEAREST)


def _coloured(values: np.ndarray, anchors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Colours (..., 3) of values from 0 to 1, interpolated between anchors."""
    table = np.array(anchors)
    position = values * (len(table) - 1)
    channels = [np.interp(position, np.arange(len(table)), table[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


@dataclass
class Panel:
    """A picture with a heading, markers and boxes.

    Args:
        picture: The picture.
        heading: Text above the picture.
        markers: (x, y, label, colour) of each marker, with x and y in shares of width and height.
        boxes: (left, top, right, bottom, colour) of each box, in shares of width and height.
        frame: Colour of a border; None draws none.
        subheading: Second line of text above the picture, in a lighter colour.
    """

    picture: Image.Image
    heading: str = ""
    markers: list[tuple[float, float, str, str]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    frame: str | None = None
    subheading: str = ""


@dataclass
class Row:
    """Panels side by side, all `height` pixels high.

    Args:
        panels: Panels from left to right.
        height: Height of the pictures on the sheet, in pixels.
        title: Text above the row.
        links: ((panel, marker), (row offset, panel, marker), colour) of each line from a marker of this row to a marker
            of a later row; all indices are zero-based.
    """

    panels: list[Panel]
    height: int
    title: str = ""
    links: list[tuple[tuple[int, int], tuple[int, int, int], str]] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """Colour scale of the maps of a sheet.

    Args:
        least: Label of the low end.
        most: Label of the high end.
        signed: Whether the colours run from blue through white to orange instead of from violet to yellow.
    """

    least: str = "least"
    most: str = "most"
    signed: bool = False


def sheet(rows: Sequence[Row], title: str = "", notes: Sequence[str] = (), scale: Scale | None = None) -> Image.Image:
    """Draw rows of panels on a sheet, with a title above and notes below.

    Args:
        rows: Rows from top to bottom.
        title: Heading of the sheet.
        notes: Paragraphs below the rows, wrapped to the width of the sheet.
        scale: Colour scale of the maps, drawn above the notes; None draws none.

    Returns:
        RGB picture on a white background.
    """
    width = max([_row_width(row) for row in rows]) + 2 * _MARGIN
    width = max(width, 560)
    lines = [line for note in notes for line in [*wrap(note, _NOTE, width - 2 * _MARGIN), ""]][:-1]
    top, tops = _MARGIN + (34 if title else 0), []
    for row in rows:
        tops.append(top)
        top += _row_height(row) + _GAP
    notes_top = top + (26 if scale else 0)
    height = notes_top + 19 * len(lines) + _MARGIN
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        write(draw, title, (_MARGIN, _MARGIN - 4), 19)
    frames = [_draw_row(canvas, draw, row, start) for row, start in zip(rows, tops, strict=True)]
    _draw_links(draw, rows, frames)
    for row, row_frames in zip(rows, frames, strict=True):
        _draw_headings(draw, row, row_frames)
        _draw_markers(draw, row, row_frames)
    for number, line in enumerate(lines):
        write(draw, line, (_MARGIN, notes_top + 2 + 19 * number), _NOTE, FAINT)
    if scale:
        _draw_scale(canvas, draw, scale, top + 3)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def legend(lines: Sequence[tuple[str, str]], width: int, height: int) -> Image.Image:
    """Draw lines of text at the bottom of an empty picture.

    Args:
        lines: (text, colour) of each line, from top to bottom.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
    """
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
    """Draw a bar chart with one group of bars for each entry of the series; the axis starts at zero.

    Args:
        series: Arrays of equal length, (groups,) each.
        labels: Label of each series in the legend; empty draws no legend.
        width: Width of the chart in pixels.
        height: Height of the chart in pixels.
        names: Name of each group below the axis; None writes the indices of the groups, every eighth above 32 groups.
        percent: Whether the axis is in percent, else in plain numbers.
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
    """Draw the colour scale, 10 pixels high, between the labels of its ends."""
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
    subheading = 18 if any(panel.subheading for panel in row.panels) else 0
    return (28 if row.title else 0) + heading + subheading + row.height


def _draw_row(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, top: int
) -> list[tuple[float, float, float, float]]:
    """Draw the pictures of a row.

    Returns:
        Left, top, width and height of each picture on the sheet.
    """
    if row.title:
        write(draw, row.title, (_MARGIN, top + 2), 15)
    y = top + _row_height(row) - row.height
    x, frames = float(_MARGIN), []
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
        frames.append((x, float(y), float(wide), float(row.height)))
        x += wide + _GAP
    return frames


def _draw_headings(draw: ImageDraw.ImageDraw, row: Row, frames: list[tuple[float, float, float, float]]) -> None:
    """Draw the headings of the panels, on a white background that covers lines between markers."""
    offset = 18 if any(panel.subheading for panel in row.panels) else 0
    for panel, (x, y, wide, _) in zip(row.panels, frames, strict=True):
        for text, size, colour, rise in ((panel.heading, 14, INK, offset + 22), (panel.subheading, 12, FAINT, 18)):
            if text:
                shown = shorten(text, size, wide + _GAP - 4)
                length = ImageFont.load_default(size).getlength(shown)
                box = ((x - 2) * SCALE, (y - rise) * SCALE, (x + length + 4) * SCALE, (y - rise + 17) * SCALE)
                draw.rectangle(box, fill=PAPER)
                write(draw, shown, (x, y - rise), size, colour)


def _marker_position(
    row: Row, frames: list[tuple[float, float, float, float]], panel: int, marker: int
) -> tuple[float, float]:
    """Position (x, y) of a marker on the sheet, in pixels."""
    x, y, wide, tall = frames[panel]
    across, down = row.panels[panel].markers[marker][:2]
    return x + across * wide, y + down * tall


def _draw_links(draw: ImageDraw.ImageDraw, rows: Sequence[Row], frames: list[Any]) -> None:
    for number, row in enumerate(rows):
        for (panel, marker), (offset, other_panel, other_marker), colour in row.links:
            start = _marker_position(row, frames[number], panel, marker)
            end = _marker_position(rows[number + offset], frames[number + offset], other_panel, other_marker)
            points = [(start[0] * SCALE, start[1] * SCALE), (end[0] * SCALE, end[1] * SCALE)]
            draw.line(points, fill=PAPER, width=5 * SCALE)
            draw.line(points, fill=colour, width=2 * SCALE)


def _draw_markers(draw: ImageDraw.ImageDraw, row: Row, frames: list[tuple[float, float, float, float]]) -> None:
    radius = 11
    for panel, content in enumerate(row.panels):
        for marker, (_, _, label, colour) in enumerate(content.markers):
            x, y = _marker_position(row, frames, panel, marker)
            box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE]
            draw.ellipse(box, fill=colour, outline=PAPER, width=2 * SCALE)
            write(draw, label, (x, y), 13, PAPER, "mm")
