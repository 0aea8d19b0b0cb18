"""Ranks, metrics, protocols, tables: numbers that can be trusted and compared."""

from gengeo_hf.evaluation.metrics import evaluate_descriptors, one_percent_k, recall_at
from gengeo_hf.evaluation.positions import Prior
from gengeo_hf.evaluation.ranks import rank_of_positives, scan

__all__ = ["Prior", "evaluate_descriptors", "one_percent_k", "rank_of_positives", "recall_at", "scan"]
