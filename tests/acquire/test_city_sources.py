"""Making a city with imagery by address, and with real photos and tiles."""

import csv

import pytest
from PIL import Image

from gengeo_hf.acquire.city import CityOptions, make_city
from gengeo_hf.acquire.mapillary import TOKEN_VARIABLE
from gengeo_hf.acquire.photo_rules import PhotoRules
from gengeo_hf.common.area import Area
from gengeo_hf.common.geo import Bounds
from gengeo_hf.data import load_pairs
from gengeo_hf.data.check import check_data
from gengeo_hf.data.sources import read_sources
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.tiles import Rights
from tests.acquire.mapillary_double import LAT, LON, GridTiles, entity
from tests.acquire.mapillary_server import TOKEN
from tests.imagery.conftest import _server_process, server  # noqa: F401  # the tile server of tests/imagery

pytest_plugins = ["tests.acquire.mapillary_double"]
FINLAND = Rights("Maanmittauslaitos", "CC BY 4.0", "2020")


@pytest.fixture
def make(service, server, tmp_path, monkeypatch, gengeo):  # noqa: F811  # the fixture of that name
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)

    def run(mode, *more):
        words = ["--near", f"{LAT},{LON},60m", "--imagery", server.template(mode), "--out", tmp_path / "town"]
        words += ["--api", service.address, "--allow-private", "--rate", 0, "--cache", tmp_path / "cache", "--yes"]
        rights = ["--attribution", "Example Survey", "--licence", "CC BY 4.0"]
        return gengeo("data", "make", *words, *rights, "--split", "test", "--pixels", 128, *more)

    return run


def test_data_make_with_imagery_by_address_has_one_plan_and_fetches_tiles_once(make, service, server, tmp_path):  # noqa: F811
    service.hold([entity(1), entity(2, 30, 0)])
    code, out, _ = make("good", "--dry-run")
    assert code == 0 and "searches" in out and "source tiles:" in out and server.paths == service.log == []
    code, out, err = make("good")
    assert code == 0 and "2 photos of 2 found" in out, err
    assert len(server.paths) == len(set(server.paths)) > 0
    assert read_sources(tmp_path / "town").sources[1].attribution == "Example Survey"
    assert check_data("table", tmp_path / "town").findings


@pytest.mark.slow
def test_data_make_tiles_without_response_raise_error_with_count(make, service, tmp_path):
    service.hold([entity(n, n * 25 - 90, n * 20 - 70) for n in range(1, 7)])
    code, out, err = make("thirdhtml", "--near", f"{LAT},{LON},100m")
    assert code == 1 and "tiles could not be fetched" in err and "--allow-gaps" in err
    assert len(err.strip().splitlines()[-1]) < 400 and not (tmp_path / "town" / "pairs.parquet").exists()
    code, out, err = make("third404", "--overwrite", "--near", f"{LAT},{LON},100m")
    assert code == 0 and "no image: " in out and "(404)" in out, err


@pytest.mark.slow
def test_make_city_real_photos_of_helsinki_are_paired_with_tiles(service, shared_data, tmp_path):
    """Real ordinary photos, and real tiles around each of them."""
    rows = list(csv.DictReader((shared_data / "helsinki" / "pairs.csv").open()))
    photos = []
    for row in rows:
        path = shared_data / "helsinki" / f"{row['Grd_ID']}.jpg"
        (service.folder / path.name).write_bytes(path.read_bytes())
        width, height = Image.open(path).size
        at = {"lat": float(row["Latitude"]), "lon": float(row["Longitude"])}
        plain = {"is_pano": False, "camera_type": "perspective", "camera_parameters": [0.85, 0, 0]}
        heading = float(row["Compass_angle"])
        both = {"compass_angle": heading, "computed_compass_angle": heading, "_file": path.name}
        photos.append(entity(row["Grd_ID"], **at, **plain, **both, width=width, height=height))
    service.hold(photos)
    table = tmp_path / "tiles.csv"
    lines = [f"{shared_data / 'helsinki' / row['Grd_ID']}_sat.jpg,{row['Latitude']},{row['Longitude']}" for row in rows]
    table.write_text("image,lat,lon\n" + "\n".join(lines))
    area = Area.from_bounds(Bounds(24.83, 60.21, 24.97, 60.28))
    tiles = open_imagery(table, TilingOptions(tile_size_m=250.0))
    options = CityOptions(PhotoRules(kind="perspective"), None, 1024)
    with service.client() as client:
        city = make_city(client, area, tiles, FINLAND, tmp_path / "helsinki", options)
    assert len(city.chosen.photos) == 5 and not city.chosen.dropped
    data = load_pairs("table", tmp_path / "helsinki", "test")
    for query in data.queries:
        assert query["query_id"] in query["positive"] and 60 < query["fov"] < 62
    kept = tmp_path / "helsinki" / "photos" / f"{rows[0]['Grd_ID']}.jpg"
    assert kept.read_bytes() == (shared_data / "helsinki" / kept.name).read_bytes()


@pytest.mark.slow
def test_make_city_real_photos_are_classified_by_size(service, shared_data, tmp_path):
    photos = []
    for number, path in enumerate(sorted((shared_data / "panoramas").glob("*.jpeg")), 1):
        (service.folder / path.name).write_bytes(path.read_bytes())
        photos.append(entity(number, number * 30 - 60, 0, _file=path.name, width=None, height=None))
    service.hold(photos)
    area = Area.from_bounds(Bounds(LON - 0.003, LAT - 0.002, LON + 0.003, LAT + 0.002))
    with service.client() as client:
        city = make_city(
            client, area, GridTiles(area), FINLAND, tmp_path / "town", CityOptions(PhotoRules(), None, 2048)
        )
    assert len(city.chosen.photos) == 3 and city.chosen.dropped == {"pixels not twice as wide as high": 1}
