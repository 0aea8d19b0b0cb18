"""The reader of tables: supported formats, notes about omitted rows, and error messages; checks of positions."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.plausibility import check_bounds, distance_summary
from gengeo_hf.common.tables import as_table, read_table

ROWS = {"name": ["a", "b"], "lat": ["60.1", "60.2"], "id": ["007", "9007199254740993"]}


def text(separator, quote=""):
    lines = [separator.join(ROWS), *(separator.join(row) for row in zip(*ROWS.values(), strict=True))]
    return "\n".join(lines) + "\n"


def test_read_table_text_formats_give_equal_rows(tmp_path):
    forms = {
        "a.csv": text(",").encode(),
        "b.csv": text(";").encode(),
        "c.tsv": text("\t").encode(),
        "d.csv": b"\xef\xbb\xbf" + text(",").encode(),
        "e.csv": b"sep=;\r\n" + text(";").replace("\n", "\r\n").encode(),
        "f.csv": text(",").replace(",", " , ").encode() + b",,\n , ,\n",
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        table = read_table(tmp_path / name)
        assert {key: table.text(key) for key in ROWS} == ROWS, name
        np.testing.assert_array_equal(table.numbers("lat"), [60.1, 60.2])
    assert "2 rows without any value" in table.notes[0]


def test_read_table_binary_formats_give_equal_rows(tmp_path):
    rows = {"name": ["a", "b"], "lat": [60.1, 60.2], "id": [7, 9007199254740993]}
    arrow = pa.table(rows)
    pq.write_table(arrow, tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in arrow.to_pylist()))
    with pa.ipc.new_file(tmp_path / "c.arrow", arrow.schema) as file:
        file.write_table(arrow)
    datasets.Dataset(arrow).save_to_disk(tmp_path / "d")
    for name in ("a.parquet", "b.jsonl", "c.arrow", "d"):
        table = read_table(tmp_path / name)
        assert table.text("id") == ["7", "9007199254740993"], name  # above 2**53, and exact
        np.testing.assert_array_equal(table.numbers("lat"), [60.1, 60.2])


def test_table_text_keeps_large_and_mixed_ids(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 9007199254740993}\n{"id": null}\n{"id": 5}\n')
    assert read_table(tmp_path / "a.jsonl").text("id") == ["9007199254740993", None, "5"]
    (tmp_path / "b.jsonl").write_text('{"id": 9007199254740993}\n{"id": "x1"}\n')
    assert read_table(tmp_path / "b.jsonl").text("id") == ["9007199254740993", "x1"]
    assert as_table(datasets.Dataset.from_dict({"id": [111050484379851.0, None]})).text("id")[0] == "111050484379851"
    with pytest.raises(GenGeoError, match="floating point"):
        as_table(datasets.Dataset.from_dict({"id": [2.0**60]})).text("id")


def test_read_table_dataset_dict_becomes_column_split(tmp_path):
    parts = {name: datasets.Dataset.from_dict({"a": [name], "split": ["x"]}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    table = read_table(tmp_path / "d")
    assert table.values("split") == table.values("a") == ["train", "test"] and "replace its column" in table.notes[0]
    labels = datasets.Features({"split": datasets.ClassLabel(names=["train", "test"])})
    assert as_table(datasets.Dataset.from_dict({"split": [1, 0]}, features=labels)).values("split") == ["test", "train"]


def test_read_table_binary_column_is_image(tmp_path):
    Image.new("RGB", (16, 16), (9, 90, 9)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for kind in (pa.binary(), pa.large_binary()):
        pq.write_table(pa.table({"aerial": pa.array([content], kind)}), tmp_path / "t.parquet")
        table = read_table(tmp_path / "t.parquet")
        assert table.is_image("aerial") and table.rows[0]["aerial"].size == (16, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ground,aerial\n", "header and no rows"),
        (b"", "is empty"),
        ("a,b\nM\u00fcnchen,1\n".encode("cp1252"), "not UTF-8.*line 2.*CSV UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16.*CSV UTF-8"),
        (b"a,b\n1,2,3\n", "line 2 has 3 cells and the header 2"),
    ],
)
def test_read_table_invalid_text_says_what_to_change(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(GenGeoError, match=message) as caught:
        read_table(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("60,17", r"decimal point \(60.17\)"),
        ("60.17°", "without signs"),
        ("24.9 W", "sign for the hemisphere"),
        ("inf", "infinite"),
        ("north", "leave the cell empty"),
    ],
)
def test_table_numbers_invalid_cell_says_what_to_change(tmp_path, cell, message):
    (tmp_path / "t.csv").write_text(f"lat;lon\n60.1;24\n{cell};24\n")
    with pytest.raises(GenGeoError, match=f"row 2.*{message}"):
        read_table(tmp_path / "t.csv").numbers("lat")
    (tmp_path / "t.csv").write_text("lat;lon\n60.1;24\nNA;24\n")
    assert np.isnan(read_table(tmp_path / "t.csv").numbers("lat")[1])


def test_read_table_short_lines_and_repeated_columns_are_noted(tmp_path):
    (tmp_path / "t.csv").write_text("a,lat,lat\nx,1,2\ny\n")
    table = read_table(tmp_path / "t.csv")
    assert table.text("a") == ["x", "y"] and len(table.notes) == 2 and "line 3" in table.notes[0]
    with pytest.raises(GenGeoError, match="two columns 'lat'"):
        table.numbers("lat")


def test_read_table_unsupported_source_says_what_to_do(tmp_path):
    for name, message in (("t.xlsx", "CSV UTF-8"), ("t.geojson", "as CSV"), ("t.json", ".jsonl")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(GenGeoError, match=message):
            read_table(tmp_path / name)
    with pytest.raises(GenGeoError, match="exactly one"):
        read_table(tmp_path)
    with pytest.raises(GenGeoError, match="no table"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(GenGeoError, match="hf://owner/name"):
        read_table("hf://one")


def test_check_bounds_implausible_is_refused():
    good = np.array([[24.899, 60.1695, 24.901, 60.1705], [179.999, -17.001, -179.999, -16.999]])
    check_bounds("t", good, np.array([60.17, -17.0]), np.array([24.9, 180.0]))
    check_bounds("t", np.full((1, 4), np.nan))
    wrong = {
        "south must lie below": good[:1, [0, 3, 2, 1]],
        "metres of a projection": np.array([[385000.0, 6672000.0, 385100.0, 6672100.0]]),
        "west and east swapped": good[:1, [2, 1, 0, 3]],
        "outside": good[:1] + np.array([1.0, 0, 1.0, 0]),
    }
    for message, sides in wrong.items():
        with pytest.raises(GenGeoError, match=f"row 1.*{message}"):
            check_bounds("t", sides, np.array([60.17]), np.array([24.9]))


def test_distance_summary_implausible_distances_are_warned_about():
    lon = 24.9 + np.arange(20) * 0.002
    lat = np.full(20, 60.17)
    line, warning = distance_summary(lat, lon, lat, lon)
    assert "tiles stand 111 m from the next" in line and not warning
    assert "swapped" in distance_summary(lat, lon, lon, lat)[1]
    assert "shifted" in distance_summary(lat, lon, lat, np.roll(lon, 5))[1]
    assert "metres" in distance_summary(lat, lon, np.arange(20) * 4.0, np.arange(20) * 4.0)[1]
    assert distance_summary(*[np.full(3, np.nan)] * 4) == ("", "")
