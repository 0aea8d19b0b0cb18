"""Look at a folder of a data set before hours of training find out: the facts behind `gengeo data check`.

Before: a name and a folder. After: a `Report`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.benchmarks.report import Report

OWN = ("table", "folder")  # of a user, with no published counts


def check_data(name: str, root: str | Path, **options: Any) -> Report:
    """Check one data set.

    Benchmarks are compared with their published counts; a user's own table or folder is loaded in all its parts, and
    some of its images are decoded.

    Args:
        name: "cvusa", "cvact", "vigor" (also "vigor-same", "vigor-cross"), "university1652", "table" or "folder".
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
    from gengeo_hf.data.benchmarks import cvact, cvusa, university1652, vigor

    return {
        "cvusa": cvusa.check,
        "cvact": cvact.check,
        "vigor": vigor.check,
        "vigor-same": vigor.check,
        "vigor-cross": vigor.check,
        "university1652": university1652.check,
    }


def _parts(report: Report, name: str, root: str | Path, options: dict[str, Any]) -> Report:
    """Load every part, and decode some images of each view."""
    import numpy as np

    from gengeo_hf.data.loading import AerialImages, GroundImages
    from gengeo_hf.data.registry import load_pairs

    if not Path(root).exists():
        raise GenGeoError(f"there is no {root}")
    if name == "table":
        _column_split(report, root, options)
    for split in ("train", "validation", "test"):
        try:
            data = load_pairs(name, root, split, **options)
        except GenGeoError as error:
            report.add(split, str(error), "pairs", False)
            continue
        known = sum(lat is not None for lat in data.queries["lat"][:])
        panoramas = sum(fov is not None and fov >= 360 for fov in data.queries["fov"][:])
        report.add(split, f"{len(data.queries):,} photos ({panoramas:,} panoramas, {known:,} with a position), "
                          f"{len(data.gallery):,} tiles")  # fmt: skip
        for images in (GroundImages(data), AerialImages(data)):
            for row in np.unique(np.linspace(0, len(images) - 1, 12).astype(int)):
                try:
                    images[int(row)]
                except GenGeoError as error:
                    report.add(split, str(error), "a whole image", False, "fetch or export it again")
    return report


def _column_split(report: Report, root: str | Path, options: dict[str, Any]) -> None:
    """Say how many rows of a table name no part in their column `split`."""
    from gengeo_hf.data.own import in_no_part
    from gengeo_hf.data.own_columns import read_rows

    try:
        lost = in_no_part(read_rows(Path(root), options.get("columns") or {}))
    except GenGeoError:  # whoever loads the parts says so
        return
    for word, count in lost.items():
        report.add(f"column split, {word!r}" if word else "column split, empty", f"{count:,} rows belong to no part")
