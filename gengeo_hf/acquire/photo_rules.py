"""Selection of photos by rules on their metadata, before any image is downloaded; dropped photos are counted by rule.

The rules exclude photos that would make wrong pairs (unreliable position or heading, tilted camera, another kind of
camera) and photos that would make results too optimistic (frames of one drive a metre apart).
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from gengeo_hf.acquire.photo_facts import FISHEYES, PhotoRecord
from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import metres_per_degree

YEAR_S = 365.25 * 86_400
RATIO_TOLERANCE = 0.01  # of the ratio of a panorama's width to twice its height
CONSTANT = 3  # minimum number of photos of a sequence whose equal headings are taken as an error


@dataclass(frozen=True)
class PhotoRules:
    """Requirements on photos. Photos for which a value is unknown are kept, except as stated in `select`.

    Args:
        kind: "panorama" (whole spheres) or "perspective"; a data set contains one kind only.
        max_shift_m: Maximum distance in metres between the computed and the stated position.
        max_heading_gap: Maximum difference in degrees between the computed and the stated heading.
        max_tilt: Maximum pitch and roll in degrees; images are not levelled.
        max_years: Maximum number of years between photo and flight; None accepts all.
        min_quality: Minimum quality score of the API, 0 to 1; photos without a score are kept.
        min_brightness: Minimum mean grey level of the image, 0 to 255, which excludes photos taken at night.
        sequence_step_m: Minimum distance in metres between consecutive frames of a sequence.
        grid_m: Side in metres of the squares in each of which one photo is kept.
        max_photos: Maximum number of photos, spread over the area.
    """

    kind: str = "panorama"
    max_shift_m: float = 15.0
    max_heading_gap: float = 30.0
    max_tilt: float = 10.0
    max_years: float | None = None
    min_quality: float = 0.0
    min_brightness: float = 25.0
    sequence_step_m: float = 4.0
    grid_m: float = 3.0
    max_photos: int = 20_000

    @property
    def is_panorama(self) -> bool:
        """Whether the photos must be panoramas."""
        return self.kind == "panorama"


@dataclass
class Selection:
    """Selected photos, and the number of photos that each rule dropped.

    Args:
        photos: Selected photos in the order of their ids.
        dropped: Number of dropped photos by rule; each photo is counted once, for the first rule that it violates.
    """

    photos: list[PhotoRecord]
    dropped: Counter[str] = field(default_factory=Counter)

    def keep(self, rule: str, is_kept: Sequence[bool] | np.ndarray) -> None:
        """Drop photos, and count them under a rule.

        Args:
            rule: Description of the rule.
            is_kept: Whether each photo is kept, bool (photos,).
        """
        kept = [photo for photo, satisfies in zip(self.photos, is_kept, strict=True) if satisfies]
        if len(kept) < len(self.photos):
            self.dropped[rule] += len(self.photos) - len(kept)
        self.photos = kept


def select(photos: Sequence[PhotoRecord], rules: PhotoRules, area: Area, flight: float | None) -> Selection:
    """Apply all rules that need metadata only.

    Photos without a computed position and panoramas without a heading are dropped.

    Args:
        photos: Unique photos of a search.
        rules: Requirements on the photos.
        area: Area of the data set; search results also contain photos just outside.
        flight: Date of the aerial imagery as a year with decimals; None if unknown.

    Raises:
        GenGeoError: `rules.max_years` is set, and the date of the flight is unknown.
    """
    if rules.max_years is not None and flight is None:
        raise GenGeoError("--max-years needs the date of the flight: set --acquired, for example --acquired 2023")
    chosen = Selection(sorted(photos, key=lambda photo: (len(photo.id), photo.id)))
    known = [math.isfinite(photo.lat) and math.isfinite(photo.lon) for photo in chosen.photos]
    chosen.keep("without a position", known)
    lat, lon = positions(chosen.photos)
    chosen.keep("outside the area", area.touches(lat, lon, 0.0) if len(lat) else [])
    for name, test in _single_photo_rules(rules, flight):
        chosen.keep(name, [test(photo) for photo in chosen.photos])
    constant = _constant_headings(chosen.photos)
    chosen.keep("one heading for a whole sequence", [photo.sequence not in constant for photo in chosen.photos])
    chosen.keep(f"nearer than {rules.sequence_step_m:g} m to the last frame", _spaced(chosen.photos, rules))
    chosen.keep(f"more than one in {rules.grid_m:g} m", _one_per_cell(chosen.photos, rules.grid_m))
    return chosen


def limit(chosen: Selection, count: int) -> None:
    """Keep at most `count` photos. The choice by a hash of the ids is spread over the area and reproducible."""
    if len(chosen.photos) > count:
        order = sorted(chosen.photos, key=lambda photo: _hash(photo.id))
        kept = {photo.id for photo in order[:count]}
        chosen.keep("beyond --max-photos", [photo.id in kept for photo in chosen.photos])


def positions(photos: Sequence[PhotoRecord]) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes in degrees, (photos,) each."""
    return np.array([photo.lat for photo in photos]), np.array([photo.lon for photo in photos])


