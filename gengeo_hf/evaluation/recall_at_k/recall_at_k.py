"""Recall@k of cross-view retrieval as an `evaluate` module.

It takes batches of query descriptors with the gallery row of each true tile, and returns the dict of
`gengeo_hf.evaluation.evaluate_descriptors`.

The import scanner of `evaluate` reads line by line: keep one import on each line.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from gengeo_hf.evaluation import evaluate_descriptors

_DESCRIPTION = """
Recall@k, recall@1% and, where positions or semi-positives are given, errors in metres and hit rates, of ground
photos matched with aerial tiles by the dot product of their descriptors. Ranks are computed in blocks; by default ties
count against the model.
"""
_INPUTS = """
Args:
    predictions: float32 (D,) descriptor of each ground query.
    references: Gallery row of each query's true tile.
    gallery: (tiles, D) descriptors of the aerial tiles, numpy or torch; an argument of `compute`.
    ks: Values of k for recall@k; default (1, 5, 10).
    query_positions, gallery_positions, semi_positive_rows, ties, rounding, device: As in
        `gengeo_hf.evaluation.evaluate_descriptors`.

Returns:
    dict: "recall@1", "recall@5", "recall@10", "recall@1%", "num_queries", "gallery_size", "ties", ...

Example:
    >>> recall = evaluate.load("gengeo_hf/evaluation/recall_at_k")
    >>> recall.add_batch(predictions=query_descriptors, references=positive_rows)
    >>> recall.compute(gallery=gallery_descriptors)["recall@1"]
"""
_CITATION = "GenGeo, Remote Sensing 2026, 18(8), 1116"


class RecallAtK(evaluate.Metric):
    """Metric with the values of `gengeo_hf.evaluation.evaluate_descriptors`."""

    def _info(self) -> evaluate.MetricInfo:
        """Return the columns that `add_batch` takes, and the documentation."""
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, gallery: Any, **options: Any) -> dict[str, Any]:
        """Call `evaluate_descriptors`."""
        queries = np.asarray(predictions, dtype=np.float32)
        return dict(evaluate_descriptors(queries, gallery, np.asarray(references, dtype=np.int64), **options))
