"""The model and its image processor: the modules that are copied into every published checkpoint.

They import only each other (`from .x import y`), torch and transformers, because a checkpoint that is loaded without
this package (`trust_remote_code=True`) contains nothing else.
"""

import contextlib

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .aggregation import GenGeoAggregator
from .aggregators import register_aggregator
from .backbones import BackboneFamily, register_backbone
from .configuration_gengeo import GenGeoConfig
from .image_processing_gengeo import GenGeoImageProcessor
from .modeling_gengeo import GenGeoModel, GenGeoModelOutput


def register() -> None:
    """Register GenGeo with `AutoConfig`, `AutoModel`, `AutoImageProcessor` and therefore with `pipeline`."""
    AutoConfig.register(GenGeoConfig.model_type, GenGeoConfig, exist_ok=True)
    AutoModel.register(GenGeoConfig, GenGeoModel, exist_ok=True)
    # One class for both backends: transformers requests "torchvision" if it is installed, else "pil".
    # transformers before 5.20 has no AutoImageProcessor without torchvision; the class itself works without it.
    with contextlib.suppress(ImportError):
        AutoImageProcessor.register(
            GenGeoConfig,
            image_processor_classes={"pil": GenGeoImageProcessor, "torchvision": GenGeoImageProcessor},
            exist_ok=True,
        )
    # Saves the code and `auto_map` with every checkpoint, also by Trainer and `push_to_hub`.
    GenGeoConfig.register_for_auto_class("AutoConfig")
    GenGeoModel.register_for_auto_class("AutoModel")
    GenGeoImageProcessor.register_for_auto_class("AutoImageProcessor")


register()

__all__ = [
    "BackboneFamily",
    "GenGeoAggregator",
    "GenGeoConfig",
    "GenGeoImageProcessor",
    "GenGeoModel",
    "GenGeoModelOutput",
    "register",
    "register_aggregator",
    "register_backbone",
]
