"""Making the data set of a city: photos of Mapillary's contributors and tiles of an open orthophoto.

The steps are: search the area, apply the rules, find the tiles, split by area, fetch photos, crop tiles, write the
table. Each can be resumed. The gallery covers the whole area, including tiles without a photo.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.acquire import mapillary
from gengeo_hf.acquire.city_pairs import (
    Pairing,
    TileGrid,
    assign_photo_splits,
    keep_paired,
    least_distance_m,
    min_margin_m,
    pair,
)
from gengeo_hf.acquire.city_table import City, write_city
from gengeo_hf.acquire.download import check_space, gigabytes
from gengeo_hf.acquire.mapillary import Mapillary
from gengeo_hf.acquire.photo_facts import parse_photo
from gengeo_hf.acquire.photo_files import PHOTO_FOLDER, TILE_FOLDER, FetchErrors, fetch_photos, fetch_tiles
from gengeo_hf.acquire.photo_rules import PhotoRules, Selection, flight_year, limit, select
from gengeo_hf.acquire.photo_search import (
    Journal,
    Progress,
    SearchResult,
    search_area,
    search_boxes,
    without_progress,
)
from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import write_json
from gengeo_hf.common.tables import PAIRS_FILE
from gengeo_hf.data.own import SPLITS, SplitOptions
from gengeo_hf.imagery.plan import ImageryPlan
from gengeo_hf.imagery.tiles import PlannedSource, Rights, TileSource

REQUEST_FILE = "request.json"
STATE = ".making"  # directory of state files in the data set, until it is complete
PHOTO_KB = {256: 20, 1024: 150, 2048: 450}  # typical size of a photo by its width in pixels
TILE_KB = 45  # typical size of a tile


@dataclass(frozen=True)
class CityOptions:
    """Options for the data set of a city.

    Args:
        rules: Requirements on the photos.
        cut: Options of the splits; None puts all photos into the test split. The margin is increased if tiles of two
            splits would overlap.
        pixels: Width of the photos in pixels: 256, 1024 or 2048.
        allow_gaps: Whether to continue if some boxes, photos or tiles could not be fetched.
    """

    rules: PhotoRules = field(default_factory=PhotoRules)
    cut: SplitOptions | None = field(default_factory=SplitOptions)
    pixels: int = 2048
    allow_gaps: bool = False


@dataclass(frozen=True)
class CityPlan:
    """Estimate of requests and data volume, made before the first request.

    Args:
        area: Name of the area.
        searches: Minimum number of search requests; full boxes are divided and need more.
        max_photos: Maximum number of photos; each takes two requests.
        photo_megabytes: Megabytes of `max_photos` photos.
        tiles: Number of tiles of the gallery.
        tile_megabytes: Megabytes of the tiles' files.
        hosts: Hosts that receive requests, without the hosts of photo files, which the photo service names later.
        imagery: Plan of the imagery; None for local imagery.
    """

    area: str
    searches: int
    max_photos: int
    photo_megabytes: float
    tiles: int
    tile_megabytes: float
    hosts: tuple[str, ...]
    imagery: ImageryPlan | None = None

    def to_dict(self) -> dict[str, Any]:
        """The values as plain types for JSON."""
        return {**self.__dict__, "imagery": None if self.imagery is None else self.imagery.to_dict()}

    def __str__(self) -> str:
        lines = [
            f"area:         {self.area}",
            f"photos:       at least {self.searches:,} searches, at most {self.max_photos:,} photos of about "
            f"{self.photo_megabytes:,.0f} MB (--max-photos)",
            f"gallery:      {self.tiles:,} tiles, about {self.tile_megabytes:,.0f} MB on disk",
            f"hosts:        {', '.join(self.hosts)}, and the hosts of the photo files",
        ]
        if self.imagery is not None:
            lines += [f"imagery:      {line}" for line in str(self.imagery).splitlines() if not line.startswith("area")]
        return "\n".join(lines)


def plan_city(area: Area, source: TileSource, options: CityOptions, address: str = mapillary.API) -> CityPlan:
    """Estimate requests and data volume for a city, without any request.

    Args:
        area: Area of the data set.
        source: Imagery, tiled over the area.
        options: Options of the data set.
        address: Address of the photo service.
    """
    from gengeo_hf.imagery.hosts import host_of

    imagery = source.plan() if isinstance(source, PlannedSource) else None
    return CityPlan(
        area=str(area),
        searches=len(search_boxes(area)),
        max_photos=options.rules.max_photos,
        photo_megabytes=options.rules.max_photos * PHOTO_KB[options.pixels] / 1000,
        tiles=source.table.num_rows,
        tile_megabytes=source.table.num_rows * TILE_KB / 1000,
        hosts=tuple(dict.fromkeys([host_of(address), *(imagery.hosts if imagery else ())])),
        imagery=imagery,
    )


def make_city(
    client: Mapillary,
    area: Area,
    source: TileSource,
    rights: Rights,
    out: str | Path,
    options: CityOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = without_progress,
    say: Callable[[str], None] = lambda text: None,
) -> City:
    """Make the data set of a city. Calling it again resumes an interrupted run.

    Args:
        client: Client of the photo service.
        area: Area of the data set.
        source: Imagery, tiled over the area, with known bounds of the tiles.
        rights: Rights of the imagery; attribution and licence are required.
        out: Output directory.
        options: Options of the data set; None takes the defaults.
        overwrite: Whether to replace a complete data set; photos that were fetched are kept.
        progress: Wraps the iterations of a step to show progress.
        say: Function that receives one line of text for the user after each step.

    Returns:
        The city that was written.

    Raises:
        GenGeoError: Rights are missing, the directory holds other files, no photo is left, or requests failed and
            `allow_gaps` is False.
        TokenError: The access token is refused.
        ImageryStoppedError: A server does not respond any more, or the disk is full; the next call continues.
    """
    options, out = options or CityOptions(), Path(out)
    if not rights.attribution or not rights.licence:
        raise GenGeoError(f"{source.name}: state attribution and licence of the imagery: --attribution and --licence")
    request = _request(area, source, options)
    state = prepare_directory(out, request, overwrite)
    found = _search(client, area, options, state, progress, say)
    flight = flight_year(rights.acquired)
    chosen = select([parse_photo(name, entity) for name, entity in found.photos.items()], options.rules, area, flight)
    tiles = TileGrid.from_table(source.table, source.name)
    pairing = keep_paired(chosen, tiles)
    limit(chosen, options.rules.max_photos)
    _need_photos(chosen, found)
    parts, pairing = _split_photos(chosen, tiles, options)
    say(f"{len(chosen.photos):,} photos are wanted: " + _counts(Counter(parts.tolist())))
    needed = len(chosen.photos) * PHOTO_KB[options.pixels] * 1000 + len(tiles) * TILE_KB * 1000
    check_space(out, needed)
    say(f"photos and tiles take about {gigabytes(needed)}")

    journal = Journal(state / "refused.jsonl")
    refused, lost = fetch_photos(client, chosen.photos, out, options.pixels, options.rules, journal, progress)
    _check_gaps("photos", lost, options)
    if isinstance(source, PlannedSource) and (note := source.prepare()):
        say(note)
    empty, lost_tiles = fetch_tiles(source, range(len(tiles)), out, progress)
    _check_gaps("tiles", lost_tiles, options)

    city = City(out, tiles, chosen, pairing, parts, found, empty, flight)
    city.drop_without_images(refused, lambda photo: (out / PHOTO_FOLDER / f"{photo.id}.jpg").is_file())
    _need_photos(city.chosen, found)
    write_city(city, source.name, rights, request, least_distance_m(city.chosen.photos, city.parts))
    shutil.rmtree(state)
    return city


def _request(area: Area, source: TileSource, options: CityOptions) -> dict[str, Any]:
    """Settings that must be equal to those of an earlier run to resume it."""
    return {
        "area": str(area),
        "boxes": area.boxes.round(7).tolist(),
        "kind": options.rules.kind,
        "photo_pixels": options.pixels,
        "imagery": source.name,
        "rendering": str(getattr(source, "rendering", "")),  # not a member of the protocol: users' sources may lack it
        "tiles": source.table.num_rows,
    }


def prepare_directory(out: Path, request: dict[str, Any], overwrite: bool) -> Path:
    """Create the directory of a data set, or continue with that of an interrupted run.

    Args:
        out: Output directory.
        request: Settings from `_request`.
        overwrite: Whether to start again if the directory holds a complete data set or one with other settings.

    Returns:
        Directory of the state files.

    Raises:
        GenGeoError: The directory holds other files, or a data set that would be overwritten.
    """
    state = out / STATE
    previous = _previous_request(out)
    if previous is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise GenGeoError(f"{out} exists and holds something else: give the name of a new directory")
    elif previous == request and not (out / PAIRS_FILE).is_file():
        return state
    elif not overwrite:
        what = "is complete" if previous == request else "was made with another area, imagery or kind"
        raise GenGeoError(f"{out} {what}: give the name of a new directory, or --overwrite to make it again")
    else:
        (out / PAIRS_FILE).unlink(missing_ok=True)
        can_keep_photos = all(previous.get(key) == request[key] for key in ("kind", "photo_pixels"))
        for name in (TILE_FOLDER, STATE, *(() if can_keep_photos else (PHOTO_FOLDER,))):
            shutil.rmtree(out / name, ignore_errors=True)
    state.mkdir(parents=True, exist_ok=True)
    write_json(state / REQUEST_FILE, request)
    return state


def _previous_request(out: Path) -> dict[str, Any] | None:
    """Settings of the complete or incomplete data set in a directory; None without one."""
    from gengeo_hf.data.sources import read_sources

    file = out / STATE / REQUEST_FILE
    try:
        if file.is_file():
            return dict(json.loads(file.read_text(encoding="utf-8")))
        sources = read_sources(out) if out.is_dir() else None
        return None if sources is None else dict(sources.facts["request"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _search(
    client: Mapillary,
    area: Area,
    options: CityOptions,
    state: Path,
    progress: Progress,
    say: Callable[[str], None],
) -> SearchResult:
    """Search the area and report the result; failed boxes are an error unless `allow_gaps` is set."""
    found = search_area(client, area, options.rules.is_panorama, Journal(state / "search.jsonl"), progress)
    say(f"{found.boxes:,} boxes searched: {len(found.photos):,} photos")
    for box in found.full[:1]:
        say(f"{len(found.full):,} boxes of a metre hold more photos than a response can, first {box}: some are missing")
    if found.failed and not options.allow_gaps:
        box, reason = next(iter(found.failed.items()))
        sides = ",".join(f"{side:g}" for side in box)
        raise GenGeoError(
            f"{len(found.failed):,} of {found.boxes + len(found.failed):,} boxes got no answer, first {sides}: "
            f"{reason}; the same command requests only these, and --allow-gaps continues without them"
        )
    return found


def _split_photos(chosen: Selection, tiles: TileGrid, options: CityOptions) -> tuple[np.ndarray, Pairing]:
    """Split of each photo and its tiles; photos near another split are dropped."""
    pairing = pair(chosen.photos, tiles)
    if options.cut is None:
        return np.full(len(chosen.photos), "test", dtype="U10"), pairing
    margin = max(options.cut.margin_m, min_margin_m(tiles.side_m))
    split_options = SplitOptions(**{**options.cut.__dict__, "margin_m": margin, "split_by": "area"})
    parts = assign_photo_splits(chosen.photos, pairing, tiles, split_options)
    chosen.keep(f"within {margin:g} m of another part, or of its sequence", parts != "")
    return parts[parts != ""], pair(chosen.photos, tiles)


def _need_photos(chosen: Selection, found: SearchResult) -> None:
    """Raise an error that names the main reasons if no photo is left."""
    if chosen.photos:
        return
    if not found.photos:
        raise GenGeoError(
            "the photo service has no photos in this area: see https://www.mapillary.com/app, or try --kind perspective"
        )
    rules = "; ".join(f"{count:,} {rule}" for rule, count in chosen.dropped.most_common(3))
    raise GenGeoError(f"none of {len(found.photos):,} photos is left: {rules}")


def _check_gaps(what: str, lost: FetchErrors, options: CityOptions) -> None:
    """Raise an error if requests failed and `allow_gaps` is False."""
    if lost.count and not options.allow_gaps:
        raise GenGeoError(
            f"{lost.count:,} {what} could not be fetched, first {lost.first}; the same command requests only these, "
            "and --allow-gaps continues without them"
        )


def _counts(parts: Counter[str]) -> str:
    """Number of photos of each split, as text."""
    return ", ".join(f"{parts[split]:,} {split}" for split in SPLITS)
