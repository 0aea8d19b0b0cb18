"""Making a city, from the first request to a table that loads, with a test double of the photo service."""

import json

import numpy as np
import pytest

from gengeo_hf.acquire.city import STATE, CityOptions, make_city
from gengeo_hf.acquire.mapillary import TOKEN_VARIABLE, TokenError
from gengeo_hf.acquire.photo_rules import PhotoRules
from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, great_circle_m
from gengeo_hf.data import load_pairs
from gengeo_hf.data.check import check_data
from gengeo_hf.data.own import SplitOptions
from gengeo_hf.data.sources import read_sources
from gengeo_hf.imagery.client import HostUnavailableError
from gengeo_hf.imagery.tiles import ImageryStoppedError, Rights
from tests.acquire.mapillary_double import LAT, LON, GridTiles, entity
from tests.acquire.mapillary_server import TOKEN

pytest_plugins = ["tests.acquire.mapillary_double"]

AREA = Area.from_bounds(Bounds(LON - 0.004, LAT - 0.003, LON + 0.004, LAT + 0.003))
SMALL = Area.from_bounds(Bounds(LON - 0.002, LAT - 0.0012, LON + 0.002, LAT + 0.0012))  # 70 tiles of 60 m
RIGHTS = Rights("Example Survey", "CC BY 4.0", "2021-06", "https://tiles.example.org/{z}/{x}/{y}")
OPTIONS = CityOptions(cut=SplitOptions(0.1, 0.2, block_m=100.0), pixels=1024)
TEST_ONLY = CityOptions(cut=None, pixels=1024)


def scattered(count, reach=(130, 120)):
    rng = np.random.default_rng(1)
    return [entity(n, *(rng.uniform(-1, 1, 2) * reach)) for n in range(1, count + 1)]


def make(service, out, source=None, options=TEST_ONLY, area=SMALL, **more):
    with service.client() as client:
        return make_city(client, area, source or GridTiles(area), RIGHTS, out, options, **more)


def test_make_city_writes_table_with_gallery_of_the_whole_area(service, tmp_path):
    service.hold(scattered(120, (280, 320)))
    source = GridTiles(AREA)
    city = make(service, tmp_path / "town", source, OPTIONS, AREA)
    assert min(city.counts.values()) > 0 and not (tmp_path / "town" / STATE).exists()
    loaded = {split: load_pairs("table", tmp_path / "town", split) for split in ("train", "validation", "test")}
    assert {split: len(data.queries) for split, data in loaded.items()} == city.counts
    assert len(loaded["test"].gallery) == source.table.num_rows  # includes tiles without a photo
    query, gallery = loaded["test"].queries[0], loaded["test"].gallery
    tile = gallery[gallery["tile_id"][:].index(query["positive"])]
    assert great_circle_m(query["lat"], query["lon"], tile["lat"], tile["lon"]) < 15 * 2**0.5 + 0.5
    assert tile["west"] < query["lon"] < tile["east"]
    assert query["fov"] == 360 and query["heading"] == 90.0 + int(query["query_id"]) % 7
    assert check_data("table", tmp_path / "town").ok


def test_make_city_keeps_image_files_and_loading_aligns_them(service, tmp_path):
    """The column at north is red. It is stored unchanged, and the heading in the table aligns it when it is loaded."""
    from gengeo_hf.data.loading import GroundImages

    service.hold([entity(4, 10, 10)])  # heading 94
    make(service, tmp_path / "town")
    data = load_pairs("table", tmp_path / "town", "test")
    stored = np.asarray(data.queries[0]["ground"]).astype(int)
    redness = lambda pixels: (pixels[..., 0] - pixels[..., 1:].max(axis=-1)).mean(axis=0)  # noqa: E731
    width = stored.shape[1]
    assert abs(redness(stored).argmax() - (width / 2 - 94 * width / 360)) <= 2
    aligned = np.asarray(GroundImages(data)[0]).astype(int)
    assert abs(redness(aligned).argmax() - width / 2) <= 2


