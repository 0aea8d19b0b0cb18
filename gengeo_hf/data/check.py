"""Checks of a data set before training; used by `gengeo data check`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.benchmarks.report import Report

OWN = ("table", "folder")  # users' own data, without published counts


def check_data(name: str, root: str | Path, **options: Any) -> Report:
    """Check one data set.

    Benchmarks are compared with their published counts. Of a user's own table or directory, every split is loaded and
    some images are decoded.

    Args:
        name: "cvusa", "cvact", "vigor" (also "vigor-same", "vigor-cross"), "university1652", "cvcities", "loci",
            "justzoomin", "table" or "folder".
        root: Directory of the data set; for "table" also the file.
        options: Options of the loader, as for `load_pairs`. With options, every split of a benchmark is loaded too.

    Raises:
        GenGeoError: The name or an option is unknown, or the directory does not hold the data set.
    """
    checks = _checks()
    if name not in (*checks, *OWN):
        known = ", ".join(sorted((*checks, *OWN)))
        raise GenGeoError(f"{name!r} cannot be checked; expected one of {known}")
    if name in OWN:
        return _check_splits(Report(name, Path(root)), name, root, options)
    report = checks[name](root)
    if options and name == "vigor":
        raise GenGeoError("with options, name the protocol: write vigor-same or vigor-cross instead of vigor")
    return _check_splits(report, name, root, options) if options else report


def _checks() -> dict[str, Callable[[str | Path], Report]]:
    from gengeo_hf.data.benchmarks import cvact, cvcities, cvusa, justzoomin, loci, university1652, vigor

    return {
        "cvusa": cvusa.check,
        "cvact": cvact.check,
        "vigor": vigor.check,
        "vigor-same": vigor.check,
        "vigor-cross": vigor.check,
        "university1652": university1652.check,
        "cvcities": cvcities.check,
        "loci": loci.check,
        "justzoomin": justzoomin.check,
        "justzoomin-area": justzoomin.check,
        "justzoomin-covered": justzoomin.check,
    }


def _check_splits(report: Report, name: str, root: str | Path, options: dict[str, Any]) -> Report:
    """Load every split, and decode some images of each view."""
    from gengeo_hf.data.registry import load_pairs

    if not str(root).startswith("hf:") and not Path(root).exists():
        raise GenGeoError(f"there is no {root}")
    load, stated = _table_loader(report, root, options) if name == "table" else (None, set[str]())
    for split in ("train", "validation", "test"):
        if stated and split not in stated:
            report.warn(split, f"the column split has no {split!r}")
            continue
        try:
            data = load_pairs(name, root, split, **options) if load is None else load(split)
        except GenGeoError as error:
            report.add(split, str(error), "pairs", False)
            continue
        _check_split(report, split, data)
    return report


def _table_loader(
    report: Report, root: str | Path, options: dict[str, Any]
) -> tuple[Callable[[str], CrossViewDataset], set[str]]:
    """Read a table once, and report its notes.

    Returns:
        Function that loads a split by name; names of the splits in the table's column `split`, empty without one.
    """
    from gengeo_hf.common.tables import read_table
    from gengeo_hf.data.own import SPLITS, Splits, count_unknown_splits, parse_rows, parse_split_name

    given = dict(options)
    columns, missing = given.pop("columns", None), given.pop("missing", "error")
    rows = parse_rows(read_table(root), columns, given)
    for note in rows.notes:
        report.warn("table", note.removeprefix(f"{root}: "))
    if rows.distances:
        report.add("distances", rows.distances)
    for value, count in count_unknown_splits(rows).items():
        what = f"column split, {value!r}" if value else "column split, empty"
        report.warn(what, f"{count:,} rows belong to no split")
    splits = Splits(rows, missing, given)
    stated = {parse_split_name(value) for value in rows.split or ()} & set(SPLITS)
    return (lambda split: splits.load(split).validate()), stated


def _check_split(report: Report, split: str, data: CrossViewDataset) -> None:
    """Report the counts and cameras of one split, and decode some of its images."""
    import numpy as np

    from gengeo_hf.data.loading import AerialImages, GroundImages

    lat, lon = (np.array(data.queries[key][:], dtype=np.float64) for key in ("lat", "lon"))
    known = int((np.isfinite(lat) & np.isfinite(lon)).sum())
    cameras = data.cameras()
    panoramas = [camera for camera in cameras if camera.is_panorama]
    report.add(
        split,
        f"{len(data.queries):,} photos ({len(panoramas):,} panoramas, {known:,} with a position), "
        f"{len(data.gallery):,} tiles",
    )
    unaligned = sum(camera.heading is None for camera in panoramas)
    if unaligned:
        report.warn(split, f"{unaligned:,} panoramas have no heading and are assumed to be aligned with north")
    for images in (GroundImages(data), AerialImages(data)):
        for row in np.unique(np.linspace(0, len(images) - 1, 12).astype(int)):
            try:
                images[int(row)]
            except GenGeoError as error:
                report.add(split, str(error), "a readable image", False, "fetch or export it again")
