"""VIGOR: panoramas of four cities, taken anywhere in their tiles; most positions are covered by four tiles.

The directories may have either layout, the labels may be original or corrected, and semi-positives are included::

    VIGOR/<City>/panorama/*.jpg, VIGOR/<City>/satellite/*.png     as distributed
    VIGOR/ground/<City>/*.jpg, VIGOR/satellite/<City>/*.png       as Sample4Geo expects them
    VIGOR/splits/<City>/*.txt, VIGOR/splits__corrected/<City>/*__corrected.txt
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.area_split import split_training
from gengeo_hf.data.benchmarks.layout import (
    compare_count,
    existing_name,
    first_file,
    kept_pairs,
    logger,
    names_in,
    need_file,
    read_lines,
    unknown_split,
)
from gengeo_hf.data.benchmarks.report import Report
from gengeo_hf.data.benchmarks.vigor_files import (
    CITIES,
    LABELS,
    PANORAMAS,
    SUFFIXES,
    TILES,
    VERSIONS,
    Files,
    Labels,
    check_on_earth,
    image_folder,
    label_paths,
    position_of_panorama,
    read_labels,
    tile_list_paths,
    vigor_home,
)
from gengeo_hf.data.tables import PANORAMA, gallery_table, query_table

SPLITS = ("train", "validation", "test")
PROTOCOL_CITIES = {
    ("same", "train"): CITIES,
    ("same", "test"): CITIES,
    ("cross", "train"): ("NewYork", "Seattle"),
    ("cross", "test"): ("Chicago", "SanFrancisco"),
}
# Number of queries.
PUBLISHED = {
    ("same", "train"): 52_609,
    ("same", "test"): 52_605,
    ("cross", "train"): 51_520,
    ("cross", "test"): 53_694,
}
TILE_PIXELS, ZOOM = 640, 20
BLOCK_M, MARGIN_M = 500.0, 100.0


def load(
    root: str | Path,
    split: str,
    *,
    protocol: str,
    labels: str = "auto",
    positions: str = "names",
    cities: Sequence[str] | None = None,
    validation_share: float = 0.05,
    validation_by: str = "area",
    validation_seed: int = 0,
    missing: str = "error",
) -> CrossViewDataset:
    """Load a split of VIGOR.

    Args:
        root: Directory that holds the cities, or `ground` and `satellite`.
        split: "train" and "validation" are parts of the published training set, "test" is the published test set. The
            gallery holds all tiles of the cities; for "train", the tiles that the labels name.
        protocol: "same" (panoramas of the four cities are split) or "cross" (training on New York and Seattle, test on
            Chicago and San Francisco). The names for `load_pairs` are `vigor-same` and `vigor-cross`.
        labels: "original", "corrected" (SliceMatch's release), or "auto": original labels if they exist, else
            corrected ones. They differ in the offsets, which retrieval does not use; it is not known whether they
            differ in the tiles.
        positions: Source of the panoramas' positions: "names" (GPS in the file names) or "labels" (offsets from the
            positive tile, by which published localisation errors are computed; corrected labels agree with the names
            to a pixel).
        cities: Cities of the protocol to load, which the name of the data set then states; None loads all.
        validation_share: Share of the training set used for validation, 0 to 0.5; use the same value for "train" and
            "validation". 0 trains on all pairs.
        validation_by: "area" or "id"; see `split_training`.
        validation_seed: Seed of the choice of validation blocks or ids.
        missing: "error" or "drop"; see `kept_pairs`.

    Raises:
        GenGeoError: A city, a list or images are missing, or a row of a list is malformed.
    """
    which = "test" if split == "test" else "train"
    if split not in SPLITS:
        raise unknown_split(f"vigor-{protocol}", split, SPLITS)
    if positions not in ("names", "labels"):
        raise GenGeoError(f"positions must be names or labels, found {positions!r}")
    if (protocol, which) not in PUBLISHED:
        raise GenGeoError(f"protocol must be same or cross, found {protocol!r}")
    home, chosen = vigor_home(root), _cities(protocol, which, cities)
    name = f"vigor-{protocol}/{split}" + ("" if cities is None else f"[{','.join(chosen)}]")
    labelled = _read_cities(home, protocol, which, labels, chosen)
    if cities is None:
        compare_count(name, len(labelled.panoramas), PUBLISHED[protocol, which])
    files = Files(home, chosen)
    keys = zip(labelled.cities, labelled.panoramas, labelled.tiles, strict=True)
    present = np.array([bool(files.ground(city, pano) and files.aerial(city, tiles[0])) for city, pano, tiles in keys])
    rows = kept_pairs(name, labelled.panoramas, present, missing)
    everything = [(city, tile) for city in chosen for tile in _tile_list(home, city)] if split != "train" else []
    if split != "test":
        ids = [labelled.tiles[row][0] for row in rows]
        parts = split_training(
            ids,
            *_positions(ids),
            validation_share,
            method=validation_by,
            block_m=BLOCK_M,
            margin_m=MARGIN_M,
            seed=validation_seed,
        )
        rows = rows[parts.mask(split)]
        inside = parts.covers(*_positions([tile for _, tile in everything]))
        everything = [everything[row] for row in np.flatnonzero(inside)]
    named = [(labelled.cities[row], tile) for row in rows for tile in labelled.tiles[row]]
    tiles = _with_image(name, list(dict.fromkeys([*everything, *named])), files, missing)
    where = _positions_from_labels(labelled, rows) if positions == "labels" else _positions_from_names(labelled, rows)
    return CrossViewDataset(name, _queries(labelled, rows, files, where), _gallery(tiles, files))


def position_of_tile(name: str) -> tuple[float, float]:
    """Latitude and longitude of a tile's centre in degrees, from its name `satellite_<lat>_<lon>.png`.

    Raises:
        GenGeoError: The name has another form.
    """
    try:
        _, lat, lon = name.rpartition(".")[0].split("_")
        return check_on_earth(float(lat), float(lon))
    except ValueError:
        raise GenGeoError(f"{name!r} is not a tile of VIGOR: expected satellite_<lat>_<lon>.png") from None


def tile_bounds(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Bounds of tiles.

    A tile is 640 pixels of Web Mercator at zoom 20, at which the world is 256 x 2^20 pixels wide. The offsets of the
    corrected labels agree with this; the original offsets assume 0.114 m per pixel in every city.

    Args:
        lat, lon: Centres in degrees, (N,).

    Returns:
        West, south, east, north in degrees, (N, 4).
    """
    half = TILE_PIXELS / 2 * 360.0 / (256 * 2**ZOOM)
    high = half * np.cos(np.radians(lat))
    return np.stack([lon - half, lat - high, lon + half, lat + high], axis=1)


