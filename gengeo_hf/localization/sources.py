"""Types of photo arguments: paths, addresses, arrays, open files, and frames of videos."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.video import BrokenFrame, Video, VideoFrame, is_video
from gengeo_hf.encoding.inputs import fetch_image, is_address

Item = TypeVar("Item")


class _Named(io.BytesIO):
    """Bytes of a photo as an open file with a name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def load_photo(photo: Any) -> Any:
    """Convert an argument for `read_photo`: addresses are fetched, arrays become images.

    Raises:
        GenGeoError: An array does not have the dtype or shape of an image.
    """
    if is_address(photo):
        return _Named(fetch_image(photo), photo)
    if not isinstance(photo, np.ndarray):
        return photo
    try:
        return Image.fromarray(photo)
    except (TypeError, ValueError) as error:  # the message of Pillow has only its type codes
        raise GenGeoError(
            f"an array of {photo.dtype} and shape {photo.shape} is not a photo: expected uint8 (height, width, 3)"
        ) from error


def source_name(photo: Any) -> str:
    """Name of a photo for its answer."""
    if isinstance(photo, str | Path):
        return str(photo)
    if isinstance(photo, bytes | bytearray):
        return f"photo of {len(photo)} bytes"
    return str(getattr(photo, "filename", "") or getattr(photo, "name", "") or "photo")


def video_seconds(photo: Any) -> float | None:
    """Seconds since the start of the video; None for a photo that is not a frame."""
    return photo.seconds if isinstance(photo, VideoFrame | BrokenFrame) else None


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


class Frames:
    """Iterates over photos and the frames of videos.

    Args:
        paths: Paths of photos and videos.
        every_s: Seconds between the frames of a video.

    Raises:
        GenGeoError: A video cannot be read, or `every_s` is not positive.
    """

    def __init__(self, paths: Sequence[Any], every_s: float = 1.0) -> None:
        if not every_s > 0:
            raise GenGeoError(f"the time between frames must be a positive number of seconds, found {every_s:g}")
        self.paths, self.every_s = paths, every_s
        self.videos = {number: Video.open(path) for number, path in enumerate(paths) if is_video(path)}

    @property
    def total(self) -> int | None:
        """Approximate number of photos and frames; None if a video does not state its length."""
        counts = [video.count(self.every_s) for video in self.videos.values()]
        return None if None in counts else len(self.paths) - len(counts) + sum(count or 0 for count in counts)

    def __iter__(self) -> Iterator[Any]:
        for number, path in enumerate(self.paths):
            yield from self.videos[number].frames(self.every_s) if number in self.videos else (path,)
