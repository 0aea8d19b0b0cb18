"""Content of maps: markers, frames, pictures and imagery, as read by the script of the page."""

import base64
import io
import json
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, bounds_around, offset
from gengeo_hf.common.metadata import PhotoPosition
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization.answers import Answer, Place, view_cone
from gengeo_hf.localization.maps import Background, MapOverlay, MapPhoto, MapPoint, answers_map, map_frame, map_page
from gengeo_hf.localization.position_map import PositionMap

JPEG = b"\xff\xd8 picture "


def content_of(page):
    """The data of the script."""
    return json.loads(re.search(r"^const content = (.*);$", page, re.MULTILINE)[1])


def test_map_page_unwraps_all_positions_to_the_first_marker():
    at = [MapPoint(1.0, 179.5, "found", "a", view=[(1.0, -179.0)]), MapPoint(2.0, -179.75, "truth", "b")]
    overlay = MapOverlay(JPEG, Bounds(-179.5, 5.0, -178.0, 6.0))
    crossing = MapPoint(3.0, 0.0, "found", "c", bounds=Bounds(179.0, 7.0, -178.5, 8.0), probability=overlay)
    content = content_of(map_page([MapPhoto("p", at), MapPhoto("q", [crossing])], [overlay], line=[(9.0, -170.0)]))
    (first, second), (third,) = (photo["points"] for photo in content["photos"])
    assert first["at"] == [1.0, 179.5] and first["view"] == [[1.0, 181.0]] and second["at"] == [2.0, 180.25]
    assert third["at"] == [3.0, 0.0] and third["box"] == [[7.0, 179.0], [8.0, 181.5]]
    assert content["overlays"][0]["box"] == third["probability"]["box"] == [[5.0, 180.5], [6.0, 182.0]]
    assert content["line"] == [[9.0, 190.0]]
    apart = [MapPoint(0.0, -100.0, "found", "a"), MapPoint(0.0, 90.0, "exif", "b")]
    west = content_of(map_page([MapPhoto("p", apart)]))
    assert [point["at"][1] for point in west["photos"][0]["points"]] == [-100.0, -270.0]


def test_map_page_without_markers_is_continuous_around_its_imagery():
    boxes = [Bounds(170.0, 0.0, 171.0, 1.0), Bounds(-175.0, 0.0, -174.0, 1.0)]
    content = content_of(map_page([], [MapOverlay(b"", box) for box in boxes]))
    assert [overlay["box"][0][1] for overlay in content["overlays"]] == [170.0, 185.0]
    assert content_of(map_page([], line=[(0.0, -180.0), (0.0, 179.0)]))["line"] == [[0.0, -180.0], [0.0, 179.0]]


def test_map_page_of_a_point_with_defaults_has_no_picture_view_or_background():
    content = content_of(map_page([MapPhoto("p", [MapPoint(1.0, 2.0, "found", "a")])]))
    (photo,) = content["photos"]
    assert photo == {"name": "p", "note": "", "known": True, "picture": "", "points": photo["points"]}
    point = {"at": [1.0, 2.0], "kind": "found", "label": "a", "rank": 0, "picture": "", "radius": None}
    assert photo["points"] == [point | {"box": None, "view": [], "probability": None}]
    assert (content["tileUrl"], content["maxNativeZoom"], content["line"]) == ("", 19, [])
    assert "height:560px" in map_frame("page") and "height:300px" in map_frame("page", 300)


def test_map_page_holds_each_picture_once():
    points = [MapPoint(1.0, 2.0, "found", "a", picture=JPEG), MapPoint(1.0, 2.0, "found", "b", picture=b"\x89PNG")]
    content = content_of(map_page([MapPhoto("p", points, JPEG)]))
    keys = [point["picture"] for point in content["photos"][0]["points"]]
    assert content["photos"][0]["picture"] == keys[0] != keys[1] and len(content["pictures"]) == 2
    assert content["pictures"][keys[0]] == "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    assert content["pictures"][keys[1]].startswith("data:image/png;base64,")


