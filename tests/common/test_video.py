"""Reading of video frames: times, order, rotation, damaged files."""

from datetime import UTC, datetime

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.video import BrokenFrame, Video, VideoFrame, is_video, read_frame
from tests.videos import write_video

STEP = 4  # grey levels between two frames


def grey(number, size=(48, 32)):
    return np.full((size[1], size[0], 3), number * STEP, np.uint8)


@pytest.fixture
def video(tmp_path):
    """Six seconds at ten frames a second; frame n is grey level 4 n."""
    return write_video(tmp_path / "drive.mp4", [grey(number) for number in range(60)], created="2026-05-01T10:00:00Z")


def number_of(frame):
    return round(float(np.asarray(frame.image).mean()) / STEP)


@pytest.mark.parametrize(("every", "numbers"), [(1.0, range(0, 60, 10)), (0.35, [0, 4, 7, 11]), (0.001, range(60))])
def test_frames_have_requested_times_and_content(video, every, numbers):
    frames = list(Video.open(video).frames(every))[: len(numbers)]
    assert [number_of(frame) for frame in frames] == pytest.approx(list(numbers), abs=1)
    assert [frame.seconds for frame in frames] == pytest.approx([number / 10 for number in numbers])
    assert all(isinstance(frame, VideoFrame) for frame in frames)


def test_open_reads_duration_and_frame_times(video):
    opened = Video.open(video)
    assert opened.duration_s == pytest.approx(6.0) and opened.count(1.0) == 6
    third = list(opened.frames(1.0))[3]
    assert third.metadata.time == datetime(2026, 5, 1, 10, 0, 3, tzinfo=UTC)
    assert third.name == f"{video}#t=3" and number_of(third) == 30


def test_frames_without_creation_time_have_no_time(tmp_path):
    opened = Video.open(write_video(tmp_path / "a.avi", [grey(number) for number in range(20)]))
    assert opened.created is None and next(opened.frames()).metadata.time is None


def test_read_frame_returns_frame_of_name(video):
    frame = list(Video.open(video).frames(1.0))[4]
    assert np.array_equal(np.asarray(read_frame(frame.name)), np.asarray(frame.image))


def test_frames_are_decoded_one_at_a_time(video, monkeypatch):
    import av

    decoded = []
    real = av.VideoFrame.to_ndarray
    opened = Video.open(video)
    frames = opened.frames(1.0)
    monkeypatch.setattr(
        "gengeo_hf.common.video.Video._frame", lambda self, frame, s: decoded.append(real(frame, format="rgb24"))
    )
    next(frames)
    assert len(decoded) == 1


def test_frames_rotation_of_header_is_applied(tmp_path):
    wide = np.zeros((32, 48, 3), np.uint8)
    wide[:16] = 255  # the upper half is bright
    path = write_video(tmp_path / "phone.mp4", [wide] * 3, rotation=90)
    image = np.asarray(next(Video.open(path).frames()).image).astype(float)
    assert image.shape[:2] == (48, 32)
    left, right = image[:, :12].mean(), image[:, 20:].mean()
    assert left - right > 150  # rotated counter-clockwise: the upper half is on the left


def test_frames_truncated_video_ends_with_broken_frame(tmp_path):
    path = write_video(tmp_path / "a.mkv", [grey(number) for number in range(60)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *frames, last = Video.open(path).frames(1.0)
    assert [number_of(frame) for frame in frames] == pytest.approx([0, 10, 20][: len(frames)], abs=1) and frames
    assert isinstance(last, BrokenFrame) and "is damaged: it ends after" in last.error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a video"),
        (b"hello world" * 100, "cannot be read as a video"),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "cannot be read as a video"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "cannot be read as a video"),
        (None, "there is no video"),
    ],
)
def test_open_file_that_is_not_a_video_is_refused(tmp_path, content, message):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GenGeoError, match=message) as caught:
        Video.open(path)
    assert "\n" not in str(caught.value) and "Errno" not in str(caught.value)


def test_open_audio_file_is_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux([*stream.encode(sound), *stream.encode(None)])
    with pytest.raises(GenGeoError, match="holds no video"):
        Video.open(tmp_path / "a.mp4")


@pytest.mark.parametrize("every", [0.0, -1.0, float("nan")])
def test_frames_interval_not_positive_is_refused(video, every):
    with pytest.raises(GenGeoError, match="must be a positive number of seconds"):
        next(Video.open(video).frames(every))


def test_is_video_decides_by_suffix():
    assert is_video("a/B.MP4") and not is_video("a.jpg") and not is_video(b"mp4")
