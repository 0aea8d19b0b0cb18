"""Draws results: recall and error curves, a map of errors, and strips of photos grouped by success and failure.

`write_report` writes PNG files and one HTML page, from results of `gengeo evaluate` and, for the strips, the images.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file
from gengeo_hf.common.html import Figure, Page, Section, Table, write_page
from gengeo_hf.encoding.engine import images_fingerprint
from gengeo_hf.evaluation import pictures, plots
from gengeo_hf.evaluation.failures import GROUPS, group_failures, tile_labels
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.protocols import Protocol, view_headings
from gengeo_hf.evaluation.results import Result

FOUND = "found"
DEFINITIONS = {FOUND: "the best tile is the true one"} | GROUPS


@dataclass(frozen=True)
class Images:
    """Access to the images of a result, for strips.

    Args:
        photo: Function from the row of a query in the result's table to its image, cropped as in the evaluation.
        tile: Function from the id of a tile to its image.
    """

    photo: Callable[[int], Any]
    tile: Callable[[str], Any]


def load_images(result: Result, root: str | Path | None) -> Images:
    """Open the images of a result.

    Args:
        result: Result with its table of queries.
        root: Directory of the data; None for the synthetic worlds.

    Raises:
        GenGeoError: The data are missing, or are not the evaluated data.
    """
    from gengeo_hf.data import load_pairs
    from gengeo_hf.data.loading import AerialImages, GroundImages

    values, settings = result.summary["protocol"], result.summary["settings"]
    data = load_pairs(values["dataset"], root, split=values["split"], **settings.get("loader", {}))
    truth, photos, tiles = GroundTruth.from_dataset(data), GroundImages(data), AerialImages(data)
    images = {
        "ground": images_fingerprint(photos, truth.query_ids),
        "aerial": images_fingerprint(tiles, truth.tile_ids),
    }
    if truth.fingerprint != result.summary["dataset"]["fingerprint"] or images != settings.get("images", images):
        raise GenGeoError(f"{root or data.name} holds other pairs than the result; give the data that were evaluated")
    protocol = Protocol.from_dict(values)
    headings = view_headings(protocol, len(truth.query_ids), settings.get("seed", 0))
    row_of = {tile: row for row, tile in enumerate(truth.tile_ids)}

    def photo(row: int) -> Any:
        image = photos[row]
        return pictures.crop_panorama(image, protocol.fov, 0.0 if headings is None else float(headings[row]))

    return Images(photo, lambda tile: tiles[row_of[tile]])


def write_report(
    paths: Sequence[str | Path],
    directory: str | Path,
    images: Images | None = None,
    *,
    num_strips: int = 5,
    near_m: float = 100,
) -> list[Path]:
    """Write a page with curves, a map, groups of failures and strips.

    Args:
        paths: JSON files of results. Curves show all of them; map, groups and strips show the first.
        directory: Directory to write.
        images: Images of the first result; None draws no strips.
        num_strips: Number of strips for each group.
        near_m: Largest distance of a near miss, metres.

    Returns:
        Paths of the files, `index.html` first.

    Raises:
        GenGeoError: `paths` is empty, or a result is damaged.
    """
    results = [Result.load(path) for path in paths]
    if not results:
        raise GenGeoError("there is no result to draw; make one with gengeo evaluate")
    first, directory = results[0], Path(directory)
    groups = {FOUND: _found_rows(first)} | group_failures(first.queries, near_m=near_m)
    figures = _plots(results)
    if images is not None:
        for name, rows in groups.items():
            if len(rows):  # the group of found queries may be empty
                figures[f"strips-{name.replace(' ', '-')}.png"] = _sheet(first, name, rows, images, num_strips)
    for file, figure in figures.items():
        with atomic_file(directory / file) as temporary:
            figure.picture.save(temporary, "PNG", optimize=True)
    write_page(_page(first, groups, figures), directory / "index.html")
    return [directory / "index.html", *(directory / file for file in figures)]


def _plots(results: Sequence[Result]) -> dict[str, Figure]:
    """Draw the recall curve and, where positions are known, the error curve and the map of the first result."""
    labels = _labels(results)
    columns = {name: [result.queries[name].to_numpy() for result in results] for name in ("rank", "error_m")}
    sizes = [result.summary["dataset"]["gallery"] for result in results]
    curve = plots.recall_curve(
        dict(zip(labels, columns["rank"], strict=True)),
        gallery_sizes=dict(zip(labels, sizes, strict=True)),
        groups={label: result.groups for label, result in zip(labels, results, strict=True)},
        most=max(10, min(1000, min(sizes) // 5)),
    )
    shown = {"recall.png": Figure(_drawn(curve), "Share of queries whose true tile is among the k best.")}
    known = {n: values for n, values in zip(labels, columns["error_m"], strict=True) if not np.isnan(values).all()}
    if known:
        shown["errors.png"] = Figure(
            _drawn(plots.error_curve(known)), "Distance from the true position to the best tile."
        )
    if labels[0] in known:
        table = results[0].queries
        given = [table[name].to_numpy() for name in ("lat", "lon", "found_lat", "found_lon", "error_m")]
        figure = plots.error_map(*given, areas=table["area"].to_pylist())
        shown["map.png"] = Figure(_drawn(figure), f"{labels[0]}: found and lost queries, with lines to wrong answers.")
    return shown


def _labels(results: Sequence[Result]) -> list[str]:
    """Model names, made unique by the protocol or a number."""
    names = [result.summary["model"]["name"] for result in results]
    if len({result.summary["protocol"]["name"] for result in results}) > 1:
        names = [f"{name}, {r.summary['protocol']['name']}" for name, r in zip(names, results, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({n + 1})" for n, name in enumerate(names)]


def _found_rows(result: Result) -> np.ndarray:
    """Rows of queries whose best tile is the true one, by the score margin over the second tile, largest first."""
    rank = result.queries["rank"].to_numpy()
    margin = np.array([s[0] - (s[1] if len(s) > 1 else 0) for s in result.queries["top_scores"].to_pylist()])
    rows = np.nonzero(rank < 1)[0]
    return rows[np.argsort(-margin[rows], kind="stable")]


def _strip(result: Result, row: int, images: Images) -> Image.Image:
    """Draw one query with its best tiles."""
    columns = ("query_id", "positive", "positive_score", "top_tiles", "top_scores", "rank", "error_m")
    values = {name: result.queries[name][row].as_py() for name in columns}
    tiles = [tile for tile in values["top_tiles"] if tile]
    captions = [f"{score:.2f}" for score in values["top_scores"]]
    error = "" if np.isnan(values["error_m"]) else f", best tile {pictures.format_distance(values['error_m'])} away"
    title = f"{values['query_id']}: true tile at rank {values['rank'] + 1:,.0f}{error}"
    truth = None
    if values["positive"] not in tiles:
        truth = images.tile(values["positive"]), f"true tile: {values['positive_score']:.2f}"
    best, labels = [images.tile(tile) for tile in tiles], tile_labels(result.queries, row)
    return pictures.strip(images.photo(row), best, labels, captions, title=title, true_tile=truth)


def _sheet(result: Result, name: str, rows: np.ndarray, images: Images, num_strips: int) -> Figure:
    """Draw the strips of one group under a heading."""
    share = f"{len(rows):,} of {result.queries.num_rows:,} queries"
    heading, definition = f"{name[0].upper()}{name[1:]}: {share}", DEFINITIONS[name]
    strips = [_strip(result, int(row), images) for row in rows[:num_strips]]
    return Figure(pictures.stack(strips, heading, definition), f"{name}: {definition}.")


def _drawn(figure: Any) -> Image.Image:
    """Render a matplotlib figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _page(first: Result, groups: dict[str, np.ndarray], figures: dict[str, Figure]) -> Page:
    """Build the page: metrics, groups of queries and every picture."""
    protocol, metrics, intervals = (first.summary[key] for key in ("protocol", "metrics", "intervals"))
    rows = []
    for name, (low, high) in intervals.items():
        scale, unit = (1, " m") if name.endswith("_m") else (100, " %")
        rows.append([name, f"{scale * metrics[name]:,.2f}{unit}", f"{scale * low:,.2f} to {scale * high:,.2f}"])
    headline = [
        (f"{100 * metrics[name]:.1f} %", name) for name in ("recall@1", "recall@5", "hit_rate_code") if name in metrics
    ]
    if "median_error_m" in metrics:
        headline.append((pictures.format_distance(metrics["median_error_m"]), "median error"))
    count = first.queries.num_rows
    counted = " ".join(
        f"{name[0].upper()}{name[1:]}: {len(rows):,} ({100 * len(rows) / count:.1f} %), {DEFINITIONS[name]}."
        for name, rows in groups.items()
    )
    plain = [figure for file, figure in figures.items() if not file.startswith("strips")]
    strips = [figure for file, figure in figures.items() if file.startswith("strips")]
    sections = [
        Section("Curves and map", figures=plain, side_by_side=True),
        Section("Why queries fail", counted, strips),
    ]
    model, data = first.summary["model"], first.summary["dataset"]
    return Page(
        title=f"{model['name']} on {data['name']}",
        lead=f"Protocol {protocol['name']}: {data['queries']:,} queries, {data['gallery']:,} tiles.",
        headline=headline,
        table=Table(["metric", "value", "95 % interval"], rows),
        sections=sections,
        next_commands="gengeo compare before.json after.json",
        notice=protocol["note"],
        footer="Made by gengeo pictures.",
    )
