"""`Result.load` detects files that are damaged or do not belong together."""

import json

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation import results
from gengeo_hf.evaluation.results import Result
from tests.evaluation.test_tables import result


def test_load_after_a_kill_between_the_two_files_raises_an_error(tmp_path, monkeypatch):
    _, path = result(tmp_path)
    other, _ = result(tmp_path, "b.json", noise=2.0)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(results, "write_json", killed)
        other.save(path)
    with pytest.raises(GenGeoError, match="belongs to another evaluation than the JSON file"):
        Result.load(path)
    assert Result.load(other.save(path)).summary == other.summary


def test_load_of_a_changed_metric_raises_an_error(tmp_path):
    found, path = result(tmp_path)
    assert Result.load(path).summary == found.summary and Result.load(path).queries.equals(found.queries)
    content = json.loads(path.read_text())
    content["metrics"]["recall@1"] = 0.999
    path.write_text(json.dumps(content))
    for with_queries in (True, False):
        with pytest.raises(GenGeoError, match="changed or damaged after it was written"):
            Result.load(path, with_queries=with_queries)
    del content["sha256"]  # earlier versions wrote none
    path.write_text(json.dumps(content))
    assert Result.load(path).summary["metrics"]["recall@1"] == 0.999
