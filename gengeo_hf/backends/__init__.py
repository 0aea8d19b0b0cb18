"""Descriptors by torch, onnxruntime or OpenVINO: contract.py says what they share, trial.py chooses between them."""

from gengeo_hf.backends.contract import BACKENDS, DTYPES, LOWEST_COSINE, Backend, View

__all__ = ["BACKENDS", "DTYPES", "LOWEST_COSINE", "Backend", "View"]
