"""Users' own pairs: tables in several forms, ordinary photos, tiles with several photos, and two directories."""

import datasets
import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import check_apart
from gengeo_hf.data import PairSource, load_pairs
from gengeo_hf.data.own import SplitOptions, assign_splits, load_hf_dataset
from tests.data import folders


def make_table(folder, count=30, header="ground,aerial,lat,lon,heading,fov,city", separator=","):
    lines = [header.replace(",", separator)]
    for number in range(count):
        folders.picture(folder / f"g/{number:03d}.jpg", 30, 40, number)
        folders.picture(folder / f"a/{number:03d}.png", 56, 56, number)
        row = [f"g/{number:03d}.jpg", f"a/{number:03d}.png", 48 + number * 0.01, 9.0, number, 70, "Stuttgart"]
        lines.append(separator.join(map(str, row)))
    (folder / "pairs.csv").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    return folder / "pairs.csv"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_load_table_csv_reads_columns_and_splits(tmp_path, separator):
    path = make_table(tmp_path, separator=separator)
    data = load_pairs("table", path, "all")
    row = data.queries[7]
    assert (row["lat"], row["lon"], row["heading"], row["fov"], row["area"]) == (48.07, 9.0, 7.0, 70.0, "Stuttgart")
    assert row["ground"].size == (40, 30) and data.gallery[7]["aerial"].size == (56, 56)
    assert row["positive"] == "a/007.png" and row["query_id"] == "g/007.jpg"
    assert data.name == "pairs/all" and load_pairs("table", tmp_path, "all").name == data.name
    sizes = {}
    for split in ("train", "validation", "test"):
        part = load_pairs("table", path, split)
        sizes[split] = set(part.queries["query_id"][:])
        assert set(part.gallery["tile_id"][:]) == set(part.queries["positive"][:])
    assert not sizes["train"] & sizes["test"] and not sizes["train"] & sizes["validation"]
    assert len(sizes["train"]) >= 20 and 2 <= len(sizes["test"]) <= 5


def test_load_table_other_names_patterns_and_split_column_are_used(tmp_path, tiny_processor):
    make_table(tmp_path, 6)
    rows = "".join(f"{n:03d},{48 + n},9,{'val' if n == 2 else 'train'}\n" for n in range(6))
    (tmp_path / "mine.csv").write_text("id,Latitude,LNG,subset\n" + rows)
    columns = {"ground": "g/{id}.jpg", "aerial": "a/{id}.png"}
    train = load_pairs("table", tmp_path / "mine.csv", "train", columns=columns)
    assert train.queries["query_id"][:] == [f"g/{n:03d}.jpg" for n in (0, 1, 3, 4, 5)]  # leading zeros are kept
    assert load_pairs("table", tmp_path / "mine.csv", "validation", columns=columns).queries["lat"][:] == [50.0]
    batch = PairSource(train, tiny_processor).__getitems__([0, 1])
    assert batch["panorama"].tolist() == [False, False]  # an unknown field of view is not that of a panorama
    with pytest.raises(GenGeoError, match=r"no pairs of the split 'test'; it has train, validation"):
        load_pairs("table", tmp_path / "mine.csv", "test", columns=columns)


def test_load_table_shared_tiles_extra_positives_and_tiles_without_photo(tmp_path):
    make_table(tmp_path, 4)
    (tmp_path / "more.csv").write_text(
        "ground,aerial,lat,lon,extra_positives\n"
        "g/000.jpg,a/000.png,10,20,a/001.png;a/003.png\n"
        "g/001.jpg,a/000.png,12,20,\n"
        "g/002.jpg,a/001.png,30,20,\n"
        ",a/002.png,40,20,\n"
    )
    data = load_pairs("table", tmp_path / "more.csv", "all")
    assert data.gallery["tile_id"][:] == ["a/000.png", "a/001.png", "a/002.png", "a/003.png"]
    assert data.gallery["lat"][:] == [pytest.approx(11.0), 30.0, 40.0, None]
    assert data.queries["semi_positives"][:] == [["a/001.png", "a/003.png"], [], []]
    assert len(data.queries) == 3


