"""LOCI: panoramas of drives and the satellite tiles of their environments, for evaluation.

The set is gated: fetch it after accepting its terms (Hub `ethankf/loci-data`), unpack the archives, give the folder.
Its layout is not published in a form that could be relied on, so it is detected, and `data check` says what was found:
folders `panoramas` and `satellite`, in each a folder for each environment, with image files whose positions stand in a
table beside them or in their names (`<id>,<lat>,<lon>,.jpg` and `satellite_<lat>_<lon>.png`, as in VIGOR).

The true tile of a photo is the nearest one. How much ground a tile shows is only known where a table states its bounds.
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

TERMS = "LOCI Dataset Terms of Use: photos CC BY-SA 4.0, imagery public record; you accepted them on the Hub"
FOLDERS = {"ground": ("panoramas", "panorama", "panos"), "aerial": ("satellite", "satellite_patches", "tiles")}
FILE_COLUMNS = "file filename path image imagepath panorama pano tile patch name panoid patchid id".split()
NEIGHBOURS = 4  # the nearest tile and three more, as the semi-positives of VIGOR
NEAR = 1.5  # spacings of the tiles within which another tile shows the place too
FAR = 2.0  # spacings of the tiles beyond which no tile shows the place
_NUMBER = r"[-+]?\d{1,3}\.\d+"


@dataclass(frozen=True)
class View:
    """Images of one view of one environment.

    Args:
        paths: Image files.
        lat, lon: Degrees, (images,).
        heading: Degrees, (images,), NaN where unknown.
        bounds: West, south, east, north in degrees, (images, 4), NaN where unknown.
        way: Where the positions were found.
    """

    paths: list[Path]
    lat: np.ndarray
    lon: np.ndarray
    heading: np.ndarray
    bounds: np.ndarray
    way: str


def load(root: str | Path, split: str, *, environments: str | Sequence[str] | None = None) -> CrossViewDataset:
    """Load the photos of some environments and the tiles of the same.

    Args:
        root: The folder that holds `panoramas` and `satellite`.
        split: "test".
        environments: Names of folders, as a list or with commas between them; None takes all that have both views.

    Returns:
        Photos in the order of their files, which is that of the drive; `area` is the environment.

    Raises:
        GenGeoError: Another split, an unknown environment, archives not unpacked, or images without a position.
    """
    if split != "test":
        raise unknown_split("loci", split, ("test",))
    there = find_environments(root)
    wanted = there if environments is None else _listed(environments)
    if unknown := [name for name in wanted if name not in there]:
        raise GenGeoError(f"{root} has no environment {unknown[0]!r}; it has {', '.join(there)}")
    tables = [_environment(name, *there[name]) for name in wanted]
    queries, gallery = (datasets.concatenate_datasets(list(part)) for part in zip(*tables, strict=True))
    return CrossViewDataset("loci/test" if environments is None else f"loci/test({','.join(wanted)})", queries, gallery)


def find_environments(root: str | Path) -> dict[str, tuple[Path, Path]]:
    """Folders of panoramas and of tiles by the name of their environment.

    Raises:
        GenGeoError: A view's folder is missing, or no environment has both.
    """
    root = Path(root)
    homes = {view: _home(root, names) for view, names in FOLDERS.items()}
    folders = {view: _folders(home) for view, home in homes.items()}
    both = {
        path.name: (path, folders["aerial"][key]) for key, path in folders["ground"].items() if key in folders["aerial"]
    }
    if both:
        return both
    archives = sorted(path.name for home in homes.values() for path in home.rglob("*.tar*"))
    if archives:
        raise GenGeoError(f"{root}: unpack the archives first, for example {archives[0]}, each where it lies")
    return {root.name: (homes["ground"], homes["aerial"])}  # one environment without folders of its own


def read_view(folder: Path, view: str) -> View:
    """Images of a folder, and where they were taken.

    Args:
        folder: Of one view of one environment.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: There are no images, or no positions for them.
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
            f"{folder}: no position is known of its {what}: neither a table with columns for file, lat and lon, nor "
            f"names with two numbers of degrees; first file {paths[0].name}"
        )
    return found


def check(root: str | Path) -> Report:
    """Look at a folder; see `gengeo data check`."""
    report = Report("loci", Path(root))
    report.warn("rights", TERMS)
    for name, (ground, aerial) in find_environments(root).items():
        for what, folder, view in (("panoramas", ground, "ground"), ("tiles", aerial, "aerial")):
            found = read_view(folder, view)
            report.add(f"{what} of {name}", f"{len(found.paths):,}, positions from {found.way}")
        data = load(root, "test", environments=[name])
        report.add(f"photos of {name} with a tile", f"{len(data.queries):,}")
    report.warn("heading", "where no table states one, north is assumed in the middle: look at gengeo data show")
    return report


def _home(root: Path, names: Sequence[str]) -> Path:
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise GenGeoError(
            f"{root} has no folder {names[0]!r}: give the folder of LOCI that holds panoramas and satellite"
        )
    return found


def _folders(home: Path) -> dict[str, Path]:
    """Folders by their name without case and punctuation."""
    return {re.sub(r"[^a-z0-9]", "", path.name.lower()): path for path in sorted(home.iterdir()) if path.is_dir()}


def _listed(names: str | Sequence[str]) -> list[str]:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _from_table(path: Path, paths: Sequence[Path]) -> View | None:
    """Positions of images from a table, None where it is not one of these images."""
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
    """Positions of images from two numbers of degrees in their names, None where most have none."""
    kept, places = [], []
    for path in paths:
        numbers = re.findall(_NUMBER, path.name)
        if len(numbers) >= 2 and abs(float(numbers[0])) <= 90 and abs(float(numbers[1])) <= 180:
            kept.append(path)
            places.append((float(numbers[0]), float(numbers[1])))
    if 2 * len(kept) <= len(paths):
        return None
    lat, lon = np.array(places).T
    unknown = np.full(len(kept), np.nan)
    return View(kept, lat, lon, unknown, np.full((len(kept), 4), np.nan), "the names of the files")


def _environment(name: str, ground: Path, aerial: Path) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Tables of the photos and of the tiles of one environment."""
    from scipy.spatial import cKDTree

    photos, tiles = read_view(ground, "ground"), read_view(aerial, "aerial")
    tree = cKDTree(to_unit_vectors(tiles.lat, tiles.lon))
    spacing = float(np.median(arc_m(tree.query(tree.data, k=2)[0][:, 1]))) if len(tiles.paths) > 1 else float("inf")
    count = min(NEIGHBOURS, len(tiles.paths))
    distance, near = tree.query(to_unit_vectors(photos.lat, photos.lon), k=count)
    metres, near = arc_m(distance).reshape(-1, count), near.reshape(-1, count)
    rows = np.flatnonzero(metres[:, 0] <= FAR * spacing)
    if not len(rows):
        raise GenGeoError(f"{name}: none of {len(photos.paths):,} photos lies on one of {len(tiles.paths):,} tiles")
    if len(rows) < len(photos.paths):
        logger.warning("loci/%s: %d photos lie where there is no tile; left out", name, len(photos.paths) - len(rows))
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