def check(root: str | Path) -> Report:
    """Check a directory, for `gengeo data check`."""
    home = vigor_home(root)
    report = Report("vigor", home)
    for city in CITIES:
        for view, published, size in (("ground", PANORAMAS[city], (1024, 2048)), ("aerial", TILES[city], (640, 640))):
            folder = image_folder(home, city, view)
            found = names_in(folder)
            report.count(
                f"{city}, {view} images in {folder.relative_to(home)}",
                len(found),
                published,
                "unpack the city's archive again",
            )
            if found:
                report.images(f"{city}, {view}", folder, size)
        _check_lists(report, home, city)
    _offer_links(report, home)
    return report


def _check_lists(report: Report, home: Path, city: str) -> None:
    """Compare the lists of one city with its images."""
    tiles, photos = names_in(image_folder(home, city, "aerial")), names_in(image_folder(home, city, "ground"))
    path = first_file(home, tile_list_paths(city))
    if path is None:
        report.add(f"{city}, list of tiles", "not found", tile_list_paths(city)[0], False, "the test gallery needs it")
    else:
        listed = read_lines(path)
        gone = [tile for tile in listed if existing_name(tile, tiles, SUFFIXES) is None]
        ok = len(listed) == TILES[city] and not gone
        report.add(
            f"{city}, list of tiles",
            f"{len(listed):,} tiles, {len(gone):,} of them without an image",
            f"{TILES[city]:,} and none",
            ok,
        )
    for stem in dict.fromkeys(LABELS.values()):
        found = [version for version in VERSIONS if first_file(home, label_paths(city, stem, version))]
        if not found:
            report.add(
                f"{city}, {stem}",
                "not found",
                label_paths(city, stem, "original")[0],
                False,
                "the lists are distributed with VIGOR, the corrected ones with SliceMatch",
            )
        for version in found:
            labels = read_labels(need_file(home, label_paths(city, stem, version), stem), city)
            gone = [
                panorama
                for panorama, row in zip(labels.panoramas, labels.tiles, strict=True)
                if existing_name(panorama, photos, SUFFIXES) is None or existing_name(row[0], tiles, SUFFIXES) is None
            ]
            report.missing(
                f"{city}, {stem} ({version})", gone, len(labels.panoramas), "unpack the city's archive again"
            )


def _offer_links(report: Report, home: Path) -> None:
    """Offer links for the layout that is missing: that of Sample4Geo, or the distributed one."""
    for city in CITIES:
        homes = {
            "ground": (home / city / "panorama", home / "ground" / city),
            "aerial": (home / city / "satellite", home / "satellite" / city),
        }
        for distributed, rearranged in homes.values():
            for link, target in ((rearranged, distributed), (distributed, rearranged)):
                if target.is_dir() and not target.is_symlink() and not link.exists():
                    report.links.append((link, target))


