"""Files of VIGOR: cities, image directories in either layout, lists of tiles and labels of panoramas."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.benchmarks.layout import existing_folder, existing_name, names_in, read_lines

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
TILES = {"Chicago": 22_308, "NewYork": 23_279, "SanFrancisco": 24_255, "Seattle": 20_776}
PANORAMAS = {"Chicago": 25_479, "NewYork": 27_769, "SanFrancisco": 28_215, "Seattle": 23_751}
LABELS = {
    ("same", "train"): "same_area_balanced_train",
    ("same", "test"): "same_area_balanced_test",
    ("cross", "train"): "pano_label_balanced",
    ("cross", "test"): "pano_label_balanced",
}
VERSIONS = {"original": "", "corrected": "__corrected"}
SUFFIXES = (".jpg", ".png", ".jpeg")  # the lists say .png, the readme .jpg
FIELDS = 13


@dataclass(frozen=True)
class Labels:
    """Rows of label files.

    Args:
        panoramas: File name of each panorama, length N.
        tiles: File names of four tiles in each row: the positive, then three semi-positives.
        cities: City of each row.
        deltas: Offset from the camera to the centre of the positive tile in each row, in pixels north and east.
    """

    panoramas: list[str]
    tiles: list[list[str]]
    cities: list[str]
    deltas: list[tuple[float, float]]


class Files:
    """Paths of the images of some cities, in either layout and with either suffix. Each directory is read once.

    Args:
        home: Directory of VIGOR.
        cities: Names of the cities.
    """

    def __init__(self, home: Path, cities: Sequence[str]) -> None:
        folders = {(city, view): image_folder(home, city, view) for city in cities for view in ("ground", "aerial")}
        self._names = {key: names_in(folder) for key, folder in folders.items()}
        self._folders = {key: folder.as_posix() for key, folder in folders.items()}

    def ground(self, city: str, name: str) -> str | None:
        """Path of a panorama, None where it is missing."""
        return self._path(city, "ground", name)

    def aerial(self, city: str, name: str) -> str | None:
        """Path of a tile, None where it is missing."""
        return self._path(city, "aerial", name)

    def _path(self, city: str, view: str, name: str) -> str | None:
        found = existing_name(name, self._names[city, view], SUFFIXES)
        return None if found is None else f"{self._folders[city, view]}/{found}"  # 20 times faster than pathlib


def read_labels(path: Path, city: str) -> Labels:
    """Read a label file: 13 fields per row, separated by white space (names contain commas).

    Args:
        path: Label file.
        city: City of its rows.

    Raises:
        GenGeoError: A row has another number of fields, an offset is not a number, a name has no position, or the file
            is empty.
    """
    panoramas, tiles, deltas = [], [], []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != FIELDS:
            raise GenGeoError(
                f"{path}, line {number}: {len(fields)} fields, expected {FIELDS}: a panorama and four "
                f"tiles with two numbers each"
            )
        position_of_panorama(fields[0])
        panoramas.append(fields[0])
        tiles.append([fields[1], fields[4], fields[7], fields[10]])
        try:
            deltas.append((float(fields[2]), float(fields[3])))
        except ValueError:
            raise GenGeoError(f"{path}, line {number}: the offsets {fields[2]} {fields[3]} are not numbers") from None
    if not panoramas:
        raise GenGeoError(f"{path} is empty")
    return Labels(panoramas, tiles, [city] * len(panoramas), deltas)


def position_of_panorama(name: str) -> tuple[float, float]:
    """Latitude and longitude of a panorama in degrees, from its name `<id>,<lat>,<lon>,.jpg`.

    Raises:
        GenGeoError: The name has another form.
    """
    try:
        _, lat, lon, _ = name.split(",")
        return check_on_earth(float(lat), float(lon))
    except ValueError:
        raise GenGeoError(f"{name!r} is not a panorama of VIGOR: expected <id>,<lat>,<lon>,.jpg") from None


def check_on_earth(lat: float, lon: float) -> tuple[float, float]:
    """Return the position unchanged.

    Raises:
        ValueError: The numbers are not degrees of latitude and longitude, or NaN.
    """
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise ValueError(f"{lat}, {lon} is not on Earth")
    return lat, lon


def vigor_home(root: str | Path) -> Path:
    """The directory that holds the cities, or `ground` and `satellite`; see `existing_folder`."""
    return existing_folder(root, ("VIGOR", "vigor"), (*CITIES, "ground", "splits", "splits__corrected"))


def image_folder(home: Path, city: str, view: str) -> Path:
    """The directory of a city's images, in the layout that exists."""
    distributed = home / city / ("panorama" if view == "ground" else "satellite")
    rearranged = home / ("ground" if view == "ground" else "satellite") / city
    return rearranged if rearranged.is_dir() and not distributed.is_dir() else distributed


def tile_list_paths(city: str) -> list[str]:
    """Possible paths of the list of a city's tiles, relative to the directory of VIGOR."""
    return [f"{folder}/{city}/satellite_list.txt" for folder in ("splits", "splits__corrected", "splits_new")]


def label_paths(city: str, stem: str, version: str) -> list[str]:
    """Possible paths of a label file of a city, relative to the directory of VIGOR.

    Args:
        city: Name of the city.
        stem: Stem of the file, one of `LABELS`.
        version: One of `VERSIONS`.
    """
    suffix = VERSIONS[version]
    return [f"{folder}/{city}/{stem}{suffix}.txt" for folder in (f"splits{suffix}", "splits", "splits_new")]
