import json

import numpy as np
import pytest

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, bounds_around, great_circle_m, offset
from gengeo_hf.index import GeoIndex, Hit
from gengeo_hf.localization import GeoLocalizer
from gengeo_hf.localization.localizer import Answer, Place, caveat_of, find_photos, merge_hits, to_geojson
from tests.stubs import ListSource, StubEncoder


def hit(name, score, east=0.0, size=100.0, lat=60.0, lon=25.0):
    at = tuple(float(v) for v in offset(lat, lon, east, 0.0))
    return Hit(name, score, *at, bounds_around(*at, size, size) if size else None, "", "")


def test_locate_of_a_tile_gives_its_position(index, encoder, source, photo):
    localizer = GeoLocalizer(encoder, index)
    best = localizer.locate(photo, top=3, merge=False).best
    assert (best.rank, best.tile_id, best.lat) == (1, "noise-4", source.table["lat"][4].as_py())
    merged = localizer.locate(photo).places
    assert merged[0].tile_id == "noise-4" and merged[0].votes >= 2
    assert [place.rank for place in merged] == list(range(1, len(merged) + 1))


def test_merge_hits_of_overlapping_tiles_gives_one_place_near_the_stronger_vote():
    places = merge_hits([hit("a", 0.9), hit("b", 0.85, 60), hit("c", 0.8, 5000), hit("d", 0.7, -99)])
    assert [place.tile_id for place in places] == ["a", "c"] and places[0].votes == 3
    assert great_circle_m(places[0].lat, places[0].lon, 60.0, 25.0) < 30
    # The root-mean-square distance of a random position from the middle of a 100 m square is 100 / sqrt(6) m.
    assert places[1].uncertainty_m == pytest.approx(100 / 6**0.5, rel=1e-3)
    assert places[0].uncertainty_m > places[1].uncertainty_m


def test_merge_hits_merges_over_the_date_line_but_not_without_bounds():
    places = merge_hits([hit("a", 0.9, lat=-17, lon=179.9999), hit("b", 0.9, 60, lat=-17, lon=179.9999)])
    assert len(places) == 1 and abs(places[0].lon) > 179.99
    polar = merge_hits([hit("a", 0.9, lat=89.9999), hit("b", 0.8, lat=89.9999, lon=-120.0)])
    assert len(polar) == 1 and polar[0].votes == 2
    alone = merge_hits([hit("a", 0.9, size=None), hit("b", 0.8, size=None)])
    assert len(alone) == 2 and alone[0].uncertainty_m is None


def test_uncertainty_equals_the_root_mean_square_distance():
    generator = np.random.default_rng(0)
    place = merge_hits([hit("a", 0.9)])[0]
    lat, lon = offset(60.0, 25.0, *generator.uniform(-50, 50, (2, 20_000)))
    assert np.sqrt((great_circle_m(lat, lon, place.lat, place.lon) ** 2).mean()) == pytest.approx(
        place.uncertainty_m, rel=0.02
    )


def test_locate_many_answers_in_order_with_an_error_for_a_broken_photo(index, encoder, source, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 3):
        source.images[number].save(folder / f"{number}.png")
    (folder / "2.jpg").write_text("hello")
    answers = list(GeoLocalizer(encoder, index).locate_many(find_photos([folder]), merge=False, batch_size=2))
    assert [answer.places[0].tile_id if answer.places else None for answer in answers] == ["noise-1", None, "noise-3"]
    assert "2.jpg" in answers[1].error
    with pytest.raises(GenGeoError, match="holds no photo"):
        find_photos([index.path])


@pytest.mark.parametrize(
    ("size", "answered"), [((1, 1), False), ((8, 8), True), ((6000, 9), True), ((20_000, 20_000), False)]
)
def test_locate_of_tiny_and_narrow_photos_gives_an_answer_or_an_error(index, encoder, tmp_path, size, answered):
    from PIL import Image

    Image.new("1", size).save(tmp_path / "odd.png")
    answer = next(GeoLocalizer(encoder, index).locate_many([tmp_path / "odd.png"], top=2, merge=False))
    assert len(answer.places) == (2 if answered else 0) and bool(answer.error) != answered


def test_exif_position_is_a_prior_only_with_a_radius(shared_data, encoder, tmp_path):
    photo = shared_data / "exif" / "DSCN0010.jpg"
    far = GeoIndex.build(encoder, ListSource(), tmp_path / "far")
    localizer = GeoLocalizer(encoder, far)
    answer = next(localizer.locate_many([photo]))
    position = answer.exif_position
    assert position.lat == pytest.approx(43.467, abs=1e-3) and answer.places and answer.exif_distance_m > 1e6
    assert next(localizer.locate_many([photo], exif_radius_m=1000)).places == []
    near = GeoIndex.build(encoder, ListSource(lat=position.lat, lon=position.lon), tmp_path / "near")
    answer = next(GeoLocalizer(encoder, near).locate_many([photo], exif_radius_m=250, merge=False, top=99))
    assert len(answer.places) == 3
    assert answer.exif_is_prior and answer.exif_distance_m is None  # a prior is not a ground truth
    features = json.loads(to_geojson([answer]))["features"]
    assert features[-1]["properties"]["prior"] and features[-1]["properties"]["error_m"] is None


