"""Loaders of CV-Cities and LOCI, on directories with their layouts and small synthetic images."""

import logging

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_pairs
from gengeo_hf.data.benchmarks import cvcities, loci
from gengeo_hf.data.check import check_data
from gengeo_hf.evaluation.protocols import default_protocol, find_protocol
from tests.data.folders import picture


def make_city(root, city="sydney", count=12, nested="", slash="/", suffix=".jpg", written=".jpg"):
    """Write a city; `written` is the suffix in the list, `suffix` that of the files."""
    lat, lon = cvcities.CENTRES[city]
    rows = []
    for n in range(count):
        for view, size in (("sat_images", (24, 24)), ("pano_images", (16, 32))):
            picture(root / city / nested / view / f"{n:04d}{suffix}", *size, seed=n)
        paths = [f"{city}{slash}{view}{slash}{n:04d}{written}" for view in ("sat_images", "pano_images")]
        rows.append(",".join([f"{n:04d}", f"{lon + 0.01 * (n % 4)}", f"{lat + 0.01 * (n // 4)}", city, *paths]))
    home = root / city / nested
    (home / "img_info.csv").write_text("\r\n".join(rows))
    return home / "img_info.csv"


def test_cvcities_published_counts_equal_protocols():
    assert sum(cvcities.TRAIN.values()) == 162_954 and sum(cvcities.TEST.values()) == 60_782
    assert find_protocol("cvcities").queries == 60_782
    for city, count in cvcities.TEST.items():
        assert find_protocol(f"cvcities-{city}").queries == count
        assert default_protocol(f"cvcities-{city}", "test").name == f"cvcities-{city}"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"nested": "sydney"},  # a copy on Kaggle
        {"slash": "\\"},
        {"suffix": ".png", "written": ".jpg"},
    ],
)
def test_cvcities_layouts_pair_photos_with_tiles_by_row(tmp_path, caplog, how):
    make_city(tmp_path, **how)
    with caplog.at_level(logging.WARNING):
        data = load_pairs("cvcities-sydney", tmp_path, "test")
    assert "12 pairs, published are 3,940" in caplog.text
    for row, query in enumerate(data.queries):
        assert query["positive"] == query["query_id"] == f"sydney/{row:04d}"
        for image, size in ((query["ground"], (16, 32)), (data.gallery[row]["aerial"], (24, 24))):
            expected = np.random.default_rng(row).integers(0, 256, (*size, 3))
            assert np.abs(np.asarray(image).astype(int) - expected).mean() < 60  # JPEG of noise
    assert data.queries[0]["fov"] == 360 and data.queries[0]["heading"] == 0
    assert data.queries["lat"][0] == pytest.approx(-33.87) and data.queries["lon"][5] == pytest.approx(151.22)


def test_cvcities_training_cities_are_split_by_area_and_test_cities_have_test_only(tmp_path):
    make_city(tmp_path, "maynila", 40)
    make_city(tmp_path)
    parts = {
        s: set(load_pairs("cvcities", tmp_path, s, validation_share=0.2).queries["query_id"]) for s in cvcities.SPLITS
    }
    assert parts["train"] and parts["validation"] and not parts["train"] & parts["validation"]
    assert all(name.startswith("sydney/") for name in parts["test"])
    with pytest.raises(GenGeoError, match="of the other split"):
        load_pairs("cvcities", tmp_path, "train", cities="sydney")
    with pytest.raises(GenGeoError, match="no split 'train'"):
        load_pairs("cvcities-sydney", tmp_path, "train")


def test_cvcities_malformed_list_or_unknown_city_raises_error(tmp_path):
    path = make_city(tmp_path, "captown", 4)
    good = path.read_text()
    rows = [line.split(",") for line in good.splitlines()]
    path.write_text("\n".join(",".join([a, c, b, *rest]) for a, b, c, *rest in rows))
    with pytest.raises(GenGeoError, match=r"not captown; longitude comes before latitude"):
        load_pairs("cvcities", tmp_path, "train")
    path.write_text("name,lon,lat,city,sat,pano\n" + good)
    with pytest.raises(GenGeoError, match="line 1: expected six cells without a header"):
        load_pairs("cvcities", tmp_path, "train")
    path.write_text(good.replace("captown/sat_images", "../../etc"))
    with pytest.raises(GenGeoError, match="none of 4 pairs has both images"):
        load_pairs("cvcities", tmp_path, "train")
    with pytest.raises(GenGeoError, match="no city 'cairo'"):
        load_pairs("cvcities", tmp_path, "test", cities=["cairo"])
    (tmp_path / "sydney.zip").write_bytes(b"PK")
    with pytest.raises(GenGeoError, match=r"unpack sydney\.zip first"):
        load_pairs("cvcities-sydney", tmp_path, "test")


