"""Users' own tables: whatever is left out, merged or replaced is noted."""

import logging

import datasets
import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_pairs
from gengeo_hf.data.check import check_data
from gengeo_hf.data.own import load_hf_dataset
from gengeo_hf.data.registry import parse_data

HEAD = "ground,aerial,lat,lon"


@pytest.fixture
def images(tmp_path):
    for kind in ("photos", "tiles"):
        (tmp_path / kind).mkdir()
        for number in range(20):
            Image.new("RGB", (16, 16), (number, 90, 9)).save(tmp_path / kind / f"{number:02d}.png")
    return tmp_path


def row(number, tile=None, lat="60.17", lon=None):
    position = f"{24.9 + 0.01 * number:.6f}" if lon is None else lon
    return f"photos/{number:02d}.png,tiles/{number if tile is None else tile:02d}.png,{lat},{position}"


def write(folder, rows, head=HEAD, name="pairs.csv"):
    (folder / name).write_text("\n".join([head, *rows]) + "\n")
    return folder / name


def notes(caplog):
    return "\n".join(record.message for record in caplog.records if record.levelno >= logging.WARNING)


def test_load_table_row_without_longitude_keeps_split_by_area(images, caplog):
    whole = write(images, [row(n) for n in range(20)])
    expected = {split: set(load_pairs("table", whole, split).queries["query_id"][:]) for split in ("train", "test")}
    broken = write(images, [row(n, lon="" if n == 7 else None) for n in range(20)], name="b.csv")
    with caplog.at_level(logging.WARNING):
        found = {split: set(load_pairs("table", broken, split).queries["query_id"][:]) for split in ("train", "test")}
    assert found["test"] - {"photos/07.png"} <= expected["test"] | expected["train"] and found["test"]
    assert "photos/07.png" not in found["test"] | found["train"]
    assert "only one of lat and lon" in notes(caplog) and "by area" in notes(caplog)


def test_load_table_extra_positives_are_matched_or_noted(images, caplog):
    cells = ["01.png;02.png", "tiles/02.png,tiles/03.png", '"[""04.png""]"', "tiles/03.png|tiles/05.png", "nowhere.png"]
    lines = [f"{row(n)},{cell}" for n, cell in enumerate(f'"{c}"' if "," in c else c for c in cells)]
    lines += [f"{row(n)}," for n in range(5, 20)]
    with caplog.at_level(logging.WARNING):
        data = load_pairs("table", write(images, lines, HEAD + ",extra_positives"), "all")
    tiles = [["tiles/01.png", "tiles/02.png"], ["tiles/02.png", "tiles/03.png"], ["tiles/04.png"], ["tiles/05.png"], []]
    assert data.queries["semi_positives"][:5] == tiles  # the own tile of row 3 is ignored
    assert "1 extra_positives match no tile, first 'nowhere.png'" in notes(caplog)
    assert "1 rows repeat their own tile" in notes(caplog)


def test_load_table_photo_in_two_rows_gets_further_positive(images, caplog):
    lines = [row(0), row(0, tile=1), row(1), row(2), row(2).replace("photos/", "./photos/")]
    with caplog.at_level(logging.WARNING):
        data = load_pairs("table", write(images, lines), "all")
    assert data.queries["query_id"][:] == ["photos/00.png", "photos/01.png", "photos/02.png"]
    assert data.queries["semi_positives"][0] == ["tiles/01.png"] and len(data.gallery) == 3
    assert "repeat a photo with another tile" in notes(caplog) and "with the same tile" in notes(caplog)


def test_load_table_one_file_with_three_spellings_is_one_tile(images):
    spelt = ["tiles/00.png", "./tiles/00.png", str(images / "tiles/00.png")]
    lines = [f"photos/{n:02d}.png,{tile},60,24" for n, tile in enumerate(spelt)]
    data = load_pairs("table", write(images, lines), "all")
    assert data.gallery["tile_id"][:] == ["tiles/00.png"] and len(data.queries) == 3


def test_load_hf_dataset_images_inside_keep_tile_id(images):
    rows = {
        "ground": [str(images / f"photos/{n:02d}.png") for n in range(8)] + [None],
        "aerial": [str(images / f"tiles/{n // 2:02d}.png") for n in range(8)] + [str(images / "tiles/09.png")],
        "tile_id": [f"t{n // 2}" for n in range(8)] + ["t9"],
    }
    features = datasets.Features(
        {"ground": datasets.Image(), "aerial": datasets.Image(), "tile_id": datasets.Value("string")}
    )
    data = load_hf_dataset(datasets.Dataset.from_dict(rows, features=features))
    assert data.gallery["tile_id"][:] == ["t0", "t1", "t2", "t3", "t9"] and len(data.queries) == 8
    assert data.queries["positive"][:] == [f"t{n // 2}" for n in range(8)]
    assert np.asarray(data.gallery[1]["aerial"])[0, 0, 0] == 1


