"""Frames of a video file as photos, one at a time: memory does not grow with the length of the video.

PyAV (FFmpeg) decodes; it comes with the extra `video`. Only local files of the containers in `CONTAINERS` are opened,
so that a file cannot name addresses or other files that FFmpeg would fetch. Frames are upright: the rotation that
phones write is applied.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.images import ImageFile
from gengeo_hf.common.metadata import PhotoMetadata

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp")
CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts"  # FFmpeg's names of demuxers
MAX_PIXELS = 100_000_000  # of one frame
LONGEST_SIDE = 4096  # pixels; larger frames are reduced while they are decoded
SEPARATOR = "#t="  # between file and seconds in the name of a frame (W3C Media Fragments)


@dataclass(frozen=True)
class VideoFrame(ImageFile):
    """One frame.

    Args:
        name: Path of the video, `#t=` and the seconds.
        seconds: Time since the first frame of the video.
    """

    name: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class BrokenFrame:
    """A part of a video that cannot be decoded.

    Args:
        name: As `VideoFrame`.
        seconds: Time since the first frame, up to which the video could be read.
        error: What is wrong, one line.
    """

    name: str
    seconds: float
    error: str


def is_video(path: Any) -> bool:
    """Whether a path ends as video files do."""
    return isinstance(path, str | Path) and Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Video:
    """A video file that can be opened.

    Args:
        path: Of the file.
        duration_s: As its header states; None where it does not.
        created: Time of the first frame, as its header states (UTC); None where it does not.

    Example:
        >>> video = Video.open("drive.mp4")
        >>> for frame in video.frames(every_s=1.0):
        ...     print(frame.name)
    """

    path: Path
    duration_s: float | None
    created: datetime | None

    @classmethod
    def open(cls, path: str | Path) -> Video:
        """Read the header of a video.

        Raises:
            GenGeoError: The file is missing, is not a video, or its frames are too large.
            MissingExtraError: PyAV is not installed.
        """
        path = Path(path)
        with _container(path) as (container, stream):
            seconds = container.duration / 1e6 if container.duration else None
            created = container.metadata.get("creation_time") or stream.metadata.get("creation_time")
            return cls(path, seconds, _time(created))

    def count(self, every_s: float) -> int | None:
        """About how many frames `frames` gives; None where the length is not stated."""
        return None if self.duration_s is None else max(1, math.ceil(self.duration_s / every_s))

    def frames(self, every_s: float = 1.0, start_s: float = 0.0) -> Iterator[VideoFrame | BrokenFrame]:
        """The first frame, then the next one at least `every_s` later, and so on.

        Args:
            every_s: Seconds between frames; less than the video's own interval gives all frames.
            start_s: Seconds since the first frame before which frames are passed over, by the index of the file.

        Yields:
            Frames in the order in which they are shown. A video that is damaged, or ends before its stated length,
            gives a `BrokenFrame` last; what lies between damaged parts is given.

        Raises:
            GenGeoError: `every_s` is not positive, or see `open`.
        """
        if not (math.isfinite(every_s) and every_s > 0):
            raise GenGeoError(f"the time between frames must be a positive number of seconds, found {every_s:g}")
        due, last, problem = start_s, 0.0, ""
        with _container(self.path) as (container, stream):
            first = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
            if start_s > 0:
                container.seek(int((first + start_s) / stream.time_base), stream=stream)
            for frame in _decoded(container, stream):
                if isinstance(frame, str):
                    problem = frame
                    continue
                last = max(0.0, float(frame.time or 0.0) - first)
                if last + 1e-6 < due:
                    continue
                yield self._frame(frame, last)
                due = max(due + every_s * (math.floor((last - due) / every_s + 1e-6) + 1), last)
        ended = self.duration_s is not None and last < 0.9 * self.duration_s - max(every_s, 1.0)
        if problem or ended:
            problem = problem or f"it ends after {last:.1f} s, and its header states {self.duration_s:.1f} s"
            yield BrokenFrame(self._name(last), last, f"{self.path} is damaged: {problem}; what can be read is used")

    def _name(self, seconds: float) -> str:
        return f"{self.path}{SEPARATOR}{round(seconds, 3):g}"

    def _frame(self, frame: Any, seconds: float) -> VideoFrame:
        """A decoded frame as an image."""
        scale = LONGEST_SIDE / max(frame.width, frame.height)
        size = {"width": round(frame.width * scale), "height": round(frame.height * scale)} if scale < 1 else {}
        pixels = frame.to_ndarray(format="rgb24", **size)
        if turns := round(frame.rotation / 90) % 4:
            pixels = np.ascontiguousarray(np.rot90(pixels, turns))
        image = Image.fromarray(pixels)
        time = None if self.created is None else self.created + timedelta(seconds=seconds)
        return VideoFrame(image, PhotoMetadata(time=time), image.size, self._name(seconds), seconds)


def read_frame(name: str) -> Image.Image:
    """The frame of a `VideoFrame.name`, read again.

    Raises:
        GenGeoError: The video is not there any more, or has no frame then.
    """
    path, _, seconds = name.rpartition(SEPARATOR)
    found = next(iter(Video.open(path).frames(start_s=float(seconds) - 1e-3)), None)
    if not isinstance(found, VideoFrame):
        raise GenGeoError(f"{name} cannot be read again")
    return found.image


@contextlib.contextmanager
def _container(path: Path) -> Iterator[tuple[Any, Any]]:
    """An open file and its video stream."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video", f"read {path.name}, a video") from error
    if not path.is_file():
        raise GenGeoError(f"there is no video {path}" + (": it is a folder" if path.is_dir() else ""))
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        container = av.open(str(path), options=options)
    except (av.FFmpegError, ValueError) as error:
        raise GenGeoError(
            f"{path} cannot be read as a video ({_reason(error)}): is it complete, and one of "
            f"{', '.join(VIDEO_SUFFIXES)}?"
        ) from error
    with container:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None or not stream.width:
            raise GenGeoError(f"{path} holds no video: give a file with pictures, or photos")
        if stream.width * stream.height > MAX_PIXELS:
            raise GenGeoError(
                f"{path} has frames of {stream.width} x {stream.height} pixels; at most {MAX_PIXELS:,} pixels are read"
            )
        stream.thread_type = "AUTO"
        yield container, stream


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a picture that music files carry."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of a stream; a text says what could not be decoded."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = packet.decode()
        except (av.FFmpegError, ValueError) as error:
            yield _reason(error)
            if not isinstance(error, av.InvalidDataError):  # the file itself cannot be read on
                return
            continue
        for frame in frames:
            yield "some frames are incomplete" if frame.is_corrupt else frame


def _reason(error: Exception) -> str:
    """FFmpeg's words for an error, without its number."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _time(text: str | None) -> datetime | None:
    """The creation time of a header; None for none, or the zero that devices without a clock write."""
    try:
        time = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return time if time is not None and time.year > 1970 and time.tzinfo is not None else None
