"""What a pair is, and how each benchmark and everyone's own data become pairs."""

from gengeo_hf.data.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset

__all__ = ["GALLERY_FEATURES", "QUERY_FEATURES", "CrossViewDataset"]
