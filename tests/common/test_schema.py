"""`CrossViewDataset.validate` refuses each violation of the schema with a one-line error."""

import dataclasses

import datasets
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import check_apart
from tests.data.helpers import toy_dataset


def with_cell(column, value, table="queries", row=3):
    """Return the toy data set with another value in one cell."""
    data = toy_dataset()
    rows, features = getattr(data, table).to_list(), getattr(data, table).features
    rows[row][column] = value
    return dataclasses.replace(data, **{table: datasets.Dataset.from_list(rows, features=features)})


def assert_refused(data, message):
    with pytest.raises(GenGeoError, match=message) as caught:
        data.validate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("query_id", "q1", "'q1' twice"),
        ("query_id", None, "row 3 of the queries table has no query_id"),
        ("positive", "nowhere", "1 tiles are named by queries but are not in the gallery, first 'nowhere'"),
        ("semi_positives", ["t1", "mars", None], "2 tiles are named by queries"),
        ("lat", -90.5, r"lat must lie in -90\.\.90 degrees, found -90\.5"),
        ("lon", float("inf"), r"lon must lie in -180\.\.180"),
        ("fov", 0.0, "fov must lie above 0 and up to 360 degrees, found 0"),
        ("fov", 361.0, "found 361"),
    ],
)
def test_validate_invalid_query_is_refused(column, value, message):
    assert_refused(with_cell(column, value), message)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("tile_id", "t0", "'t0' twice"),
        ("tile_id", None, "row 3 of the gallery table has no tile_id"),
        ("lon", 1e6, "are the columns swapped or in metres"),
    ],
)
def test_validate_invalid_tile_is_refused(column, value, message):
    assert_refused(with_cell(column, value, "gallery"), message)


def test_validate_invalid_table_is_refused():
    data = toy_dataset()
    assert_refused(dataclasses.replace(data, queries=data.queries.remove_columns("fov")), "lacks the column 'fov'")
    other = dataclasses.replace(data, gallery=data.gallery.cast_column("lat", datasets.Value("string")))
    assert_refused(other, "the gallery column 'lat' must be .*float64.*, found .*string")
    assert_refused(dataclasses.replace(data, queries=data.queries.select([])), "the queries table is empty")


@pytest.mark.parametrize("column", ["lat", "lon", "heading", "fov", "area"])
def test_validate_null_in_optional_column_is_accepted(column):
    data = with_cell(column, None)
    assert data.validate() is data


def test_check_apart_repeated_photos_are_refused():
    data = toy_dataset()
    train, validation = (
        dataclasses.replace(data, queries=data.queries.select(rows)) for rows in (range(8), range(8, 12))
    )
    check_apart(train, validation)
    with pytest.raises(GenGeoError, match="4 photos, first 'q10', are both in"):
        check_apart(data, validation)
