"""The same index in a vector database, for galleries past one machine: Milvus or Qdrant.

A `GeoIndex` directory stays the store of record; `export_index` makes a store mirror it, and `StoreIndex` answers from
the store like a `GeoIndex`.
"""

from gengeo_hf.index.stores.export import export_index
from gengeo_hf.index.stores.protocol import ENGINES, Engine, StoreIndex, connect, is_address

__all__ = ["ENGINES", "Engine", "StoreIndex", "connect", "export_index", "is_address"]
