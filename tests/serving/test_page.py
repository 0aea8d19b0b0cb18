"""What the page does without a browser: words, settings, outputs."""

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install "gengeo_hf[app]"')

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder  # after the skip
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization.confidence import Calibration
from gengeo_hf.localization.localizer import Answer, Place
from gengeo_hf.serving import fragments as words
from gengeo_hf.serving.locator import LocateQuery, Locator
from gengeo_hf.serving.page import AS_FILE, FROM_FILE, NORTH, ORDINARY, PANORAMA, _answer, _question, _seen
from tests.stubs import ListSource

USUAL = (5, "", "2km", False, AS_FILE, 65, FROM_FILE, 0.0)


@pytest.fixture
def street(source, tmp_path):
    source.images[4].save(tmp_path / "street.png")
    return str(tmp_path / "street.png")


def test_settings_become_a_question():
    assert _question(*USUAL) == LocateQuery()
    asked = _question(3, " 60.1, 24.9 ", "500m", False, ORDINARY, 70, NORTH, 0.5)
    assert asked.near == (60.1, 24.9, 500.0) and asked.near_exif_m is None and asked.camera.fov == 70
    asked = _question(3, None, "1km", True, PANORAMA, 70, "unknown: try eight", 0)
    assert asked.near is None and asked.near_exif_m == 1000 and asked.camera.fov == 360
    assert asked.camera.heading == "unknown"
    assert _question(3, "60.17,24.94,2km", "500m", False, AS_FILE, 70, NORTH, 0).near == (60.17, 24.94, 2000.0)
    with pytest.raises(GenGeoError, match="is not a position"):
        _question(3, "60.1", "500m", False, AS_FILE, 70, NORTH, 0)


def test_a_photo_gives_map_tiles_and_files(locator, street):
    preview, banner, results, frame, row, title, *_ = _answer(locator, street, *USUAL)
    assert preview["visible"] and results["visible"] and len(row["value"]) >= 2
    assert "Best place" in banner and "60.1" in banner and "places.geojson" in banner
    assert frame.startswith("<iframe") and "street.png" in frame and str(Path(street).parent) not in frame
    assert "There is no heatmap" in title  # the stub has no head to look into


def test_another_tile_is_held_against_the_best(tiny_model, tiny_processor, source, tmp_path):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    locator = Locator(encoder, GeoIndex.build(encoder, source, tmp_path / "real.gengeo"))
    Image.effect_noise((224, 112), 90).convert("RGB").save(tmp_path / "street.png")
    *_, state = _answer(locator, str(tmp_path / "street.png"), *USUAL)
    best, other = _seen(locator, state, 0), _seen(locator, state, 1)
    locator.close()
    assert not best[4]["visible"] and best[5] is None
    assert other[4]["visible"] and other[5].width > 500 and other[5] != best[3]
    assert best[6] == other[6] and best[7] != other[7], "clusters: the same photo, another tile"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((5, "north pole", "2km", False, AS_FILE, 65, NORTH, 0), "is not a position"),
        ((5, "60, 25", "far", False, AS_FILE, 65, NORTH, 0), "is not a length"),
        ((5, "-60, 25", "2km", False, AS_FILE, 65, NORTH, 0), "No tile lies in the circle"),
    ],
)
def test_mistakes_are_told_in_words(locator, street, settings, message):
    _, banner, results, frame, *_ = _answer(locator, street, *settings)
    assert message in banner and "alert" in banner and not results["visible"] and not frame


def test_a_bad_file_is_called_by_its_name(locator, tmp_path):
    (tmp_path / "letter.jpg").write_text("Dear reader")
    Image.new("1", (20_000, 2_600)).save(tmp_path / "huge.png")
    assert "letter.jpg: the image of 11 bytes is not an image" in (
        told := _answer(locator, str(tmp_path / "letter.jpg"), *USUAL)[1]
    )
    assert str(tmp_path) not in told
    assert "50 megapixels" in _answer(locator, str(tmp_path / "huge.png"), *USUAL)[1]
    assert "Drop a photo" in _answer(locator, None, *USUAL)[1]


def test_an_unsure_answer_says_dont_know(encoder, index, street):
    unsure = Calibration(-9.0, 10.0, 0.0, 50, encoder.fingerprint, 8, 20, 0.0)
    locator = Locator(encoder, index, unsure)
    told = _answer(locator, street, 5, "", "2km", False, AS_FILE, 65, NORTH, 0.99)[1]
    locator.close()
    assert "Don&#x27;t know" in told or "Don't know" in told
    assert "Less than 99% confident" in told


def test_a_replaced_index_is_taken_at_the_next_photo(locator, encoder, index, street):
    GeoIndex.build(encoder, ListSource(3, "new"), index.path, overwrite=True)
    assert "new-" in _answer(locator, street, *USUAL)[3]


def test_pictures_of_a_replaced_index_are_not_mixed_up(encoder, index):
    """The old index keeps the pictures of the version that it opened, never those of the new one."""
    before = index.thumbnails(["noise-1", "noise-6"])
    assert len(before) == 2
    GeoIndex.build(encoder, ListSource(3, "new", seed=1), index.path, overwrite=True)
    assert index.thumbnails(["noise-1", "noise-6"]) == before
    assert set(GeoIndex.load(index.path).thumbnails(["new-1"])) == {"new-1"}


def test_names_cannot_become_markup(locator):
    evil = "<img src=x onerror=alert(1)>"
    place = Place(1, 1.0, 2.0, 0.5, evil)
    text = words.answer(Answer(evil, [place], notes=(evil,)), LocateQuery()) + words.failure(evil) + words.kept(evil)
    assert "<img" not in text


@pytest.mark.parametrize(
    ("confidence", "known", "title", "style"),
    [
        (0.99, True, "Best place", "gg-good"),
        (0.21, True, "Perhaps here", "gg-unsure"),
        (0.21, False, "Don't know", "gg-unsure"),
        (None, True, "Best place", "gg-plain"),
    ],
)
def test_only_a_confident_answer_is_green(confidence, known, title, style):
    place = Place(1, 1.0, 2.0, 0.5, "t", confidence=confidence)
    text = words.answer(Answer("a.jpg", [place], known=known), LocateQuery(threshold=0.5))
    assert f">{title}<" in text and style in text
    assert confidence is None or f"{confidence:.0%} confident" in text


def test_advice_of_the_page_names_its_own_settings():
    notes = ("field of view unknown: assumed to be a panorama; state it (--fov DEGREES)", "other")
    first, second = words.page_notes(notes)
    assert "--" not in first and "under Settings" in first and second == "other"
