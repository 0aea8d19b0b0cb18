"""Recall of cross-view retrieval as a module for `evaluate.load`."""