@pytest.mark.parametrize("url", ["https:///{z}/{x}/{y}.png", "ftp://a.org/{z}/{x}/{y}.png", "https://a.org/{y}{x}{w}"])
def test_background_that_is_not_a_template_of_a_server_raises_an_error(url):
    with pytest.raises(GenGeoError, match="is not an address with"):
        Background(url)


def test_background_of_a_template_is_accepted():
    background = Background("http://{s}.a.org/{z}/{x}/{y}.png", "A & B", 17)
    page = map_page([], background=background)
    assert "img-src data: http://*.a.org" in page
    content = content_of(page)
    assert (content["maxNativeZoom"], content["attribution"]) == (17, "A &amp; B")


def test_values_of_maps_cannot_be_changed():
    box = Bounds(0.0, 0.0, 1.0, 1.0)
    values = [MapPoint(1.0, 2.0, "found", "a"), MapOverlay(b"", box), Background(""), MapPhoto("p")]
    for value, name in zip(values, ("lat", "bounds", "url", "name"), strict=True):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)


def posed(**more):
    return Place(1, 60.0, 25.0, 0.9, "t1", **({"heading": 12.0, "pose": "fitted"} | more))


def test_answers_map_shows_the_view_of_places_with_a_pose_and_a_heading():
    grid = np.array([(east, north) for north in (-3.0, 0.0) for east in (-3.0, 0.0, 3.0)])
    posterior = PositionMap(60.0, 25.0, grid, np.full(6, 1 / 6))
    places = [posed(position_map=posterior), Place(2, 61.0, 25.0, 0.8, "t2", heading=5.0, position_map=posterior)]
    content = content_of(answers_map([Answer("dir/a.jpg", [*places, posed(heading=None)], error="x")]))
    first, second, third = content["photos"][0]["points"]
    np.testing.assert_allclose(first["view"], view_cone(places[0]), rtol=0, atol=1e-9)
    assert second["view"] == third["view"] == [] and content["photos"][0]["name"] == "a.jpg"
    box = posterior.bounds
    assert np.allclose(first["probability"]["box"], [[box.south, box.west], [box.north, box.east]], rtol=0, atol=1e-9)
    assert second["probability"] is None and [first["rank"], second["rank"]] == [1, 2]
    assert first["label"] == "60.000000, 25.000000 · score 0.900 · heading 12° · tile t1"
    assert second["label"] == "61.000000, 25.000000 · score 0.800 · tile t2"


def test_answers_map_notes_unknown_answers_errors_and_exif_positions():
    place, exif = Place(1, 60.0, 25.0, 0.9, "t"), PhotoPosition(60.01, 25.0)
    answers = [
        Answer("a.jpg", [place], ("levelled",), error="x", exif_position=exif),
        Answer("b.jpg", [place], error="x", known=False, exif_position=exif, exif_is_prior=True),
        Answer("c.jpg", error="cut off"),
    ]
    photos = content_of(answers_map(answers))["photos"]
    assert [photo["note"] for photo in photos] == [
        "x; levelled; best place 1,112 m from its EXIF position",
        "x",
        "cut off",
    ]
    assert [[point["kind"] for point in photo["points"]] for photo in photos] == [["found", "exif"]] * 2 + [[]]
    exif_point = photos[0]["points"][1]
    assert exif_point["at"] == [60.01, 25.0] and exif_point["label"] == "60.010000, 25.000000 · EXIF position"
    assert exif_point["rank"] == 0 and [photo["known"] for photo in photos] == [True, False, True]


def test_answers_map_of_an_unknown_answer_says_that_it_does_not_know(tmp_path):
    Image.new("RGB", (900, 300)).save(tmp_path / "a.png")
    places = [Place(1, 60.0, 25.0, 0.9, "t")]
    answers = [Answer(str(tmp_path / "a.png"), places, known=known) for known in (True, False)]
    content = content_of(answers_map(answers))
    assert [photo["note"] for photo in content["photos"]] == ["", "don't know"]


