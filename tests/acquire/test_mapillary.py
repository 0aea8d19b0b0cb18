"""Client of the photo service, with a test double that has the faults of the real service."""

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


def test_search_keeps_ids_above_2_to_53_and_missing_keys(service):
    service.hold([entity(BIG_ID, computed_geometry=None, computed_compass_angle=None)])
    with service.client() as client:
        found = client.search(BOX, True)
    assert [photo["id"] for photo in found] == [BIG_ID]
    assert "computed_geometry" not in found[0] and "computed_compass_angle" not in found[0]


@pytest.mark.parametrize("fault", ["429", "500"])
def test_search_temporary_failure_is_retried(service, fault):
    service.hold([entity(1)], search=fault)
    with service.client() as client:
        assert len(client.search(BOX, True)) == 1


def test_search_refused_token_raises_error_with_reason(service):
    service.hold([entity(1)], token="refused")
    with service.client() as client, pytest.raises(TokenError, match=r"Invalid OAuth.*MAPILLARY|MAPILLARY.*Invalid"):
        client.search(BOX, True)


def test_search_request_limit_is_not_a_token_error(service):
    service.hold([entity(1)], search="403")
    with service.client() as client, pytest.raises(HostUnavailableError, match="request limit"):
        client.search(BOX, True)


def test_search_web_page_instead_of_json_raises_error(service):
    service.hold([entity(1)], search="html")
    with service.client() as client, pytest.raises(ServerError, match="web page instead of JSON"):
        client.search(BOX, True)


@pytest.mark.parametrize(
    ("fault", "reason", "pixel_requests"),
    [
        ("expired", "", 2),
        ("gone once", "", 2),
        ("expires", "address expires at once", 3),
        ("deleted", "not there any more", 0),
    ],
)
def test_picture_expired_address_is_requested_again(service, fault, reason, pixel_requests):
    service.hold([entity(5, _fault=fault)])
    with service.client() as client:
        picture = client.picture("5", 2048)
    assert picture.reason == reason and bool(picture.content) == (not reason)
    assert sum(entry["path"].startswith("/pixels") for entry in service.log) == pixel_requests


def test_token_is_sent_in_a_header_to_the_api_only(service, caplog, capfd):
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


def test_read_token_invalid_or_missing_raises_error(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(TokenError, match=f"set {TOKEN_VARIABLE}"):
        read_token()
    monkeypatch.setenv(TOKEN_VARIABLE, "MLY|1|a\nX-Other: b")
    with pytest.raises(TokenError, match="white space") as caught:
        read_token()
    assert "X-Other" not in str(caught.value)
    monkeypatch.setenv(TOKEN_VARIABLE, f" {TOKEN}\n")
    assert read_token() == TOKEN


def test_client_with_http_address_raises_error():
    with pytest.raises(GenGeoError, match="https"):
        Mapillary(TOKEN, ClientOptions(), "http://photos.example.org")


def test_search_boxes_are_within_limit_and_cover_area():
    boxes = search_boxes(Area.from_bounds(Bounds(2.2990, 48.8087, 2.3330, 48.8253)))
    assert len(boxes) == 8  # 4 columns and 2 rows
    assert all(east - west <= 0.009 and north - south <= 0.009 for west, south, east, north in boxes)
    assert sum((e - w) * (n - s) for w, s, e, n in boxes) == pytest.approx(0.034 * 0.0166, rel=1e-4)
    assert len(search_boxes(Area.from_bounds(Bounds(0, 0, 0.009, 0.009)))) == 1


def test_search_boxes_do_not_cross_date_line():
    boxes = search_boxes(Area.from_bounds(Bounds(179.99, -17.0, -179.99, -16.995)))
    assert all(-180 <= west < east <= 180 for west, _, east, _ in boxes)
    assert sum(east - west for west, _, east, _ in boxes) == pytest.approx(0.02)


def test_search_area_divides_full_box_and_finds_2001_photos(service, tmp_path):
    service.hold([entity(n, n % 40 * 10 - 200, n // 40 * 8 - 200) for n in range(1, 2002)])
    with service.client() as client:
        found = search_area(client, AREA, True, Journal(tmp_path / "search.jsonl"))
    assert set(found.photos) == {str(n) for n in range(1, 2002)}
    assert found.boxes == 5 and not found.failed and not found.full  # the box and its four quarters


def test_search_area_reports_full_box_of_minimum_size(service, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_search, "LIMIT", 10)
    monkeypatch.setattr(photo_search, "MIN_DEGREES", 0.003)  # few divisions
    service.hold([entity(n) for n in range(1, 21)])
    with service.client() as client:
        found = search_area(client, AREA, True, Journal(tmp_path / "search.jsonl"))
    assert found.full and len(found.photos) == 20


def test_search_area_resumed_requests_failed_boxes_only(service, tmp_path):
    area = Area.from_bounds(Bounds(LON - 0.008, LAT - 0.008, LON + 0.008, LAT + 0.008))  # four boxes
    service.hold([entity(1)], search="odd")
    with service.client() as client:
        first = search_area(client, area, True, Journal(tmp_path / "search.jsonl"))
    assert len(first.failed) == 1 and "Something about this box" in next(iter(first.failed.values()))
    with (tmp_path / "search.jsonl").open("a") as file:
        file.write('{"box": [1.0, ')  # incomplete line of a killed process
    service.hold([entity(1)])
    with service.client() as client:
        second = search_area(client, area, True, Journal(tmp_path / "search.jsonl"))
    assert len(service.searches) == 1 and not second.failed and set(second.photos) == {"1"}
    service.hold([entity(1)])
    with service.client() as client:
        third = search_area(client, area, True, Journal(tmp_path / "search.jsonl"))
    assert not service.searches and third.photos == second.photos
