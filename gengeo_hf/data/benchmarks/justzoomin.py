"""Just Zoom In: ordinary photos of Washington DC by Mapillary's contributors, and cells of the city's orthophoto.

`gengeo data get justzoomin` downloads both and writes `pairs.parquet`, a table as users' own data have it. This loader
selects the rows of a split from it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.common.tables import PAIRS_FILE, read_table
from gengeo_hf.data.benchmarks import justzoomin_lists as lists
from gengeo_hf.data.benchmarks.layout import compare_count, logger, names_in, unknown_split
from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.data.own import SPLITS, Splits, parse_rows

NAME = "justzoomin"
PART_COLUMNS = {"published": "split", "area": "area_split"}
GALLERIES = ("named", "covered")
COVERED = "covered"  # value of a column of splits: a cell that no photo of the test list names
GET = "gengeo data get justzoomin --out"


def load(
    root: str | Path, split: str, *, part: str = "published", gallery: str = "named", missing: str = "error"
) -> CrossViewDataset:
    """Load one split of the data that `gengeo data get justzoomin` downloaded.

    Args:
        root: Directory of the data set.
        split: "train", "validation" or "test".
        part: "published": test list of the authors, whose photos may be next to training photos; "area": test blocks
            at least 100 m from any training photo.
        gallery: "named": cells that a photo of the split names, whether or not the photo is on disk; "covered": all
            cells that the orthophoto covers, as in a search. The split "train" always has its own cells only.
        missing: "error" or "drop"; see `kept_pairs`.

    Raises:
        GenGeoError: The table is missing, an option is unknown, or the split has no photos on disk.
    """
    if split not in SPLITS:
        raise unknown_split(NAME, split, SPLITS)
    if part not in PART_COLUMNS:
        raise GenGeoError(f"part must be one of {', '.join(PART_COLUMNS)}, found {part!r}")
    if gallery not in GALLERIES:
        raise GenGeoError(f"gallery must be one of {', '.join(GALLERIES)}, found {gallery!r}")
    rows = parse_rows(_table(root), {"split": PART_COLUMNS[part]}, {})
    for note in rows.notes:
        logger.warning("%s", note)
    rows.name = NAME + ("-area" if part == "area" else "") + ("-covered" if gallery == "covered" else "")
    if gallery == "covered" and split != "train":
        stated, photo = rows.split or [], rows.has_photo
        rows.split = [split if value == COVERED or not photo[row] else value for row, value in enumerate(stated)]
    data = Splits(rows, missing, {}).load(split)
    if split == "test" and part == "published":
        compare_count(f"{rows.name}/test", len(data.queries), lists.PUBLISHED_TEST)
    return data


def load_published(root: str | Path, split: str, **options: Any) -> CrossViewDataset:
    """`load` with part=published and gallery=named.

    Raises:
        GenGeoError: The options state another part or gallery; or see `load`.
    """
    return load(root, split, **_set_option(_set_option(options, "part", "published"), "gallery", "named"))


def load_area(root: str | Path, split: str, **options: Any) -> CrossViewDataset:
    """`load` with part=area.

    Raises:
        GenGeoError: The options state another part; or see `load`.
    """
    return load(root, split, **_set_option(options, "part", "area"))


def load_covered(root: str | Path, split: str, **options: Any) -> CrossViewDataset:
    """`load` with part=published and gallery=covered.

    Raises:
        GenGeoError: The options state another part or gallery; or see `load`.
    """
    return load(root, split, **_set_option(_set_option(options, "part", "published"), "gallery", "covered"))


def _set_option(options: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """Options with the value that the name of the data set implies."""
    if options.get(key, value) != value:
        raise GenGeoError(
            f"the name of the data set implies {key}={value}, found {key}={options[key]}: remove the option, or use "
            f"another of {NAME} (published test list), {NAME}-covered (the same with all cells in the gallery) and "
            f"{NAME}-area (split by area)"
        )
    return options | {key: value}


def _table(root: str | Path) -> Any:
    """Read `pairs.parquet`, and check that it belongs to this data set."""
    path = Path(root) / PAIRS_FILE
    if not path.is_file():
        raise GenGeoError(f"{root} has no {PAIRS_FILE}: `{GET} {root}` makes it and keeps existing files")
    table = read_table(path)
    if lacking := sorted({"ground", "aerial", "query_id", "tile_id", *PART_COLUMNS.values()} - set(table.columns)):
        raise GenGeoError(
            f"{path} has no column {lacking[0]}: it belongs to another data set; load it as `table {root}`"
        )
    return table


def check(root: str | Path) -> Report:
    """Compare a directory with the published data, and measure distances from test photos to training photos.

    Raises:
        GenGeoError: The directory or its lists cannot be read.
    """
    root = Path(root)
    report = Report(NAME, root)
    levels = lists.read_layout(root)
    report.add("layout", f"zoom {levels.start} to {levels.stop - 1}, {lists.grid.CRS}")
    photos = lists.read_photos(root)
    _check_lists(report, photos)
    names = names_in(root / lists.PHOTOS)
    there = np.array([name + lists.SUFFIX in names for name in photos.ids], dtype=bool)
    _check_photos(report, root, photos, there, names)
    _check_tiles(report, root)
    _check_leak(report, photos, there)
    return report


def _check_lists(report: Report, photos: lists.Photos) -> None:
    """Compare the numbers of photos and cells with the published ones, and stored cells with positions."""
    test = int(photos.is_test.sum())
    report.count(
        "test list", test, lists.PUBLISHED_TEST, "fetch metadata/ again, or check whether a newer revision changed it"
    )
    report.add("all photos", f"{len(photos):,} listed", f"about {lists.PUBLISHED_ALL:,}")
    cells = len(np.unique(photos.cells[photos.is_test]))
    report.add("cells of the test list", f"{cells:,} (published: {lists.PUBLISHED_CELLS:,})")
    wrong = photos.misses + photos.near_misses
    found = f"{wrong:,} of {len(photos):,} rows disagree with their position, {photos.misses:,} by more than one cell"
    ok = photos.misses == 0 and photos.near_misses <= lists.MAX_NEAR_MISSES * len(photos)
    report.add(
        "stored cells",
        found,
        "at most 0.1 %, by one cell",
        ok,
        "" if ok else "the lists are damaged or use another grid",
    )


def _check_photos(report: Report, root: Path, photos: lists.Photos, there: np.ndarray, names: set[str]) -> None:
    """Report how many listed photos are on disk and which area they cover, and decode some of them."""
    test = there & photos.is_test
    advice = "" if there.any() else f"`{GET} {root}` fetches them"
    shown, listed = int(test.sum()), int(photos.is_test.sum())
    found = f"{int(there.sum()):,} of {len(photos):,} listed photos, {shown:,} of {listed:,} of the test list"
    report.add("photos on disk", found, "some", bool(there.any()), advice)
    if archives := _archives(root):
        report.add("photo archives", archives)
    if not test.any() and there.any():
        report.warn("photos on disk", "none is in the test list, so evaluation is not possible; fetch more archives")
    if unlisted := len(names) - int(there.sum()):
        report.warn("photos on disk", f"{unlisted:,} files in {lists.PHOTOS} are not in the lists")
    if there.any():
        report.add("part of the city", photos.bounds(there))
        report.images("photos", root / lists.PHOTOS)


def _archives(root: Path) -> str:
    """Text that names the unpacked photo archives; "" if `gengeo data get` did not fill the directory."""
    state, start = root / lists.STATE, "streetview_images_"
    try:
        files = json.loads((state / lists.LISTING).read_text(encoding="utf-8"))["files"]
        total = sum(Path(name).name.startswith(start) for name in files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    names = sorted(name.removesuffix(".parquet") for name in names_in(state / lists.UNPACKED) if name.startswith(start))
    return f"{len(names)} of {total} unpacked, whole or in part: {', '.join(names) or 'none'}"


def _check_tiles(report: Report, root: Path) -> None:
    """Report the number of tiles of each zoom level and of rendered cells."""
    home = root / "satellite"
    for zoom in sorted((name for name in names_in(home) if name.lstrip("-").isdigit()), key=int, reverse=True):
        count = sum(len(names_in(home / zoom / column)) for column in names_in(home / zoom))
        report.add(f"tiles of zoom {zoom}", f"{count:,}")
    for folder in sorted(names_in(root / "cells")):
        report.add(f"cells {folder}", f"{len(names_in(root / 'cells' / folder)):,} of {lists.grid.CELLS**2:,} rendered")
        report.images(f"cells {folder}", root / "cells" / folder)
    has_table = (root / PAIRS_FILE).is_file()
    report.add(
        "table", PAIRS_FILE if has_table else "not found", PAIRS_FILE, has_table, "" if has_table else f"{GET} {root}"
    )


def _check_leak(report: Report, photos: lists.Photos, there: np.ndarray) -> None:
    """Report distances from test photos to training photos, for the published split and for the split by area."""
    splits = {"published": lists.published_parts(photos), "area": lists.area_parts(photos)}
    for name, parts in splits.items():
        by_list = lists.list_parts(photos) if name == "published" else parts
        if len(distances := lists.distances_to_training(photos, by_list)):
            report.add(f"split {name!r}, all listed photos", lists.format_leak(distances))
        counts = ", ".join(f"{int((there & (parts == part)).sum()):,} {part}" for part in SPLITS)
        report.add(f"split {name!r}, on disk", counts)
