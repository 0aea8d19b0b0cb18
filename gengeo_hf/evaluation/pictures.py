"""Pictures of results: strips of query and best tiles, curves, a map of errors.

Before: images and the table of queries of a `Result`. After: PIL images (strips) and matplotlib figures (plots).

Right, semi-right and wrong differ by colour and by sign, so the pictures also work without colour vision.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gengeo_hf.errors import GenGeoError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"right": "#0a9b6c", "semi": "#e3a008", "wrong": "#d1495b"}
SERIES = ("#1f5f8b", "#e07a1f", "#0a9b6c", "#8e5ea2", "#d1495b", "#5b6770")
INK, FAINT, PAPER, GRID = "#1d2733", "#6b7785", "#ffffff", "#e4e8ec"
_GAP, _BORDER, _SCALE = 14, 5, 2  # strips are drawn at twice the size and reduced: smooth corners


def strip(
    query_image: Any,
    tile_images: Sequence[Any],
    marks: Sequence[str],
    captions: Sequence[str] = (),
    *,
    title: str = "",
    tile_side: int = 190,
) -> Image.Image:
    """One query beside its best tiles, each framed and signed as right, semi-right or wrong.

    Args:
        query_image: the photo, PIL or uint8 (height, width, 3); panoramas are shown whole.
        tile_images: best first.
        marks: "right", "semi" or "wrong" for each tile; "" draws a plain frame.
        captions: a line below each tile, for example its score or distance.
        title: a line below the query.
        tile_side: pixels of a tile in the picture.

    Returns:
        An RGB picture on white.

    Raises:
        GenGeoError: there are not as many marks as tiles, or a mark is unknown.
    """
    if len(marks) != len(tile_images):
        raise GenGeoError(f"found {len(marks)} marks for {len(tile_images)} tiles; each tile needs one")
    if wrong := sorted(set(marks) - {*COLOURS, ""}):
        raise GenGeoError(f'unknown mark {wrong[0]!r}; expected one of {", ".join(COLOURS)} or ""')
    side, gap, scale = tile_side * _SCALE, _GAP * _SCALE, _SCALE
    photo = _rgb(query_image)
    widest = 2.6 * side  # a panorama of 5:1 would leave no room for the tiles: it is lowered instead
    photo_scale = min(side / photo.height, widest / photo.width)
    photo = photo.resize(
        (round(photo.width * photo_scale), round(photo.height * photo_scale)), Image.Resampling.LANCZOS
    )
    texts = bool(title) or any(captions)
    height = side + 2 * gap + (24 * scale if texts else 0)
    width = gap + photo.width + 2 * gap + len(tile_images) * (side + gap)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = gap + (side - photo.height) // 2
    _paste_rounded(canvas, photo, (gap, top), 6 * scale)
    if title:
        _text(draw, title, (gap + photo.width / 2, max(top + photo.height, 0) + 6 * scale), photo.width, INK)
    left = gap + photo.width + 2 * gap
    for number, (tile, mark) in enumerate(zip(tile_images, marks, strict=True)):
        _framed_tile(canvas, draw, _rgb(tile), (left, gap), side, mark)
        if number < len(captions) and captions[number]:
            colour = COLOURS.get(mark, FAINT)
            _text(draw, captions[number], (left + side / 2, gap + side + 6 * scale), side, colour)
        left += side + gap
    return canvas.resize((width // scale, height // scale), Image.Resampling.LANCZOS)


def stack(strips: Sequence[Image.Image], heading: str = "", explanation: str = "") -> Image.Image:
    """Several strips below one another under a heading."""
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


def recall_curve(ranks: Mapping[str, np.ndarray], *, gallery_size: int, most: int = 100) -> "Figure":
    """Recall@k over k on a logarithmic axis, with a 95 % band, and chance as a dashed line.

    Args:
        ranks: (queries,) ranks from 0, by label.
        gallery_size: number of tiles, for chance.
        most: greatest k.
    """
    figure, axes = _figure(6.4, 4.2)
    ks = np.unique(np.round(np.geomspace(1, min(most, gallery_size), 60)).astype(int))
    for (label, values), colour in zip(ranks.items(), _colours(len(ranks)), strict=True):
        share = np.array([np.mean(np.asarray(values) < k) for k in ks])
        spread = 1.96 * np.sqrt(share * (1 - share) / len(values))
        axes.fill_between(ks, 100 * (share - spread), 100 * (share + spread), color=colour, alpha=0.15, lw=0)
        axes.plot(ks, 100 * share, color=colour, lw=2, label=f"{label}: R@1 {100 * share[0]:.1f} %")
    axes.plot(ks, 100 * ks / gallery_size, color=FAINT, lw=1.2, ls=(0, (4, 3)), label="chance")
    axes.set(xscale="log", xlim=(1, ks[-1]), ylim=(0, 101), xlabel="k (best tiles looked at)", ylabel="recall@k in %")
    _plain_ticks(axes.xaxis, [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= ks[-1]])
    axes.legend(frameon=False, loc="lower right")
    return figure


def error_curve(errors_m: Mapping[str, np.ndarray], *, tile_m: float | None = None) -> "Figure":
    """Share of queries found within a distance, over the distance in metres.

    Args:
        errors_m: (queries,) metres by label; unknown ones (NaN) are left out.
        tile_m: draws a line at half the side of a tile: below it, the answer is the tile itself.
    """
    figure, axes = _figure(6.4, 4.2)
    known = {label: np.sort(values[~np.isnan(values)]) for label, values in errors_m.items()}
    largest = max((values[np.isfinite(values)].max(initial=1.0) for values in known.values()), default=1.0)
    limit = max(200.0, 1.05 * float(largest))
    for (label, values), colour in zip(known.items(), _colours(len(known)), strict=True):
        share = 100 * np.arange(1, len(values) + 1) / max(1, len(values))
        steps = np.maximum(values, 1.0), share
        median = f"median {np.median(values):,.0f} m" if len(values) else "no positions"
        axes.step(np.r_[1.0, steps[0], limit], np.r_[0.0, steps[1], share[-1:]], where="post", color=colour, lw=2,
                  label=f"{label}: {median}")  # fmt: skip
    if tile_m:
        axes.axvline(tile_m / 2, color=FAINT, lw=1.2, ls=(0, (4, 3)))
        axes.text(tile_m / 2 * 1.06, 3, "half a tile", color=FAINT, fontsize=9)
    axes.set(xscale="log", xlim=(1, limit), ylim=(0, 101), xlabel="distance to the true position in metres")
    axes.set_ylabel("found within that distance, in %")
    names = {m: (f"{m / 1000:g} km" if m >= 1000 else f"{m:g} m") for m in (10.0**n for n in range(8)) if m <= limit}
    _plain_ticks(axes.xaxis, list(names), list(names.values()))
    axes.legend(frameon=False, loc="lower right")
    return figure


def error_map(
    lat: np.ndarray, lon: np.ndarray, found_lat: np.ndarray, found_lon: np.ndarray, error_m: np.ndarray,
    *, right_m: float = 50.0,
) -> "Figure":  # fmt: skip
    """Where queries are, which were found, and a thin line from each lost one to where it was put.

    Args:
        lat, lon, found_lat, found_lon: degrees of true and found positions, (queries,).
        error_m: metres between the two.
        right_m: up to this distance a query counts as found.
    """
    figure, axes = _figure(6.4, 6.0)
    known = np.isfinite(error_m)
    right, lost = known & (error_m <= right_m), known & (error_m > right_m)
    for row in np.nonzero(lost)[0]:
        axes.plot([lon[row], found_lon[row]], [lat[row], found_lat[row]], color=COLOURS["wrong"], lw=0.6, alpha=0.35)
    axes.scatter(
        lon[right], lat[right], s=16, color=COLOURS["right"], lw=0, label=f"found within {right_m:g} m: {right.sum()}"
    )
    axes.scatter(lon[lost], lat[lost], s=22, color=COLOURS["wrong"], marker="X", lw=0, label=f"lost: {lost.sum()}")
    axes.scatter(found_lon[lost], found_lat[lost], s=12, facecolors="none", edgecolors=COLOURS["wrong"], lw=0.8,
                 label="where the lost were put")  # fmt: skip
    if known.any():
        axes.set_aspect(1 / np.cos(np.radians(float(np.mean(lat[known])))))
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(axis="x", rotation=25)
    axes.set(xlabel="longitude in degrees", ylabel="latitude in degrees")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=3, handletextpad=0.3)
    return figure


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    """An empty plot in the common style; no global state of matplotlib is touched and no window opens."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "draw curves and maps") from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor=PAPER)
    axes = figure.subplots()
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def _plain_ticks(axis: Any, places: Sequence[float], names: Sequence[str] | None = None) -> None:
    """Only these ticks, written plainly, on a logarithmic axis."""
    axis.set_ticks(places, labels=names or [f"{place:g}" for place in places])
    axis.set_ticks([], minor=True)


