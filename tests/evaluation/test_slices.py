"""Results grouped by facts of the evaluated table."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gengeo_hf.acquire.own_table import write_own_table
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.sources import DataSource, DataSources
from gengeo_hf.evaluation.intervals import Interval, mean_interval
from gengeo_hf.evaluation.results import Result
from gengeo_hf.evaluation.slices import Slice, format_slices, slice_result

IDS = ["27000000000000001", "27000000000000003", "27000000000000005", "27000000000000007"]
DATES = ["2020-01-15", "2020-07-01", "2012-07-01", None]
GREYS = [20, 70, 200, 200]
HITS = [0.0, 1.0, 1.0, 0.0]


@pytest.fixture
def town(tmp_path):
    for name, grey in zip(IDS, GREYS, strict=True):
        Image.new("RGB", (64, 32), (grey, grey, grey)).save(tmp_path / f"{name}.jpg")
    columns = {"ground": [f"{name}.jpg" for name in IDS], "aerial": ["a.jpg"] * 4, "query_id": IDS}
    source = DataSource("aerial imagery", "a survey", "CC-BY-4.0", "survey", acquired="2021")
    write_own_table(tmp_path, columns, DataSources("town", (source,)), extra={"captured_at": DATES})
    return tmp_path


def result(lat=60.0, ids=IDS):
    queries = pa.table(
        {
            "query_id": ids,
            "lat": [lat] * len(ids),
            "lon": [24.0] * len(ids),
            "area": ["a", "a", "b", "b"],
            "recall@1": HITS,
        }
    )
    return Result({"metrics": {"recall@1": 0.5}}, queries)


def found(town, by, **more):
    return {one.name: (one.queries, one.value) for one in slice_result(result(**more), town, [by])}


def test_slice_result_groups_by_city_season_age_brightness_and_column(town):
    assert found(town, "city") == {"a": (2, 0.5), "b": (2, 0.5)}
    assert found(town, "season") == {"winter": (1, 0.0), "summer": (2, 1.0), "unknown": (1, 0.0)}
    assert found(town, "season", lat=-33.0) == {"summer": (1, 0.0), "winter": (2, 1.0), "unknown": (1, 0.0)}
    assert found(town, "age") == {"< 2 years": (2, 0.5), "< 10 years": (1, 1.0), "unknown": (1, 0.0)}
    assert found(town, "brightness") == {"< 50 of 255": (1, 0.0), "< 100 of 255": (1, 1.0), ">= 100 of 255": (2, 0.5)}
    assert found(town, "captured_at")["2012-07-01"] == (1, 1.0)
    assert "recall@1 by season" in format_slices(slice_result(result(), town, ["season"]), "recall@1")


def test_slice_result_without_needed_columns_raises_one_line(town):
    with pytest.raises(GenGeoError, match="no metric 'recall@7'"):
        slice_result(result(), town, ["city"], "recall@7")
    with pytest.raises(GenGeoError, match="has no column 'sequence'"):
        slice_result(result(), town, ["sequence"])
    with pytest.raises(GenGeoError, match="none of the result's 4 photos"):
        slice_result(result(ids=["x", "y", "z", "w"]), town, ["city"])
    write_own_table(town, {"ground": ["a.jpg"], "aerial": ["b.jpg"], "query_id": IDS[:1]}, DataSources("town", ()))
    with pytest.raises(GenGeoError, match="no column captured_at"):
        slice_result(result(), town, ["season"])
    assert not np.isnan(slice_result(result(), town, ["city"])[0].value)


def table(folder, columns, acquired=()):
    """Write a table of pairs; `columns` hold a value for each of the photos `0.png`, `1.png`, ..."""
    count = len(next(iter(columns.values())))
    given = {"ground": [f"{n}.png" for n in range(count)], "aerial": ["a.png"] * count}
    known = {name: values for name, values in columns.items() if name == "query_id"}
    extra = {name: values for name, values in columns.items() if name != "query_id"}
    sources = tuple(DataSource(what, "a survey", "CC-BY-4.0", "survey", acquired=text) for what, text in acquired)
    write_own_table(folder, given | known, DataSources("town", sources), extra=extra)
    return folder


def names(folder, by, ids, lat=None, area=None):
    """Name of the group of each query, found with a metric that counts in powers of two."""
    count = len(ids)
    hits = 0.5 ** np.arange(count)
    queries = pa.table(
        {
            "query_id": ids,
            "lat": lat or [60.0] * count,
            "lon": [24.0] * count,
            "area": pa.array(area or ["a"] * count, pa.string()),
            "recall@1": hits,
        }
    )
    found, order = [None] * count, []
    for one in slice_result(Result({"metrics": {"recall@1": 0.5}}, queries), folder, [by]):
        order.append(one.name)
        total = round(one.value * one.queries * 2 ** (count - 1))
        for query in range(count):
            if total >> (count - 1 - query) & 1:
                found[query] = one.name
    return found, order


def test_slice_result_by_season_follows_the_month_and_the_hemisphere(tmp_path):
    months = [*range(1, 13), 0, 13]
    table(tmp_path, {"captured_at": [f"2020-{month:02}-28" for month in months]})
    ids = [f"{n}.png" for n in range(14)]  # a table without ids is matched by the names of its photos
    north = ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["autumn"] * 3 + ["winter"] + ["unknown"] * 2
    south = ["summer"] * 2 + ["autumn"] * 3 + ["winter"] * 3 + ["spring"] * 3 + ["summer"] + ["unknown"] * 2
    for lat, expected in ((0.0, north), (0.5, north), (-0.5, south)):
        assert names(tmp_path, "season", ids, [lat] * 14)[0] == expected
    assert names(tmp_path, "season", ids)[1] == ["autumn", "spring", "summer", "winter", "unknown"]


def test_slice_result_by_age_counts_years_to_the_middle_of_the_flights(tmp_path):
    years = [2021, 2020, 2019, 2018, 2016, 2015, 2011, 2010, 2024]
    acquired = (("aerial imagery", "2020 and 2022"), ("photos", "1950"))
    table(tmp_path, {"captured_at": [f"{year}-05-01" for year in years]}, acquired)
    found, order = names(tmp_path, "age", [f"{n}.png" for n in range(9)])
    assert found == [
        "< 1 years",
        "< 2 years",
        *["< 5 years"] * 2,
        *["< 10 years"] * 2,
        *[">= 10 years"] * 2,
        "< 5 years",
    ]
    assert order == ["< 1 years", "< 2 years", "< 5 years", "< 10 years", ">= 10 years"]
    table(tmp_path, {"captured_at": ["2020-05-01"]}, (("photos", "2020"),))
    with pytest.raises(GenGeoError, match="does not state when its aerial imagery was taken"):
        names(tmp_path, "age", ["0.png"])


def test_slice_result_by_brightness_has_its_edges_at_50_and_100(tmp_path):
    greys = [49, 50, 99, 100, 220]
    for number, grey in enumerate(greys):
        Image.new("RGB", (50, 20), (grey,) * 3).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes(b"damaged")
    table(tmp_path, {"query_id": list("abcdef")})
    found, order = names(tmp_path, "brightness", list("abcdefx"))
    expected = ["< 50 of 255", *["< 100 of 255"] * 2, *[">= 100 of 255"] * 2]
    assert found == [*expected, "unknown", "unknown"]
    assert order == ["< 50 of 255", "< 100 of 255", ">= 100 of 255", "unknown"]


def test_slice_result_by_a_column_sorts_text_then_numbers_then_unknown(tmp_path):
    table(tmp_path, {"query_id": list("abcdef"), "lanes": ["10", "none", "0", None, "2", "any"]})
    found, order = names(tmp_path, "lanes", list("fedcbax"), area=[None, *"uuuuvv"])
    assert found == ["any", "2", "unknown", "0", "none", "10", "unknown"]
    assert order == ["any", "none", "0", "2", "10", "unknown"]
    assert names(tmp_path, "city", list("fedcbax"), area=[None, *"vuvuuv"])[0] == ["unknown", *"vuvuuv"]
    assert names(tmp_path, "lanes", ["x", "a"])[0] == ["unknown", "10"]  # only the first photo of the table


def test_slice_result_of_a_table_without_names_or_photos_raises_an_error(tmp_path):
    pq.write_table(pa.table({"lanes": ["1", "2"]}), tmp_path / "pairs.parquet")
    with pytest.raises(GenGeoError, match="has neither ids nor names of photos"):
        names(tmp_path, "city", ["a"])
    pq.write_table(pa.table({"query_id": ["a", "b"]}), tmp_path / "pairs.parquet")
    with pytest.raises(GenGeoError, match="no column with photo files"):
        names(tmp_path, "brightness", ["a"])


def test_slice_result_gives_each_group_its_own_interval(town):
    (first, second) = slice_result(result(), town, ["city"])
    assert first == Slice("city", "a", 2, 0.5, mean_interval(np.array([0.0, 1.0])))
    assert second.name == "b" and second.interval == first.interval


def test_slice_cannot_be_changed(town):
    (first, _) = slice_result(result(), town, ["city"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.name = "c"


def test_format_slices_has_a_heading_for_each_fact():
    def one(by, name, queries, value):
        return Slice(by, name, queries, value, Interval(value - 0.125, value + 0.0625))

    slices = [one("city", "a", 1200, 0.5), one("city", "Helsinki", 3, 0.25), one("age", "b", 2, 0.875)]
    assert format_slices(slices, "recall@5").splitlines() == [
        "recall@5 by city",
        "  a          50.0% (37.5% to 56.2%)  1,200 queries",
        "  Helsinki   25.0% (12.5% to 31.2%)  3 queries",
        "recall@5 by age",
        "  b          87.5% (75.0% to 93.8%)  2 queries",
    ]
