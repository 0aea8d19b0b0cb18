"""Output files of a city: the table of pairs, the attribution of each photo, and the sources of the data set."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.acquire import mapillary
from gengeo_hf.acquire.city_pairs import Pairing, TileGrid
from gengeo_hf.acquire.own_table import write_own_table
from gengeo_hf.acquire.photo_facts import PhotoRecord
from gengeo_hf.acquire.photo_files import photo_path, tile_path
from gengeo_hf.acquire.photo_rules import Selection, day_of, photo_year
from gengeo_hf.acquire.photo_search import SearchResult
from gengeo_hf.data.own import SPLITS
from gengeo_hf.data.sources import DataSource, DataSources
from gengeo_hf.imagery.tiles import Rights

LINK = "https://www.mapillary.com/app/?pKey={}"


@dataclass
class City:
    """Photos and tiles of a city.

    Args:
        folder: Directory of the data set.
        tiles: All tiles of the area.
        chosen: Selected photos, and the number of photos that each rule dropped.
        pairing: Tiles of each photo.
        parts: Split of each photo, text (photos,).
        found: Result of the search.
        empty: Reason by index, for tiles without an image.
        flight: Date of the imagery as a year with decimals; None if unknown.
    """

    folder: Path
    tiles: TileGrid
    chosen: Selection
    pairing: Pairing
    parts: np.ndarray
    found: SearchResult
    empty: dict[int, str]
    flight: float | None

    def drop_without_images(self, refused: Mapping[str, str], has_file: Callable[[PhotoRecord], bool]) -> None:
        """Drop photos that were refused or have no file, and photos whose tile has no image.

        Args:
            refused: Reason by id, for refused photos.
            has_file: Whether a photo's file exists.
        """
        for rule in sorted(set(refused.values())):
            self._keep(rule, [refused.get(photo.id) != rule for photo in self.chosen.photos])
        self._keep("no answer", [has_file(photo) for photo in self.chosen.photos])
        self._keep("on a tile without a picture", [tile not in self.empty for tile in self.pairing.positive.tolist()])

    def _keep(self, rule: str, is_kept: list[bool]) -> None:
        """Drop photos with their tiles and splits, and count them under a rule."""
        kept = np.array(is_kept, dtype=bool)
        self.chosen.keep(rule, kept)
        further = [tiles for tiles, keeps in zip(self.pairing.further, is_kept, strict=True) if keeps]
        self.pairing, self.parts = Pairing(self.pairing.positive[kept], further), self.parts[kept]

    @property
    def counts(self) -> dict[str, int]:
        """Number of photos of each split."""
        counted = Counter(self.parts.tolist())
        return {split: counted[split] for split in SPLITS}

    @property
    def years(self) -> list[float]:
        """Years from the flight to each photo with a date, sorted; empty if the date of the flight is unknown."""
        if self.flight is None:
            return []
        years = np.array([photo_year(photo) for photo in self.chosen.photos]) - self.flight
        return sorted(years[np.isfinite(years)].tolist())

    def __str__(self) -> str:
        lines = [f"{self.folder}: {len(self.chosen.photos):,} photos of {len(self.found.photos):,} found"]
        lines += [f"  left out: {count:,} {rule}" for rule, count in self.chosen.dropped.items()]
        if self.found.without_id:
            lines.append(f"  left out: {self.found.without_id:,} without a usable id")
        lines.append("  " + ", ".join(f"{part}: {count:,}" for part, count in self.counts.items()))
        images = len(self.tiles) - len(self.empty)
        lines.append(f"  gallery: {images:,} tiles of {self.tiles.side_m:.0f} m over the whole area")
        lines += [f"  no image: {count:,} tiles, {reason}" for reason, count in Counter(self.empty.values()).items()]
        if self.years:
            low, middle, high = np.quantile(self.years, [0.05, 0.5, 0.95])
            lines.append(f"  years from flight to photos: median {middle:+.1f}, 90 % in {low:+.1f} to {high:+.1f}")
        else:
            lines.append("  years from flight to photos: unknown, set --acquired")
        return "\n".join(lines)


def write_city(city: City, imagery: str, rights: Rights, request: dict[str, Any], distance_m: float) -> Path:
    """Write the table, its attribution and its sources.

    Args:
        city: Photos and tiles that were fetched.
        imagery: Name of the imagery, without secrets.
        rights: Attribution and licence of the imagery.
        request: Settings of the data set, which `SOURCES.json` records.
        distance_m: Distance in metres between the nearest photos of training and test; infinite without one.

    Returns:
        Path of the table.
    """
    photos, tiles = city.chosen.photos, city.tiles
    positive = city.pairing.positive.tolist()
    tested = {tile for tile, split in zip(positive, city.parts.tolist(), strict=True) if split == "test"}
    others = [row for row in range(len(tiles)) if row not in tested and row not in city.empty]
    rows = np.array([*positive, *others], dtype=np.int64)
    columns = _tile_columns(city, rows) | _photo_columns(city, len(others), request["kind"] == "panorama")
    columns["split"] = [*city.parts.tolist(), *["test"] * len(others)]
    empty = [None] * len(others)
    extra = {
        "captured_at": [*(day_of(photo) or None for photo in photos), *empty],
        "sequence": [*(photo.sequence or None for photo in photos), *empty],
        "heading_source": [*("computed" if photo.is_heading_computed else "compass" for photo in photos), *empty],
    }
    attribution = [(photo.id, photo.creator, LINK.format(photo.id), day_of(photo)) for photo in photos]
    sources = _sources(city, imagery, rights, request, distance_m)
    return write_own_table(city.folder, columns, sources, attribution, extra)


def _tile_columns(city: City, rows: np.ndarray) -> dict[str, Any]:
    """Columns about the tile of each row of the table."""
    tiles = city.tiles
    return {
        "aerial": [tile_path(Path(), tiles.ids[row]).as_posix() for row in rows],
        "tile_id": [tiles.ids[row] for row in rows],
        "tile_lat": tiles.lat[rows],
        "tile_lon": tiles.lon[rows],
        **{side: tiles.bounds[rows, number] for number, side in enumerate(("west", "south", "east", "north"))},
        "area": [city.folder.name] * len(rows),
    }


def _photo_columns(city: City, others: int, are_panoramas: bool) -> dict[str, Any]:
    """Columns about the photo of each row; the last `others` rows are tiles without one."""
    photos, empty, unknown = city.chosen.photos, [None] * others, np.full(others, np.nan)
    stated_fov = np.array([photo.fov for photo in photos])
    angles = {"fov": np.full(len(photos), 360.0), "vertical_fov": np.full(len(photos), 180.0)}
    numbers = {
        "lat": np.array([photo.lat for photo in photos]),
        "lon": np.array([photo.lon for photo in photos]),
        "heading": np.array([photo.heading for photo in photos]),
        **(angles if are_panoramas else {"fov": stated_fov}),
    }
    further = [[city.tiles.ids[row] for row in tiles if row not in city.empty] for tiles in city.pairing.further]
    return {
        "ground": [*(photo_path(Path(), photo).as_posix() for photo in photos), *empty],
        "query_id": [*(photo.id for photo in photos), *empty],
        **{name: np.concatenate([values, unknown]) for name, values in numbers.items()},
        "extra_positives": [*further, *([] for _ in range(others))],
    }


def _sources(city: City, imagery: str, rights: Rights, request: dict[str, Any], distance_m: float) -> DataSources:
    """Sources of the photos and of the imagery, with the facts of the data set."""
    today = datetime.now(UTC).date().isoformat()
    days = sorted(day for photo in city.chosen.photos if (day := day_of(photo)))
    photos = DataSource(
        what="photos",
        name="Mapillary contributors",
        licence=mapillary.LICENCE,
        attribution="Photos: Mapillary contributors (names in ATTRIBUTION.csv)",
        address="https://www.mapillary.com",
        retrieved=today,
        acquired=f"{days[0]}/{days[-1]}" if days else "",
    )
    aerial = DataSource(
        what="aerial imagery",
        name=imagery,
        licence=rights.licence,
        attribution=rights.attribution,
        address=rights.address or imagery,
        retrieved=today,
        acquired=rights.acquired,
    )
    facts: dict[str, Any] = {
        "request": request,
        "boxes_searched": city.found.boxes,
        "boxes_without_answer": [list(box) for box in city.found.failed],
        "boxes_too_full": [list(box) for box in city.found.full],
        "photos_found": len(city.found.photos),
        "left_out": dict(city.chosen.dropped),
        "photos": city.counts,
        "tiles": len(city.tiles) - len(city.empty),
        "tiles_without_picture": dict(Counter(city.empty.values())),
        "years_from_flight": _quantiles(city.years),
        "least_distance_train_test_m": None if np.isinf(distance_m) else round(distance_m, 1),
    }
    return DataSources(city.folder.name, (photos, aerial), facts)


def _quantiles(values: list[float]) -> dict[str, float]:
    """Quantiles 5, 50 and 95 % of values; empty without values."""
    if not values:
        return {}
    return {f"{share:.0%}": round(float(np.quantile(values, share)), 2) for share in (0.05, 0.5, 0.95)}
