# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""The configuration of GenGeo: backbone, aggregation head and trained parameters.

This file is copied into published checkpoints and therefore imports only transformers, huggingface_hub and its
siblings.
"""

# No `from __future__ import annotations` here: it would silently disable the type checks of `@strict`.
import difflib
import math
import warnings
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

# transformers 5.4 copies only the modules that this file and the model import directly, so unused ones are imported.
from .aggregation import GenGeoAggregator  # noqa: F401  # to be copied
from .aggregators import AGGREGATORS
from .backbones import BACKBONES, family_of
from .layout import GenGeoLayout  # noqa: F401  # to be copied
from .salad import GenGeoSalad  # noqa: F401  # to be copied


@strict
class GenGeoConfig(PreTrainedConfig):
    """Configuration of a `GenGeoModel`. The defaults are those of the GenGeo paper (ViT-B/14, 64 clusters, 1024-d).

    Args:
        backbone_config: Configuration of the image backbone, as an object or a dict with `model_type` ("dinov2",
            "dinov2_with_registers", "dinov3_vit", "convnext", "deit", or one added by `register_backbone`). None is
            DINOv2 ViT-B/14 at 518 px.
        aggregator: Aggregation of patch tokens: "salad", "netvlad", "gem", "mean", "cls" (the global token of the
            backbone; for ConvNeXt its normalised average, the Sample4Geo baseline), "layout" (`num_clusters` masks of
            GeoDTR+, for a fixed number of tokens), or one added by `register_aggregator`.
        num_clusters: Number m of clusters of SALAD and NetVLAD.
        cluster_dim: Width l of a local feature in a cluster. None keeps the width of the backbone (NetVLAD only).
        token_dim: Width g of the transformed global token (SALAD only).
        head_hidden_dim: Hidden width q of the MLPs of the head.
        head_dropout: Dropout probability in the token-wise MLPs of the head, in training.
        sinkhorn_iterations: Number K of iterations of the optimal transport.
        use_dustbin: Whether a dustbin row takes the mass of uninformative tokens.
        dustbin_mass: Mass of the dustbin. "fixed" is SALAD: n - m of the mass of n tokens for every image. With
            "learned", a linear layer on the global token shifts it per image; it is initialised equal to "fixed".
        descriptor_dim: Width of the descriptor after the linear projection. None omits the projection.
        share_aggregator: Whether both views share one head; otherwise the `view` argument selects the head.
        share_backbone: Whether both views share one backbone; otherwise each view also has its own head.
        token_counts: Number of patch tokens of an image by view, {"ground": n, "aerial": n}. Only aggregators for a
            fixed number of tokens need it; training sets it.
        layout_layers: Number of transformer layers of the layout aggregator.
        layout_heads: Number of attention heads of the layout aggregator.
        aerial_keep: Fraction of the patches of an aerial image that are encoded: those to which a second backbone, the
            guide, attends most (attend and zoom of TransGeo). None encodes all patches.
        guide_size: Height and width in pixels of the aerial image for the guide. None is the size of the image.
        trainable_blocks: Number of transformer blocks at the end that are trained, with the final norm; 0 freezes the
            backbone, None trains all of it. A number above the depth means every block.
        position_interpolation: Interpolation of the position grid of DINOv2: "hub" as in the original code (scale
            factor with an offset of 0.1), "size" as in transformers. Only "dinov2" differs; use "hub" for converted
            SALAD weights.
        position_init_std: Standard deviation of newly initialised position embeddings; None is that of the backbone
            (0.02). Models trained from scratch with few steps learn positions much earlier with 0.5.
        truncate_dim: Number of leading values to which descriptors are truncated, then normalised again. None keeps
            all values.
        matryoshka_dims: Prefix widths that the loss trains in addition to the full width (Kusupati et al. 2022).
        label_smoothing: Label smoothing of the loss that the model computes if both views are given.
        logit_scale_init_value: Initial value of the learned logarithm of the InfoNCE scale, ln(1 / 0.07).
        ground_camera: Kind of the ground images in training: "panorama" (360 degrees, equirectangular, centre column
            north) or "photo". None if unknown; photos are then encoded without projection.
        ground_vertical_fov: Degrees of elevation from the bottom to the top of these panoramas; None if unknown.
        initializer_range: Standard deviation of newly initialised weights of linear layers of the head. None is
            1 / sqrt(in_features) of each layer; with 0.02 short trainings start on a plateau (docs/learning.md).

    Raises:
        ValueError: Values are out of range or contradictory; the message names the field.
    """

    model_type = "gengeo"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012  # class attribute that transformers requires

    backbone_config: dict | PreTrainedConfig | None = None
    aggregator: str = "salad"
    num_clusters: int = 64
    cluster_dim: int | None = 128
    token_dim: int = 256
    head_hidden_dim: int = 512
    head_dropout: float | int = 0.3
    sinkhorn_iterations: int = 3
    use_dustbin: bool = True
    dustbin_mass: Literal["fixed", "learned"] = "fixed"
    descriptor_dim: int | None = 1024
    share_aggregator: bool = True
    share_backbone: bool = True
    token_counts: dict | None = None
    layout_layers: int = 2
    layout_heads: int = 4
    aerial_keep: float | int | None = None
    guide_size: list[int] | None = None
    trainable_blocks: int | None = 4
    position_interpolation: Literal["hub", "size"] = "hub"
    position_init_std: float | None = None
    truncate_dim: int | None = None
    matryoshka_dims: list[int] | None = None
    label_smoothing: float | int = 0.1
    logit_scale_init_value: float = math.log(1 / 0.07)
    ground_camera: Literal["panorama", "photo"] | None = None
    ground_vertical_fov: float | int | None = None
    initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the configuration of the backbone, and refuse misspelt field names."""
        _check_names(type(self), kwargs)
        backbone = self.backbone_config
        if backbone is None:
            backbone = {"image_size": 518}
        if isinstance(backbone, dict):
            backbone = {"model_type": "dinov2", **backbone}
            if backbone["model_type"] not in BACKBONES:
                raise ValueError(_unknown_backbone(backbone["model_type"]))
            self.backbone_config = AutoConfig.for_model(**backbone)
        super().__post_init__(**kwargs)
        # The base class validates too, but raises a two-line error that is not a ValueError.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Check values and their combinations. The base class calls it at construction and before saving.

        Raises:
            ValueError: The backbone or aggregator is unknown, or a value is out of range or contradicts another one.
        """
        backbone: Any = self.backbone_config
        if backbone.model_type not in BACKBONES:
            raise ValueError(_unknown_backbone(backbone.model_type))
        if self.aggregator not in AGGREGATORS:
            raise ValueError(
                f"aggregator is {self.aggregator!r}: expected one of {', '.join(AGGREGATORS)}; import the module that "
                "registers another one"
            )
        self._validate_backbone()
        widths = ("num_clusters", "cluster_dim", "token_dim", "head_hidden_dim", "sinkhorn_iterations")
        for name in (*widths, "descriptor_dim", "truncate_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if self.cluster_dim is None and self.aggregator == "salad":
            raise ValueError("cluster_dim is null: only the netvlad aggregator can keep the backbone's width")
        if self.ground_vertical_fov is not None and not 0 < self.ground_vertical_fov <= 180:
            raise ValueError(f"ground_vertical_fov is {self.ground_vertical_fov}: it must lie in 0..180 degrees")
        self._validate_views()
        self._validate_training()
        self._validate_nested()

    def _validate_views(self) -> None:
        """Check the settings of the two views and of their heads."""
        family = family_of(self.backbone_config)
        if not self.share_backbone and self.share_aggregator:
            raise ValueError(
                "share_backbone is false: each view then needs its own head, set share_aggregator to false"
            )
        if self.aerial_keep is not None:
            if not 0 < self.aerial_keep <= 1:
                raise ValueError(f"aerial_keep is {self.aerial_keep}: it must lie above 0 and be at most 1")
            if not (family.has_blocks and family.has_position_grid):
                raise ValueError(
                    "aerial_keep needs a backbone of blocks with learned positions, such as dinov2 or deit"
                )
        if self.guide_size is not None and (len(self.guide_size) != 2 or min(self.guide_size) < 1):
            raise ValueError(f"guide_size is {self.guide_size}: expected height and width in pixels")
        backbone: Any = self.backbone_config
        if family.global_tokens > 1 and self.aggregator == "salad":
            raise ValueError(f"aggregator salad reads one global token, and a {backbone.model_type} has two: use cls")
        if self.layout_layers < 1 or self.layout_heads < 1:
            raise ValueError("layout_layers and layout_heads must be at least 1")
        if self.aggregator == "layout" and (width := family.token_width(backbone)) % self.layout_heads:
            raise ValueError(f"layout_heads is {self.layout_heads}: the width of a token, {width}, must be a multiple")

    def _validate_backbone(self) -> None:
        """Require square patches and images: the position grid and the tracer use one number for both sides."""
        for name in ("patch_size", "image_size"):
            value = getattr(self.backbone_config, name, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"backbone_config.{name} is {value!r}: expected one whole number of pixels above 0")

    def _validate_training(self) -> None:
        backbone: Any = self.backbone_config
        family, model_type = family_of(backbone), backbone.model_type
        for name in ("head_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0 and below 1")
        if not math.isfinite(self.logit_scale_init_value):
            raise ValueError(f"logit_scale_init_value is {self.logit_scale_init_value}: it must be a finite number")
        for name in ("position_init_std", "initializer_range"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}: it must be a positive number")
        if self.trainable_blocks is not None and self.trainable_blocks < 0:
            raise ValueError(f"trainable_blocks is {self.trainable_blocks}: give 0 (frozen), k, or null (train all)")
        if not family.has_blocks and self.trainable_blocks:
            raise ValueError(
                f"trainable_blocks is {self.trainable_blocks}, but a {model_type} has no transformer blocks: "
                "give null (train all) or 0 (frozen)"
            )
        if self.position_init_std is not None and not family.has_position_grid:
            raise ValueError(
                f"position_init_std is set, but a {model_type} has no learned position embeddings: leave it out"
            )
        if self.dustbin_mass == "learned" and not (self.aggregator == "salad" and self.use_dustbin):
            raise ValueError('dustbin_mass is "learned": that needs aggregator "salad" and use_dustbin true')

    def _validate_nested(self) -> None:
        dims = self.matryoshka_dims or []
        largest = max([*dims, self.truncate_dim or 0])
        if any(dim < 1 for dim in dims) or (self.descriptor_dim is not None and largest > self.descriptor_dim):
            raise ValueError(
                f"truncate_dim {self.truncate_dim} and matryoshka_dims {self.matryoshka_dims} must lie between 1 and "
                f"descriptor_dim {self.descriptor_dim}"
            )

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """Read a configuration; that of a backbone becomes the `backbone_config` of a new GenGeo.

        Args:
            pretrained_model_name_or_path: Directory or Hub id of a checkpoint.
            kwargs: Arguments of `PreTrainedConfig.get_config_dict`.

        Raises:
            ValueError: The checkpoint is neither a GenGeo nor a supported backbone, or has no config.json.
        """
        config, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config:
            raise ValueError(f"{pretrained_model_name_or_path} has no config.json: give the directory of a checkpoint")
        model_type = config.get("model_type", cls.model_type)
        if model_type == cls.model_type:
            return config, kwargs
        if model_type not in BACKBONES:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {model_type!r}, not a GenGeo: give a GenGeo "
                f"checkpoint, or a backbone to start from ({', '.join(BACKBONES)})"
            )
        start: dict[str, Any] = {"backbone_config": config}
        if not BACKBONES[model_type].has_blocks:
            start["trainable_blocks"] = None
        if BACKBONES[model_type].global_tokens > 1:
            start["aggregator"] = "cls"
        return start, kwargs


def _unknown_backbone(model_type: str) -> str:
    return (
        f"backbone_config has model_type {model_type!r}: GenGeo can use {', '.join(BACKBONES)}; import the module that "
        "registers another one"
    )


def _check_names(config_class: Any, given: dict[str, Any]) -> None:
    """Refuse names that are similar to a field, and warn about unknown names."""
    known = set(config_class.__dataclass_fields__) | set(vars(PreTrainedConfig)) | _WRITTEN_BY_TRANSFORMERS
    own = [name for name in config_class.__dataclass_fields__ if name not in PreTrainedConfig.__dataclass_fields__]
    foreign = [name for name in given if not name.startswith("_") and name not in known]
    for name in foreign:
        near = difflib.get_close_matches(name, own, cutoff=0.8)
        if near:
            raise ValueError(f"GenGeoConfig has no setting {name!r}; did you mean {near[0]!r}?")
    if foreign:
        warnings.warn(f"GenGeoConfig does not know {', '.join(sorted(foreign))}: stored, not used", stacklevel=5)


# Keys of config.json and arguments that the base class accepts without a field.
_WRITTEN_BY_TRANSFORMERS = {
    "adapter_config",
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "num_labels",
    "output_attentions",
    "peft_config",
    "quantization_config",
    "return_unused_kwargs",
    "torch_dtype",
    "transformers_version",
    "use_return_dict",
}

__all__ = ["GenGeoConfig"]