@pytest.mark.parametrize("named", ["a/001.png", "north"])
def test_load_table_gallery_contains_extra_positive_of_another_split(tmp_path, named):
    """The extra positive is named by its path or by its id."""
    make_table(tmp_path, 3)
    (tmp_path / "two.csv").write_text(
        "ground,aerial,tile_id,lat,lon,split,extra_positives,query_id\n"
        f"g/000.jpg,a/000.png,south,10,20,test,{named},one\n"
        "g/001.jpg,a/001.png,north,12,20,train,,two\n"
        "g/002.jpg,a/001.png,north,14,20,train,,three\n"
        ",a/002.png,east,15,20,test,,\n"
        ",a/002.png,east,15,20,test,,\n"
    )
    test = load_pairs("table", tmp_path / "two.csv", "test")
    assert test.queries["query_id"][:] == ["one"]  # rows without a photo need no query_id
    assert test.queries["semi_positives"][:] == [["north"]]
    assert test.gallery["tile_id"][:] == ["south", "east", "north"]
    assert test.gallery["lat"][2] == pytest.approx(13) and test.gallery[2]["aerial"].size == (56, 56)


def test_load_table_suffix_in_capitals_is_accepted(tmp_path):
    path = make_table(tmp_path, 3)
    datasets.Dataset.from_csv(str(path), cache_dir=str(tmp_path / "cache")).to_parquet(tmp_path / "pairs.PARQUET")
    assert load_pairs("table", tmp_path / "pairs.PARQUET", "all").queries["lat"][1] == pytest.approx(48.01)


def test_load_table_tile_across_date_line_gets_mean_position_of_photos(tmp_path):
    make_table(tmp_path, 3)
    (tmp_path / "fiji.csv").write_text(
        "ground,aerial,lat,lon\n"
        "g/000.jpg,a/000.png,-17,179.999\n"
        "g/001.jpg,a/000.png,-17,-179.997\n"
        "g/002.jpg,a/000.png,,\n"
    )
    gallery = load_pairs("table", tmp_path / "fiji.csv", "all").gallery
    assert gallery["lon"][0] == pytest.approx(-179.999) and gallery["lat"][0] == pytest.approx(-17)


@pytest.mark.parametrize("split_by", ["area", "id"])
def test_load_table_photos_of_one_tile_are_in_one_split(tmp_path, split_by):
    """Two photos of each tile are 60 m apart, so that borders of blocks of 100 m run between many of them."""
    make_table(tmp_path, 40)
    rows = [f"g/{n:03d}.jpg,a/{n // 2:03d}.png,{48 + 0.00054 * n},9" for n in range(40)]
    (tmp_path / "twice.csv").write_text("\n".join(["ground,aerial,lat,lon", *rows]))
    for seed in range(5):
        options = {"split_by": split_by, "block_m": 100.0, "margin_m": 0.0, "seed": seed, "test_share": 0.2}
        parts = {
            split: load_pairs("table", tmp_path / "twice.csv", split, **options)
            for split in ("train", "validation", "test")
        }
        tiles = {split: set(part.gallery["tile_id"][:]) for split, part in parts.items()}
        assert sum(map(len, tiles.values())) == 20 == len(set.union(*tiles.values()))
        assert sum(len(part.queries) for part in parts.values()) == 40


@pytest.mark.parametrize(("split_by", "slack"), [("id", 1), ("area", 12)])
def test_assign_splits_shares_refer_to_all_pairs(split_by, slack):
    generator = np.random.default_rng(0)
    lat, lon = generator.uniform(48, 48.05, 1000), generator.uniform(9, 9.05, 1000)
    options = SplitOptions(validation_share=0.3, test_share=0.3, split_by=split_by, block_m=200.0, margin_m=0.0)
    parts = assign_splits([str(n) for n in range(1000)], lat, lon, options)
    for part, share in (("test", 300), ("validation", 300), ("train", 400)):
        assert abs((parts == part).sum() - share) <= 2 * slack
    for wrong in ({"test_share": 0.6}, {"validation_share": -0.1}, {"test_share": 0.5, "validation_share": 0.3}):
        with pytest.raises(GenGeoError, match="test_share must lie"):
            SplitOptions(**wrong)


