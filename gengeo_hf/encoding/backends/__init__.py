"""Descriptors by torch, onnxruntime or OpenVINO: `protocol.py` is what they share, `trial.py` chooses."""

from gengeo_hf.encoding.backends.protocol import BACKENDS, DTYPES, LOWEST_COSINE, Backend

__all__ = ["BACKENDS", "DTYPES", "LOWEST_COSINE", "Backend"]