@pytest.mark.parametrize(("count", "size"), [(50, (320, 107)), (51, (120, 40))])
def test_answers_map_of_more_than_50_photos_has_smaller_pictures(tmp_path, count, size):
    Image.new("RGB", (900, 300)).save(tmp_path / "a.png")
    readable = Answer(str(tmp_path / "a.png"), [Place(1, 60.0, 25.0, 0.9, "t")])
    content = content_of(answers_map([readable, *[Answer(f"{n}.jpg", error="x") for n in range(count - 1)]]))
    (picture,) = content["pictures"].values()
    assert Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).size == size


class Thumbnails:
    """An index or store with pictures of all tiles but "none"."""

    def thumbnails(self, tiles):
        return {tile: JPEG + tile.encode() for tile in tiles if tile != "none"}


def test_answers_map_draws_tiles_with_bounds_and_pictures_and_credits_their_sources():
    box = Bounds(25.0, 60.0, 25.1, 60.1)
    places = [
        Place(1, 60.0, 25.0, 0.9, "a", box, 30.0, attribution="© A", licence="CC0"),
        Place(2, 60.0, 25.0, 0.8, "none", box, attribution="<b>"),
        Place(3, 60.0, 25.0, 0.7, "c"),
    ]
    content = content_of(answers_map([Answer("a.jpg", places, error="x")] * 2, Thumbnails()))
    (overlay,) = content["overlays"]
    first, second, third = content["photos"][0]["points"]
    assert overlay["picture"] == first["picture"] != third["picture"] != "" == second["picture"]
    assert (first["radius"], second["radius"]) == (30.0, None) and third["box"] is None
    assert overlay["box"] == first["box"] and np.allclose(overlay["box"], [[60.0, 25.0], [60.1, 25.1]])
    assert content["credits"] == ["© A, CC0", "&lt;b&gt;"]


class Imagery(GeoIndex):
    """An index of 205 tiles in a row to the east, 100 m apart."""

    def __init__(self):
        lat, lon = offset(60.0, 25.0, np.arange(205) * 100.0, 0.0)
        boxes = [bounds_around(a, b, 80, 80) for a, b in zip(lat, lon, strict=True)]
        self._table = tile_table([f"t{n}" for n in range(205)], lat, lon, boxes)
        self.requested = []

    @property
    def tiles(self):
        return self._table

    def thumbnails(self, tiles):
        self.requested.append(list(tiles))
        return {tile: JPEG + tile.encode() for tile in tiles}

    def place(self, row, rank=1):
        values = self._table.slice(row, 1).to_pylist()[0]
        box = Bounds(*(values[side] for side in ("west", "south", "east", "north")))
        return Place(rank, values["lat"], values["lon"], 0.9, f"t{row}", box)


def test_answers_map_draws_at_most_200_tiles_those_nearest_to_best_places():
    index = Imagery()
    answers = [Answer("a.jpg", [index.place(0), index.place(150, 2)], error="x"), Answer("b.jpg", error="x")]
    content = content_of(answers_map([*answers, Answer("c.jpg", [index.place(3)], error="x")], index))
    # Three tiles of places, and of the 197 nearest to the tiles 0 and 3 all but these three.
    assert sorted(index.requested[1], key=lambda name: int(name[1:])) == [
        f"t{row}" for row in range(197) if row not in (0, 3, 150)
    ]
    assert len(content["overlays"]) == 197
    assert content["overlays"][-1]["picture"] != ""


def test_answers_map_of_200_tiles_of_places_draws_no_others():
    index = Imagery()
    for places, requests in ((199, 2), (200, 1)):
        index.requested.clear()
        answer = Answer("a.jpg", [index.place(row, row + 1) for row in range(places)], error="x")
        content = content_of(answers_map([answer], index))
        assert len(index.requested) == requests and len(content["overlays"]) == places
    assert len(content_of(answers_map([Answer("a.jpg", error="x")], index))["overlays"]) == 0
