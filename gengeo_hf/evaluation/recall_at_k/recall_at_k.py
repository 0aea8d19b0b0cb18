"""Recall@k of cross-view retrieval as an `evaluate` module, with the numbers of `gengeo_hf.evaluation`.

Takes batches of query descriptors with the gallery row of each true tile; gives the dict of `evaluate_descriptors`.

The import scanner of `evaluate` reads line by line: keep one import on each line.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from gengeo_hf.evaluation import evaluate_descriptors

_DESCRIPTION = """
Recall@k, recall@1% and, where positions or semi-positives are given, errors in metres and hit rates, of ground
photos matched with aerial tiles by the dot product of their descriptors. Ranks are streamed, ties count against the
model by default.
"""
_INPUTS = """
Args:
    predictions: One descriptor for each ground query.
    references: The gallery row of each query's true tile.
    gallery: (tiles, D) descriptors of the aerial tiles, numpy or torch; given to `compute`.
    ks: The k of recall@k; default (1, 5, 10).
    query_positions, gallery_positions, semi_positive_rows, ties, rounding, device: See
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
    """See `gengeo_hf.evaluation.evaluate_descriptors`."""

    def _info(self) -> evaluate.MetricInfo:
        """Name the columns that `add_batch` takes."""
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, gallery: Any, **options: Any) -> dict[str, Any]:
        """Hand everything to the plain function."""
        queries = np.asarray(predictions, dtype=np.float32)
        return dict(evaluate_descriptors(queries, gallery, np.asarray(references, dtype=np.int64), **options))
