"""CV-Cities: panoramas and tiles of 16 cities, from a local copy of the data set.

The package does not download the images: the panoramas are from Google Street View, and the licence of the data set
(BSD-3) is stated by its authors. Layout, one directory for each city::

    <city>/img_info.csv      no header: name, longitude, latitude, city, path of the tile, path of the panorama

Copies differ in the directory that the paths are relative to; `CityFiles` tries the known ones. The extent of the tiles
and the heading of the panoramas are not published: bounds are unknown, and heading 0 is assumed.
"""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.area_split import split_training
from gengeo_hf.data.benchmarks.layout import (
    compare_count,
    existing_name,
    kept_pairs,
    logger,
    names_in,
    read_lines,
    unknown_split,
)
from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.data.tables import PANORAMA, gallery_table, query_table

SPLITS = ("train", "validation", "test")
TRAIN = {
    "barcelona": 18_364,
    "captown": 10_586,
    "losangeles": 18_178,
    "maynila": 9_971,
    "melbourne": 18_247,
    "mexico": 19_805,
    "newyork": 19_996,
    "paris": 20_214,
    "santiago": 16_525,
    "tokyo": 11_068,
}
TEST = {"taipei": 10_842, "singapore": 5_564, "london": 13_617, "seattle": 13_654, "rio": 13_165, "sydney": 3_940}
PAIRS = TRAIN | TEST
CENTRES = {
    "barcelona": (41.39, 2.17),
    "captown": (-33.93, 18.42),
    "losangeles": (34.05, -118.24),
    "maynila": (14.60, 120.98),
    "melbourne": (-37.81, 144.96),
    "mexico": (19.43, -99.13),
    "newyork": (40.71, -74.01),
    "paris": (48.86, 2.35),
    "santiago": (-33.45, -70.67),
    "tokyo": (35.68, 139.69),
    "taipei": (25.03, 121.57),
    "singapore": (1.35, 103.82),
    "london": (51.51, -0.13),
    "seattle": (47.61, -122.33),
    "rio": (-22.91, -43.17),
    "sydney": (-33.87, 151.21),
}
MAX_DISTANCE_M = 150_000.0  # of the median position of a list from the centre of its city
LIST = "img_info.csv"
FIELDS = 6
SUFFIXES = (".jpg", ".jpeg", ".png")
BLOCK_M, MARGIN_M = 500.0, 100.0
RIGHTS = (
    "panoramas are reported to be from Google Street View and tiles from Google Maps; the authors state the licence "
    "BSD-3, but Google's terms restrict training on Maps content: use for research at your own responsibility"
)


@dataclass(frozen=True)
class CityRows:
    """Rows of one city's list.

    Args:
        city: Name of the city, as the data set spells it.
        ids: Unique id of each row, `<city>/<name>`.
        lat, lon: Positions in degrees, (rows,).
        aerial, ground: Path of each image; "" for a missing file.
        way: Description of the directory that the paths are relative to.
    """

    city: str
    ids: list[str]
    lat: np.ndarray
    lon: np.ndarray
    aerial: list[str]
    ground: list[str]
    way: str

    @property
    def present(self) -> np.ndarray:
        """Whether both images of each row exist: bool (rows,)."""
        return np.array([bool(a and g) for a, g in zip(self.aerial, self.ground, strict=True)], dtype=bool)


def load(
    root: str | Path,
    split: str,
    *,
    cities: str | Sequence[str] | None = None,
    validation_share: float = 0.05,
    validation_seed: int = 0,
    missing: str = "error",
) -> CrossViewDataset:
    """Load a split of CV-Cities.

    Args:
        root: Directory that holds the cities' directories, or one of these.
        split: "train" and "validation" are parts of the training cities, "test" are the test cities.
        cities: Names of cities, as a list or separated by commas; None takes all cities of the split that exist.
        validation_share: Share of the training pairs used for validation, 0 to 0.5, selected by area; use the same
            value for "train" and "validation". 0 trains on all pairs.
        validation_seed: Seed of the choice of validation blocks.
        missing: "error" or "drop"; see `kept_pairs`.

    Returns:
        The data set. Headings are assumed to be 0; bounds of tiles are unknown.

    Raises:
        GenGeoError: A city is unknown, a list is missing or malformed, or images are missing.
    """
    if split not in SPLITS:
        raise unknown_split("cvcities", split, SPLITS)
    root = Path(root)
    found = [read_city(root, city) for city in _select_cities(root, split, cities)]
    name = f"cvcities/{split}" if cities is None else f"cvcities/{split}({','.join(part.city for part in found)})"
    for part in found:
        compare_count(f"cvcities/{part.city}", len(part.ids), PAIRS[part.city])
    return _dataset(name, split, found, validation_share, validation_seed, missing)


