"""Files of VIGOR: cities, folders in either layout, lists of tiles and labels of panoramas."""

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
        panoramas: file name of each panorama.
        tiles: (N, 4) names: the positive, then three semi-positives.
        cities: of each row.
        deltas: (N, 2) pixels of the positive tile from the camera to its centre, north and east.
    """

    panoramas: list[str]
    tiles: list[list[str]]
    cities: list[str]
    deltas: list[tuple[float, float]]


class Files:
    """Where the images of some cities lie, in either layout and with either suffix. Each folder is listed once.

    Args:
        home: the folder of VIGOR.
        cities: that are asked for.
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
        return None if found is None else f"{self._folders[city, view]}/{found}"  # 20 times faster than a Path


def read_labels(path: Path, city: str) -> Labels:
    """Read a label file: 13 fields a row, separated by white space (names hold commas).

    Raises:
        GenGeoError: a row has another number of fields, an offset that is not a number, or a name without a position.
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
    """Latitude and longitude in degrees from `<id>,<lat>,<lon>,.jpg`.

    Raises:
        GenGeoError: the name has another form.
    """
    try:
        _, lat, lon, _ = name.split(",")
        return check_on_earth(float(lat), float(lon))
    except ValueError:
        raise GenGeoError(f"{name!r} is no panorama of VIGOR: expected <id>,<lat>,<lon>,.jpg") from None


def check_on_earth(lat: float, lon: float) -> tuple[float, float]:
    """The position, if it is one: a name may hold any number, and NaN."""
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise ValueError(f"{lat}, {lon} is not on Earth")
    return lat, lon


def vigor_home(root: str | Path) -> Path:
    """The folder that holds the cities, or `ground` and `satellite`."""
    return existing_folder(root, ("VIGOR", "vigor"), (*CITIES, "ground", "splits", "splits__corrected"))


def image_folder(home: Path, city: str, view: str) -> Path:
    """The folder of a city's images in either layout."""
    distributed = home / city / ("panorama" if view == "ground" else "satellite")
    rearranged = home / ("ground" if view == "ground" else "satellite") / city
    return rearranged if rearranged.is_dir() and not distributed.is_dir() else distributed


def tile_list_places(city: str) -> list[str]:
    """Where the list of a city's tiles may lie, relative to the home folder."""
    return [f"{folder}/{city}/satellite_list.txt" for folder in ("splits", "splits__corrected", "splits_new")]


def label_places(city: str, stem: str, version: str) -> list[str]:
    """Where a label file of a city may lie, relative to the home folder."""
    mark = VERSIONS[version]
    return [f"{folder}/{city}/{stem}{mark}.txt" for folder in (f"splits{mark}", "splits", "splits_new")]
