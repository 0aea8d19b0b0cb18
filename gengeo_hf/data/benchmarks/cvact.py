"""CVACT: panoramas of Canberra and one tile for each.

The directory holds the distributed archives and `ACT_data.mat`, which is distributed separately::

    CVACT/ACT_data.mat                                            ids, UTM positions, splits
    CVACT/ANU_data_small/streetview/<id>_grdView.jpg              ground, 832 x 1664 pixels, north in the centre column
    CVACT/ANU_data_small/satview_polish/<id>_satView_polish.jpg   aerial, 1200 x 1200 pixels
    CVACT/ANU_data_test/{streetview,satview_polish}/              the same, for the large test set
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.area_split import split_training
from gengeo_hf.data.benchmarks.layout import (
    compare_count,
    existing_folder,
    first_file,
    kept_pairs,
    names_in,
    unknown_split,
)
from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.data.tables import PANORAMA, gallery_table, query_table

SPLITS = ("train", "validation", "val", "test")
PUBLISHED = {"train": 35_532, "val": 8_884, "test": 92_802}
# Variable and field of ACT_data.mat with the 1-based indices of each split.
FIELDS = {"train": ("trainSet", "trainInd"), "val": ("valSet", "valInd"), "test": ("valSetAll", "valInd")}
WITHOUT_IMAGES = "1LqOHPdTiBbRucz-jFOSbQ"  # listed for training, but distributed without images
MAT_PATHS = ("ACT_data.mat", "ANU_data_small/ACT_data.mat", "ANU_data_test/ACT_data.mat", "splits/ACT_data.mat")
GROUND, AERIAL = "streetview", "satview_polish"
GROUND_END, AERIAL_END = "_grdView.jpg", "_satView_polish.jpg"
UTM = "EPSG:32755"  # zone 55 south: Canberra
BLOCK_M, MARGIN_M = 500.0, 100.0


@dataclass(frozen=True)
class Index:
    """Contents of `ACT_data.mat`.

    Args:
        ids: Id of each panorama, also of those without images, length N.
        utm: Easting and northing in metres, (N, 2).
        rows: Zero-based rows of each split, in the order of the file.
    """

    ids: list[str]
    utm: np.ndarray
    rows: dict[str, np.ndarray]


def load(
    root: str | Path,
    split: str,
    *,
    validation_share: float = 0.05,
    validation_by: str = "area",
    validation_seed: int = 0,
    missing: str = "error",
) -> CrossViewDataset:
    """Load a split of CVACT.

    Args:
        root: Directory that holds `ANU_data_small` and `ANU_data_test`.
        split: "train" and "validation" are parts of the published training set, "val" is the published CVACT_val
            (8,884 pairs), "test" is CVACT_test (92,802 pairs), which contains "val". The test split consists of all
            pairs in `ANU_data_test`, sorted by id; it needs `ACT_data.mat` only for positions.
        validation_share: Share of the training set used for validation, 0 to 0.5; use the same value for "train" and
            "validation". 0 trains on all pairs.
        validation_by: "area" or "id"; see `split_training`.
        validation_seed: Seed of the choice of validation blocks or ids.
        missing: "error" or "drop"; see `kept_pairs`. One training pair was distributed without images and is always
            left out.

    Raises:
        GenGeoError: The .mat file or images are missing, or the .mat file is invalid.
        MissingExtraError: pyproj, which converts UTM to degrees, is not installed.
    """
    if split not in SPLITS:
        raise unknown_split("cvact", split, SPLITS)
    home = _home(root)
    index = read_index(home)
    folder = home / ("ANU_data_test" if split == "test" else "ANU_data_small")
    ids = _test_ids(folder) if split == "test" else _listed_ids(home, folder, index, split, missing)
    lat, lon = _positions(ids, index)
    if split in ("train", "validation"):
        parts = split_training(
            ids,
            lat,
            lon,
            validation_share,
            method=validation_by,
            block_m=BLOCK_M,
            margin_m=MARGIN_M,
            seed=validation_seed,
        )
        mask = parts.mask(split)
        ids, lat, lon = [ids[row] for row in np.flatnonzero(mask)], lat[mask], lon[mask]
    ground = [folder / GROUND / f"{name}{GROUND_END}" for name in ids]
    aerial = [folder / AERIAL / f"{name}{AERIAL_END}" for name in ids]
    return CrossViewDataset(
        f"cvact/{split}",
        query_table(ids, ground, ids, lat=lat, lon=lon, heading=0.0, fov=PANORAMA, vertical_fov=180.0),
        gallery_table(ids, aerial, lat=lat, lon=lon),
    )


def _test_ids(folder: Path) -> list[str]:
    """Ids of the large test set: all pairs in its directory."""
    ids = sorted(_ids_with_both(folder))
    if not ids:
        raise GenGeoError(f"{folder} holds no pair of images; the test split needs {GROUND} and {AERIAL} there")
    compare_count("cvact/test", len(ids), PUBLISHED["test"])
    return ids


def _listed_ids(home: Path, folder: Path, index: Index | None, split: str, missing: str) -> list[str]:
    """Ids that ACT_data.mat lists for a split and that have both images."""
    if index is None:
        raise _no_mat(home)
    which = "val" if split == "val" else "train"
    listed = [index.ids[row] for row in index.rows[which]]
    compare_count(f"cvact/{which}", len(listed), PUBLISHED[which])
    both = _ids_with_both(folder)
    present = np.array([name in both for name in listed])
    known = int(WITHOUT_IMAGES in listed and WITHOUT_IMAGES not in both)
    return [listed[row] for row in kept_pairs(f"cvact/{which}", listed, present, missing, known)]


def read_index(home: Path) -> Index | None:
    """Read ACT_data.mat; None if it is missing.

    Raises:
        GenGeoError: The file is damaged, lacks a variable, or holds an index outside the list of ids.
    """
    from scipy.io import loadmat

    path = first_file(home, MAT_PATHS)
    if path is None:
        return None
    try:
        content: dict[str, Any] = loadmat(path, simplify_cells=True)
        ids = [str(name).strip() for name in np.atleast_1d(content["panoIds"])]
        utm = np.asarray(content["utm"], dtype=np.float64)
        rows = {
            split: np.atleast_1d(content[variable][field]).astype(np.int64).ravel() - 1  # MATLAB counts from 1
            for split, (variable, field) in FIELDS.items()
        }
    except NotImplementedError as error:
        raise GenGeoError(f"{path} is in MATLAB's 7.3 format; fetch the distributed file, of format 5") from error
    except KeyError as error:
        raise GenGeoError(
            f"{path} lacks {error.args[0]}: expected panoIds, utm, trainSet, valSet, valSetAll"
        ) from error
    except Exception as error:  # SciPy raises many types for a damaged file
        raise GenGeoError(f"{path} cannot be read ({error}); fetch it again") from error
    if utm.shape != (len(ids), 2):
        raise GenGeoError(f"{path}: {len(ids):,} ids, but utm has the shape {utm.shape}; expected one row for each id")
    for split, found in rows.items():
        if len(found) and (found.min() < 0 or found.max() >= len(ids)):
            raise GenGeoError(f"{path}: an index of {split} lies outside the {len(ids):,} ids; they count from 1")
    return Index(ids, _easting_first(utm), rows)


def check(root: str | Path) -> Report:
    """Check a directory, for `gengeo data check`."""
    home = _home(root)
    report = Report("cvact", home)
    found = first_file(home, MAT_PATHS)
    advice = "it is in the public repositories of OriCNN, SAFA and CVFT (OriCNN: CVACT/ACT_data.mat)"
    report.add_file("ACT_data.mat", found, home / MAT_PATHS[0], advice)
    index = read_index(home)
    for folder, name in ((home / "ANU_data_small", "training images"), (home / "ANU_data_test", "test images")):
        both = _ids_with_both(folder)
        counts = [f"{len(names_in(folder / view)):,} in {view}" for view in (GROUND, AERIAL)]
        report.add(
            f"{name} in {folder.name}",
            ", ".join(counts),
            ok=bool(both),
            advice="" if both else "ask the authors for the archive (github.com/Liumouliu/OriCNN)",
        )
        for view, size in ((GROUND, (832, 1664)), (AERIAL, (1200, 1200))):
            if both:
                report.images(f"{folder.name}/{view}", folder / view, size)
        if folder.name == "ANU_data_test" and both:
            report.count("pairs of test", len(both), PUBLISHED["test"], "unpack the test archive again")
        elif index is not None:
            for split in ("train", "val"):
                listed = [index.ids[row] for row in index.rows[split]]
                report.count(f"pairs of {split}", len(listed), PUBLISHED[split])
                gone = [name for name in listed if name not in both]
                report.missing(
                    f"images of {split}",
                    gone,
                    len(listed),
                    "unpack the archive again, or set missing=drop",
                    known=int(WITHOUT_IMAGES in gone),
                )
    if index is not None and len(test := _ids_with_both(home / "ANU_data_test")):
        listed_test = {index.ids[row] for row in index.rows["test"]}
        extra = len(test - listed_test)
        report.add("test images against valSetAll", f"{extra:,} of {len(test):,} are not listed", "none", extra == 0)
    return report


def _home(root: str | Path) -> Path:
    return existing_folder(root, ("CVACT", "cvact"), ("ANU_data_small", "ANU_data_test"))


def _no_mat(home: Path) -> GenGeoError:
    return GenGeoError(
        f"{home} lacks ACT_data.mat, which defines the splits; expected at one of {', '.join(MAT_PATHS)}. It is in "
        "the public repositories of OriCNN, SAFA and CVFT"
    )


def _ids_with_both(folder: Path) -> set[str]:
    """Ids of the pairs whose two images are in a directory."""
    ground = {name.removesuffix(GROUND_END) for name in names_in(folder / GROUND) if name.endswith(GROUND_END)}
    return {name.removesuffix(AERIAL_END) for name in names_in(folder / AERIAL) if name.endswith(AERIAL_END)} & ground


def _easting_first(utm: np.ndarray) -> np.ndarray:
    """UTM positions with the easting first. In Canberra eastings have six digits and northings seven."""
    return utm if np.nanmedian(utm[:, 0]) < np.nanmedian(utm[:, 1]) else utm[:, ::-1]


def _positions(ids: list[str], index: Index | None) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude in degrees of each id; NaN where the file does not list it."""
    lat, lon = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    if index is None:
        return lat, lon
    try:
        from pyproj import Transformer
    except ImportError as error:
        raise MissingExtraError("pyproj", "geo", "convert CVACT's UTM positions to degrees") from error
    row_of = {name: row for row, name in enumerate(index.ids)}
    rows = np.array([row_of.get(name, -1) for name in ids])
    known = rows >= 0
    utm = index.utm[rows[known]]
    lon[known], lat[known] = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(utm[:, 0], utm[:, 1])
    return lat, lon