def load_city(root: str | Path, split: str, *, city: str, missing: str = "error") -> CrossViewDataset:
    """Load one test city alone, as the data set `cvcities-<city>`.

    Args:
        root: See `load`.
        split: "test", the only split of a test city.
        city: Name of a test city.
        missing: "error" or "drop"; see `kept_pairs`.

    Raises:
        GenGeoError: See `load`; or the split is not "test".
    """
    if split != "test":
        raise unknown_split(f"cvcities-{city}", split, ("test",))
    return load(root, split, cities=[city], missing=missing)


def read_city(root: Path, city: str) -> CityRows:
    """Read one city's list and find its images.

    Args:
        root: Directory that holds the cities' directories, or the directory of the city.
        city: Name of the city.

    Raises:
        GenGeoError: The list is missing, malformed, empty or not of this city.
    """
    path = _list_of(root, city)
    if path is None:
        hint = f"; unpack {city}.zip first" if (root / f"{city}.zip").is_file() else ""
        raise GenGeoError(f"{root} has no {city}/{LIST}{hint}")
    names, lat, lon, aerial, ground = [], [], [], [], []
    for number, row in enumerate(csv.reader(read_lines(path)), 1):
        cells = [cell.strip() for cell in row]
        try:
            if len(cells) != FIELDS:
                raise ValueError
            lon.append(float(cells[1]))
            lat.append(float(cells[2]))
        except ValueError:
            raise GenGeoError(
                f"{path}, line {number}: expected six cells without a header (name, longitude, latitude, city, tile, "
                f"panorama), found {','.join(row)[:100]!r}"
            ) from None
        names.append(cells[0])
        aerial.append(cells[4].replace("\\", "/"))
        ground.append(cells[5].replace("\\", "/"))
    if not names:
        raise GenGeoError(f"{path} is empty")
    lat_array, lon_array = np.array(lat), np.array(lon)
    _check_positions(path, city, lat_array, lon_array)
    files = CityFiles(root, path.parent, city, [*aerial[:3], *ground[:3]])
    return CityRows(
        city,
        _unique_ids(path, city, names),
        lat_array,
        lon_array,
        [files.find(text) for text in aerial],
        [files.find(text) for text in ground],
        files.way,
    )


class CityFiles:
    """Image files of a city, whose list may state paths relative to several directories. Each directory is read once.

    Args:
        root: Directory that the user gave.
        home: Directory of the list.
        city: Name of the city.
        samples: Some paths of the list; the directory in which most of them exist is chosen.

    Attributes:
        way: Description of the chosen directory.
    """

    def __init__(self, root: Path, home: Path, city: str, samples: Sequence[str]) -> None:
        self._names: dict[str, set[str]] = {}
        self._ways: dict[str, Callable[[PurePosixPath], Path]] = {
            "relative to the directory of the data set": lambda path: root / path,
            f"relative to {city}/": lambda path: root / city / path,
            f"relative to {city}/{city}/": lambda path: root / city / city / path,
            "relative to the directory above the list": lambda path: home.parent / path,
            "last two parts, relative to the list": lambda path: home / Path(*path.parts[-2:]),
        }
        hits = {way: sum(bool(self._found(way, text)) for text in samples) for way in self._ways}
        self.way = max(hits, key=lambda way: hits[way])
        if not hits[self.way]:
            self.way = next(iter(self._ways))

    def find(self, text: str) -> str:
        """Path of the file that a cell of the list names, "" if it is missing."""
        return self._found(self.way, text)

    def _found(self, way: str, text: str) -> str:
        path = PurePosixPath(text)
        if ".." in path.parts or path.is_absolute():
            return ""
        full = self._ways[way](path)
        folder = full.parent.as_posix()
        if folder not in self._names:
            self._names[folder] = names_in(full.parent)
        name = existing_name(full.name, self._names[folder], SUFFIXES)
        return f"{folder}/{name}" if name else ""


