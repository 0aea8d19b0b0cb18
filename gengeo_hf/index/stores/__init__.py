"""Indexes in a vector database (Milvus or Qdrant), for galleries that are too large for one machine.

A `GeoIndex` directory remains the primary copy. `export_index` copies it to a store, and `StoreIndex` searches the
store like a `GeoIndex`.
"""

from gengeo_hf.index.stores.export import export_index
from gengeo_hf.index.stores.protocol import ENGINES, Engine, StoreIndex, connect, is_address

__all__ = ["ENGINES", "Engine", "StoreIndex", "connect", "export_index", "is_address"]
