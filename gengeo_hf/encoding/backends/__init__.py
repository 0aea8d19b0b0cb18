"""Backends that compute descriptors: torch, onnxruntime and OpenVINO."""

from gengeo_hf.encoding.backends.protocol import BACKENDS, DTYPES, LOWEST_COSINE, Backend

__all__ = ["BACKENDS", "DTYPES", "LOWEST_COSINE", "Backend"]
