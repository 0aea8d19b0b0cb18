"""Look at a folder of a data set before hours of training find out: the facts behind `gengeo data check`.

Before: a name and a folder. After: a `Report`.
"""

from collections.abc import Callable
from pathlib import Path

from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.errors import GenGeoError


def check_data(name: str, root: str | Path) -> Report:
    """Check one data set.

    Benchmarks are compared with their published counts; a user's own table or folder is loaded in all its parts, and
    some of its images are decoded.

    Args:
        name: "cvusa", "cvact", "vigor" (also "vigor-same", "vigor-cross"), "university1652", "table" or "folder".
        root: its folder (or, for "table", its file).

    Raises:
        GenGeoError: an unknown name, or nothing in the folder looks like the data set.
    """
    checks = _checks()
    if name not in checks:
        raise GenGeoError(f"nothing is known to check for {name!r}; expected one of {', '.join(sorted(checks))}")
    return checks[name](root)


def _checks() -> dict[str, Callable[[str | Path], Report]]:
    from gengeo_hf.data.benchmarks import cvact, cvusa, university1652, vigor

    return {
        "cvusa": cvusa.check,
        "cvact": cvact.check,
        "vigor": vigor.check,
        "vigor-same": vigor.check,
        "vigor-cross": vigor.check,
        "university1652": university1652.check,
        "table": lambda root: _own("table", root),
        "folder": lambda root: _own("folder", root),
    }


def _own(name: str, root: str | Path) -> Report:
    """A user's own data: every part, and some images of each view."""
    import numpy as np

    from gengeo_hf.data.loading import AerialImages, GroundImages
    from gengeo_hf.data.registry import load_pairs

    report = Report(name, Path(root))
    if not Path(root).exists():
        raise GenGeoError(f"there is no {root}")
    for split in ("train", "validation", "test"):
        try:
            data = load_pairs(name, root, split)
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