def test_make_city_writes_attribution_and_sources(service, tmp_path):
    service.hold([entity(28768375123456789), entity(2, 60, 0, creator=None), entity(3, 90, 0, is_pano=True, width=5)])
    make(service, tmp_path / "town")
    lines = (tmp_path / "town" / "ATTRIBUTION.csv").read_text().splitlines()
    assert lines[1:] == [
        "2,,https://www.mapillary.com/app/?pKey=2,2021-06-29",
        "28768375123456789,ann,https://www.mapillary.com/app/?pKey=28768375123456789,2021-06-29",
    ]
    sources = read_sources(tmp_path / "town")
    assert [source.licence for source in sources.sources] == ["CC-BY-SA-4.0", "CC BY 4.0"]
    facts = sources.facts
    assert facts["left_out"] == {"not twice as wide as high": 1} and facts["photos_found"] == 3
    assert facts["years_from_flight"]["50%"] == pytest.approx(0.04, abs=0.1)
    text = "".join(path.read_text(errors="ignore") for path in (tmp_path / "town").glob("*.*"))
    assert TOKEN not in text and "oh=sig" not in text


def test_make_city_counts_unusable_photos_by_reason(service, tmp_path):
    faults = ["", "cut", "cut once", "dark", "square", "html", "expired", "deleted"]
    service.hold([entity(n, n * 30 - 150, 0, _fault=fault) for n, fault in enumerate(faults, 1)])
    city = make(service, tmp_path / "town")
    assert sorted(photo.id for photo in city.chosen.photos) == ["1", "3", "7"]
    assert city.chosen.dropped == {
        "not an image, or cut off": 2,
        "darker than 25 of 255": 1,
        "pixels not twice as wide as high": 1,
        "not there any more": 1,
    }


def test_make_city_counts_tiles_without_imagery_and_drops_their_photos(service, tmp_path):
    service.hold([entity(1), entity(2, 90, 0)])
    whole = make(service, tmp_path / "whole", GridTiles(SMALL))
    gone = int(whole.pairing.positive[0])
    city = make(service, tmp_path / "town", GridTiles(SMALL, without={gone}))
    assert [photo.id for photo in city.chosen.photos] == ["2"] and city.empty == {gone: "no data"}
    assert len(load_pairs("table", tmp_path / "town", "test").gallery) == len(city.tiles) - 1


class Stopping(GridTiles):
    """Imagery whose server stops after some tiles."""

    def read(self, row):
        if len(self.reads) >= 30:
            raise ImageryStoppedError("the server is down")
        return super().read(row)


def test_make_city_interrupted_is_resumed_without_repeated_requests(service, tmp_path):
    photos = scattered(30)
    service.hold(photos)
    source = Stopping(SMALL)
    with pytest.raises(ImageryStoppedError):
        make(service, tmp_path / "town", source)
    before = service.log
    assert not (tmp_path / "town" / "pairs.parquet").exists()
    service.hold(photos)
    second = GridTiles(SMALL)
    city = make(service, tmp_path / "town", second)
    assert len(before) > 30 and service.log == []
    assert len(source.reads) + len(second.reads) <= len(city.tiles) + 1


def test_make_city_photo_without_response_raises_error_unless_gaps_are_allowed(service, tmp_path):
    service.hold([entity(1), entity(2, 60, 0, _fault="down")])
    with pytest.raises(GenGeoError, match=r"1 photos could not be fetched, first photo 2.*--allow-gaps"):
        make(service, tmp_path / "town")
    options = CityOptions(cut=None, pixels=1024, allow_gaps=True)
    city = make(service, tmp_path / "town", options=options)
    assert [photo.id for photo in city.chosen.photos] == ["1"] and city.chosen.dropped["no answer"] == 1


def test_make_city_box_without_response_raises_error_that_names_it(service, tmp_path):
    service.hold([entity(1)], search="html")
    with pytest.raises(GenGeoError, match=r"1 of 1 boxes got no answer, first 2\.314,48\.8154.*--allow-gaps"):
        make(service, tmp_path / "town")


def test_make_city_refused_token_raises_error_and_keeps_files(service, tmp_path):
    service.hold([entity(1)], token="refused")
    with pytest.raises(TokenError):
        make(service, tmp_path / "town")
    service.hold([entity(1)], search="403")
    with pytest.raises(HostUnavailableError):
        make(service, tmp_path / "town")
    service.hold([entity(1)])
    assert make(service, tmp_path / "town").counts["test"] == 1


def test_make_city_directory_of_another_request_is_refused(service, tmp_path):
    service.hold([entity(1), entity(2, 90, 0)])
    make(service, tmp_path / "town")
    with pytest.raises(GenGeoError, match=r"is complete.*--overwrite"):
        make(service, tmp_path / "town")
    other = GridTiles(SMALL, 80.0)
    with pytest.raises(GenGeoError, match="another area, imagery or kind"):
        make(service, tmp_path / "town", other)
    service.hold([entity(1), entity(2, 90, 0)])
    assert make(service, tmp_path / "town", other, overwrite=True).tiles.side_m == pytest.approx(80, abs=1)
    assert len(service.log) == len(service.searches) == 1  # existing photos are kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(GenGeoError, match="holds something else"):
        make(service, tmp_path / "mine", overwrite=True)


