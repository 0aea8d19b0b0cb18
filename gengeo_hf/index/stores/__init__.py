"""The same index in a vector database, for galleries past one machine: Milvus or Qdrant.

The `GeoIndex` folder stays the store of record; `StoreIndex` answers like a `GeoIndex`.
"""

from gengeo_hf.index.stores.protocol import ENGINES, Engine, StoreIndex, connect, export_index, is_address

__all__ = ["ENGINES", "Engine", "StoreIndex", "connect", "export_index", "is_address"]
