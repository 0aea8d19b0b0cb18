"""Photo arguments: names, arrays, batches, and frames of videos."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.localization import sources
from gengeo_hf.localization.sources import Frames, batched, load_photo, source_name, video_seconds


class FakeVideo:
    """A video of some seconds; None does not state its length."""

    def __init__(self, length):
        self.length = length

    def count(self, every_s):
        return None if self.length is None else int(self.length / every_s)

    def frames(self, every_s):
        yield from (f"frame {number * every_s:g}" for number in range(self.count(every_s) or 1))


@pytest.fixture
def videos(monkeypatch):
    lengths = {"three.mp4": 3, "empty.mp4": 0, "live.mp4": None}
    monkeypatch.setattr(sources.Video, "open", staticmethod(lambda path: FakeVideo(lengths[path])))


def test_frames_yields_photos_and_frames_of_videos_in_order(videos):
    frames = Frames(["a.jpg", "three.mp4", "b.jpg"])
    assert list(frames) == ["a.jpg", "frame 0", "frame 1", "frame 2", "b.jpg"] and frames.total == 5
    assert list(Frames(["three.mp4"], 0.5))[1] == "frame 0.5"


def test_frames_total_is_unknown_if_a_video_does_not_state_its_length(videos):
    assert Frames(["a.jpg", "live.mp4", "three.mp4"]).total is None
    assert Frames(["a.jpg", "empty.mp4", "three.mp4"]).total == 4


@pytest.mark.parametrize("every_s", [0.0, -1.0, float("nan")])
def test_frames_with_an_interval_that_is_not_positive_raises_an_error(every_s):
    with pytest.raises(GenGeoError, match="must be a positive number of seconds"):
        Frames([], every_s)


def test_source_name_is_a_path_a_size_or_the_name_of_the_file():
    named = io.BytesIO()
    named.name = "upload.jpg"
    assert source_name(Path("a") / "b.jpg") == str(Path("a") / "b.jpg") and source_name("c.jpg") == "c.jpg"
    assert source_name(b"12345") == "photo of 5 bytes" and source_name(named) == "upload.jpg"
    assert source_name(Image.new("RGB", (1, 1))) == "photo" and video_seconds("c.jpg") is None


def test_source_name_of_an_opened_image_is_its_file_name(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert source_name(image) == str(tmp_path / "a.png")


def test_load_photo_of_an_array_is_an_image_and_others_are_unchanged():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(np.asarray(load_photo(pixels)), pixels)
    assert load_photo("a.jpg") == "a.jpg"


def test_batched_ends_with_a_shorter_list():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]] and list(batched([], 2)) == []
