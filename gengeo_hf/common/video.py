"""Read the frames of a video file as photos, one at a time, in constant memory.

Decoding needs PyAV (FFmpeg), which the extra `video` installs. Only local files of the formats in `CONTAINERS` are
opened, so that a file cannot make FFmpeg read URLs or other files. Frames are upright: the rotation in the header is
applied.
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
CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts"  # names of FFmpeg demuxers
MAX_PIXELS = 100_000_000  # limit for one frame
LONGEST_SIDE = 4096  # pixels; larger frames are reduced while they are converted
SEPARATOR = "#t="  # between file and seconds in the name of a frame (W3C Media Fragments)


@dataclass(frozen=True)
class VideoFrame(ImageFile):
    """A frame of a video.

    Args:
        name: Path of the video, `#t=` and the seconds.
        seconds: Seconds since the first frame of the video.
    """

    name: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class BrokenFrame:
    """A part of a video that cannot be decoded.

    Args:
        name: Path of the video, `#t=` and the seconds.
        seconds: Seconds since the first frame up to which the video was decoded.
        error: Error message, one line.
    """

    name: str
    seconds: float
    error: str


def is_video(path: Any) -> bool:
    """Whether a path has the suffix of a video file."""
    return isinstance(path, str | Path) and Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Video:
    """A video file whose header was read.

    Args:
        path: Path of the file.
        duration_s: Duration in seconds that the header states; None if unknown.
        created: Time of the first frame in UTC that the header states; None if unknown.

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
        """Estimate the number of frames that `frames` yields; None if the duration is unknown."""
        return None if self.duration_s is None else max(1, math.ceil(self.duration_s / every_s))

    def frames(self, every_s: float = 1.0, start_s: float = 0.0) -> Iterator[VideoFrame | BrokenFrame]:
        """Yield the first frame and then frames that are at least `every_s` apart.

        Args:
            every_s: Seconds between frames; a value below the frame interval of the video yields all frames.
            start_s: Seconds since the first frame of the video at which to start; earlier frames are skipped.

        Yields:
            Frames in presentation order. If the video is damaged or ends before its stated duration, the decodable
            frames are yielded and a `BrokenFrame` follows at the end.

        Raises:
            GenGeoError: `every_s` is not positive, or the file cannot be opened (see `open`).
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
        """Convert a decoded frame to an upright image."""
        scale = LONGEST_SIDE / max(frame.width, frame.height)
        size = {"width": round(frame.width * scale), "height": round(frame.height * scale)} if scale < 1 else {}
        pixels = frame.to_ndarray(format="rgb24", **size)
        if turns := round(frame.rotation / 90) % 4:
            pixels = np.ascontiguousarray(np.rot90(pixels, turns))
        image = Image.fromarray(pixels)
        time = None if self.created is None else self.created + timedelta(seconds=seconds)
        return VideoFrame(image, PhotoMetadata(time=time), image.size, self._name(seconds), seconds)


def read_frame(name: str) -> Image.Image:
    """Read the frame that a `VideoFrame.name` identifies.

    Raises:
        GenGeoError: The video does not exist or has no frame at this time.
    """
    path, _, seconds = name.rpartition(SEPARATOR)
    found = next(iter(Video.open(path).frames(start_s=float(seconds) - 1e-3)), None)
    if not isinstance(found, VideoFrame):
        raise GenGeoError(f"{name} cannot be read again")
    return found.image


@contextlib.contextmanager
def _container(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield an open container and its video stream."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video", f"read {path.name}, a video") from error
    if not path.is_file():
        raise GenGeoError(f"there is no video {path}" + (": it is a directory" if path.is_dir() else ""))
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
    """Whether a stream is an attached cover image."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a stream, and a message for each part that cannot be decoded."""
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
            if not isinstance(error, av.InvalidDataError):  # the rest of the file cannot be read
                return
            continue
        for frame in frames:
            yield "some frames are incomplete" if frame.is_corrupt else frame


def _reason(error: Exception) -> str:
    """Return the message of FFmpeg for an error, without its number."""
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _time(text: str | None) -> datetime | None:
    """Parse the creation time of a header; None if it is missing or zero, which devices without a clock write."""
    try:
        time = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return time if time is not None and time.year > 1970 and time.tzinfo is not None else None
