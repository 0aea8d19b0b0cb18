"""Check a data set before hours of training find out: the facts behind `gengeo data check`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.benchmarks.report import Report

OWN = ("table", "folder")  # of a user, with no published counts


def check_data(name: str, root: str | Path, **options: Any) -> Report:
    """Check one data set.

    Benchmarks are compared with their published counts; a user's own table or folder is loaded in all its parts, and
    some of its images are decoded.

    Args:
        name: "cvusa", "cvact", "vigor" (also "vigor-same", "vigor-cross"), "university1652", "cvcities", "loci",
            "justzoomin", "table" or "folder".
        root: its folder (or, for "table", its file).
        options: of the loader, as for `load_pairs`; a benchmark is then loaded with them in all its parts as well.

    Raises:
        GenGeoError: an unknown name or option, or nothing in the folder looks like the data set.
    """
    checks = _checks()
    if name not in (*checks, *OWN):
        known = ", ".join(sorted((*checks, *OWN)))
        raise GenGeoError(f"nothing is known to check for {name!r}; expected one of {known}")
    if name in OWN:
        return _parts(Report(name, Path(root)), name, root, options)
    report = checks[name](root)
    if options and name == "vigor":
        raise GenGeoError("with options say which protocol: vigor-same or vigor-cross")
    return _parts(report, name, root, options) if options else report


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


def _parts(report: Report, name: str, root: str | Path, options: dict[str, Any]) -> Report:
    """Load every split, and decode some images of each view."""
    from gengeo_hf.data.registry import load_pairs

    if not str(root).startswith("hf:") and not Path(root).exists():
        raise GenGeoError(f"there is no {root}")
    load, own = _table_loader(report, root, options) if name == "table" else (None, set[str]())
    for split in ("train", "validation", "test"):
        if own and split not in own:
            report.warn(split, f"the column split has no {split!r}")
            continue
        try:
            data = load_pairs(name, root, split, **options) if load is None else load(split)
        except GenGeoError as error:
            report.add(split, str(error), "pairs", False)
            continue
        _split(report, split, data)
    return report


def _table_loader(
    report: Report, root: str | Path, options: dict[str, Any]
) -> tuple[Callable[[str], CrossViewDataset], set[str]]:
    """Read a table once; say what was noticed in it. Gives what loads a split, and the splits of its own column."""
    from gengeo_hf.common.tables import read_table
    from gengeo_hf.data.own import PARTS, SPLIT_WORDS, Splits, in_no_part, understand

    given = dict(options)
    columns, missing = given.pop("columns", None), given.pop("missing", "error")
    rows = understand(read_table(root), columns, given)
    for note in rows.notes:
        report.warn("table", note.removeprefix(f"{root}: "))
    if rows.distances:
        report.add("distances", rows.distances)
    for word, count in in_no_part(rows).items():
        what = f"column split, {word!r}" if word else "column split, empty"
        report.warn(what, f"{count:,} rows belong to no part")
    splits = Splits(rows, missing, given)
    words = {str(word or "").strip().lower() for word in rows.split or ()}
    own = {SPLIT_WORDS.get(word, word) for word in words} & set(PARTS)
    return (lambda split: splits.load(split).validate()), own


def _split(report: Report, split: str, data: CrossViewDataset) -> None:
    """Counts of one split, what its cameras say, and whether some of its images decode."""
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
    lost = sum(camera.heading is None for camera in panoramas)
    if lost:
        report.warn(split, f"{lost:,} panoramas have no heading: they are taken as aligned with north")
    for images in (GroundImages(data), AerialImages(data)):
        for row in np.unique(np.linspace(0, len(images) - 1, 12).astype(int)):
            try:
                images[int(row)]
            except GenGeoError as error:
                report.add(split, str(error), "a whole image", False, "fetch or export it again")