def test_cvcities_check_counts_missing_repeated_and_empty_files(tmp_path):
    path = make_city(tmp_path)
    lines = path.read_text().splitlines()
    lines[3] = ",".join([lines[2].split(",")[0], *lines[2].split(",")[1:3], *lines[3].split(",")[3:]])
    path.write_text("\n".join(lines))
    (tmp_path / "sydney" / "pano_images" / "0007.jpg").unlink()
    (tmp_path / "sydney" / "sat_images" / "0008.jpg").write_bytes(b"")
    report = check_data("cvcities", tmp_path)
    text = str(report)
    assert not report.ok and "Google" in text and "relative to the directory of the data set" in text
    assert "sydney/0007 does not" in text and "1 files of 0 bytes" in text
    assert "1 rows repeat the position of another row" in text
    assert len(load_pairs("cvcities-sydney", tmp_path, "test", missing="drop").queries) == 11


def make_loci(root, environment="Boston_Commons", names=True):
    """Write tiles 30 m apart and photos of a drive between them; positions are in names or in tables."""
    step = 30 / 111_200
    lines = {"panoramas": ["pano_id,latitude,longitude,heading"], "satellite": ["patch,lat,lon"]}
    for n in range(20):
        lat, lon = 42.35 + step * (n // 5), -71.06 + step * (n % 5)
        file = f"satellite_{lat:.7f}_{lon:.7f}.png" if names else f"{n:03d}.png"
        picture(root / "satellite" / environment.lower() / file, 24, 24, seed=n)
        lines["satellite"].append(f"{file},{lat},{lon}")
    for n in range(6):
        lat, lon = 42.35 + step * n / 2, -71.06 + step * 1.1
        file = f"{n:05d},{lat:.7f},{lon:.7f},.jpg" if names else f"{n:05d}.jpg"
        picture(root / "panoramas" / environment / file, 16, 32, seed=n)
        lines["panoramas"].append(f"{n:05d},{lat},{lon},{n * 10}")
    if not names:
        (root / "satellite" / environment.lower() / "manifest.csv").write_text("\n".join(lines["satellite"]))
        (root / "panoramas" / environment / "poses.csv").write_text("\n".join(lines["panoramas"]))


@pytest.mark.parametrize("names", [True, False])
def test_loci_layout_is_detected_and_nearest_tile_is_positive(tmp_path, names):
    make_loci(tmp_path, names=names)
    data = load_pairs("loci", tmp_path, "test")
    assert len(data.queries) == 6 and len(data.gallery) == 20
    tiles = {tile["tile_id"]: (tile["lat"], tile["lon"]) for tile in data.gallery}
    for query in data.queries:
        apart = {name: np.hypot(lat - query["lat"], lon - query["lon"]) for name, (lat, lon) in tiles.items()}
        assert apart[query["positive"]] == pytest.approx(min(apart.values()), rel=0.3)
        assert query["area"] == "Boston_Commons" and 1 <= len(query["semi_positives"]) <= 3
    assert data.queries["heading"][2] == (None if names else 20.0)
    report = str(check_data("loci", tmp_path))
    assert ("the names of the files" if names else "the table manifest.csv") in report and "CC BY-SA" in report
    assert find_protocol("loci").dataset == "loci"


def test_loci_invalid_layout_raises_error(tmp_path):
    with pytest.raises(GenGeoError, match="no 'panoramas' in"):
        load_pairs("loci", tmp_path, "test")
    make_loci(tmp_path)
    with pytest.raises(GenGeoError, match="no split 'train'"):
        load_pairs("loci", tmp_path, "train")
    with pytest.raises(GenGeoError, match=r"no environment 'Oz'; it has Boston_Commons"):
        load_pairs("loci", tmp_path, "test", environments="Oz")
    for path in (tmp_path / "panoramas" / "Boston_Commons").iterdir():
        path.rename(path.with_name(path.name[:5] + ".jpg"))
    with pytest.raises(GenGeoError, match="the positions of its panoramas are unknown"):
        loci.load(tmp_path, "test")
    for folder in ("panoramas", "satellite"):
        (tmp_path / "packed" / folder).mkdir(parents=True)
        (tmp_path / "packed" / folder / "boston.tar").write_bytes(b"")
    with pytest.raises(GenGeoError, match=r"unpack the archives first, for example boston\.tar"):
        load_pairs("loci", tmp_path / "packed", "test")
