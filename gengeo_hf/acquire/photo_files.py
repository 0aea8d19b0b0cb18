"""Image files of a city, fetched in several threads: photos from the API, tiles from any imagery source.

Existing files are not fetched again. Each file is written under a temporary name and renamed. Refused photos are
recorded in a journal, so that they are not fetched again either.
"""

import io
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from gengeo_hf.acquire.mapillary import Mapillary, TokenError
from gengeo_hf.acquire.photo_facts import PhotoRecord
from gengeo_hf.acquire.photo_rules import PhotoRules, is_whole_sphere
from gengeo_hf.acquire.photo_search import Journal, Progress
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import write_small
from gengeo_hf.common.images import open_image
from gengeo_hf.imagery.tiles import ImageryStoppedError, TileSource

Item = TypeVar("Item")
Result = TypeVar("Result")

PHOTO_FOLDER, TILE_FOLDER = "photos", "tiles"
PHOTO_WORKERS, TILE_WORKERS = 8, 4
JPEG_QUALITY = 92
SMALL = 64  # pixels of the longer side at which brightness is measured
UNREADABLE = "not an image, or cut off"


class FetchErrors:
    """Number of items that could not be fetched in this run, and the first with its reason."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""
        self._lock = threading.Lock()

    def add(self, what: str, error: Exception) -> None:
        """Count one item.

        Args:
            what: Name of the item.
            error: Reason of the failure.
        """
        with self._lock:
            self.count += 1
            self.first = self.first or f"{what}: {error}"


def photo_path(folder: Path, photo: PhotoRecord) -> Path:
    """Path of a photo's file in the directory of the data set."""
    return folder / PHOTO_FOLDER / f"{photo.id}.jpg"


def tile_path(folder: Path, tile_id: str) -> Path:
    """Path of a tile's file in the directory of the data set."""
    return folder / TILE_FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]', '_', tile_id)}.jpg"


def fetch_photos(
    client: Mapillary,
    photos: Sequence[PhotoRecord],
    folder: Path,
    pixels: int,
    rules: PhotoRules,
    journal: Journal,
    progress: Progress,
) -> tuple[dict[str, str], FetchErrors]:
    """Fetch the images of photos.

    Args:
        client: Client of the photo service.
        photos: Photos to fetch.
        folder: Directory of the data set.
        pixels: Width of the images in pixels: 256, 1024 or 2048.
        rules: Requirements on the images.
        journal: Refused photos of this and earlier runs.
        progress: Wraps the iteration to show progress.

    Returns:
        Reason by id of refused photos; requests that failed.

    Raises:
        TokenError: The token is refused.
        ImageryStoppedError: The server does not respond any more.
    """
    refused = {str(line["id"]): str(line["rule"]) for line in journal.lines() if "id" in line and "rule" in line}
    failed = FetchErrors()

    def fetch(photo: PhotoRecord) -> str:
        path = photo_path(folder, photo)
        if photo.id in refused or is_written(path):
            return ""
        try:
            rule = _fetch_photo(client, photo, path, pixels, rules)
        except (TokenError, ImageryStoppedError):
            raise
        except GenGeoError as error:
            failed.add(f"photo {photo.id}", error)
            return ""
        if rule:
            journal.add({"id": photo.id, "rule": rule})
            refused[photo.id] = rule
        return rule

    (folder / PHOTO_FOLDER).mkdir(parents=True, exist_ok=True)
    for _ in progress(in_threads(fetch, photos, PHOTO_WORKERS), len(photos), "photos"):
        pass
    wanted = {photo.id for photo in photos}
    return {name: rule for name, rule in refused.items() if name in wanted}, failed


def _fetch_photo(client: Mapillary, photo: PhotoRecord, path: Path, pixels: int, rules: PhotoRules) -> str:
    """Fetch one photo and write it, unless it violates a rule.

    Returns:
        The rule that the photo violates, "" if the file was written.
    """
    for is_last in (False, True):  # a truncated image is requested once more
        answer = client.picture(photo.id, pixels)
        if answer.reason:
            return answer.reason
        try:
            image = open_image(answer.content)
        except GenGeoError:
            if is_last:
                return UNREADABLE
            continue
        if rules.is_panorama and not is_whole_sphere(*image.size):
            return "pixels not twice as wide as high"
        if brightness(image) < rules.min_brightness:
            return f"darker than {rules.min_brightness:g} of 255"
        write_image(path, answer.content)
        break
    return ""


def fetch_tiles(
    source: TileSource, rows: Sequence[int], folder: Path, progress: Progress
) -> tuple[dict[int, str], FetchErrors]:
    """Crop tiles of a source and write them.

    Args:
        source: Imagery source.
        rows: Rows of its table to write.
        folder: Directory of the data set.
        progress: Wraps the iteration to show progress.

    Returns:
        Reason by row of tiles without imagery; requests that failed.

    Raises:
        ImageryStoppedError: The server does not respond any more, or the disk is full.
    """
    from gengeo_hf.imagery.tile_content import LASTING, NotAPictureError

    ids = source.table["tile_id"].to_pylist()
    empty: dict[int, str] = {}
    failed = FetchErrors()

    def fetch(row: int) -> str:
        path = tile_path(folder, ids[row])
        if is_written(path):
            return ""
        try:
            image = source.read(row)
        except ImageryStoppedError:
            raise
        except NotAPictureError as error:
            if error.reason not in LASTING:
                failed.add(f"tile {ids[row]}", error)
            empty[row] = error.reason
            return error.reason
        except GenGeoError as error:
            failed.add(f"tile {ids[row]}", error)
            empty[row] = str(error)
            return str(error)
        if image is None:
            empty[row] = "no data"
            return empty[row]
        content = io.BytesIO()
        image.convert("RGB").save(content, "JPEG", quality=JPEG_QUALITY)
        write_image(path, content.getvalue())
        return ""

    (folder / TILE_FOLDER).mkdir(parents=True, exist_ok=True)
    for _ in progress(in_threads(fetch, rows, TILE_WORKERS), len(rows), "tiles"):
        pass
    return empty, failed


def in_threads(action: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Apply a function to items in several threads, and yield the results in the order of the items.

    After an error, running calls finish and no new ones start.

    Args:
        action: Function of one item.
        items: Items to process.
        workers: Number of threads.
    """
    pool = ThreadPoolExecutor(workers)
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(action, item))
            if len(running) >= 4 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def is_written(path: Path) -> bool:
    """Whether a non-empty file exists."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def write_image(path: Path, content: bytes) -> None:
    """Write an image file.

    Args:
        path: Path of the file.
        content: Encoded image.

    Raises:
        ImageryStoppedError: The disk is full or the directory cannot be written.
    """
    try:
        write_small(path, content)
    except OSError as error:
        raise ImageryStoppedError(
            f"{path} cannot be written: {error.strerror or error}; run the same command again to continue"
        ) from error


def brightness(image: Image.Image) -> float:
    """Mean grey level of an image, 0 to 255."""
    small = image.convert("L")
    small.thumbnail((SMALL, SMALL))
    return float(np.asarray(small, dtype=np.float64).mean())
