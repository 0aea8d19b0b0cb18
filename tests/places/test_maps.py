import io
import re

import pytest
from PIL import Image

from gengeo_hf.places import GeoLocalizer
from gengeo_hf.places.geodesy import Bounds
from gengeo_hf.places.maps import MapOverlay, MapPhoto, MapPoint, answers_map, data_uri, map_frame, map_page


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_page_asks_the_network_for_nothing():
    point = MapPoint(60.0, 25.0, "found", "here", 1, jpeg(), 10.0, Bounds(24.9, 59.9, 25.1, 60.1))
    page = map_page([MapPhoto("a.jpg", [point], jpeg())], [MapOverlay(jpeg(), Bounds(24, 59, 26, 61))])
    assert "default-src 'none'" in page and 'img-src data:"' in page
    assert not re.findall(r"""src=["'](?!data:)""", page)
    assert not re.findall(r"url\((?!data:|#)[^)]", page)
    assert "Copyright (c)" in page  # Leaflet's licence asks for it


def test_names_and_labels_cannot_break_out():
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>.jpg"
    page = map_page([MapPhoto(evil, [MapPoint(1, 2, "found", evil, 1)], note=evil)], title=evil, caveat=evil)
    assert "<script>alert" not in page and "<img src=x" not in page
    assert page.count("<script>") == 2
    assert "<script" not in map_frame(page).split(">", 1)[1]


def test_a_map_across_the_date_line_is_in_one_piece():
    points = [
        MapPoint(0, 179.9, "found", "a", 1),
        MapPoint(0, -179.9, "truth", "b", bounds=Bounds(179.95, 0, -179.95, 1)),
    ]
    page = map_page([MapPhoto("p", points)])
    assert "180.1" in page and "179.95" in page and "180.05" in page


def test_only_a_background_that_was_asked_for_is_allowed():
    page = map_page([], tile_url="https://tiles.example.org/{z}/{x}/{y}.png", attribution="Example")
    assert "img-src data: https://tiles.example.org" in page


def test_answers_show_tiles_truth_and_errors(index, encoder, source, tmp_path):
    source.images[4].save(tmp_path / "photo.png")
    (tmp_path / "bad.jpg").write_text("x")
    localizer = GeoLocalizer(encoder, index)
    answers = list(localizer.locate_many([tmp_path / "photo.png", tmp_path / "bad.jpg"], top=2))
    page = answers_map(answers, index, "careful")
    assert "careful" in page and "noise-4" in page and "bad.jpg" in page
    assert page.count("data:image/jpeg") >= 12  # photo, tiles in popups, tiles on the ground


@pytest.mark.parametrize(
    ("content", "start"), [(b"\x89PNG..", "data:image/png"), (b"\xff\xd8", "data:image/jpeg"), (b"", "")]
)
def test_data_uris(content, start):
    assert data_uri(content).startswith(start)