def test_load_table_ids_above_2_to_53_are_exact(images):
    ids = ["null", 2**53 + 1, 2**53 + 3]
    files = [f'"ground": "photos/{n:02d}.png", "aerial": "tiles/{n:02d}.png"' for n in range(3)]
    tiles = [2**53 + 2 * n + 1 for n in range(3)]
    lines = [f'{{{f}, "query_id": {q}, "tile_id": {t}}}' for f, q, t in zip(files, ids, tiles, strict=True)]
    (images / "pairs.jsonl").write_text("\n".join(lines))
    data = load_pairs("table", images / "pairs.jsonl", "all")
    assert data.gallery["tile_id"][:] == [str(2**53 + 2 * n + 1) for n in range(3)]
    assert data.queries["query_id"][:] == ["photos/00.png", str(2**53 + 1), str(2**53 + 3)]


def test_load_table_ambiguous_tile_ids_are_noted_and_not_used(images, caplog):
    lines = [f"{row(n)},sheet1" for n in range(4)]
    with caplog.at_level(logging.WARNING):
        data = load_pairs("table", write(images, lines, HEAD + ",tile_id"), "all")
    assert len(data.gallery) == 4 and "the column tile_id is not used" in notes(caplog)


def test_load_table_missing_image_notes_similar_name(images, caplog):
    (images / "tiles/00.png").rename(images / "tiles/00.PNG")
    path = write(images, [row(n) for n in range(4)])
    with caplog.at_level(logging.WARNING), pytest.raises(GenGeoError, match="1 of 4 pairs lack an image"):
        load_pairs("table", path, "all")
    assert "00.PNG is, in another letter case" in notes(caplog)


def test_load_table_without_header_raises_error_with_hint(images):
    (images / "pairs.csv").write_text("\n".join(row(n) for n in range(4)))
    with pytest.raises(GenGeoError, match="lack a header line"):
        load_pairs("table", images / "pairs.csv", "all")


def test_load_table_option_that_replaces_filled_column_is_noted(images, caplog):
    path = write(images, [f"{row(n)},60" for n in range(4)], HEAD + ",fov")
    with caplog.at_level(logging.WARNING):
        data = load_pairs("table", path, "all", fov=90)
    assert data.queries["fov"][:] == [90.0] * 4 and "replaces its column, filled in 4 of 4 rows" in notes(caplog)
    caplog.clear()
    load_pairs("table", path, "all")
    assert not notes(caplog)


def test_load_table_camera_columns_are_in_cameras(images):
    path = write(
        images, [f"{row(n)},360,90,5,-3,spherical" for n in range(3)], HEAD + ",fov,vfov,pitch,roll,projection"
    )
    camera = load_pairs("table", path, "all").cameras()[0]
    assert (camera.vertical_fov, camera.pitch, camera.roll, camera.projection) == (90.0, 5.0, -3.0, "equirectangular")


def test_parse_data_pattern_of_columns_needs_no_quotes(images):
    write(images, [f"{n:02d},60,{24 + n * 0.01}" for n in range(4)], "id,lat,lon", "ids.csv")
    asked = parse_data(
        ["table:all", str(images / "ids.csv"), "columns.ground={id}.jpg", "columns.aerial=tiles/{id}.png"]
    )
    assert asked.options["columns"]["ground"] == "{id}.jpg"
    asked = parse_data(
        f"table:all {images / 'ids.csv'} columns.ground=photos/{{id}}.png columns.aerial=tiles/{{id}}.png"
    )
    assert len(asked.load().queries) == 4


def test_check_data_reads_table_once_and_shows_notes(images, monkeypatch):
    from gengeo_hf.common import tables

    calls = []
    read = tables.read_table
    monkeypatch.setattr(tables, "read_table", lambda source: calls.append(source) or read(source))
    lines = [f"{row(n)},{24.9 + 0.01 * n},60.17" for n in range(20)]
    report = check_data("table", write(images, lines, HEAD + ",tile_lat,tile_lon"))
    assert len(calls) == 1 and report.ok and "swapped" in str(report) and "with 1 warning:" in str(report)


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("fov", [1.2] * 12, "are they radians"),
        ("heading", [0.5 * row for row in range(12)], "are they radians"),
        ("heading", [380.0, *range(11)], "1 headings lie outside of -360..360"),
    ],
)
def test_angle_warning_implausible_angles_are_noted(tmp_path, column, values, words):
    from gengeo_hf.common.plausibility import angle_warning

    unknown = np.full(12, np.nan)
    angles = {"heading": unknown, "fov": unknown} | {column: np.array(values)}
    assert words in angle_warning(angles["heading"], angles["fov"])
    assert angle_warning(np.arange(12) * 30.0, np.full(12, 360.0)) == ""


def test_check_data_positions_of_exactly_zero_are_noted(images):
    lines = [row(n) for n in range(19)] + [row(19, lat="0", lon="0")]
    report = str(check_data("table", write(images, lines, HEAD)))
    assert "1 positions are exactly 0, 0" in report


@pytest.mark.parametrize(
    ("row", "words"), [("200,24.9", "lat is 200, expected -90..90"), ("60,385000", "lon is 385000")]
)
def test_read_photos_invalid_position_or_name_raises_error(tmp_path, row, words):
    from gengeo_hf.data.photos import read_photos

    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    (tmp_path / "p.csv").write_text(f"image,lat,lon\na.jpg,{row}\n")
    with pytest.raises(GenGeoError, match=words):
        read_photos(tmp_path / "p.csv")
    (tmp_path / "q.csv").write_text("image,lat,lon\nA.jpg,60,25\n")
    with pytest.raises(GenGeoError, match="in another letter case"):
        read_photos(tmp_path / "q.csv")
