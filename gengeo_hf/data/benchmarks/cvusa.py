"""CVUSA, the subset that papers use: panoramas from all over the United States and one tile for each.

The directory holds `bingmap/19`, `streetview/panos`, the lists and, optionally, GPS positions::

    CVUSA/bingmap/19/0000001.jpg               aerial, 750 x 750 pixels
    CVUSA/streetview/panos/0000001.jpg         ground, 224 x 1232 pixels, north in the centre column
    CVUSA/splits/{train,val}-19zl.csv          pairs; the "val" file is the published test set
    CVUSA/split_locations/all.csv              GPS positions: line i belongs to image i
"""

import csv
from pathlib import Path, PurePosixPath

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.area_split import split_training
from gengeo_hf.data.benchmarks.layout import (
    compare_count,
    existing_folder,
    first_file,
    kept_pairs,
    names_in,
    need_file,
    read_lines,
    unknown_split,
)
from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.data.tables import PANORAMA, gallery_table, query_table

SPLITS = ("train", "validation", "test")
PUBLISHED = {"train": 35_532, "test": 8_884}
DEDUPLICATED = {
    "train": {34_769: "GeoDTR's de-duplicated list"},
    "test": {8_841: "GeoDTR's de-duplicated list"},
}
LISTS = {"train": "train-19zl.csv", "test": "val-19zl.csv"}
LIST_FOLDERS = ("splits", "", "split", "split_locations")
GPS_PATHS = (
    "split_locations/all.csv",
    "all.csv",
    "splits/all.csv",
    "split/all.csv",
    "splits/split_locations/all.csv",
    "split_locations_all.csv",
)
GROUND, AERIAL = "streetview/panos", "bingmap/19"
BLOCK_M, MARGIN_M = 20_000.0, 500.0  # large blocks, since the photos are clustered in a large country


def load(
    root: str | Path,
    split: str,
    *,
    list_file: str | Path | None = None,
    validation_share: float = 0.05,
    validation_by: str = "area",
    validation_seed: int = 0,
    missing: str = "error",
) -> CrossViewDataset:
    """Load a split of CVUSA.

    Args:
        root: Directory `CVUSA` (or `CVPR_subset`), or the one that holds it.
        split: "train" and "validation" are parts of the published training set; "test" is the published test set,
            whose list is the file `val-19zl.csv`.
        list_file: Another list in the same format, for example a de-duplicated one; None takes the published list.
        validation_share: Share of the training set used for validation, 0 to 0.5; use the same value for "train" and
            "validation". 0 trains on all pairs.
        validation_by: "area" (needs GPS positions) or "id"; see `split_training`.
        validation_seed: Seed of the choice of validation blocks.
        missing: "error" or "drop"; see `kept_pairs`.

    Raises:
        GenGeoError: A list or images are missing, a row is malformed, or GPS positions are needed and missing.
    """
    if split not in SPLITS:
        raise unknown_split("cvusa", split, SPLITS)
    home = _home(root)
    which = "test" if split == "test" else "train"
    path = Path(list_file) if list_file is not None else _list_path(home, which)
    stems, aerial, ground = read_list(path)
    compare_count(f"cvusa/{which}", len(stems), PUBLISHED[which], DEDUPLICATED[which])
    rows = kept_pairs(f"cvusa/{which}", ground, _present(home, aerial, ground), missing)
    positions = read_positions(home)
    chosen = positions_of(stems, positions)
    if split != "test":
        parts = split_training(
            [stems[row] for row in rows],
            None if chosen is None else chosen[rows, 2],
            None if chosen is None else chosen[rows, 3],
            validation_share,
            method=validation_by,
            block_m=BLOCK_M,
            margin_m=MARGIN_M,
            seed=validation_seed,
        )
        rows = rows[parts.mask(split)]
    ids = [stems[row] for row in rows]
    columns = [None] * 4 if chosen is None else list(chosen[rows].T)
    queries = query_table(
        ids,
        [home / ground[row] for row in rows],
        ids,
        lat=columns[2],
        lon=columns[3],
        heading=0.0,
        fov=PANORAMA,
        vertical_fov=360.0 * 224 / 1232,  # the published images are crops of spherical panoramas
    )
    return CrossViewDataset(
        f"cvusa/{split}",
        queries,
        gallery_table(ids, [home / aerial[row] for row in rows], lat=columns[0], lon=columns[1]),
    )


