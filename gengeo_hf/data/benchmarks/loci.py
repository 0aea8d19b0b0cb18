"""LOCI: panoramas of drives and the satellite tiles of their environments, for evaluation.

The data set is gated: download it after accepting its terms (Hub `ethankf/loci-data`) and unpack the archives. Its
layout is not documented, so it is detected, and `gengeo data check` reports what was found: directories `panoramas` and
`satellite`, in each a directory for each environment, with image files whose positions are in a table beside them or in
their names (`<id>,<lat>,<lon>,.jpg` and `satellite_<lat>_<lon>.png`, as in VIGOR).

The positive tile of a photo is the nearest one. The extent of a tile is known only if a table states its bounds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import arc_m, to_unit_vectors
from gengeo_hf.common.images import find_images
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.common.tables import TABLE_SUFFIXES, read_table
from gengeo_hf.data.benchmarks.layout import logger, unknown_split
from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.data.column_names import NAMES
from gengeo_hf.data.tables import PANORAMA, gallery_table, query_table

TERMS = "LOCI Dataset Terms of Use, accepted on the Hub: photos CC BY-SA 4.0, imagery public record"
FOLDERS = {"ground": ("panoramas", "panorama", "panos"), "aerial": ("satellite", "satellite_patches", "tiles")}
FILE_COLUMNS = "file filename path image imagepath panorama pano tile patch name panoid patchid id".split()
NEIGHBOURS = 4  # the nearest tile and up to three semi-positives, as in VIGOR
NEAR = 1.5  # distance, in spacings of the tiles, within which another tile is a semi-positive
FAR = 2.0  # distance, in spacings of the tiles, beyond which a photo has no tile
_NUMBER = r"[-+]?\d{1,3}\.\d+"


@dataclass(frozen=True)
class View:
    """Images of one view of one environment.

    Args:
        paths: Path of each image.
        lat, lon: Positions in degrees, (images,).
        heading: Headings in degrees clockwise from north, (images,), NaN where unknown.
        bounds: West, south, east, north in degrees, (images, 4), NaN where unknown.
        position_source: Description of the source of the positions, for reports.
    """

    paths: list[Path]
    lat: np.ndarray
    lon: np.ndarray
    heading: np.ndarray
    bounds: np.ndarray
    position_source: str


def load(root: str | Path, split: str, *, environments: str | Sequence[str] | None = None) -> CrossViewDataset:
    """Load photos and tiles of some environments.

    Args:
        root: Directory that holds `panoramas` and `satellite`.
        split: "test", the only split.
        environments: Names of environments, as a list or separated by commas; None takes all with both views.

    Returns:
        The data set. Photos are in the order of their files, which is that of the drive; `area` is the environment.

    Raises:
        GenGeoError: The split is not "test", an environment is unknown, archives are not unpacked, or images have no
            positions.
    """
    if split != "test":
        raise unknown_split("loci", split, ("test",))
    there = find_environments(root)
    wanted = there if environments is None else _split_names(environments)
    if unknown := [name for name in wanted if name not in there]:
        raise GenGeoError(f"{root} has no environment {unknown[0]!r}; it has {', '.join(there)}")
    tables = [_environment(name, *there[name]) for name in wanted]
    queries, gallery = (datasets.concatenate_datasets(list(part)) for part in zip(*tables, strict=True))
    return CrossViewDataset("loci/test" if environments is None else f"loci/test({','.join(wanted)})", queries, gallery)


def find_environments(root: str | Path) -> dict[str, tuple[Path, Path]]:
    """Directories of panoramas and of tiles, by the name of their environment.

    Raises:
        GenGeoError: The directory of a view is missing, or archives are not unpacked.
    """
    root = Path(root)
    homes = {view: _home(root, names) for view, names in FOLDERS.items()}
    folders = {view: _directories(home) for view, home in homes.items()}
    both = {
        path.name: (path, folders["aerial"][key]) for key, path in folders["ground"].items() if key in folders["aerial"]
    }
    if both:
        return both
    archives = sorted(path.name for home in homes.values() for path in home.rglob("*.tar*"))
    if archives:
        raise GenGeoError(f"{root}: unpack the archives first, for example {archives[0]}, each in its own directory")
    return {root.name: (homes["ground"], homes["aerial"])}  # one environment without directories of its own


def read_view(folder: Path, view: str) -> View:
    """Find the images of a directory and their positions.

    Args:
        folder: Directory of one view of one environment.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: There are no images, or their positions are unknown.
    """
    paths = find_images(folder)
    if not paths:
        raise GenGeoError(f"{folder} holds no images: unpack the archives first")
    for table in sorted(path for path in folder.rglob("*") if path.suffix.lower() in TABLE_SUFFIXES):
        if (found := _from_table(table, paths)) is not None:
            return found
    found = _from_names(paths)
    if found is None:
        what = "panoramas" if view == "ground" else "tiles"
        raise GenGeoError(
            f"{folder}: the positions of its {what} are unknown: there is neither a table with columns for file, lat "
            f"and lon, nor are there two numbers in degrees in the file names; first file {paths[0].name}"
        )
    return found


def check(root: str | Path) -> Report:
    """Check a directory, for `gengeo data check`."""
    report = Report("loci", Path(root))
    report.warn("rights", TERMS)
    for name, (ground, aerial) in find_environments(root).items():
        for what, folder, view in (("panoramas", ground, "ground"), ("tiles", aerial, "aerial")):
            found = read_view(folder, view)
            report.add(f"{what} of {name}", f"{len(found.paths):,}, positions from {found.position_source}")
        data = load(root, "test", environments=[name])
        report.add(f"photos of {name} with a tile", f"{len(data.queries):,}")
    report.warn(
        "heading", "without a table that states it, alignment with north is assumed: verify it with gengeo data show"
    )
    return report


def _home(root: Path, names: Sequence[str]) -> Path:
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise GenGeoError(f"there is no {names[0]!r} in {root}: give the directory that holds panoramas and satellite")
    return found


def _directories(home: Path) -> dict[str, Path]:
    """Directories by their name in lower case without punctuation."""
    return {re.sub(r"[^a-z0-9]", "", path.name.lower()): path for path in sorted(home.iterdir()) if path.is_dir()}


def _split_names(names: str | Sequence[str]) -> list[str]:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _from_table(path: Path, paths: Sequence[Path]) -> View | None:
    """Positions of images from a table; None if it lists none of them."""
    try:
        table = read_table(path)
        columns = [table.find(names) for names in (FILE_COLUMNS, NAMES["lat"], NAMES["lon"])]
        if None in columns:
            return None
        file, lat_column, lon_column = (str(column) for column in columns)
        texts, lat, lon = table.text(file), table.numbers(lat_column), table.numbers(lon_column)
        other = {key: table.find(NAMES[key]) for key in ("heading", "west", "south", "east", "north")}
        more = {key: table.numbers(name) if name else np.full(len(lat), np.nan) for key, name in other.items()}
    except GenGeoError as error:
        logger.warning("loci: %s is not used: %s", path, error)
        return None
    by_name = {name: image for image in paths for name in (image.name, image.stem)}
    rows = [(row, by_name[name]) for row, text in enumerate(texts) if (name := Path(text or "").name) in by_name]
    rows = [(row, image) for row, image in rows if np.isfinite(lat[row]) and np.isfinite(lon[row])]
    if not rows:
        return None
    if len(rows) < len(paths):
        logger.warning(
            "loci: %d of %d images in %s have no row in %s", len(paths) - len(rows), len(paths), path.parent, path
        )
    index = np.array([row for row, _ in rows])
    bounds = np.stack([more[side][index] for side in ("west", "south", "east", "north")], axis=1)
    return View(
        [image for _, image in rows], lat[index], lon[index], more["heading"][index], bounds, f"the table {path.name}"
    )


def _from_names(paths: Sequence[Path]) -> View | None:
    """Positions of images from two numbers in degrees in their names; None if at most half of them have these."""
    kept, positions = [], []
    for path in paths:
        numbers = re.findall(_NUMBER, path.name)
        if len(numbers) >= 2 and abs(float(numbers[0])) <= 90 and abs(float(numbers[1])) <= 180:
            kept.append(path)
            positions.append((float(numbers[0]), float(numbers[1])))
    if 2 * len(kept) <= len(paths):
        return None
    lat, lon = np.array(positions).T
    unknown = np.full(len(kept), np.nan)
    return View(kept, lat, lon, unknown, np.full((len(kept), 4), np.nan), "the names of the files")


def _environment(name: str, ground: Path, aerial: Path) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Tables of the queries and of the gallery of one environment."""
    from scipy.spatial import cKDTree

    photos, tiles = read_view(ground, "ground"), read_view(aerial, "aerial")
    tree = cKDTree(to_unit_vectors(tiles.lat, tiles.lon))
    spacing = float(np.median(arc_m(tree.query(tree.data, k=2)[0][:, 1]))) if len(tiles.paths) > 1 else float("inf")
    count = min(NEIGHBOURS, len(tiles.paths))
    distance, near = tree.query(to_unit_vectors(photos.lat, photos.lon), k=count)
    metres, near = arc_m(distance).reshape(-1, count), near.reshape(-1, count)
    rows = np.flatnonzero(metres[:, 0] <= FAR * spacing)
    if not len(rows):
        raise GenGeoError(f"{name}: none of {len(photos.paths):,} photos is near one of {len(tiles.paths):,} tiles")
    if len(rows) < len(photos.paths):
        logger.warning("loci/%s: %d photos are far from all tiles and left out", name, len(photos.paths) - len(rows))
    ids = [f"{name}/{path.relative_to(aerial).as_posix()}" for path in tiles.paths]
    further = [
        [ids[tile] for tile, apart in zip(near[row, 1:], metres[row, 1:], strict=True) if apart <= NEAR * spacing]
        for row in rows
    ]
    queries = query_table(
        [f"{name}/{photos.paths[row].relative_to(ground).as_posix()}" for row in rows],
        [photos.paths[row] for row in rows],
        [ids[near[row, 0]] for row in rows],
        semi_positives=further,
        lat=photos.lat[rows],
        lon=photos.lon[rows],
        heading=photos.heading[rows],
        fov=PANORAMA,
        area=[name] * len(rows),
    )
    names = [name] * len(ids)
    return queries, gallery_table(ids, tiles.paths, lat=tiles.lat, lon=tiles.lon, bounds=tiles.bounds, area=names)
