"""The schema of every data set: the tables `queries` and `gallery`.

`queries` has one row for each ground image, `gallery` one row for each aerial tile. A query refers to its tile by id,
not by row index, so that tables can be filtered, shuffled and joined safely.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import datasets
import numpy as np

from gengeo_hf.common.camera import CameraView, table_cameras
from gengeo_hf.common.errors import GenGeoError

QUERY_FEATURES = datasets.Features(
    {
        "query_id": datasets.Value("string"),
        "ground": datasets.Image(),
        "positive": datasets.Value("string"),  # tile_id of the positive tile
        "semi_positives": datasets.List(datasets.Value("string")),  # tiles that also cover the position (VIGOR)
        "lat": datasets.Value("float64"),  # degrees, WGS84
        "lon": datasets.Value("float64"),
        "heading": datasets.Value("float32"),  # degrees clockwise from true north, of the image's centre column
        "fov": datasets.Value("float32"),  # horizontal, degrees; 360: a panorama, null: unknown
        "area": datasets.Value("string"),  # city, region or split cell
    }
)
# Optional columns of queries: further fields of `CameraView`, in degrees.
CAMERA_FEATURES = datasets.Features(
    {
        "vertical_fov": datasets.Value("float32"),
        "pitch": datasets.Value("float32"),
        "roll": datasets.Value("float32"),
        "projection": datasets.Value("string"),
    }
)
GALLERY_FEATURES = datasets.Features(
    {
        "tile_id": datasets.Value("string"),
        "aerial": datasets.Image(),
        "lat": datasets.Value("float64"),  # of the tile's centre
        "lon": datasets.Value("float64"),
        "west": datasets.Value("float64"),  # bounds in degrees, WGS84; null where unknown
        "south": datasets.Value("float64"),
        "east": datasets.Value("float64"),
        "north": datasets.Value("float64"),
        "area": datasets.Value("string"),
    }
)


def present_camera(names: Iterable[str]) -> datasets.Features:
    """Return the features of `CAMERA_FEATURES` that a table of queries contains.

    Args:
        names: Column names of the table.
    """
    there = set(names)
    return datasets.Features({name: kind for name, kind in CAMERA_FEATURES.items() if name in there})


WORLD_DOMAINS = ("urban", "rural", "offcenter")
# Areas of the synthetic world, such as urban-train-0-0012; areas of users, such as san-jose-12-2021, must not match.
WORLD_AREA = re.compile(rf"({'|'.join(WORLD_DOMAINS)})-(train|validation|test)-\d+-\d{{4}}")


@dataclass(frozen=True)
class CrossViewDataset:
    """Ground queries and their aerial gallery.

    Args:
        name: Name in results, for example `cvusa/test` or `world/urban/test`.
        queries: Table with `QUERY_FEATURES`; `heading`, `fov`, `lat` and `lon` may be null.
        gallery: Table with `GALLERY_FEATURES`; bounds may be null.
    """

    name: str
    queries: datasets.Dataset
    gallery: datasets.Dataset

    def validate(self) -> "CrossViewDataset":
        """Check the schema and every id, and return this data set.

        Raises:
            GenGeoError: A column is missing or has another type, a table is empty, an id is missing or occurs twice, a
                query names a tile that is not in the gallery, a position is outside -90..90, -180..180 degrees, or a
                field of view is not above 0 and up to 360 degrees.
        """
        _check_columns("queries", self.queries, QUERY_FEATURES)
        _check_columns("queries", self.queries, present_camera(self.queries.column_names))
        _check_columns("gallery", self.gallery, GALLERY_FEATURES)
        tiles = _unique("gallery", "tile_id", self.gallery["tile_id"][:])
        _unique("queries", "query_id", self.queries["query_id"][:])
        named = set(self.queries["positive"][:])
        named.update(tile for row in self.queries["semi_positives"][:] for tile in row or ())
        if unknown := sorted(named - tiles, key=str):  # one may be null
            raise GenGeoError(
                f"{self.name}: {len(unknown)} tiles are named by queries but are not in the gallery, "
                f"first {unknown[0]!r}; every positive and semi-positive must be a tile_id of the gallery"
            )
        for table in (self.queries, self.gallery):
            for column, limit in (("lat", 90.0), ("lon", 180.0)):
                values = np.array(table[column][:], dtype=np.float64)  # null becomes NaN, and NaN compares false
                if np.any(np.abs(values) > limit):
                    raise GenGeoError(
                        f"{self.name}: {column} must lie in -{limit:.0f}..{limit:.0f} degrees, "
                        f"found {values[np.abs(values) > limit][0]:g}; are the columns swapped or in metres?"
                    )
        fov = np.array(self.queries["fov"][:], dtype=np.float64)
        if np.any(wrong := (fov <= 0) | (fov > 360)):
            raise GenGeoError(
                f"{self.name}: fov must lie above 0 and up to 360 degrees, found {fov[wrong][0]:g}; leave it empty "
                "where it is unknown"
            )
        return self

    def cameras(self) -> list[CameraView]:
        """Return how each ground image was taken, from the columns of `queries`.

        Raises:
            GenGeoError: An angle is outside its range, or a projection is unknown.
        """
        names = ("heading", "fov", *CAMERA_FEATURES)
        columns = {name: self.queries[name][:] for name in names if name in self.queries.column_names}
        try:
            return table_cameras(columns, len(self.queries))
        except GenGeoError as error:
            raise GenGeoError(f"{self.name}: {error}; leave it empty where it is unknown") from None

    def ground_camera(self) -> tuple[str | None, float | None]:
        """Return the kind of the ground images, for the configuration of a model that is trained on them.

        Returns:
            The kind, "panorama", "photo", or None if they are mixed; and for panoramas the vertical field of view in
            degrees, None if it is unknown or differs.
        """
        kinds = {(camera.is_panorama, camera.vertical_fov) for camera in set(self.cameras())}
        if {is_panorama for is_panorama, _ in kinds} == {True}:
            extents = {extent for _, extent in kinds}
            return "panorama", float(extents.pop() or 0) or None if len(extents) == 1 else None
        return (None if any(is_panorama for is_panorama, _ in kinds) else "photo"), None

    @property
    def synthetic(self) -> bool:
        """Whether all tiles belong to the synthetic world, also after an export and under another name."""
        return all(WORLD_AREA.fullmatch(area or "") for area in set(self.gallery["area"][:]))

    def positive_rows(self) -> np.ndarray:
        """Return the gallery row of the positive tile of each query: int64, shape (queries,)."""
        row_of = {tile: row for row, tile in enumerate(self.gallery["tile_id"][:])}
        return np.array([row_of[tile] for tile in self.queries["positive"][:]], dtype=np.int64)


def check_apart(train: CrossViewDataset, validation: CrossViewDataset) -> None:
    """Refuse a validation split that contains training photos, on which memorised training data would score well.

    Args:
        train: Training split.
        validation: Validation split.

    Raises:
        GenGeoError: A query is in both, for example because they were loaded with different fractions or seeds.
    """
    both = set(train.queries["query_id"][:]).intersection(validation.queries["query_id"][:])
    if both:
        raise GenGeoError(
            f"{len(both):,} photos, first {min(both)!r}, are both in {train.name} and in {validation.name}: give the "
            "loader the same options for both (data.train and data.validation)"
        )


def _check_columns(which: str, table: datasets.Dataset, expected: datasets.Features) -> None:
    """Refuse an empty table and a table whose columns differ from the schema."""
    if not len(table):
        raise GenGeoError(f"the {which} table is empty: there is nothing to match")
    for column, feature in expected.items():
        if column not in table.features:
            raise GenGeoError(f"the {which} table lacks the column {column!r}; it has {sorted(table.features)}")
        found = table.features[column]
        if type(found) is not type(feature) or getattr(found, "dtype", "") != getattr(feature, "dtype", ""):
            raise GenGeoError(f"the {which} column {column!r} must be {feature}, found {found}")


def _unique(which: str, column: str, ids: list[str | None]) -> set[str]:
    """Return the set of ids; refuse missing and repeated ids."""
    seen: set[str] = set()
    for row, value in enumerate(ids):
        if value is None:
            raise GenGeoError(f"row {row} of the {which} table has no {column}; every row needs one")
        if value in seen:
            raise GenGeoError(f"the {which} table contains the {column} {value!r} twice; ids must be unique")
        seen.add(value)
    return seen
