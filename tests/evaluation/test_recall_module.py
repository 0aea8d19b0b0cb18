"""The `evaluate` module returns the metrics of `evaluate_descriptors`."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

import gengeo_hf.evaluation
from gengeo_hf.evaluation import evaluate_descriptors

from .test_ranks import unit


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(gengeo_hf.evaluation.__file__).parent / "recall_at_k"
    return evaluate.load(str(folder), cache_dir=str(tmp_path / "cache"))


def test_recall_module_in_batches_equals_evaluate_descriptors(module):
    generator = np.random.default_rng(0)
    gallery = unit(generator, 150)
    rows = generator.integers(0, 150, 64)
    queries = gallery[rows] + 1.5 * unit(generator, 64)
    semi = (rows[:, None] + np.array([1, 2])) % 150
    for start in range(0, 64, 20):
        module.add_batch(predictions=queries[start : start + 20], references=rows[start : start + 20])
    options = {"ks": (1, 3), "semi_positive_rows": semi, "ties": "mid"}
    found = module.compute(gallery=gallery, **options)
    assert found == evaluate_descriptors(queries, gallery, rows, **options)
    assert 0 < found["recall@1"] < found["recall@3"]
