"""Find where a photo was taken by matching it with aerial imagery.

`import gengeo_hf` makes `AutoModel`, `AutoConfig`, `AutoImageProcessor` and `pipeline` know GenGeo. It imports neither
torch nor transformers: GenGeo registers itself when transformers is imported, now or later, and the names below are
looked up when they are first used.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

try:
    import wrapt
except ImportError:  # a checkout that was not installed: GenGeo then registers when gengeo_hf.model is imported
    wrapt = None  # type: ignore[assignment]  # the same name

if TYPE_CHECKING:
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data import load_pairs
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.evaluation import evaluate
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.localization import Answer, GeoLocalizer, Place
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel, GenGeoModelOutput

__version__ = "0.1.0"

_HOMES = {
    "Answer": "gengeo_hf.localization",
    "Encoder": "gengeo_hf.encoding.encoder",
    "GenGeoConfig": "gengeo_hf.model",
    "GenGeoError": "gengeo_hf.common.errors",
    "GenGeoImageProcessor": "gengeo_hf.model",
    "GenGeoModel": "gengeo_hf.model",
    "GenGeoModelOutput": "gengeo_hf.model",
    "GeoIndex": "gengeo_hf.index",
    "GeoLocalizer": "gengeo_hf.localization",
    "Place": "gengeo_hf.localization",
    "load_pairs": "gengeo_hf.data",
    "evaluate": "gengeo_hf.evaluation",
}
__all__ = [
    "Answer",
    "Encoder",
    "GenGeoConfig",
    "GenGeoError",
    "GenGeoImageProcessor",
    "GenGeoModel",
    "GenGeoModelOutput",
    "GeoIndex",
    "GeoLocalizer",
    "Place",
    "evaluate",
    "load_pairs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _register(transformers: ModuleType) -> None:
    importlib.import_module("gengeo_hf.model")  # registers as it is imported


def _register_pipeline(pipelines: ModuleType) -> None:
    importlib.import_module("gengeo_hf.hub.pipeline").register()


if wrapt is not None:
    wrapt.register_post_import_hook(_register, "transformers")
    wrapt.register_post_import_hook(_register_pipeline, "transformers.pipelines")