def test_assign_splits_margin_that_leaves_no_pairs_raises_error(tmp_path):
    """30 pairs within a kilometre, and a margin of five kilometres."""
    lat, lon = 48 + 0.0003 * np.arange(30), np.full(30, 9.0)
    with pytest.raises(GenGeoError, match=r"all 30 pairs lie within margin_m=5000 m .* none is left for validation"):
        assign_splits([str(n) for n in range(30)], lat, lon, SplitOptions(margin_m=5000))
    make_table(tmp_path, 30)
    (tmp_path / "near.csv").write_text(
        "\n".join(["ground,aerial,lat,lon", *(f"g/{n:03d}.jpg,a/{n:03d}.png,{lat[n]},9" for n in range(30))])
    )
    with pytest.raises(GenGeoError, match=r"no pairs of the split 'train'; it has test; .*smaller margin_m"):
        load_pairs("table", tmp_path / "near.csv", "train", margin_m=5000, validation_share=0)


def test_load_table_with_tile_positions_only_is_split_by_area(tmp_path):
    path = make_table(tmp_path)
    text = path.read_text()
    parts = {}
    for name in ("lat,lon", "tile_lat,tile_lon"):
        path.write_text(text.replace("lat,lon", name))
        parts[name] = [load_pairs("table", path, split).queries["query_id"][:] for split in ("train", "test")]
    assert parts["lat,lon"] == parts["tile_lat,tile_lon"]
    assert parts["lat,lon"] != [
        load_pairs("table", path, split, split_by="id").queries["query_id"][:] for split in ("train", "test")
    ]


def test_load_table_split_column_without_split_names_raises_error(tmp_path):
    make_table(tmp_path, 4)
    rows = [f"g/{n:03d}.jpg,a/{n:03d}.png,{n % 2}" for n in range(4)]
    (tmp_path / "folds.csv").write_text("\n".join(["ground,aerial,fold", *rows]))
    with pytest.raises(GenGeoError, match="it has none: its column for split holds '0'; write train, validation, test"):
        load_pairs("table", tmp_path / "folds.csv", "train")
    (tmp_path / "tiles.csv").write_text("ground,aerial\n,a/000.png\n,a/001.png\n")
    with pytest.raises(GenGeoError, match="no row with a photo"):
        load_pairs("table", tmp_path / "tiles.csv", "train")


def test_load_table_unknown_split_names_are_counted(tmp_path, caplog):
    make_table(tmp_path, 6)
    words = ["train", "", "test", "", "later", "Dev"]
    rows = [f"g/{n:03d}.jpg,a/{n:03d}.png,{word}" for n, word in enumerate(words)]
    (tmp_path / "gaps.csv").write_text("\n".join(["ground,aerial,split", *rows]))
    assert len(load_pairs("table", tmp_path / "gaps.csv", "train").queries) == 1
    assert "(2 empty, 1 of 'later')" in caplog.text
    assert load_pairs("table", tmp_path / "gaps.csv", "validation").queries["positive"][:] == ["a/005.png"]


