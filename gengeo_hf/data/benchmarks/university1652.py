"""University-1652: drone images of buildings, and one satellite tile for each building.

The directories as they are distributed; the drone (or street) images are the queries::

    University-Release/train/{drone,street,satellite}/<building>/*.jpeg
    University-Release/test/{query_drone,query_street,gallery_satellite}/<building>/*.jpeg

The images have no positions and no known field of view: they are not panoramas, and the split is by building.
"""

import os
from pathlib import Path

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.area_split import split_training
from gengeo_hf.data.benchmarks.layout import compare_count, existing_folder, kept_pairs, unknown_split
from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.data.tables import gallery_table, query_table

SPLITS = ("train", "validation", "test")
VIEWS = ("drone", "street")
# Published counts. The count of the training set's street images could not be confirmed and is not compared.
PUBLISHED = {("train", "drone"): 37_854, ("test", "drone"): 37_855, ("test", "street"): 2_579}
TILES = {"train": 701, "test": 951}
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def load(
    root: str | Path,
    split: str,
    *,
    view: str = "drone",
    validation_share: float = 0.05,
    validation_seed: int = 0,
    missing: str = "error",
) -> CrossViewDataset:
    """Load a split of University-1652, drone (or street) to satellite.

    Args:
        root: Directory that holds `train` and `test`.
        split: "train" and "validation" are parts of the published training set (whole buildings); "test" has images of
            701 buildings as queries and a gallery of 951 tiles.
        view: View of the queries, "drone" or "street".
        validation_share: Share of the buildings used for validation, 0 to 0.5; use the same value for "train" and
            "validation". 0 trains on all buildings.
        validation_seed: Seed of the choice of validation buildings.
        missing: "error" or "drop" for images of a building without a tile; see `kept_pairs`.

    Raises:
        GenGeoError: A directory is missing, or a building has no tile or several.
    """
    if split not in SPLITS:
        raise unknown_split("university1652", split, SPLITS)
    if view not in VIEWS:
        raise GenGeoError(f"view must be one of {', '.join(VIEWS)}, found {view!r}")
    home, which = _home(root), "test" if split == "test" else "train"
    images, tiles = _find_images(_folder(home, which, view)), _find_tiles(_folder(home, which, "satellite"))
    if (which, view) in PUBLISHED:
        compare_count(f"university1652/{which} ({view})", len(images), PUBLISHED[which, view])
    buildings = [path.parent.name for path in images]
    present = np.array([building in tiles for building in buildings])
    rows = kept_pairs(f"university1652/{which}", [str(path) for path in images], present, missing)
    if which == "train":
        parts = split_training(
            [buildings[row] for row in rows],
            None,
            None,
            validation_share,
            method="id",
            block_m=0,
            margin_m=0,
            seed=validation_seed,
        )
        rows = rows[parts.mask(split)]
        kept = {buildings[row] for row in rows}
        tiles = {building: path for building, path in tiles.items() if building in kept}
    chosen = [images[row] for row in rows]
    return CrossViewDataset(
        f"university1652/{split}" + ("" if view == "drone" else f"[{view}]"),
        query_table([f"{path.parent.name}/{path.stem}" for path in chosen], chosen, [p.parent.name for p in chosen]),
        gallery_table(list(tiles), list(tiles.values())),
    )


def check(root: str | Path) -> Report:
    """Check a directory, for `gengeo data check`."""
    home = _home(root)
    report = Report("university1652", home)
    for which, view in PUBLISHED:
        folder = _folder(home, which, view)
        found = len(_find_images(folder)) if folder.is_dir() else 0
        report.count(
            f"{view} images in {folder.relative_to(home)}", found, PUBLISHED[which, view], "unpack the archive again"
        )
    for which, published in TILES.items():
        folder = _folder(home, which, "satellite")
        found = len(_find_tiles(folder)) if folder.is_dir() else 0
        report.count(f"tiles in {folder.relative_to(home)}", found, published, "unpack the archive again")
    return report


def _home(root: str | Path) -> Path:
    return existing_folder(
        root, ("University-Release", "University-1652"), ("train/satellite", "test/gallery_satellite")
    )


def _folder(home: Path, which: str, view: str) -> Path:
    if which == "train":
        return home / "train" / view
    return home / "test" / ("gallery_satellite" if view == "satellite" else f"query_{view}")


def _find_images(folder: Path) -> list[Path]:
    """Images of all buildings, in the order of their paths."""
    if not folder.is_dir():
        raise GenGeoError(f"there is no directory {folder}")
    found = [
        Path(inner) / name for inner, _, names in os.walk(folder) for name in names if name.lower().endswith(IMAGES)
    ]
    if not found:
        raise GenGeoError(f"{folder} holds no images; expected {folder.name}/<building>/*.jpeg")
    return sorted(found)


def _find_tiles(folder: Path) -> dict[str, Path]:
    """The tile of each building."""
    tiles: dict[str, Path] = {}
    for path in _find_images(folder):
        if path.parent.name in tiles:
            raise GenGeoError(f"the building {path.parent.name} has several tiles in {folder}; expected one")
        tiles[path.parent.name] = path
    return tiles