def test_locate_of_an_array_that_is_not_an_image_raises_one_line(index, encoder):
    with pytest.raises(GenGeoError, match=r"float32 and shape .* is not a photo"):
        GeoLocalizer(encoder, index).locate(np.zeros((8, 8, 3), np.float32))


def test_localizer_with_an_index_of_another_model_raises_an_error(index):
    with pytest.raises(GenGeoError, match="made by another model"):
        GeoLocalizer(StubEncoder("other"), index)


def test_to_geojson_of_a_drive_has_a_line_of_known_frames():
    answers = [Answer(f"{n}", [Place(1, 60.0 + n, 25.0, 0.9, "a")], known=n != 1) for n in range(3)]
    line = json.loads(to_geojson(answers, drive=True))["features"][-1]
    assert line["geometry"] == {"type": "LineString", "coordinates": [[25.0, 60.0], [25.0, 62.0]]}
    assert len(json.loads(to_geojson(answers))["features"]) == 3


def test_to_geojson_of_a_drive_over_the_date_line_has_two_lines():
    answers = [
        Answer(f"{n}", [Place(1, -17.0 + n, lon, 0.9, "a")]) for n, lon in enumerate((179.0, 179.5, -179.5, 180.0))
    ]
    line = json.loads(to_geojson(answers, drive=True))["features"][-1]["geometry"]
    assert line["type"] == "MultiLineString"
    assert line["coordinates"] == [
        [[179.0, -17.0], [179.5, -16.0], [180.0, -15.5]],
        [[-180.0, -15.5], [-179.5, -15.0], [-180.0, -14.0]],
        [[180.0, -14.0], [180.0, -14.0]],
    ]


def test_caveat_states_the_training_data():
    assert "unknown training data" in caveat_of({})
    assert "are meaningless" in caveat_of({"trained_on": "world/urban", "synthetic": True})
    assert caveat_of({"trained_on": "cvusa", "synthetic": False}) == ""


def test_to_geojson_is_valid_with_longitude_first():
    places = [Place(1, 60.123456789, 25.0, 0.9, "a", bounds_around(60, 25, 10, 10), 4.0)]
    data = json.loads(to_geojson([Answer("p.jpg", places), Answer("q.jpg", error="broken")], "careful"))
    feature = data["features"][0]
    assert data["type"] == "FeatureCollection" and feature["geometry"]["coordinates"] == [25.0, 60.1234568]
    assert feature["properties"]["rank"] == 1 and data["errors"] == {"q.jpg": "broken"} and data["caveat"] == "careful"


def test_locate_in_imagery_of_another_year_finds_the_same_position(shared_data, tmp_path):
    """NAIP 2018 against 2020: aerial to aerial, with thumbnails instead of a model; random guessing finds 1 of 18."""
    from gengeo_hf.imagery.raster import RasterTiles

    chips = shared_data / "naip_chips"
    years = {year: RasterTiles(sorted(chips.glob(f"*_{year}_*.tif")), 50, 0) for year in ("2018", "2020")}
    index = GeoIndex.build(StubEncoder(), years["2018"], tmp_path / "idx")
    found = []
    for row, (lat, lon) in enumerate(zip(*(years["2020"].table[c].to_pylist() for c in ("lat", "lon")), strict=True)):
        best = GeoLocalizer(StubEncoder(), index).locate(years["2020"].read(row), top=1, merge=False).best
        found.append(great_circle_m(best.lat, best.lon, lat, lon) < 5)
    assert np.mean(found) > 0.5, f"{np.sum(found)} of {len(found)}"


def test_localizer_of_an_index_without_tiles_raises_an_error(index, encoder):
    index.remove(index.tiles["tile_id"].to_pylist())
    with pytest.raises(GenGeoError, match="holds no tiles: add some"):
        GeoLocalizer(encoder, GeoIndex.load(index.path))


@pytest.mark.parametrize(
    "near",
    [None, (60.17, 24.94, 2000.0), Area.from_bounds(Bounds(24.0, 60.0, 25.0, 61.0))],
    ids=["all", "circle", "box"],
)
def test_locate_after_all_tiles_were_removed_says_that_the_index_holds_none(index, encoder, source, near):
    localizer = GeoLocalizer(encoder, index)
    index.remove(index.tiles["tile_id"].to_pylist())
    answer = localizer.locate(source.images[4], near=near)
    assert answer.places == [] and answer.notes[-1] == "the index holds no tiles"