def test_load_hf_dataset_with_images_inside_equals_table_of_files(tmp_path):
    path = make_table(tmp_path, 12)
    plain = load_pairs("table", path, "all")
    rows = [
        {
            "ground": str(tmp_path / f"g/{n:03d}.jpg"),
            "aerial": str(tmp_path / f"a/{n:03d}.png"),
            "lat": 48 + n * 0.01,
            "lon": 9.0,
        }
        for n in range(12)
    ]
    images = datasets.Dataset.from_list(rows).cast_column("ground", datasets.Image())
    images = images.cast_column("aerial", datasets.Image())
    images.save_to_disk(tmp_path / "saved")
    for data in (load_hf_dataset(images), load_pairs("table", tmp_path / "saved", "all")):
        assert np.array_equal(np.asarray(data.queries[5]["ground"]), np.asarray(plain.queries[5]["ground"]))
        assert np.array_equal(np.asarray(data.gallery[5]["aerial"]), np.asarray(plain.gallery[5]["aerial"]))
    with pytest.raises(GenGeoError, match="unknown option 'blocks'"):
        load_hf_dataset(images, "train", blocks=3)
    with pytest.raises(GenGeoError, match="no split 'dev'"):
        load_hf_dataset(images, "dev")
    same = load_pairs("table", tmp_path / "saved", "test", block_m=100.0)
    assert load_hf_dataset(images, "test", block_m=100.0).queries["query_id"][:] == same.queries["query_id"][:]
    train = load_hf_dataset(images, "train", validation_share=0.2, test_share=0.2, block_m=100.0)
    for row in train.queries:
        number = round((row["lat"] - 48) * 100)
        assert np.array_equal(np.asarray(row["ground"]), np.asarray(plain.queries[number]["ground"]))


def test_load_table_mistakes_raise_one_line_errors(tmp_path):
    path = make_table(tmp_path, 3)
    text = path.read_text()
    cases = {
        "no column for 'aerial'": text.replace("aerial", "overview", 1),
        "row 2: lat is 'north'": text.replace("48.01", "north"),
        "1 of 3 pairs lack an image": text.replace("a/001.png", "a/nothing.png"),
    }
    for words, changed in cases.items():
        path.write_text(changed)
        with pytest.raises(GenGeoError, match=words) as caught:
            load_pairs("table", path, "all")
        assert "\n" not in str(caught.value)
    path.write_text(cases["1 of 3 pairs lack an image"])
    assert len(load_pairs("table", path, "all", missing="drop").queries) == 2
    (tmp_path / "second.csv").write_text("a\n")
    with pytest.raises(GenGeoError, match=r"pairs\.csv, second\.csv"):
        load_pairs("table", tmp_path, "all")


def test_load_folder_pairs_files_by_name(tmp_path, shared_data):
    for number in range(20):
        folders.picture(tmp_path / f"photos/{number}.jpg", 30, 40, number)
        folders.picture(tmp_path / f"satellite/{number}.png", 56, 56, number)
    folders.picture(tmp_path / "photos/without.jpg", 30, 40)
    assert load_pairs("folder", tmp_path, "all").queries["query_id"][:] == sorted(map(str, range(20)))
    assert len(load_pairs("folder", tmp_path, "train", fov=360).queries) == 16
    folders.copy_real(shared_data / "exif/DSCN0010.jpg", tmp_path / "real/ground/DSCN0010.jpg")
    folders.picture(tmp_path / "real/aerial/DSCN0010.png", 56, 56)
    assert load_pairs("folder", tmp_path / "real", "all").gallery["lat"][0] == pytest.approx(43.467448)
    with pytest.raises(GenGeoError, match="no directory 'ground'"):
        load_pairs("folder", tmp_path / "real/ground", "all")


def test_load_folder_with_split_directories_makes_unique_ids(tmp_path):
    for part in ("train", "test"):
        for number in range(3):
            folders.picture(tmp_path / part / f"ground/{number}.jpg", 30, 40, number)
            folders.picture(tmp_path / part / f"aerial/{number}.png", 56, 56, number)
    train, test, everything = (load_pairs("folder", tmp_path, split) for split in ("train", "test", "all"))
    assert train.queries["query_id"][:] == ["train/0", "train/1", "train/2"]
    check_apart(train, test)
    assert len(everything.queries) == 6 and everything.name == f"{tmp_path.name}/all"
    with pytest.raises(GenGeoError, match="has no directory 'validation'; it has train, test"):
        load_pairs("folder", tmp_path, "validation")


def test_load_table_real_photos_and_tiles(shared_data):
    data = load_pairs(
        "table", shared_data / "helsinki", "all", columns={"ground": "{Grd_ID}.jpg", "aerial": "{Grd_ID}_sat.jpg"}
    )
    assert len(data.queries) == len(data.gallery) == 5
    assert data.queries[0]["heading"] == pytest.approx(62.51) and data.queries[0]["ground"].width == 1024
