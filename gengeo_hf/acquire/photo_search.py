"""All photos of an area: its boxes, searched one by one, divided where an answer is full, and remembered on disk.

Each answer is a line of a journal, so that a search that was stopped asks nothing twice.
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

CELL_DEGREES = 0.009  # the API refuses boxes with a side of 0.01 degrees or more
SMALLEST_DEGREES = 1e-5  # about a metre: a fuller box is not divided any more
WORKERS = 4
Item = TypeVar("Item")


class Progress(Protocol):
    """Iterates over items and shows how far it is."""

    def __call__(self, items: Iterable[Item], total: int, unit: str) -> Iterable[Item]:
        """The items.

        Args:
            items: What is iterated.
            total: How many there are, about.
            unit: Their plural noun.
        """
        ...


def without_progress(items: Iterable[Item], total: int, unit: str) -> Iterable[Item]:
    """The items, without showing anything."""
    return items


class Journal:
    """Lines of JSON on disk, each written at once; half a line at the end, of a killed process, is left out.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # half a line must not run into the next one
                    file.write(b"\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """All whole lines."""
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
        """Write one line."""
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass
class Found:
    """What a search gave.

    Args:
        photos: What the API says of each photo, by id; every photo once.
        boxes: Boxes that were answered.
        full: Boxes of a metre that hold more photos than an answer.
        failed: Boxes without an answer, and why.
    """

    photos: dict[str, dict[str, Any]] = field(default_factory=dict)
    boxes: int = 0
    full: list[Box] = field(default_factory=list)
    failed: dict[Box, str] = field(default_factory=dict)
    without_id: int = 0


def search_boxes(area: Area) -> list[Box]:
    """Boxes of at most `CELL_DEGREES` that together cover an area, none across the date line."""
    found: dict[Box, None] = {}
    for south, north, west, east in area.boxes.tolist():
        rows = max(1, math.ceil((north - south) / CELL_DEGREES - 1e-9))
        latitudes = np.linspace(south, north, rows + 1)
        for left, right in _at_date_line(west, east):
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


def _at_date_line(west: float, east: float) -> list[tuple[float, float]]:
    """A range of continuous longitudes as ranges in -180..180."""
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
) -> Found:
    """Search every box of an area; boxes that the journal holds are not asked for again.

    Args:
        client: Who is asked.
        area: Where.
        is_panorama: Panoramas, or all other photos.
        journal: Answers of this and earlier runs.
        progress: Shows how far it is: boxes as they are done, how many there are at first, their name.

    Raises:
        TokenError: The token is refused.
        ImageryStoppedError: The server is down.
    """
    found, boxes = Found(), search_boxes(area)
    for _ in progress(_searched(client, boxes, is_panorama, journal, found), len(boxes), "boxes"):
        pass
    return found


def _searched(client: Mapillary, boxes: list[Box], is_panorama: bool, journal: Journal, found: Found) -> Iterator[Box]:
    """Search boxes, and the quarters of full ones, a few at a time; adds to `found` and yields each that is done."""
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
                    waiting += _taken(found, box, line)
                    yield box
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                box = running.pop(future)
                try:
                    line = _line(box, is_panorama, future.result())
                except (TokenError, ImageryStoppedError):
                    raise
                except GenGeoError as error:
                    found.failed[box] = str(error)
                else:
                    journal.add(line)
                    waiting += _taken(found, box, line)
                yield box
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _key(box: Any, is_panorama: bool) -> tuple[bool, str]:
    return is_panorama, ",".join(f"{side:.7f}" for side in box)


def _line(box: Box, is_panorama: bool, photos: list[dict[str, Any]]) -> dict[str, Any]:
    """What the journal says of an answer. One that is full is not kept: its quarters are."""
    side = max(box[2] - box[0], box[3] - box[1])
    is_full = len(photos) >= FULL * LIMIT
    line: dict[str, Any] = {"box": list(box), "panorama": is_panorama, "is_full": is_full}
    return line if is_full and side > SMALLEST_DEGREES else line | {"photos": photos}


def _taken(found: Found, box: Box, line: dict[str, Any]) -> list[Box]:
    """Add an answer; the quarters of its box where it was full."""
    found.boxes += 1
    if "photos" not in line:
        return _quarters(box)
    if line.get("is_full"):
        found.full.append(box)
    for photo in line["photos"]:
        number = photo.get("id")
        if isinstance(number, bool) or not isinstance(number, str | int) or not str(number).isdecimal():
            found.without_id += 1  # an id that became a floating point number on its way is another one
        else:
            found.photos[str(number)] = photo
    return []


def _quarters(box: Box) -> list[Box]:
    west, south, east, north = box
    x, y = round((west + east) / 2, 7), round((south + north) / 2, 7)
    return [(west, south, x, y), (x, south, east, y), (west, y, x, north), (x, y, east, north)]