def _cities(protocol: str, which: str, cities: Sequence[str] | None) -> list[str]:
    """The cities to load: all of the protocol, or the given ones."""
    allowed = PROTOCOL_CITIES[protocol, which]
    chosen = list(allowed) if cities is None else [cities] if isinstance(cities, str) else list(cities)
    if unknown := [city for city in chosen if city not in allowed]:
        raise GenGeoError(
            f"{unknown[0]!r} is not a {which} city of VIGOR {protocol}; expected some of {', '.join(allowed)}"
        )
    return chosen


def _tile_list(home: Path, city: str) -> list[str]:
    return read_lines(need_file(home, tile_list_paths(city), f"the list of {city}'s tiles"))


def _read_cities(home: Path, protocol: str, which: str, labels: str, cities: Sequence[str]) -> Labels:
    """Read the label rows of all cities, one city after the other."""
    if labels not in ("auto", *VERSIONS):
        raise GenGeoError(f"labels must be one of auto, {', '.join(VERSIONS)}, found {labels!r}")
    versions = list(VERSIONS) if labels == "auto" else [labels]
    joined = Labels([], [], [], [])
    for city in cities:
        paths = [path for version in versions for path in label_paths(city, LABELS[protocol, which], version)]
        part = read_labels(need_file(home, paths, f"the {which} labels of {city}"), city)
        joined.panoramas.extend(part.panoramas)
        joined.tiles.extend(part.tiles)
        joined.cities.extend(part.cities)
        joined.deltas.extend(part.deltas)
    return joined


def _with_image(name: str, tiles: list[tuple[str, str]], files: Files, missing: str) -> list[tuple[str, str]]:
    """The tiles of a gallery, (city, name), whose images exist; see `kept_pairs` for `missing`."""
    there = [files.aerial(*tile) is not None for tile in tiles]
    if all(there):
        return tiles
    first = tiles[there.index(False)][1]
    message = f"{name}: {there.count(False):,} of {len(tiles):,} tiles have no image, first {first}"
    if missing == "error":
        raise GenGeoError(f"{message}; see `gengeo data check`, or set missing=drop to leave them out")
    logger.warning("%s; they are left out of the gallery", message)
    return [tile for tile, kept in zip(tiles, there, strict=True) if kept]


def _positions(tiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Latitude and longitude in degrees of tiles, (N,) each."""
    lat, lon = np.array([position_of_tile(tile) for tile in tiles], dtype=np.float64).reshape(-1, 2).T
    return lat, lon


def _positions_from_names(labels: Labels, rows: np.ndarray) -> np.ndarray:
    """Positions of panoramas from their file names: latitude and longitude in degrees, (N, 2)."""
    return np.array([position_of_panorama(labels.panoramas[row]) for row in rows]).reshape(-1, 2)


def _positions_from_labels(labels: Labels, rows: np.ndarray) -> np.ndarray:
    """Positions of panoramas from their offsets to the positive tile: latitude and longitude in degrees, (N, 2)."""
    centre = np.stack(_positions([labels.tiles[row][0] for row in rows]), axis=1)
    delta = np.array([labels.deltas[row] for row in rows], dtype=np.float64).reshape(-1, 2)
    degrees = 360.0 / (256 * 2**ZOOM)  # width of a pixel
    return centre - delta * np.stack([degrees * np.cos(np.radians(centre[:, 0])), np.full(len(rows), degrees)], 1)


def _queries(labels: Labels, rows: np.ndarray, files: Files, positions: np.ndarray) -> datasets.Dataset:
    """Table of the panoramas; semi-positives without an image are left out."""
    names, cities = [labels.panoramas[row] for row in rows], [labels.cities[row] for row in rows]
    semi = [
        [_tile_id(tile) for tile in labels.tiles[row][1:] if files.aerial(labels.cities[row], tile) is not None]
        for row in rows
    ]
    return query_table(
        [name.partition(",")[0] for name in names],
        [str(files.ground(city, name)) for city, name in zip(cities, names, strict=True)],
        [_tile_id(labels.tiles[row][0]) for row in rows],
        semi_positives=semi,
        lat=positions[:, 0],
        lon=positions[:, 1],
        heading=0.0,
        fov=PANORAMA,
        vertical_fov=180.0,
        area=cities,
    )


def _gallery(tiles: list[tuple[str, str]], files: Files) -> datasets.Dataset:
    """Table of the tiles."""
    lat, lon = _positions([tile for _, tile in tiles])
    return gallery_table(
        [_tile_id(tile) for _, tile in tiles],
        [str(files.aerial(*tile)) for tile in tiles],
        lat=lat,
        lon=lon,
        bounds=tile_bounds(lat, lon),
        area=[city for city, _ in tiles],
    )


def _tile_id(name: str) -> str:
    """A tile's name without its suffix, since lists and archives differ in it."""
    return name.rpartition(".")[0]


load_same = functools.partial(load, protocol="same")
load_cross = functools.partial(load, protocol="cross")
