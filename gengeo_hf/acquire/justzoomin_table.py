"""Table of pairs of Just Zoom In: photos on disk, their cells, and the cells of both galleries."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.acquire.hub_files import HubFiles
from gengeo_hf.acquire.justzoomin_cells import Cells
from gengeo_hf.acquire.own_table import write_own_table
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import metres_per_degree
from gengeo_hf.data.benchmarks import justzoomin_grid as grid
from gengeo_hf.data.benchmarks import justzoomin_lists as lists
from gengeo_hf.data.benchmarks.justzoomin import COVERED
from gengeo_hf.data.benchmarks.layout import names_in
from gengeo_hf.data.sources import DataSource, DataSources

AREA = "washington-dc"
CITATION = "Erzurumlu, Kwag, Yilmaz: Just Zoom In, 2026, arXiv:2603.25686"
LINK = "https://www.mapillary.com/app/?pKey={}"


def sources_of(files: HubFiles, facts: dict[str, Any], day: str) -> DataSources:
    """Sources and licences of the images.

    Args:
        files: Files of the data set on the Hub.
        facts: Facts for `SOURCES.json`.
        day: Date of the download, ISO 8601.
    """
    address = f"https://huggingface.co/datasets/{files.repo_id}"
    photos = DataSource(
        "photos",
        "Mapillary contributors",
        "CC-BY-SA-4.0",
        "Photos: Mapillary contributors, CC BY-SA 4.0; each at https://www.mapillary.com/app/?pKey=IMAGE_ID. "
        f"Data set: {CITATION}.",
        address,
        retrieved=day,
    )
    aerial = DataSource(
        "aerial imagery",
        "Open Data DC (DC OCTO)",
        "CC-BY-4.0",
        "Aerial: Open Data DC / DC OCTO orthophoto, CC BY 4.0.",
        address,
        retrieved=day,
        acquired="2021, as far as is known",
    )
    return DataSources("Just Zoom In", (photos, aerial), facts)


def write_table(root: Path, files: HubFiles, cells: Cells, zoom: int, crop_m: float) -> dict[str, Any]:
    """Write `pairs.parquet` with its attribution and sources.

    Args:
        root: Directory of the data set.
        files: Files of the data set on the Hub.
        cells: Rendered cells.
        zoom: Zoom level of the cells.
        crop_m: Side of a cell's crop in metres.

    Returns:
        Facts about the data set, as `SOURCES.json` states them.

    Raises:
        GenGeoError: No listed photo is on disk, or none is in a covered cell.
    """
    photos = lists.read_photos(root)
    names = names_in(root / lists.PHOTOS)
    there = np.array([name + lists.SUFFIX in names for name in photos.ids], dtype=bool)
    if not there.any():
        raise GenGeoError(f"{root / lists.PHOTOS} holds none of the {len(photos):,} listed photos")
    kept = there & cells.is_covered[photos.row, photos.column]
    if not kept.any():
        raise GenGeoError(f"none of the {int(there.sum()):,} photos lies in a cell that the tiles cover")
    parts = {"split": lists.published_parts(photos), "area_split": lists.area_parts(photos)}
    rows = np.flatnonzero(kept)
    tiles = np.argwhere(cells.is_covered)
    table, area_split = _columns(photos, rows, tiles, parts, cells.folder, crop_m)
    facts = _facts(photos, there, kept, parts, cells, zoom, crop_m)
    facts |= {"dataset": files.repo_id, "revision": files.revision, "licence stated by the card": files.licence}
    credit = ((photos.ids[row], "", LINK.format(photos.ids[row]), "") for row in rows)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    write_own_table(root, table, sources_of(files, facts, day), credit, {"area_split": area_split})
    return facts


def _columns(
    photos: lists.Photos,
    rows: np.ndarray,
    tiles: np.ndarray,
    parts: dict[str, np.ndarray],
    folder: str,
    crop_m: float,
) -> tuple[dict[str, Any], list[str]]:
    """Columns of the table, and the column of the split by area; photos come first, then every covered cell."""
    row = np.concatenate([photos.row[rows], tiles[:, 0]])
    column = np.concatenate([photos.column[rows], tiles[:, 1]])
    ids = [grid.cell_name(r, c) for r, c in zip(row.tolist(), column.tolist(), strict=True)]
    tile_lat, tile_lon = grid.cell_centres(row, column)
    high, wide = (crop_m / 2 / per for per in metres_per_degree(tile_lat))
    none = np.full(len(tiles), np.nan)
    # A row without a photo belongs to the test gallery if any listed test photo names its cell.
    named = {key: set(photos.cells[part == "test"].tolist()) for key, part in parts.items()}
    numbers = (tiles[:, 0] * grid.CELLS + tiles[:, 1]).tolist()
    splits = {
        key: [*part[rows].tolist(), *("test" if number in named[key] else COVERED for number in numbers)]
        for key, part in parts.items()
    }
    table: dict[str, Any] = {
        "ground": [*(f"{lists.PHOTOS}/{photos.ids[r]}{lists.SUFFIX}" for r in rows), *[None] * len(tiles)],
        "aerial": [f"{folder}/{name}.jpg" for name in ids],
        "lat": np.concatenate([photos.lat[rows], none]),
        "lon": np.concatenate([photos.lon[rows], none]),
        "tile_lat": tile_lat,
        "tile_lon": tile_lon,
        "west": tile_lon - wide,
        "south": tile_lat - high,
        "east": tile_lon + wide,
        "north": tile_lat + high,
        "area": [AREA] * len(ids),
        "query_id": [*(photos.ids[r] for r in rows), *[None] * len(tiles)],
        "tile_id": ids,
        "split": splits["split"],
    }
    if crop_m > grid.CELL_M:
        there = set(numbers)
        others = grid.holding_cells(photos.lat[rows], photos.lon[rows], crop_m)
        table["extra_positives"] = [
            *([grid.cell_name(*cell) for cell in row if cell[0] * grid.CELLS + cell[1] in there] for row in others),
            *[[]] * len(tiles),
        ]
    return table, splits["area_split"]


def _facts(
    photos: lists.Photos,
    there: np.ndarray,
    kept: np.ndarray,
    parts: dict[str, np.ndarray],
    cells: Cells,
    zoom: int,
    crop_m: float,
) -> dict[str, Any]:
    """Facts about the data set for `SOURCES.json`."""
    leak = lists.distances_to_training(photos, lists.list_parts(photos))
    return {
        "photos": int(kept.sum()),
        "listed photos": len(photos),
        "listed test photos": int(photos.is_test.sum()),
        "photos left out, cell not covered": int((there & ~kept).sum()),
        "cells rendered": int(cells.is_covered.sum()),
        "cells from a coarser zoom": cells.coarse,
        "source tiles not used": cells.reasons,
        "zoom": zoom,
        "crop_m": crop_m,
        "bounds of the photos": photos.bounds(kept),
        "test photos within metres of a training photo, published split, all listed": {
            str(reach): round(float((leak <= reach).mean()), 4) if len(leak) else None for reach in lists.LEAK_M
        },
    }
