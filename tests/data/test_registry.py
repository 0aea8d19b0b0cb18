"""The notation of a data set: `NAME[:SPLIT] [ROOT] [key=value ...]`."""

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_notation, load_pairs, parse_data


@pytest.mark.parametrize(
    ("text", "name", "split", "root", "options"),
    [
        ("cvusa", "cvusa", None, None, {}),
        ("cvusa:test /data/CVUSA", "cvusa", "test", "/data/CVUSA", {}),
        ("world-urban num_pairs=100 seed=3", "world-urban", None, None, {"num_pairs": 100, "seed": 3}),
        (
            'table:all "my pairs.csv" columns.heading=compass share=null',
            *("table", "all", "my pairs.csv", {"columns": {"heading": "compass"}, "share": None}),
        ),
        (r"folder C:\data\mine fov=360", "folder", None, r"C:\data\mine", {"fov": 360}),
        ("table ./a=b/pairs.csv", "table", None, "./a=b/pairs.csv", {}),
    ],
)
def test_parse_data_and_str_are_inverse(text, name, split, root, options):
    found = parse_data(text)
    assert (found.name, found.split, found.root, found.options) == (name, split, root, options)
    assert parse_data(str(found)) == found


def test_parse_data_accepts_arguments_of_a_command_line():
    assert parse_data(["table", "my pairs.csv", "fov=90"]) == parse_data("table 'my pairs.csv' fov=90")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found nothing"),
        ("num_pairs=3", "found 'num_pairs=3'"),
        ("table a.csv b.csv", "'a.csv' and 'b.csv'"),
        ("table 'a.csv", "quote is not closed"),
        ("table: a.csv", "names no split"),
    ],
)
def test_parse_data_invalid_notation_raises_error(text, said):
    with pytest.raises(GenGeoError, match=said):
        parse_data(text)


def test_load_notation_equals_load_pairs(tmp_path):
    noted = load_notation(f"world-urban:validation {tmp_path} num_pairs=4")
    plain = load_pairs("world-urban", tmp_path, "validation", num_pairs=4)
    assert noted.queries["query_id"][:] == plain.queries["query_id"][:] and noted.name == plain.name
    assert parse_data(f"world-urban {tmp_path}").split is None  # and `load` then takes its default


def test_load_pairs_path_instead_of_name_raises_error_with_notation(tmp_path):
    (tmp_path / "pairs.csv").touch()
    with pytest.raises(GenGeoError, match=r"write `table .*pairs.csv`"):
        load_notation(str(tmp_path / "pairs.csv"))