def check(root: str | Path) -> Report:
    """Check a directory, for `gengeo data check`."""
    root = Path(root)
    report = Report("cvcities", root)
    there = [city for city in PAIRS if _list_of(root, city)]
    if not there:
        raise GenGeoError(f"{root} holds no <city>/{LIST} of CV-Cities: give the directory that holds the cities")
    report.warn("rights", RIGHTS)
    absent = [city for city in PAIRS if city not in there]
    report.add("cities", f"{', '.join(there)}" + (f"; not there: {', '.join(absent)}" if absent else ""))
    for city in there:
        rows = read_city(root, city)
        report.count(f"pairs of {city}", len(rows.ids), PAIRS[city])
        report.add(f"paths of {city}", rows.way)
        gone = [rows.ids[row] for row in np.flatnonzero(~rows.present)]
        report.missing(f"images of {city}", gone, len(rows.ids), "unpack the archive again, or set missing=drop")
        positions = Counter(zip(rows.lat.tolist(), rows.lon.tolist(), strict=True))
        if repeated := sum(count - 1 for count in positions.values()):
            report.warn(f"positions of {city}", f"{repeated:,} rows repeat the position of another row")
        for what, files in (("tiles", rows.aerial), ("panoramas", rows.ground)):
            if first := next((path for path in files if path), ""):
                size = (512, 1024) if what == "panoramas" else (746, 746)
                report.images(f"{what} of {city}", Path(first).parent, size)
    report.warn("heading", "panoramas are assumed to be aligned with north: verify it with gengeo data show")
    return report


def _dataset(name: str, split: str, found: list[CityRows], share: float, seed: int, missing: str) -> CrossViewDataset:
    """Data set of some cities; of training cities, the pairs of the split."""
    ids, aerial, ground = (
        [value for part in found for value in getattr(part, key)] for key in ("ids", "aerial", "ground")
    )
    area = [part.city for part in found for _ in part.ids]
    lat, lon = (np.concatenate([getattr(part, key) for part in found]) for key in ("lat", "lon"))
    rows = kept_pairs(name, ids, np.concatenate([part.present for part in found]), missing)
    if split != "test":
        kept = [ids[row] for row in rows]
        parts = split_training(kept, lat[rows], lon[rows], share, seed=seed, block_m=BLOCK_M, margin_m=MARGIN_M)
        rows = rows[parts.mask(split)]
    ids, aerial, ground, area = ([values[row] for row in rows] for values in (ids, aerial, ground, area))
    shared = {"lat": lat[rows], "lon": lon[rows], "area": area}
    queries = query_table(ids, ground, ids, heading=0.0, fov=PANORAMA, vertical_fov=180.0, **shared)
    return CrossViewDataset(name, queries, gallery_table(ids, aerial, **shared))


def _select_cities(root: Path, split: str, cities: str | Sequence[str] | None) -> list[str]:
    """The cities to load: the given ones, or all of the split that exist."""
    known = TEST if split == "test" else TRAIN
    if cities is None:
        there = [city for city in known if _list_of(root, city)]
        if not there:
            raise GenGeoError(f"{root} holds none of the cities of {split}: {', '.join(known)}")
        if len(there) < len(known):
            found = ", ".join(there)
            logger.warning("cvcities/%s: found %d of %d cities: %s", split, len(there), len(known), found)
        return there
    names = [name.strip() for name in cities.split(",")] if isinstance(cities, str) else list(cities)
    for name in names:
        if name not in known:
            other = " (a city of the other split)" if name in PAIRS else ""
            raise GenGeoError(f"cvcities/{split} has no city {name!r}{other}; it has {', '.join(known)}")
    return names


def _list_of(root: Path, city: str) -> Path | None:
    """Path of a city's list: in `<city>`, in `<city>/<city>` as in some copies, or in a root named like the city."""
    paths = [root / city / LIST, root / city / city / LIST]
    if root.name == city:
        paths.append(root / LIST)
    return next((path for path in paths if path.is_file()), None)


def _check_positions(path: Path, city: str, lat: np.ndarray, lon: np.ndarray) -> None:
    """Refuse positions that are not in the city, for example with latitude and longitude swapped."""
    middle = float(np.median(lat)), float(np.median(lon))
    if not (abs(middle[0]) <= 90 and abs(middle[1]) <= 180) or great_circle_m(*middle, *CENTRES[city]) > MAX_DISTANCE_M:
        swapped = abs(middle[1]) <= 90 and great_circle_m(middle[1], middle[0], *CENTRES[city]) < MAX_DISTANCE_M
        reason = "longitude comes before latitude, but they are swapped" if swapped else "is it another city's list?"
        raise GenGeoError(f"{path} lies around {middle[0]:.3f}, {middle[1]:.3f}, which is not {city}; {reason}")


def _unique_ids(path: Path, city: str, names: list[str]) -> list[str]:
    """Ids `<city>/<name>`; names that occur more than once get `@` and the number of their line."""
    counts = Counter(names)
    if repeated := sum(count - 1 for count in counts.values()):
        logger.warning("%s: %d names repeat another one; the number of the line is added to them", path, repeated)
    return [f"{city}/{name}" + (f"@{line}" if counts[name] > 1 else "") for line, name in enumerate(names, 1)]