def _colours(count: int) -> list[str]:
    """One colour for each series."""
    return [SERIES[number % len(SERIES)] for number in range(count)]


def _rgb(image: Any) -> Image.Image:
    """PIL or array to an RGB picture."""
    return (image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))).convert("RGB")


def _paste_rounded(canvas: Image.Image, image: Image.Image, corner: tuple[int, int], radius: int) -> None:
    """Paste with rounded corners."""
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), radius, fill=255)
    canvas.paste(image, corner, mask)


def _framed_tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: Image.Image, corner: tuple[int, int], side: int, mark: str
) -> None:
    """A tile in its coloured frame, with a badge in the corner."""
    border = _BORDER * _SCALE if mark else 0
    left, top = corner
    if mark:
        box = (left, top, left + side - 1, top + side - 1)
        draw.rounded_rectangle(box, 10 * _SCALE, fill=COLOURS[mark])
    inner = side - 2 * border
    _paste_rounded(
        canvas, tile.resize((inner, inner), Image.Resampling.LANCZOS), (left + border, top + border), 6 * _SCALE
    )
    if mark:
        _badge(draw, (left + side - 19 * _SCALE, top + 19 * _SCALE), 13 * _SCALE, mark)


def _badge(draw: ImageDraw.ImageDraw, centre: tuple[int, int], radius: int, mark: str) -> None:
    """A disc with a tick, a tilde-like bar or a cross."""
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[mark], outline=PAPER, width=2 * _SCALE)
    arm, width = radius * 0.45, 3 * _SCALE
    if mark == "right":
        tick = [(x - arm, y), (x - arm * 0.2, y + arm * 0.8), (x + arm * 1.1, y - arm * 0.8)]
        draw.line(tick, fill=PAPER, width=width, joint="curve")
    elif mark == "semi":
        draw.line([(x - arm, y), (x + arm, y)], fill=PAPER, width=width)
    else:
        draw.line([(x - arm, y - arm), (x + arm, y + arm)], fill=PAPER, width=width)
        draw.line([(x - arm, y + arm), (x + arm, y - arm)], fill=PAPER, width=width)


def _text(draw: ImageDraw.ImageDraw, text: str, place: tuple[float, float], width: float, colour: str) -> None:
    """Centred below something, shortened to its width."""
    font = ImageFont.load_default(13 * _SCALE)
    while len(text) > 1 and draw.textlength(text, font=font) > width:
        text = text[:-2].rstrip() + "…"
    draw.text(place, text, fill=colour, font=font, anchor="ma")
