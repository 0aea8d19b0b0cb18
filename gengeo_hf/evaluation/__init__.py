"""Evaluation: ranks, metrics, protocols, results, comparisons and tables.

`evaluate(model, data, protocol)` evaluates a model; `evaluate_descriptors` takes descriptors that exist already. The
names below are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengeo_hf.evaluation.metrics import evaluate_descriptors, one_percent_k, recall_at
    from gengeo_hf.evaluation.positions import Prior
    from gengeo_hf.evaluation.ranks import rank_of_positives, scan
    from gengeo_hf.evaluation.results import Result
    from gengeo_hf.evaluation.run import evaluate

_MODULES = {
    "Prior": "positions",
    "Result": "results",
    "evaluate": "run",
    "evaluate_descriptors": "metrics",
    "one_percent_k": "metrics",
    "rank_of_positives": "ranks",
    "recall_at": "metrics",
    "scan": "ranks",
}
__all__ = [
    "Prior",
    "Result",
    "evaluate",
    "evaluate_descriptors",
    "one_percent_k",
    "rank_of_positives",
    "recall_at",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