def read_list(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Read a list of pairs: ids (file stems), aerial and ground paths relative to the root.

    Raises:
        GenGeoError: The file does not exist, a row has fewer than two paths, or its paths have different numbers.
    """
    if not path.is_file():
        raise GenGeoError(f"there is no list {path}")
    stems, aerial, ground = [], [], []
    for number, row in enumerate(csv.reader(read_lines(path)), 1):
        names = [PurePosixPath(cell.strip().replace("\\", "/")) for cell in row[:2]]
        if len(names) < 2 or names[0].stem != names[1].stem or not names[0].stem.isdigit():
            raise GenGeoError(
                f"{path}, line {number}: expected bingmap/19/N.jpg,streetview/panos/N.jpg with the same N, "
                f"found {','.join(row)[:100]!r}"
            )
        stems.append(names[0].stem)
        aerial.append(str(names[0]))
        ground.append(str(names[1]))
    if not stems:
        raise GenGeoError(f"{path} is empty")
    return stems, aerial, ground


def read_positions(home: Path) -> np.ndarray | None:
    """Read the GPS positions of all images.

    The fifth column of the file, an angle, is not used: the panoramas are aligned with north.

    Returns:
        Latitude and longitude of the tile, then of the photo, in degrees, float64 (lines, 4); None without the file.

    Raises:
        GenGeoError: A line of the file has fewer than four numbers.
    """
    path = first_file(home, GPS_PATHS)
    if path is None:
        return None
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except ValueError as error:
        raise GenGeoError(f"{path} is not a table of numbers ({str(error).splitlines()[0]}); fetch it again") from error
    if table.shape[1] < 4:
        raise GenGeoError(f"{path} has {table.shape[1]} columns, expected aerial lat, lon, ground lat, lon, angle")
    return table[:, :4]


def positions_of(stems: list[str], positions: np.ndarray | None) -> np.ndarray | None:
    """Rows of `read_positions` for some ids: line N of the file, counted from 1, belongs to image N.

    Args:
        stems: Ids: numbers as text.
        positions: Result of `read_positions`: degrees, (lines, 4), or None.

    Returns:
        Degrees, float64 (ids, 4); None without positions.

    Raises:
        GenGeoError: The file has too few lines.
    """
    if positions is None:
        return None
    lines = np.array([int(stem) for stem in stems])
    if lines.min() < 1 or lines.max() > len(positions):
        raise GenGeoError(
            f"the GPS file has {len(positions):,} lines, and image {lines.max()} needs line {lines.max()}"
        )
    return positions[lines - 1]


def check(root: str | Path) -> Report:
    """Check a directory, for `gengeo data check`."""
    home = _home(root)
    report = Report("cvusa", home)
    for what, folder, published, size in (
        ("aerial tiles", AERIAL, 44_416, (750, 750)),
        ("panoramas", GROUND, 44_516, (224, 1232)),
    ):
        found = len(names_in(home / folder))
        # 100 panoramas of the archive belong to no pair, so the count is not compared; the lists are, below.
        report.add(
            f"{what} in {folder}",
            f"{found:,} files (the archive has {published:,})",
            ok=found > 0,
            advice="" if found else "unpack the CVPR subset of CVUSA here",
        )
        if found:
            report.images(what, home / folder, size)
    present = {AERIAL: names_in(home / AERIAL), GROUND: names_in(home / GROUND)}
    for which, file in LISTS.items():
        found_list = first_file(home, _list_candidates(which))
        advice = "the lists come with the CVPR subset; copies lie in the repositories of later papers"
        report.add_file(f"{which} list", found_list, home / "splits" / file, advice)
        if found_list is not None:
            _, aerial, ground = read_list(found_list)
            report.count(f"pairs of {which}", len(aerial), PUBLISHED[which], "", DEDUPLICATED[which])
            there = _present(home, aerial, ground, present)
            gone = [ground[row] for row in np.flatnonzero(~there)]
            report.missing(f"images of {which}", gone, len(aerial), "unpack the archive again, or set missing=drop")
    positions = first_file(home, GPS_PATHS)
    advice = (
        "without it, set validation_by=id; there are no geographic neighbours in training and no distances in results"
    )
    report.add_file("GPS (all.csv)", positions, home / GPS_PATHS[0], advice, needed=False)
    if positions is not None:
        table = read_positions(home)
        lines = 0 if table is None else len(table)
        report.add("GPS lines", f"{lines:,}", "44,516 or more", lines >= 44_516, "line i must belong to image i")
    return report


def _home(root: str | Path) -> Path:
    return existing_folder(root, ("CVUSA", "CVPR_subset", "cvusa"), (AERIAL, GROUND))


def _list_candidates(which: str) -> list[str]:
    return [str(PurePosixPath(folder) / LISTS[which]) for folder in LIST_FOLDERS]


def _list_path(home: Path, which: str) -> Path:
    return need_file(home, _list_candidates(which), f"the list of {which} pairs")


def _present(home: Path, aerial: list[str], ground: list[str], known: dict[str, set[str]] | None = None) -> np.ndarray:
    """Whether both images of each pair exist: bool (N,). Each directory is listed once."""
    listed = dict(known or {})

    def exists(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if folder not in listed:
            listed[folder] = names_in(home / folder)
        return name in listed[folder]

    return np.array([exists(a) and exists(g) for a, g in zip(aerial, ground, strict=True)])
