"""Maps of answers that work offline: one HTML page that contains Leaflet, imagery and thumbnails.

The content security policy of the page allows connections only to a background map that the caller chose, so no data
about the photos leaves the machine. Script and style are `assets/map.js` and `assets/map.css`.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.html import ASSETS, render
from gengeo_hf.index.index import GeoIndex
from gengeo_hf.localization.answers import Answer, Place, drive_line, view_cone

if TYPE_CHECKING:
    from gengeo_hf.index.stores import StoreIndex

LEAFLET = ASSETS / "leaflet"
MAX_TILES = 200  # tiles drawn around the places, about 4 kB each
PHOTO_PIXELS = 320
MANY, MANY_PIXELS = 50, 120  # above this number of photos, pictures are smaller and only best tiles are shown


@dataclass(frozen=True)
class MapPoint:
    """A marker on the map.

    Args:
        lat, lon: Position in degrees.
        kind: "found" (a square for the best place of a photo, circles for others), "exif" (position in the photo's
            file) or "truth" (known position); the last two are diamonds.
        label: Text of the popup in one line, facts separated by " · ".
        rank: Number next to the marker; 0 shows none.
        picture: JPEG or PNG of the popup.
        radius_m: Radius of the circle of uncertainty, metres; None draws none.
        bounds: Bounds of the tile, drawn as a frame; None draws none.
        view: (lat, lon) of the cone in the direction of view, see `view_cone`; empty draws none.
        probability: Picture of the posterior inside the tile, in a layer that is hidden at first.
    """

    lat: float
    lon: float
    kind: str
    label: str
    rank: int = 0
    picture: bytes = b""
    radius_m: float | None = None
    bounds: Bounds | None = None
    view: Sequence[tuple[float, float]] = ()
    probability: "MapOverlay | None" = None


@dataclass(frozen=True)
class MapOverlay:
    """A north-up picture on the map: JPEG or PNG, with its bounds in degrees."""

    picture: bytes
    bounds: Bounds


@dataclass(frozen=True)
class Background:
    """An online background map.

    Args:
        url: Template such as `https://.../{z}/{x}/{y}.png`, https or http; "" has no background map.
        attribution: Attribution that its licence requires.
        max_zoom: Maximum zoom level of its tiles; they are enlarged at higher levels.

    Raises:
        GenGeoError: `url` is not such a template.
    """

    url: str
    attribution: str = ""
    max_zoom: int = 19

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        is_template = all(name in self.url for name in ("{z}", "{x}", "{y}"))
        if self.url and not (parts.scheme in ("http", "https") and parts.netloc and is_template):
            raise GenGeoError(
                f"the background map {self.url} is not an address with {{z}}, {{x}} and {{y}}; expected, for example, "
                "https://tiles.example.org/{z}/{x}/{y}.png"
            )
        if any(sign in parts.netloc for sign in " ;,'\""):
            raise GenGeoError(f"the background map has the server {parts.netloc!r}, which is not a host name")


@dataclass(frozen=True)
class MapPhoto:
    """A photo in the list next to the map, with its markers.

    Args:
        name: Name of the photo.
        points: Markers: found places, EXIF position, known position.
        picture: JPEG or PNG of the photo.
        note: Text under the name, for example "12 m from its known position".
        known: False draws the places in a faint colour.
    """

    name: str
    points: Sequence[MapPoint] = field(default_factory=tuple)
    picture: bytes = b""
    note: str = ""
    known: bool = True


def map_page(
    photos: Sequence[MapPhoto],
    overlays: Sequence[MapOverlay] = (),
    title: str = "GenGeo: places",
    caveat: str = "",
    background: Background | None = None,
    line: Sequence[tuple[float, float]] = (),
    credits: Sequence[str] = (),
) -> str:
    """Build the complete HTML page.

    Args:
        photos: Photos with their markers.
        overlays: Imagery of the index, drawn under the markers.
        title: Heading and window title.
        caveat: Warning shown above the map.
        background: Online background map; None makes no network request.
        line: (lat, lon) of a drive, drawn as a line.
        credits: Attribution of each source of imagery.
    """
    background = background or Background("")
    pictures: dict[bytes, str] = {}
    origin = [point.lon for photo in photos for point in photo.points] or [o.bounds.west for o in overlays] or [0.0]
    content = {
        "photos": [_photo(photo, origin[0], pictures) for photo in photos],
        "overlays": [_overlay(overlay, origin[0], pictures) for overlay in overlays],
        "line": [[lat, _unwrapped(lon, origin[0])] for lat, lon in line],
        "tileUrl": background.url,
        "attribution": html.escape(background.attribution),  # Leaflet inserts it as HTML
        "maxNativeZoom": background.max_zoom,
        "credits": [html.escape(text) for text in credits],
    }
    content["pictures"] = {key: data_uri(picture) for picture, key in pictures.items()}
    server = urlsplit(background.url.replace("{s}", "*")) if background.url else None
    return render(
        "map.html.jinja",
        title=title,
        caveat=caveat,
        content=content,
        allowed_images=f"data: {server.scheme}://{server.netloc}" if server else "data:",
        leaflet=_leaflet(),
        script=(ASSETS / "map.js").read_text(encoding="utf-8"),
        style=(ASSETS / "map.css").read_text(encoding="utf-8"),
    )


def map_frame(page: str, height: int = 560) -> str:
    """Wrap a page of `map_page` in an `<iframe>`, for a report, a notebook or a web page.

    Args:
        page: HTML of `map_page`.
        height: Height of the frame, CSS pixels.
    """
    return (
        f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:{height}px;border:1px solid #ccc;'
        'border-radius:6px" sandbox="allow-scripts allow-popups" title="map"></iframe>'
    )


def answers_map(
    answers: Sequence[Answer],
    index: "GeoIndex | StoreIndex | None" = None,
    caveat: str = "",
    drive: bool = False,
    **options: Any,
) -> str:
    """Build the map of answers: list of photos, places with thumbnails of tiles, and imagery of the index.

    Args:
        answers: Answers of `GeoLocalizer.locate_many`.
        index: Index or store with the thumbnails; None draws none.
        caveat: Warning shown above the map.
        drive: Whether the answers are frames of one drive, whose line is drawn.
        options: `title` and `background` of `map_page`.
    """
    shown = 1 if len(answers) > MANY else None  # only tiles of the best places if there are many photos
    wanted = [place.tile_id for answer in answers for place in answer.places[:shown]]
    pictures = index.thumbnails(wanted) if index is not None else {}
    size = PHOTO_PIXELS if len(answers) <= MANY else MANY_PIXELS
    photos = [_answer(answer, pictures, size) for answer in answers]
    overlays = {
        place.tile_id: MapOverlay(pictures[place.tile_id], place.bounds)
        for answer in answers
        for place in reversed(answer.places)
        if place.bounds is not None and place.tile_id in pictures
    }
    imagery = list(overlays.values())
    if isinstance(index, GeoIndex) and len(overlays) < MAX_TILES:
        imagery = [*_neighbours(answers, index, set(overlays), MAX_TILES - len(overlays)), *imagery]
    credits = list(dict.fromkeys(place.rights for answer in answers for place in answer.places if place.rights))
    line = drive_line(answers) if drive else ()
    return map_page(photos, imagery, caveat=caveat, line=line, credits=credits, **options)


def data_uri(picture: bytes) -> str:
    """Encode JPEG or PNG bytes as a data URI; "" for no bytes."""
    if not picture:
        return ""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _answer(answer: Answer, pictures: dict[str, bytes], size: int) -> MapPhoto:
    """Convert an answer to a photo with markers."""
    points = [
        MapPoint(
            place.lat,
            place.lon,
            "found",
            _label(place),
            place.rank,
            pictures.get(place.tile_id, b""),
            place.uncertainty_m,
            place.bounds,
            view_cone(place) if place.pose and place.heading is not None else (),
            _probability(place),
        )
        for place in answer.places
    ]
    unknown = "" if answer.known or answer.error else "don't know"
    note = "; ".join(filter(None, (answer.error, unknown, *answer.notes)))
    if (position := answer.exif_position) is not None:
        label = f"{position.lat:.6f}, {position.lon:.6f} · EXIF position"
        points.append(MapPoint(position.lat, position.lon, "exif", label))
        if answer.exif_distance_m is not None:
            error = f"best place {answer.exif_distance_m:,.0f} m from its EXIF position"
            note = "; ".join(filter(None, (note, error)))
    return MapPhoto(Path(answer.photo).name, points, _photo_picture(answer, size), note, answer.known)


def _probability(place: Place) -> MapOverlay | None:
    """Picture of the posterior of the best place; None for other places."""
    found = place.position_map if place.rank == 1 else None
    return None if found is None else MapOverlay(found.picture(), found.bounds)


def _label(place: Place) -> str:
    """Format facts about a place in one line, position first."""
    facts = [f"{place.lat:.6f}, {place.lon:.6f}"]
    if place.uncertainty_m is not None:
        facts[0] += f" ± {place.uncertainty_m:,.0f} m"
    if place.confidence is not None:
        facts.append(f"{place.confidence:.0%} confident")
    facts.append(f"score {place.score:.3f}")
    if place.pose and place.heading is not None:
        facts.append(f"heading {place.heading:.0f}°")
    return " · ".join([*facts, f"tile {place.tile_id}"])


def _photo_picture(answer: Answer, size: int) -> bytes:
    """Small JPEG of the photo, its longer side `size` pixels."""
    from gengeo_hf.common.images import open_image
    from gengeo_hf.common.video import read_frame
    from gengeo_hf.index.segment import thumbnail

    if answer.error:
        return b""
    image = (
        read_frame(answer.photo) if answer.video_s is not None else open_image(answer.photo, target_size=(size, size))
    )
    return thumbnail(image, size)


def _neighbours(answers: Sequence[Answer], index: GeoIndex, drawn: set[str], limit: int) -> list[MapOverlay]:
    """Tiles nearest to the best places, as a background of the markers."""
    import numpy as np

    from gengeo_hf.common.geo import great_circle_m
    from gengeo_hf.imagery.tiles import row_bounds

    best = [answer.places[0] for answer in answers if answer.places]
    if not best:
        return []
    tiles = index.tiles
    lat, lon = tiles["lat"].to_numpy(), tiles["lon"].to_numpy()
    distance = np.full(len(lat), np.inf)
    for place in best[:50]:
        np.minimum(distance, great_circle_m(lat, lon, place.lat, place.lon), out=distance)
    rows = [int(row) for row in np.argsort(distance, kind="stable")[:limit]]
    boxes = {tiles["tile_id"][row].as_py(): row_bounds(tiles, row) for row in rows}
    wanted = [tile for tile, box in boxes.items() if box is not None and tile not in drawn]
    return [MapOverlay(picture, box) for tile, picture in index.thumbnails(wanted).items() if (box := boxes[tile])]


def _key(picture: bytes, pictures: dict[bytes, str]) -> str:
    """Key of a picture in the page, which holds each picture once; "" for no picture."""
    return pictures.setdefault(picture, f"p{len(pictures)}") if picture else ""


def _photo(photo: MapPhoto, origin: float, pictures: dict[bytes, str]) -> dict[str, Any]:
    """Convert a photo for the script of the page."""
    points = [
        {
            "at": [point.lat, _unwrapped(point.lon, origin)],
            "kind": point.kind,
            "label": point.label,
            "rank": point.rank,
            "picture": _key(point.picture, pictures),
            "radius": point.radius_m,
            "box": _box(point.bounds, origin) if point.bounds else None,
            "view": [[lat, _unwrapped(lon, origin)] for lat, lon in point.view],
            "probability": _overlay(point.probability, origin, pictures) if point.probability else None,
        }
        for point in photo.points
    ]
    picture = _key(photo.picture, pictures)
    return {"name": photo.name, "note": photo.note, "known": photo.known, "picture": picture, "points": points}


def _overlay(overlay: MapOverlay, origin: float, pictures: dict[bytes, str]) -> dict[str, Any]:
    """Convert an overlay for the script of the page."""
    return {"box": _box(overlay.bounds, origin), "picture": _key(overlay.picture, pictures)}


def _unwrapped(lon: float, origin: float) -> float:
    """Longitude within 180 degrees of `origin`, so that a map across the date line is continuous."""
    return origin + (lon - origin + 180.0) % 360.0 - 180.0


def _box(bounds: Bounds, origin: float) -> list[list[float]]:
    """South-west and north-east corners, unwrapped."""
    west = _unwrapped(bounds.west, origin)
    return [[bounds.south, west], [bounds.north, west + bounds.width]]


@cache
def _leaflet() -> dict[str, str]:
    """Files of Leaflet. References to icons in its style sheet are removed: the page does not use or request them."""
    import re

    style = (LEAFLET / "leaflet.css").read_text(encoding="utf-8")
    script = (LEAFLET / "leaflet.js").read_text(encoding="utf-8")
    return {
        "css": re.sub(r"url\([^)]*\)", "none", style),
        "js": re.sub(r"//# sourceMappingURL=.*", "", script),
        "licence": (LEAFLET / "LICENSE").read_text(encoding="utf-8"),
    }