def flight_year(acquired: str) -> float | None:
    """Mean of the dates that a source states for its imagery, as a year with decimals.

    Args:
        acquired: Date, year or range, for example "2023", "2021-05-13", "20210513", "2019/2021".

    Returns:
        The year with decimals; None if the text contains no year.
    """
    found = re.findall(r"(?<!\d)((?:19|20)\d\d)(?:-?(0[1-9]|1[0-2])(?!\d)|-?(0[1-9]|1[0-2])-?[0-3]\d)?", acquired)
    years = []
    for year, month_alone, month in found:
        number = month_alone or month
        years.append(int(year) + ((int(number) - 0.5) / 12 if number else 0.5))
    return sum(years) / len(years) if years else None


def photo_year(photo: PhotoRecord) -> float:
    """Date of a photo as a year with decimals; NaN if unknown."""
    if photo.captured_at is None:
        return math.nan
    return 1970.0 + photo.captured_at / 1000 / YEAR_S


def day_of(photo: PhotoRecord) -> str:
    """Date of a photo, ISO 8601; "" if unknown."""
    if photo.captured_at is None:
        return ""
    try:
        return datetime.fromtimestamp(photo.captured_at / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def _single_photo_rules(rules: PhotoRules, flight: float | None) -> list[tuple[str, Callable[[PhotoRecord], bool]]]:
    """Rules that each photo is tested against by itself, as (description, test).

    Comparisons with NaN are false, so that the negated ones keep photos for which a value is unknown.
    """
    kind = [("another kind of camera", lambda photo: _is_kind(photo, rules))]
    if rules.is_panorama:
        kind += [
            ("not twice as wide as high", lambda photo: is_whole_sphere(photo.width, photo.height)),
            ("without a heading", lambda photo: math.isfinite(photo.heading)),
        ]
    years = math.inf if rules.max_years is None else rules.max_years
    return [
        *kind,
        ("without a computed position", lambda photo: math.isfinite(photo.shift_m)),
        (f"positions more than {rules.max_shift_m:g} m apart", lambda photo: not photo.shift_m > rules.max_shift_m),
        ("headings both 0", lambda photo: not (photo.heading == 0.0 and photo.heading_gap == 0.0)),
        (
            f"headings more than {rules.max_heading_gap:g} degrees apart",
            lambda photo: not photo.heading_gap > rules.max_heading_gap,
        ),
        (f"tilted by more than {rules.max_tilt:g} degrees", lambda photo: not photo.tilt > rules.max_tilt),
        (
            f"more than {years:g} years from the flight",
            lambda photo: flight is None or not abs(photo_year(photo) - flight) > years,
        ),
        (f"quality below {rules.min_quality:g}", lambda photo: not photo.quality < rules.min_quality),
    ]


def _is_kind(photo: PhotoRecord, rules: PhotoRules) -> bool:
    """Whether a photo is of the kind that the rules require."""
    if rules.is_panorama:
        return photo.is_sphere
    return not photo.is_panorama and photo.camera not in (*FISHEYES, "spherical", "equirectangular")


def is_whole_sphere(width: int, height: int) -> bool:
    """Whether an image is twice as wide as high, as a whole sphere is; True if its size is unknown.

    Args:
        width, height: Size in pixels, 0 if unknown.
    """
    return not (width and height) or abs(width / (2 * height) - 1) <= RATIO_TOLERANCE


def _constant_headings(photos: Sequence[PhotoRecord]) -> set[str]:
    """Sequences of at least `CONSTANT` photos that all state exactly the same heading."""
    headings: dict[str, set[float]] = {}
    sizes: Counter[str] = Counter()
    for photo in photos:
        if photo.sequence and math.isfinite(photo.heading):
            headings.setdefault(photo.sequence, set()).add(photo.heading)
            sizes[photo.sequence] += 1
    return {name for name, values in headings.items() if len(values) == 1 and sizes[name] >= CONSTANT}


def _plane(photos: Sequence[PhotoRecord]) -> np.ndarray:
    """Positions of photos in a local plane: metres east and north, (photos, 2)."""
    lat, lon = positions(photos)
    if not len(lat):
        return np.zeros((0, 2))
    middle = float(np.median(lat))
    per_lat, per_lon = (float(value) for value in metres_per_degree(middle))
    east = (lon - lon[0] + 180.0) % 360.0 - 180.0
    return np.stack([east * per_lon, (lat - middle) * per_lat], axis=1)


def _spaced(photos: Sequence[PhotoRecord], rules: PhotoRules) -> np.ndarray:
    """Whether each photo is far enough from the previous kept frame of its sequence: bool (photos,)."""
    plane, kept = _plane(photos), np.ones(len(photos), dtype=bool)
    last: dict[str, np.ndarray] = {}
    for row in sorted(range(len(photos)), key=lambda row: (photos[row].captured_at or 0, photos[row].id)):
        name = photos[row].sequence
        if not name:
            continue
        if name in last and np.hypot(*(plane[row] - last[name])) < rules.sequence_step_m:
            kept[row] = False
        else:
            last[name] = plane[row]
    return kept


def _one_per_cell(photos: Sequence[PhotoRecord], side_m: float) -> np.ndarray:
    """Whether each photo is the best of its square, by quality and then by date: bool (photos,)."""
    kept = np.zeros(len(photos), dtype=bool)
    cells = np.floor(_plane(photos) / side_m).astype(np.int64)
    taken = set()
    order = sorted(
        range(len(photos)),
        key=lambda row: (-np.nan_to_num(photos[row].quality), -(photos[row].captured_at or 0), photos[row].id),
    )
    for row in order:
        cell = (int(cells[row, 0]), int(cells[row, 1]))
        kept[row] = cell not in taken
        taken.add(cell)
    return kept


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
