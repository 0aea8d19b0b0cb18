"""Results grouped by facts of the evaluated table."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gengeo_hf.acquire.own_table import write_own_table
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.sources import DataSource, DataSources
from gengeo_hf.evaluation.results import Result
from gengeo_hf.evaluation.slices import format_slices, slice_result

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