def test_make_city_without_photos_raises_error_with_reasons(service, tmp_path):
    with pytest.raises(GenGeoError, match="no photos in this area"):
        make(service, tmp_path / "town")
    service.hold([entity(1, camera_type="fisheye")])
    with pytest.raises(GenGeoError, match="none of 1 photos is left: 1 another kind of camera"):
        make(service, tmp_path / "other")


def test_make_city_without_rights_of_imagery_raises_error(service, tmp_path):
    with service.client() as client, pytest.raises(GenGeoError, match="--attribution and --licence"):
        make_city(client, SMALL, GridTiles(SMALL), Rights("Example Survey"), tmp_path / "town", TEST_ONLY)


def test_make_city_perspective_photos_keep_fov_and_unknown_headings(service, tmp_path):
    plain = {"is_pano": False, "camera_type": "perspective", "width": 4000, "height": 3000}
    service.hold(
        [
            entity(1, camera_parameters=[0.85, 0.1, 0.0], **plain),
            entity(2, 60, 0, compass_angle=None, computed_compass_angle=None, **plain),
        ]
    )
    make(service, tmp_path / "town", options=CityOptions(PhotoRules(kind="perspective"), None, 1024))
    rows = {row["query_id"]: row for row in load_pairs("table", tmp_path / "town", "test").queries}
    assert rows["1"]["fov"] == pytest.approx(60.9, abs=0.1) and rows["1"]["heading"] == 91.0
    assert rows["2"]["fov"] is None and rows["2"]["heading"] is None


def test_data_make_dry_run_sends_no_request_and_run_makes_table(service, tmp_path, monkeypatch, gengeo):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    service.hold(scattered(12, (280, 320)))
    tiles = tmp_path / "ortho.tif"
    write_orthophoto(tiles)
    words = ["data", "make", "--near", f"{LAT},{LON},200m", "--imagery", tiles, "--out", tmp_path / "town"]
    words += ["--api", service.address, "--allow-private", "--rate", 0, "--split", "test", "--photo-width", 1024]
    code, out, err = gengeo(*words, "--dry-run", "--json")
    assert code == 0 and service.log == [] and not (tmp_path / "town").exists()
    assert json.loads(out)["searches"] == 1 and TOKEN not in out + err
    code, _, err = gengeo(*words)
    assert code == 2 and "--yes" in err and service.log == []
    code, _, err = gengeo(*words, "--yes")
    assert code == 1 and "--attribution" in err and err.count("error:") == 1
    rights = ["--attribution", "Example Survey", "--licence", "CC BY 4.0", "--acquired", 2021]
    code, out, err = gengeo(*words, "--yes", *rights)
    assert code == 0, err
    assert "left out" in out and "years from flight to photos" in out and TOKEN not in out + err
    assert len(load_pairs("table", tmp_path / "town", "test").queries) > 3


def test_data_make_without_token_or_with_wrong_options_raises_error(tmp_path, monkeypatch, gengeo):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    words = ["data", "make", "--imagery", "x.tif", "--out", tmp_path / "town"]
    box = ["--bounds", "2.31,48.81,2.32,48.82"]
    for more, code, said in (
        ([], 2, "choose an area"),
        ([*box, "--kind", "fisheye"], 2, "panorama or perspective"),
        ([*box, "--photo-width", 640], 2, "256, 1024, 2048"),
        ([*box, "--split", "random"], 2, "area or test"),
        ([*box, "--test-share", "60%"], 2, "test_share"),
        (box, 1, f"set {TOKEN_VARIABLE}"),
    ):
        found, _, err = gengeo(*words, *more)
        assert found == code and said in err and len(err.strip().splitlines()) == 1, err


def write_orthophoto(path):
    import rasterio
    from rasterio.transform import from_bounds

    side = 300
    pixels = np.random.default_rng(0).integers(30, 220, (3, side, side), dtype=np.uint8)
    place = from_bounds(LON - 0.004, LAT - 0.003, LON + 0.004, LAT + 0.003, side, side)
    how = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(path, "w", transform=place, **how) as file:
        file.write(pixels)
