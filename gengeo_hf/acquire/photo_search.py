"""Search for all photos of an area, box by box; boxes whose responses are full are divided into quarters.

Each response is stored as a line of a journal, so that an interrupted search repeats no request.
"""

import json
import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from gengeo_hf.acquire.mapillary import FULL, LIMIT, Box, Mapillary, TokenError
from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import metres_per_degree
from gengeo_hf.imagery.tiles import ImageryStoppedError

CELL_DEGREES = 0.009  # side of a box; the API refuses sides of 0.01 degrees or more
MIN_DEGREES = 1e-5  # side of a box that is not divided further, about a metre
WORKERS = 4
Item = TypeVar("Item")


class Progress(Protocol):
    """Function that wraps an iterable and shows its progress."""

    def __call__(self, items: Iterable[Item], total: int, unit: str) -> Iterable[Item]:
        """Yield the items, and show the progress.

        Args:
            items: Items to iterate over.
            total: Approximate number of items.
            unit: Plural noun for the items, for example "photos".
        """
        ...


def without_progress(items: Iterable[Item], total: int, unit: str) -> Iterable[Item]:
    """A `Progress` that shows nothing."""
    return items


class Journal:
    """File of JSON lines, each written to disk immediately. An incomplete line of a killed process is ignored.

    Args:
        path: Path of the file; its directory is created.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # end an incomplete line, so that the next one starts on its own line
                    file.write(b"\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield all complete lines."""
        if not self._path.is_file():
            return
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict):
                    yield found

    def add(self, value: dict[str, Any]) -> None:
        """Append one line. Safe for threads."""
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass
class SearchResult:
    """Result of a search.

    Args:
        photos: Record of the API for each photo, by its id.
        boxes: Number of boxes with a response.
        full: Boxes of minimum size that hold more photos than a response can contain.
        failed: Reason by box, for boxes without a response.
        without_id: Number of photos that were dropped because their id is invalid.
    """

    photos: dict[str, dict[str, Any]] = field(default_factory=dict)
    boxes: int = 0
    full: list[Box] = field(default_factory=list)
    failed: dict[Box, str] = field(default_factory=dict)
    without_id: int = 0


def search_boxes(area: Area) -> list[Box]:
    """Boxes with sides of at most `CELL_DEGREES` that together cover an area; none crosses the date line."""
    found: dict[Box, None] = {}
    for south, north, west, east in area.boxes.tolist():
        rows = max(1, math.ceil((north - south) / CELL_DEGREES - 1e-9))
        latitudes = np.linspace(south, north, rows + 1)
        for left, right in _split_at_date_line(west, east):
            columns = max(1, math.ceil((right - left) / CELL_DEGREES - 1e-9))
            longitudes = np.linspace(left, right, columns + 1)
            for y in range(rows):
                for x in range(columns):
                    sides = longitudes[x], latitudes[y], longitudes[x + 1], latitudes[y + 1]
                    found[tuple(round(float(side), 7) for side in sides)] = None  # type: ignore[index]  # four
    boxes = list(found)
    if not boxes:
        return []
    left, low, right, top = np.array(boxes).T
    lat, lon = (low + top) / 2, (left + right) / 2
    per_lat, per_lon = metres_per_degree(lat)
    side_m = max(float(((top - low) * per_lat).max()), float(((right - left) * per_lon).max()))
    wanted = area.touches(lat, lon, side_m)
    return [box for box, is_wanted in zip(boxes, wanted, strict=True) if is_wanted]


def _split_at_date_line(west: float, east: float) -> list[tuple[float, float]]:
    """Convert a range of continuous longitudes, which may exceed 180, to ranges in -180..180."""
    if east <= 180.0:
        return [(west, east)]
    if west >= 180.0:
        return [(west - 360.0, east - 360.0)]
    return [(west, 180.0), (-180.0, east - 360.0)]


def search_area(
    client: Mapillary,
    area: Area,
    is_panorama: bool,
    journal: Journal,
    progress: Progress = without_progress,
) -> SearchResult:
    """Search every box of an area. Responses in the journal are not requested again.

    Args:
        client: Client of the photo service.
        area: Area to search.
        is_panorama: Whether to search for panoramas (True) or for all other photos (False).
        journal: Responses of this and earlier runs.
        progress: Wraps the iteration over boxes.

    Raises:
        TokenError: The token is refused.
        ImageryStoppedError: The server does not respond any more.
    """
    found, boxes = SearchResult(), search_boxes(area)
    for _ in progress(_search_boxes(client, boxes, is_panorama, journal, found), len(boxes), "boxes"):
        pass
    return found


def _search_boxes(
    client: Mapillary, boxes: list[Box], is_panorama: bool, journal: Journal, found: SearchResult
) -> Iterator[Box]:
    """Search boxes, and the quarters of full ones, in several threads; add to `found` and yield each finished box."""
    known = {_key(line.get("box", ()), bool(line.get("panorama"))): line for line in journal.lines()}
    waiting = deque(boxes)
    running: dict[Future[list[dict[str, Any]]], Box] = {}
    pool = ThreadPoolExecutor(WORKERS)
    try:
        while waiting or running:
            while waiting and len(running) < 2 * WORKERS:
                box = waiting.popleft()
                if (line := known.get(_key(box, is_panorama))) is None:
                    running[pool.submit(client.search, box, is_panorama)] = box
                else:
                    waiting += _add_response(found, box, line)
                    yield box
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                box = running.pop(future)
                try:
                    line = _journal_line(box, is_panorama, future.result())
                except (TokenError, ImageryStoppedError):
                    raise
                except GenGeoError as error:
                    found.failed[box] = str(error)
                else:
                    journal.add(line)
                    waiting += _add_response(found, box, line)
                yield box
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _key(box: Any, is_panorama: bool) -> tuple[bool, str]:
    """Key of a search in the journal."""
    return is_panorama, ",".join(f"{side:.7f}" for side in box)


def _journal_line(box: Box, is_panorama: bool, photos: list[dict[str, Any]]) -> dict[str, Any]:
    """Line of the journal for a response; photos of a full one are omitted if its quarters will be searched."""
    side = max(box[2] - box[0], box[3] - box[1])
    is_full = len(photos) >= FULL * LIMIT
    line: dict[str, Any] = {"box": list(box), "panorama": is_panorama, "is_full": is_full}
    return line if is_full and side > MIN_DEGREES else line | {"photos": photos}


def _add_response(found: SearchResult, box: Box, line: dict[str, Any]) -> list[Box]:
    """Add the response of a line of the journal to the result; return the quarters of its box if they are needed."""
    found.boxes += 1
    if "photos" not in line:
        return _quarters(box)
    if line.get("is_full"):
        found.full.append(box)
    for photo in line["photos"]:
        number = photo.get("id")
        if isinstance(number, bool) or not isinstance(number, str | int) or not str(number).isdecimal():
            found.without_id += 1  # among them floating-point numbers, which may have lost digits of the id
        else:
            found.photos[str(number)] = photo
    return []


def _quarters(box: Box) -> list[Box]:
    """The four quarters of a box."""
    west, south, east, north = box
    x, y = round((west + east) / 2, 7), round((south + north) / 2, 7)
    return [(west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north)]
