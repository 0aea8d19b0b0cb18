"""A folder of pictures that tells what a result means: strips, curves, a map, failures in groups.

Drawn from results of `gengeo evaluate` and, for the strips, the images: PNG files and one page.
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
from gengeo_hf.evaluation.failures import GROUPS, group_failures, marks_of
from gengeo_hf.evaluation.ground_truth import Truth
from gengeo_hf.evaluation.protocols import Protocol, view_headings
from gengeo_hf.evaluation.results import Result

FOUND = "found"
MEANINGS = {FOUND: "the best tile is the true one"} | GROUPS


@dataclass(frozen=True)
class Images:
    """Where strips get their pictures from.

    Args:
        photo: The image of a query, by its row in the result's table, cut as the model saw it.
        tile: The image of a tile, by id.
    """

    photo: Callable[[int], Any]
    tile: Callable[[str], Any]


def images_of(result: Result, root: str | Path | None) -> Images:
    """The images that a result was made from.

    Args:
        result: With its table of queries.
        root: Folder of the data; the synthetic worlds need none.

    Raises:
        GenGeoError: The data are missing, or are not those that were evaluated.
    """
    from gengeo_hf.data import load_pairs
    from gengeo_hf.data.loading import AerialImages, GroundImages

    told, settings = result.summary["protocol"], result.summary["settings"]
    data = load_pairs(told["dataset"], root, split=told["split"], **settings.get("loader", {}))
    truth, photos, tiles = Truth.from_dataset(data), GroundImages(data), AerialImages(data)
    images = {
        "ground": images_fingerprint(photos, truth.query_ids),
        "aerial": images_fingerprint(tiles, truth.tile_ids),
    }
    if truth.fingerprint != result.summary["dataset"]["fingerprint"] or images != settings.get("images", images):
        raise GenGeoError(
            f"{root or data.name} holds other pairs than the result was made from; give the data that were evaluated"
        )
    protocol = Protocol.from_dict(told)
    headings = view_headings(protocol, len(truth.query_ids), settings.get("seed", 0))
    row_of = {tile: row for row, tile in enumerate(truth.tile_ids)}

    def photo(row: int) -> Any:
        image = photos[row]
        return pictures.cut(image, protocol.fov, 0.0 if headings is None else float(headings[row]))

    return Images(photo, lambda tile: tiles[row_of[tile]])


def make_album(
    paths: Sequence[str | Path], folder: str | Path, images: Images | None = None, *, each: int = 5, near_m: float = 100
) -> list[Path]:
    """Draw everything that results tell.

    Args:
        paths: Results; the curves show all of them, map, failures and strips the first.
        folder: Where the files are written.
        images: Of the first result; without them there are no strips.
        each: Strips of each group.
        near_m: Metres up to which a wrong answer is a near miss.

    Returns:
        The files, `index.html` first.

    Raises:
        GenGeoError: No result, or a damaged one.
    """
    results = [Result.load(path) for path in paths]
    if not results:
        raise GenGeoError("there is no result to draw; make one with gengeo evaluate")
    first, folder = results[0], Path(folder)
    groups = {FOUND: _found_rows(first)} | group_failures(first.queries, near_m=near_m)
    figures = _plots(results)
    if images is not None:
        for name, rows in groups.items():
            if len(rows):  # a model may have found nothing at all
                figures[f"strips-{name.replace(' ', '-')}.png"] = _sheet(first, name, rows, images, each)
    for file, figure in figures.items():
        with atomic_file(folder / file) as temporary:
            figure.picture.save(temporary, "PNG", optimize=True)
    write_page(_page(first, groups, figures), folder / "index.html")
    return [folder / "index.html", *(folder / file for file in figures)]


def _plots(results: Sequence[Result]) -> dict[str, Figure]:
    """Recall over k and, where positions are known, share over distance and the map of the first result."""
    labels = _labels(results)
    columns = {name: [result.queries[name].to_numpy() for result in results] for name in ("rank", "error_m")}
    sizes = [result.summary["dataset"]["gallery"] for result in results]
    curve = plots.recall_curve(
        dict(zip(labels, columns["rank"], strict=True)),
        gallery_sizes=dict(zip(labels, sizes, strict=True)),
        groups={label: result.groups for label, result in zip(labels, results, strict=True)},
        most=max(10, min(1000, min(sizes) // 5)),
    )
    shown = {"recall.png": Figure(_drawn(curve), "How often the true tile is among the k best.")}
    known = {n: values for n, values in zip(labels, columns["error_m"], strict=True) if not np.isnan(values).all()}
    if known:
        shown["errors.png"] = Figure(_drawn(plots.error_curve(known)), "How far the best tile lies from the truth.")
    if labels[0] in known:
        table = results[0].queries
        given = [table[name].to_numpy() for name in ("lat", "lon", "found_lat", "found_lon", "error_m")]
        figure = plots.error_map(*given, areas=table["area"].to_pylist())
        shown["map.png"] = Figure(
            _drawn(figure), f"{labels[0]}: which queries were found, and where the lost were put."
        )
    return shown


def _labels(results: Sequence[Result]) -> list[str]:
    """Model names, with what tells two of one name apart."""
    names = [result.summary["model"]["name"] for result in results]
    if len({result.summary["protocol"]["name"] for result in results}) > 1:
        names = [f"{name}, {r.summary['protocol']['name']}" for name, r in zip(names, results, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({n + 1})" for n, name in enumerate(names)]


def _found_rows(result: Result) -> np.ndarray:
    """Queries whose best tile is the true one, the surest first."""
    rank = result.queries["rank"].to_numpy()
    margin = np.array([s[0] - (s[1] if len(s) > 1 else 0) for s in result.queries["top_scores"].to_pylist()])
    rows = np.nonzero(rank < 1)[0]
    return rows[np.argsort(-margin[rows], kind="stable")]


def _strip(result: Result, row: int, images: Images) -> Image.Image:
    """One query with its best tiles."""
    columns = ("query_id", "positive", "positive_score", "top_tiles", "top_scores", "rank", "error_m")
    told = {name: result.queries[name][row].as_py() for name in columns}
    tiles = [tile for tile in told["top_tiles"] if tile]
    captions = [f"{score:.2f}" for score in told["top_scores"]]
    place = "" if np.isnan(told["error_m"]) else f", best tile {pictures.metres(told['error_m'])} away"
    title = f"{told['query_id']}: true tile at rank {told['rank'] + 1:,.0f}{place}"
    truth = None
    if told["positive"] not in tiles:
        truth = images.tile(told["positive"]), f"true tile: {told['positive_score']:.2f}"
    best, marks = [images.tile(tile) for tile in tiles], marks_of(result.queries, row)
    return pictures.strip(images.photo(row), best, marks, captions, title=title, true_tile=truth)


def _sheet(result: Result, name: str, rows: np.ndarray, images: Images, each: int) -> Figure:
    """Strips of one group under a heading."""
    share = f"{len(rows):,} of {result.queries.num_rows:,} queries"
    heading, meaning = f"{name[0].upper()}{name[1:]}: {share}", MEANINGS[name]
    strips = [_strip(result, int(row), images) for row in rows[:each]]
    return Figure(pictures.stack(strips, heading, meaning), f"{name}: {meaning}.")


def _drawn(figure: Any) -> Image.Image:
    """A matplotlib figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _page(first: Result, groups: dict[str, np.ndarray], figures: dict[str, Figure]) -> Page:
    """One page with the numbers, the groups of failures and every picture."""
    told, metrics, intervals = (first.summary[key] for key in ("protocol", "metrics", "intervals"))
    rows = []
    for name, (low, high) in intervals.items():
        scale, unit = (1, " m") if name.endswith("_m") else (100, " %")
        rows.append([name, f"{scale * metrics[name]:,.2f}{unit}", f"{scale * low:,.2f} to {scale * high:,.2f}"])
    headline = [
        (f"{100 * metrics[name]:.1f} %", name) for name in ("recall@1", "recall@5", "hit_rate_code") if name in metrics
    ]
    if "median_error_m" in metrics:
        headline.append((pictures.metres(metrics["median_error_m"]), "median error"))
    count = first.queries.num_rows
    counted = " ".join(
        f"{name[0].upper()}{name[1:]}: {len(rows):,} ({100 * len(rows) / count:.1f} %), {MEANINGS[name]}."
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
        lead=f"Protocol {told['name']}: {data['queries']:,} queries, {data['gallery']:,} tiles.",
        headline=headline,
        table=Table(["metric", "value", "95 % interval"], rows),
        sections=sections,
        next_commands="gengeo compare before.json after.json",
        notice=told["note"],
        footer="Made by gengeo pictures.",
    )
