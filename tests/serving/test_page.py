"""The page without a browser: settings, outputs and texts."""

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the page needs pip install "gengeo_hf[app]"')

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder  # after the skip
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization.confidence import Calibration
from gengeo_hf.localization.localizer import Answer, Place
from gengeo_hf.serving import fragments
from gengeo_hf.serving.locator import LocateQuery, Locator
from gengeo_hf.serving.page import (
    AS_FILE,
    FROM_FILE,
    NORTH,
    ORDINARY,
    PANORAMA,
    _attribution_outputs,
    _locate,
    _locate_query,
    build_page,
)
from tests.stubs import ListSource

DEFAULTS = (5, "", "2km", False, AS_FILE, 65, FROM_FILE, 0.0)


@pytest.fixture
def street(source, tmp_path):
    source.images[4].save(tmp_path / "street.png")
    return str(tmp_path / "street.png")


def test_settings_become_locate_query():
    assert _locate_query(*DEFAULTS) == LocateQuery()
    query = _locate_query(3, " 60.1, 24.9 ", "500m", False, ORDINARY, 70, NORTH, 0.5)
    assert query.near == (60.1, 24.9, 500.0) and query.near_exif_m is None and query.camera.fov == 70
    query = _locate_query(3, None, "1km", True, PANORAMA, 70, "unknown: try eight directions", 0)
    assert query.near is None and query.near_exif_m == 1000 and query.camera.fov == 360
    assert query.camera.heading == "unknown"
    assert _locate_query(3, "60.17,24.94,2km", "500m", False, AS_FILE, 70, NORTH, 0).near == (60.17, 24.94, 2000.0)
    with pytest.raises(GenGeoError, match="is not a position"):
        _locate_query(3, "60.1", "500m", False, AS_FILE, 70, NORTH, 0)


def test_photo_gives_map_tiles_and_downloads(locator, street):
    preview, banner, results, frame, row, title, *_ = _locate(locator, street, *DEFAULTS)
    assert preview["visible"] and results["visible"] and len(row["value"]) >= 2
    assert "Best place" in banner and "60.1" in banner and "places.geojson" in banner
    assert frame.startswith("<iframe") and "street.png" in frame and str(Path(street).parent) not in frame
    assert "There is no heat map" in title  # the stub is not a GenGeo model


def test_chosen_tile_is_compared_with_best_tile(tiny_model, tiny_processor, source, tmp_path):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    locator = Locator(encoder, GeoIndex.build(encoder, source, tmp_path / "real.gengeo"))
    Image.effect_noise((224, 112), 90).convert("RGB").save(tmp_path / "street.png")
    *_, state = _locate(locator, str(tmp_path / "street.png"), *DEFAULTS)
    best, other = _attribution_outputs(locator, state, 0), _attribution_outputs(locator, state, 1)
    locator.close()
    assert not best[4]["visible"] and best[5] is None
    assert other[4]["visible"] and other[5].width > 500 and other[5] != best[3]
    assert best[6] == other[6] and best[7] != other[7], "clusters of the same photo and of another tile"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((5, "north pole", "2km", False, AS_FILE, 65, NORTH, 0), "is not a position"),
        ((5, "60, 25", "far", False, AS_FILE, 65, NORTH, 0), "is not a length"),
        ((5, "-60, 25", "2km", False, AS_FILE, 65, NORTH, 0), "No tile lies in the search area"),
    ],
)
def test_wrong_settings_show_message_without_results(locator, street, settings, message):
    _, banner, results, frame, *_ = _locate(locator, street, *settings)
    assert message in banner and "alert" in banner and not results["visible"] and not frame


def test_bad_file_message_has_file_name_without_directory(locator, tmp_path):
    (tmp_path / "letter.jpg").write_text("Dear reader")
    Image.new("1", (20_000, 2_600)).save(tmp_path / "huge.png")
    banner = _locate(locator, str(tmp_path / "letter.jpg"), *DEFAULTS)[1]
    assert "letter.jpg: the image of 11 bytes is not an image" in banner and str(tmp_path) not in banner
    assert "50 megapixels" in _locate(locator, str(tmp_path / "huge.png"), *DEFAULTS)[1]
    assert "Drop a photo" in _locate(locator, None, *DEFAULTS)[1]


def test_answer_below_threshold_says_dont_know(encoder, index, street):
    calibration = Calibration(-9.0, 10.0, 0.0, 50, encoder.fingerprint, 8, 20, 0.0)
    locator = Locator(encoder, index, calibration)
    banner = _locate(locator, street, 5, "", "2km", False, AS_FILE, 65, NORTH, 0.99)[1]
    locator.close()
    assert "Don&#x27;t know" in banner or "Don't know" in banner
    assert "Less than 99% confident" in banner


def test_page_with_calibration_shows_minimum_confidence(encoder, index):
    calibration = Calibration(-9.0, 10.0, 0.0, 50, encoder.fingerprint, 8, 20, 0.0)
    locator = Locator(encoder, index, calibration)
    fields = [component["props"] for component in build_page(locator).config["components"]]
    locator.close()
    (slider,) = [field for field in fields if field.get("label") == "Minimum confidence"]
    assert slider["visible"] and slider["value"] == fragments.LOW_CONFIDENCE


def test_replaced_index_is_used_for_next_photo(locator, encoder, index, street):
    GeoIndex.build(encoder, ListSource(3, "new"), index.path, overwrite=True)
    assert "new-" in _locate(locator, street, *DEFAULTS)[3]


def test_replaced_index_open_index_keeps_its_pictures(encoder, index):
    """The open index keeps the pictures of its version, also after a new index replaced it on disk."""
    before = index.thumbnails(["noise-1", "noise-6"])
    assert len(before) == 2
    GeoIndex.build(encoder, ListSource(3, "new", seed=1), index.path, overwrite=True)
    assert index.thumbnails(["noise-1", "noise-6"]) == before
    assert set(GeoIndex.load(index.path).thumbnails(["new-1"])) == {"new-1"}


def test_names_are_escaped_in_html(locator):
    evil = "<img src=x onerror=alert(1)>"
    place = Place(1, 1.0, 2.0, 0.5, evil)
    text = (
        fragments.answer(Answer(evil, [place], notes=(evil,)), LocateQuery())
        + fragments.failure(evil)
        + fragments.attribution_heading(evil)
    )
    assert "<img" not in text


@pytest.mark.parametrize(
    ("confidence", "known", "title", "style"),
    [
        (0.99, True, "Best place", "gg-good"),
        (0.21, True, "Uncertain place", "gg-unsure"),
        (0.21, False, "Don't know", "gg-unsure"),
        (None, True, "Best place", "gg-plain"),
    ],
)
def test_answer_style_follows_confidence(confidence, known, title, style):
    place = Place(1, 1.0, 2.0, 0.5, "t", confidence=confidence)
    text = fragments.answer(Answer("a.jpg", [place], known=known), LocateQuery(threshold=0.5))
    assert f">{title}<" in text and style in text
    assert confidence is None or f"{confidence:.0%} confident" in text


def test_page_notes_name_settings_instead_of_options():
    notes = ("field of view unknown, so the whole photo was taken for a panorama: state it (--fov DEGREES)", "other")
    first, second = fragments.page_notes(notes)
    assert "--" not in first and "under Settings" in first and second == "other"
