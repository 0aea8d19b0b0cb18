"""Descriptors by torch, onnxruntime or OpenVINO: contract.py says what they share, trial.py chooses between them."""

from gengeo_hf.encoding.backends.protocol import BACKENDS, DTYPES, LOWEST_COSINE, Backend

__all__ = ["BACKENDS", "DTYPES", "LOWEST_COSINE", "Backend", "View"]
