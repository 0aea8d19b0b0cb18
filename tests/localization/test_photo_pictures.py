"""Pictures that are encoded for photos: defaults, widening, batches of different widths, and notes."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.metadata import PhotoMetadata
from gengeo_hf.common.projection import PanoramaCanvas
from gengeo_hf.localization.photos import (
    Photo,
    Picture,
    TooNarrowError,
    camera_notes,
    encode_pictures,
    find_photos,
    pictures,
    widened_note,
)

CANVAS = PanoramaCanvas(28, 112)


class Widths:
    """An encoder with the mean red of each image as descriptor, which needs at least `least` columns."""

    dim, patch = 1, 2

    def __init__(self, least=0):
        self.least, self.calls = least, []

    def encode(self, images, view, *, resize=True):
        self.calls.append((view, resize, [image.size for image in images]))
        if not resize and images[0].width < self.least:
            raise ValueError(f"{images[0].width} columns are too few")
        self.images = images
        return np.array([[np.asarray(image)[..., 0].mean()] for image in images], np.float32)


def plain(red, width, **more):
    return Picture(Image.new("RGB", (width, 3), (red, 0, 0)), **more)


def test_encode_pictures_keeps_the_order_of_pictures_of_different_widths():
    encoder = Widths()
    images = [plain(10, 8, own_size=True), plain(20, 8), plain(30, 4, own_size=True), plain(40, 8, own_size=True)]
    found, widened = encode_pictures(encoder, [*images, plain(50, 4)])
    assert found.dtype == np.float32 and found.tolist() == [[10], [20], [30], [40], [50]] and widened == {}
    assert encoder.calls == [
        ("ground", True, [(8, 3), (4, 3)]),
        ("ground", False, [(4, 3)]),
        ("ground", False, [(8, 3), (8, 3)]),
    ]


def test_encode_pictures_states_the_factor_of_the_widened_pictures():
    encoder = Widths(least=7)
    found, widened = encode_pictures(encoder, [plain(9, 20, own_size=True), plain(5, 4, own_size=True)])
    assert widened == {1: 2.0} and found.tolist() == [[9], [5]]
    assert [call[2] for call in encoder.calls] == [[(4, 3)], [(6, 3)], [(8, 3)], [(20, 3)]]


@pytest.mark.parametrize(
    ("least", "expected"),
    [(6, [10, 10, 20, 30, 40, 40]), (7, [20, 10, 10, 20, 30, 40, 40, 30]), (12, None), (13, "too narrow")],
)
def test_encode_pictures_widens_up_to_three_times(least, expected):
    encoder = Widths(least)
    image = Image.fromarray(np.tile(np.array([10, 20, 30, 40], np.uint8)[None, :, None], (3, 1, 3)))
    if expected == "too narrow":
        with pytest.raises(TooNarrowError, match="too narrow for this model") as refused:
            encode_pictures(encoder, [Picture(image, own_size=True)])
        assert str(refused.value.__cause__) == "4 columns are too few"
        return
    _, widened = encode_pictures(encoder, [Picture(image, own_size=True)])
    (wide,) = encoder.images
    assert widened == {0: wide.width / 4} and wide.height == 3
    if expected is None:
        assert wide.width == 12
    else:
        assert np.asarray(wide)[1, :, 0].tolist() == expected


def test_widened_note_states_the_factor():
    assert "widened to 2.5 times its width" in widened_note(2.5)


def test_pictures_of_a_projected_photo_have_any_width_by_default():
    photo = Photo(Image.new("RGB", (300, 200)))
    (picture,) = pictures(photo, CameraView(fov=90.0 * 27 / 28), CANVAS)
    assert picture.image.size == (27, 28) and picture.own_size and picture.heading == 0.0
    (same,) = pictures(photo, CameraView(fov=90.0), None)
    assert same == Picture(photo.image, 0.0, False)


def test_pictures_with_an_unknown_heading_are_eight_turns():
    pixels = np.tile(np.arange(112, dtype=np.uint8)[None, :, None], (28, 1, 3))
    turns = pictures(Photo(Image.fromarray(pixels)), CameraView(fov=360.0, heading="unknown"), CANVAS)
    assert [turn.heading for turn in turns] == [0, 45, 90, 135, 180, 225, 270, 315]
    for number, turn in enumerate(turns):  # an eighth of the width is 14 columns
        assert np.array_equal(np.asarray(turn.image), np.roll(pixels, 14 * number, axis=1))


@pytest.mark.parametrize(
    ("camera", "canvas", "notes"),
    [
        (CameraView(fov=360.0), CANVAS, ["no heading in the file: assumed to be aligned with north"]),
        (CameraView(fov=360.0), None, []),
        (CameraView(fov=360.0, heading=0.0), CANVAS, []),
        (CameraView(pitch=5.0), CANVAS, ["field of view unknown: assumed to be a panorama; state it (--fov DEGREES)"]),
        (CameraView(fov=70.0, pitch=5.0), CANVAS, ["levelled by pitch 5 and roll 0 degrees"]),
        (
            CameraView(fov=70.0, roll=-5.0),
            None,
            ["pitch and roll are not used: this model was trained with ordinary photos"],
        ),
        (CameraView(fov=70.0, pitch=80.0), CANVAS, ["pitch 80 and roll 0 are too large to be levelled: not used"]),
    ],
)
def test_camera_notes_state_the_assumptions(camera, canvas, notes):
    image = Image.new("RGB", (30, 20))
    assert camera_notes(Photo(image, PhotoMetadata(notes=("corrected",))), camera, canvas) == ["corrected", *notes]
    assert camera_notes(Photo(None, PhotoMetadata(notes=("corrected",))), camera, canvas) == []


def test_find_photos_lists_files_and_directories_in_order(tmp_path):
    for name in ("b.jpg", "a.png", "note.txt"):
        (tmp_path / name).write_bytes(b"")
    missing = tmp_path / "missing.jpg"
    assert find_photos([missing, tmp_path]) == [missing, tmp_path / "a.png", tmp_path / "b.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenGeoError, match="holds no photo"):
        find_photos([tmp_path / "empty"])
