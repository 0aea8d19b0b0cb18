"""The model and its image processor: the files that travel to the Hub with every checkpoint.

They are flat siblings (`from .x import y`) that import only torch and transformers, because a checkpoint folder that is
loaded without this package (`trust_remote_code=True`) has nothing else.
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
    """Make `AutoConfig`, `AutoModel`, `AutoImageProcessor` and `pipeline` know GenGeo."""
    AutoConfig.register(GenGeoConfig.model_type, GenGeoConfig, exist_ok=True)
    AutoModel.register(GenGeoConfig, GenGeoModel, exist_ok=True)
    # One class serves both backends: without torchvision "pil" is asked for, with it "torchvision".
    # transformers before 5.20 has no AutoImageProcessor without torchvision: the class itself serves there.
    with contextlib.suppress(ImportError):
        AutoImageProcessor.register(
            GenGeoConfig,
            image_processor_classes={"pil": GenGeoImageProcessor, "torchvision": GenGeoImageProcessor},
            exist_ok=True,
        )
    # Code and `auto_map` then travel together with whatever is saved or pushed, also by Trainer and `push_to_hub`.
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
