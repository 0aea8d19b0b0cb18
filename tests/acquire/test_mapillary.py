"""The client of the photo service, against a double that behaves as badly as the real one."""

import logging

import pytest

from gengeo_hf.acquire import photo_search
from gengeo_hf.acquire.mapillary import TOKEN_VARIABLE, Mapillary, TokenError, read_token
from gengeo_hf.acquire.photo_search import Journal, search_area, search_boxes
from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.client import HostUnavailableError, ServerError
from gengeo_hf.imagery.options import ClientOptions
from tests.acquire.mapillary_double import LAT, LON, entity
from tests.acquire.mapillary_server import TOKEN

pytest_plugins = ["tests.acquire.mapillary_double"]

BOX = (LON - 0.004, LAT - 0.004, LON + 0.004, LAT + 0.004)
AREA = Area.from_bounds(Bounds(*BOX))
BIG_ID = "28768375123456789"  # above 2**53


def test_search_keeps_ids_above_2_53_and_missing_keys_missing(service):
    service.hold([entity(BIG_ID, computed_geometry=None, computed_compass_angle=None)])
    with service.client() as client:
        found = client.search(BOX, True)
    assert [photo["id"] for photo in found] == [BIG_ID]
    assert "computed_geometry" not in found[0] and "computed_compass_angle" not in found[0]


@pytest.mark.parametrize("mood", ["429", "500"])
def test_search_is_tried_again_after_passing_failures(service, mood):
    service.hold([entity(1)], search=mood)
    with service.client() as client:
        assert len(client.search(BOX, True)) == 1


def test_token_that_is_refused_stops_with_its_reason(service):
    service.hold([entity(1)], token="refused")
    with service.client() as client, pytest.raises(TokenError, match=r"Invalid OAuth.*MAPILLARY|MAPILLARY.*Invalid"):
        client.search(BOX, True)


def test_limit_on_requests_is_not_taken_for_a_bad_token(service):
    service.hold([entity(1)], search="403")
    with service.client() as client, pytest.raises(HostUnavailableError, match="request limit"):
        client.search(BOX, True)


def test_web_page_in_the_place_of_json_is_named(service):
    service.hold([entity(1)], search="html")
    with service.client() as client, pytest.raises(ServerError, match="web page instead of JSON"):
        client.search(BOX, True)


@pytest.mark.parametrize(
    ("mood", "reason", "pixel_requests"),
    [
        ("expired", "", 2),
        ("gone once", "", 2),
        ("expires", "address expires at once", 3),
        ("deleted", "not there any more", 0),
    ],
)
def test_expired_addresses_are_asked_for_again(service, mood, reason, pixel_requests):
    service.hold([entity(5, _mood=mood)])
    with service.client() as client:
        picture = client.picture("5", 2048)
    assert picture.reason == reason and bool(picture.content) == (not reason)
    assert sum(entry["path"].startswith("/pixels") for entry in service.log) == pixel_requests


def test_token_reaches_the_api_in_a_header_and_nothing_else(service, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    service.hold([entity(1)])
    with service.client() as client:
        client.search(BOX, True)
        client.picture("1", 2048)
    service.hold([], token="refused")
    with service.client() as client, pytest.raises(TokenError) as caught:
        client.search(BOX, True)
    assert TOKEN not in str(caught.value) and TOKEN not in caplog.text and TOKEN not in "".join(capfd.readouterr())
    service.hold([entity(1)])
    with service.client() as client:
        client.picture("1", 2048)
    assert [entry["token"] for entry in service.log] == [f"OAuth {TOKEN}", None]
    assert not any("MLY" in entry["path"] for entry in service.log)


def test_token_of_the_environment_is_checked(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(TokenError, match=f"set {TOKEN_VARIABLE}"):
        read_token()
    monkeypatch.setenv(TOKEN_VARIABLE, "MLY|1|a\nX-Other: b")
    with pytest.raises(TokenError, match="white space") as caught:
        read_token()
    assert "X-Other" not in str(caught.value)
    monkeypatch.setenv(TOKEN_VARIABLE, f" {TOKEN}\n")
    assert read_token() == TOKEN


def test_token_is_not_sent_in_clear_text_over_a_network():
    with pytest.raises(GenGeoError, match="https"):
        Mapillary(TOKEN, ClientOptions(), "http://photos.example.org")


def test_boxes_are_smaller_than_the_api_allows_and_cover_the_area():
    boxes = search_boxes(Area.from_bounds(Bounds(2.2990, 48.8087, 2.3330, 48.8253)))
    assert len(boxes) == 8  # 4 columns and 2 rows
    assert all(east - west <= 0.009 and north - south <= 0.009 for west, south, east, north in boxes)
    assert sum((e - w) * (n - s) for w, s, e, n in boxes) == pytest.approx(0.034 * 0.0166, rel=1e-4)
    assert len(search_boxes(Area.from_bounds(Bounds(0, 0, 0.009, 0.009)))) == 1


def test_boxes_at_the_date_line_stay_on_their_side():
    boxes = search_boxes(Area.from_bounds(Bounds(179.99, -17.0, -179.99, -16.995)))
    assert all(-180 <= west < east <= 180 for west, _, east, _ in boxes)
    assert sum(east - west for west, _, east, _ in boxes) == pytest.approx(0.02)


def test_2001_hits_in_a_box_are_all_found(service, tmp_path):
    service.hold([entity(n, n % 40 * 10 - 200, n // 40 * 8 - 200) for n in range(1, 2002)])
    with service.client() as client:
        found = search_area(client, AREA, True, Journal(tmp_path / "search.jsonl"))
    assert set(found.photos) == {str(n) for n in range(1, 2002)}
    assert found.boxes == 5 and not found.failed and not found.full  # the box and its quarters


def test_a_box_of_a_metre_that_stays_full_is_reported(service, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_search, "LIMIT", 10)
    monkeypatch.setattr(photo_search, "MIN_DEGREES", 0.003)  # not so many quarters
    service.hold([entity(n) for n in range(1, 21)])
    with service.client() as client:
        found = search_area(client, AREA, True, Journal(tmp_path / "search.jsonl"))
    assert found.full and len(found.photos) == 20


def test_search_asks_nothing_twice_and_only_again_for_what_failed(service, tmp_path):
    area = Area.from_bounds(Bounds(LON - 0.008, LAT - 0.008, LON + 0.008, LAT + 0.008))  # four boxes
    service.hold([entity(1)], search="odd")
    with service.client() as client:
        first = search_area(client, area, True, Journal(tmp_path / "search.jsonl"))
    assert len(first.failed) == 1 and "Something about this box" in next(iter(first.failed.values()))
    with (tmp_path / "search.jsonl").open("a") as file:
        file.write('{"box": [1.0, ')  # a process was killed here
    service.hold([entity(1)])
    with service.client() as client:
        second = search_area(client, area, True, Journal(tmp_path / "search.jsonl"))
    assert len(service.searches) == 1 and not second.failed and set(second.photos) == {"1"}
    service.hold([entity(1)])
    with service.client() as client:
        third = search_area(client, area, True, Journal(tmp_path / "search.jsonl"))
    assert not service.searches and third.photos == second.photos
