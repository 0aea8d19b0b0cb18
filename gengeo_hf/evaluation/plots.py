"""Curves and maps of results as matplotlib figures, from columns of the table of queries of a `Result`.

No window is opened, and no global state of matplotlib is changed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gengeo_hf.common.drawing import FAINT, GRID, INK, PAPER
from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import EARTH_RADIUS_M
from gengeo_hf.evaluation.intervals import Groups, mean_interval
from gengeo_hf.evaluation.pictures import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gengeo_hf.evaluation.distractors import DistractorCurve

SERIES = ("#1f5f8b", "#e07a1f", "#0a9b6c", "#8e5ea2", "#d1495b", "#5b6770")
_MOST_LINES = 300  # lines from true to found positions in one panel; more would be unreadable


def recall_curve(
    ranks: Mapping[str, np.ndarray],
    *,
    gallery_sizes: Mapping[str, int],
    groups: Mapping[str, Groups] | None = None,
    most: int = 100,
) -> "Figure":
    """Plot recall@k over k on a logarithmic axis, with 95 % intervals, and random guessing as dashed lines.

    Args:
        ranks: (queries,) ranks from 0, by label.
        gallery_sizes: Number of tiles by label, for the line of random guessing.
        groups: Groups of correlated queries by label; None for independent queries.
        most: Largest k.
    """
    figure, axes = _figure(6.4, 4.2)
    ks = np.unique(np.round(np.geomspace(1, max(2, most), 60)).astype(int))
    for (label, values), colour in zip(ranks.items(), _colours(len(ranks)), strict=True):
        hits = np.asarray(values) < ks[:, None]  # (ks, queries)
        share, own = hits.mean(axis=1), None if groups is None else groups[label]
        low, high = np.array([mean_interval(some.astype(float), own) for some in hits]).T
        axes.fill_between(ks, 100 * low, 100 * high, color=colour, alpha=0.15, lw=0)
        axes.plot(ks, 100 * share, color=colour, lw=2, label=f"{label}: R@1 {100 * share[0]:.1f} %")
    for size in sorted(set(gallery_sizes.values())):
        chance = np.minimum(100, 100 * ks / size)
        axes.plot(ks, chance, color=FAINT, lw=1.2, ls=(0, (4, 3)), label=f"random guess, {size:,} tiles")
    axes.set(xscale="log", xlim=(1, ks[-1]), ylim=(0, 101), xlabel="k (number of best tiles)", ylabel="recall@k in %")
    _plain_ticks(axes.xaxis, [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if k <= ks[-1]])
    _legend(figure, axes)
    return figure


def gallery_size_curve(curves: "Mapping[str, DistractorCurve]") -> "Figure":
    """Plot recall@1 over the number of tiles in the gallery on a logarithmic axis, with 95 % intervals.

    Args:
        curves: Curve of each result, by label.
    """
    figure, axes = _figure(6.4, 4.2)
    for (label, curve), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        tiles = [size.gallery for size in curve.sizes]
        low, high = ([100 * getattr(size, edge) for size in curve.sizes] for edge in ("low", "high"))
        axes.fill_between(tiles, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(tiles, [100 * size.recall for size in curve.sizes], "o-", ms=3.5, color=colour, lw=2, label=label)
    axes.set(xscale="log", ylim=(0, 101), xlabel="tiles in the gallery", ylabel="recall@1 in %")
    sizes = sorted({size.gallery for curve in curves.values() for size in curve.sizes})
    powers = [10.0**n for n in range(10) if sizes[0] <= 10**n <= sizes[-1]]
    _plain_ticks(axes.xaxis, ticks := sorted({sizes[0], *powers, sizes[-1]}), [f"{tick:,.0f}" for tick in ticks])
    _legend(figure, axes)
    return figure


def error_curve(errors_m: Mapping[str, np.ndarray]) -> "Figure":
    """Plot the share of queries whose best tile lies within a distance, over the distance in metres.

    Args:
        errors_m: (queries,) metres by label; NaN (unknown) is left out, infinity counts as never within.
    """
    figure, axes = _figure(6.4, 4.2)
    known = {label: np.sort(values[~np.isnan(values)]) for label, values in errors_m.items()}
    finite = [1.05 * values[np.isfinite(values)] for values in known.values()]
    limit = float(np.concatenate([[200.0], *finite]).max())
    for (label, values), colour in zip(known.items(), _colours(len(known)), strict=True):
        reached = values[np.isfinite(values)]
        share = 100 * np.arange(1, len(reached) + 1) / len(values)
        below = float(np.mean(values <= 1.0) * 100) if len(values) else 0.0
        distance = np.r_[1.0, np.maximum(reached, 1.0), limit]
        height = np.r_[below, share, share[-1] if len(share) else below]
        median = f"median {np.median(values):,.0f} m" if len(values) else "no positions"
        axes.step(distance, height, where="post", color=colour, lw=2, label=f"{label}: {median}")
    axes.set(
        xscale="log",
        xlim=(1, limit),
        ylim=(0, 101),
        xlabel="distance from the true position to the centre of the best tile",
    )
    axes.set_ylabel("queries within that distance, in %")
    names = {m: (f"{m / 1000:g} km" if m >= 1000 else f"{m:g} m") for m in (10.0**n for n in range(8)) if m <= limit}
    _plain_ticks(axes.xaxis, list(names), list(names.values()))
    _legend(figure, axes)
    return figure


def error_map(
    lat: np.ndarray,
    lon: np.ndarray,
    found_lat: np.ndarray,
    found_lon: np.ndarray,
    error_m: np.ndarray,
    *,
    areas: Sequence[str | None] = (),
    right_m: float = 50.0,
    panels: int = 4,
) -> "Figure":
    """Plot the positions of queries, and a line from each wrong query to its found position.

    Args:
        lat, lon: (queries,) true positions in degrees.
        found_lat, found_lon: (queries,) found positions in degrees.
        error_m: (queries,) metres between the two, NaN where unknown.
        areas: Area of each query; the largest areas get a panel each.
        right_m: Largest distance of a found query, metres.
        panels: Maximum number of panels.

    Raises:
        GenGeoError: No query has a known error.
    """
    known = np.isfinite(error_m)
    names = np.array(["all queries" if not areas or area is None else area for area in (areas or lat)], dtype=object)
    sizes = {str(name): int((known & (names == name)).sum()) for name in sorted(set(names))}
    # Areas without any known position are skipped.
    largest = sorted((name for name in sizes if sizes[name]), key=lambda name: -sizes[name])[:panels]
    if not largest:
        raise GenGeoError("no query has a known error in metres: there is nothing to draw on a map")
    columns = min(2, len(largest))
    rows = -(-len(largest) // columns)
    figure, grid = _figure(5.2 * columns, 4.9 * rows + 0.4, rows, columns)
    for name, axes in zip(largest, np.atleast_1d(grid).flat, strict=False):
        inside = known & (names == name)
        given = (values[inside] for values in (lat, lon, found_lat, found_lon, error_m <= right_m))
        _panel(axes, name, *given)
    for axes in np.atleast_1d(grid).flat[len(largest) :]:
        axes.set_visible(False)
    handles, labels = np.atleast_1d(grid).flat[0].get_legend_handles_labels()
    labels = [label.replace("found", f"found within {right_m:g} m") for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, handletextpad=0.3)
    return figure


def _panel(
    axes: Any, name: str, lat: np.ndarray, lon: np.ndarray, to_lat: np.ndarray, to_lon: np.ndarray, right: np.ndarray
) -> None:
    """Draw one area, in metres or kilometres east and north of its middle."""
    from matplotlib.collections import LineCollection

    # Degrees east of the meridian opposite to the first query: no jump at the date line.
    lon, to_lon = ((values - lon[0] + 180) % 360 for values in (lon, to_lon))
    middle = (lat.min() + lat.max()) / 2, (lon.min() + lon.max()) / 2
    metre = np.radians(1) * EARTH_RADIUS_M
    reach = metre * max(np.ptp(lat), np.ptp(lon) * np.cos(np.radians(middle[0])), 1e-3) / 2
    unit, word = (1000.0, "km") if reach > 2000 else (1.0, "m")

    def local(at_lat: np.ndarray, at_lon: np.ndarray) -> np.ndarray:
        east = (at_lon - middle[1]) * np.cos(np.radians(middle[0]))
        return np.stack([east, at_lat - middle[0]], axis=1) * metre / unit

    true, answer, lost = local(lat, lon), local(to_lat, to_lon), ~right
    side = 1.06 * reach / unit
    near = lost & (np.abs(answer) <= side).all(axis=1)
    drawn = np.nonzero(near)[0][:_MOST_LINES]
    size = float(np.clip(6000 / len(lat), 2, 30))
    axes.add_collection(
        LineCollection(
            list(np.stack([true[drawn], answer[drawn]], axis=1)), colors=COLOURS["wrong"], linewidths=0.7, alpha=0.4
        )
    )
    axes.scatter(*true[right].T, s=size, color=COLOURS["right"], lw=0, label="found")
    axes.scatter(*true[lost].T, s=1.2 * size, color=COLOURS["wrong"], marker="X", lw=0, label="lost")
    axes.scatter(*answer[near].T, s=size, facecolors="none", edgecolors=COLOURS["wrong"], lw=0.9, label="wrong answer")
    axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal")
    axes.set(xlabel=f"{word} east of the middle", ylabel=f"{word} north")
    away = int((lost & ~near).sum())
    outside = f" ({away:,} answers outside this map)" if away else ""
    axes.set_title(f"{name}: {right.sum():,} found, {lost.sum():,} lost{outside}", fontsize=9.5, color=INK, loc="left")


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple["Figure", Any]:
    """Create empty plots in the common style."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "draw curves and maps") from error
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor=PAPER)
    grid = figure.subplots(rows, columns)
    for axes in np.atleast_1d(grid).flat:
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9)
    return figure, grid


def _legend(figure: "Figure", axes: Any) -> None:
    """Draw the legend above the plot, where it does not hide a curve."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", frameon=False, fontsize=9)


def _plain_ticks(axis: Any, positions: Sequence[float], names: Sequence[str] | None = None) -> None:
    """Show only these ticks, as plain numbers, on a logarithmic axis."""
    axis.set_ticks(positions, labels=names or [f"{position:g}" for position in positions])
    axis.set_ticks([], minor=True)


def _colours(count: int) -> list[str]:
    """Return one colour for each series."""
    return [SERIES[number % len(SERIES)] for number in range(count)]
