# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""The configuration of GenGeo: which backbone, which aggregation head, what is trained.

This file travels with published checkpoints, so it imports only transformers, huggingface_hub and its siblings.
"""

# No `from __future__ import annotations` here: it turns the type checks of `@strict` off without a word.
import difflib
import math
import warnings
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

# transformers 5.4 copies, of a folder with code, only the files that this one and the model name themselves.
from .aggregation import GenGeoAggregator  # noqa: F401  # as said above
from .aggregators import AGGREGATORS
from .backbones import BACKBONES, family_of
from .layout import GenGeoLayout  # noqa: F401  # as said above
from .salad import GenGeoSalad  # noqa: F401  # as said above


@strict
class GenGeoConfig(PreTrainedConfig):
    """What a `GenGeoModel` is made of. The defaults are the model of the GenGeo paper (ViT-B/14, 64 clusters, 1024-d).

    Args:
        backbone_config: configuration of the image backbone, as an object or a dict with `model_type`
            ("dinov2", "dinov2_with_registers", "dinov3_vit", "convnext", "deit", or one that `register_backbone`
            added). None
            gives DINOv2 ViT-B/14 at 518 px.
        aggregator: how patch tokens become one vector: "salad", "netvlad", "gem", "mean", "cls" (the backbone's own
            global token; for ConvNeXt its normalised average, which is the Sample4Geo baseline), "layout" (the masks
            of GeoDTR+, num_clusters of them, tied to the number of tokens), or one that
            `register_aggregator` added.
        num_clusters: clusters m of SALAD and NetVLAD.
        cluster_dim: width l of a local feature in a cluster. None keeps the backbone's width (NetVLAD only).
        token_dim: width g of the transformed global token (SALAD only).
        head_hidden_dim: hidden width q of the head's MLPs.
        head_dropout: dropout in the token-wise MLPs of the head, while training.
        sinkhorn_iterations: iterations K of the optimal transport.
        use_dustbin: whether a dustbin row takes the mass of uninformative tokens.
        dustbin_mass: "fixed" is SALAD: the dustbin holds n - m of the n tokens' mass on any image. "learned" lets a
            linear layer on the global token shift that share per image; it starts out equal to "fixed".
        descriptor_dim: width of the descriptor after the linear projection. None leaves the projection out.
        share_aggregator: one head for both views, or (False) one head per view, picked by the `view` argument.
        share_backbone: one backbone for both views, or (False) one per view, which then has its own head too.
        token_counts: patch tokens of an image by view, {"ground": n, "aerial": n}; only aggregators that are tied to
            the size of images need it, and training fills it in.
        layout_layers: layers of the layout aggregator's transformer.
        layout_heads: attention heads of it.
        aerial_keep: share of an aerial image's patches that are encoded: those to which a second backbone, the guide,
            attends most (TransGeo's attend and zoom). None encodes all of them.
        guide_size: height and width in pixels at which the guide sees an aerial image.
        trainable_blocks: the last k transformer blocks and the final norm are trained; 0 freezes the backbone, None
            trains all of it. A number above the backbone's depth means every block.
        position_interpolation: how DINOv2's position grid is resized: "hub" as the original code (scale factor with an
            offset of 0.1), "size" as transformers. Only plain "dinov2" differs; use "hub" for converted SALAD weights.
        position_init_std: spread of freshly initialised position embeddings, None for the backbone's own (0.02). A
            model trained from nothing on few steps learns positions far sooner with 0.5.
        truncate_dim: descriptors are cut to this many leading values and normalised again. None keeps them whole.
        matryoshka_dims: prefix widths that the loss trains beside the full width (Kusupati et al. 2022).
        label_smoothing: of the loss that the model computes when both views are given.
        logit_scale_init_value: start of the learned logarithm of the InfoNCE scale, ln(1 / 0.07).
        ground_camera: what the ground images of training were: "panorama" (360 degrees, equirectangular, the centre
            column north) or "photo"; None where it is not known, and then photos are encoded as they are.
        ground_vertical_fov: degrees of elevation from the bottom to the top row of these panoramas; None where unknown.
        initializer_range: Standard deviation of the weights of freshly initialised linear layers of the head. None
            takes 1 / sqrt(in_features) of each layer; at 0.02 short trainings start on a plateau (docs/learning.md).

    Raises:
        ValueError: values that contradict one another; the message names the field.
    """

    model_type = "gengeo"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012  # transformers' own way to declare it

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
        """Make the backbone's configuration, and refuse names that are near misses of fields."""
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
        # The base class validates too, but wraps what it finds into a two-line error that is not a ValueError.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Check what types alone cannot. Called by the base class at construction and before saving.

        Raises:
            ValueError: An unknown backbone or head, a value out of its range, or settings that do not go together.
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
        """What differs between the views, and what heads are tied to."""
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
        """Square patches and images: the position grid and the tracer rely on one number for both sides."""
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
                f"position_init_std is set, but a {model_type} learns no position embeddings: leave it out"
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
        """Read a config, taking a bare backbone's for the backbone of a new GenGeo.

        Raises:
            ValueError: the checkpoint is neither a GenGeo nor a supported backbone, or has no config.json.
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
    """Refuse what is nearly the name of a field of ours, and warn about names that nothing knows."""
    known = set(config_class.__dataclass_fields__) | set(vars(PreTrainedConfig)) | _WRITTEN_BY_TRANSFORMERS
    own = [name for name in config_class.__dataclass_fields__ if name not in PreTrainedConfig.__dataclass_fields__]
    foreign = [name for name in given if not name.startswith("_") and name not in known]
    for name in foreign:
        near = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
        if near:
            raise ValueError(f"GenGeoConfig has no setting {name!r}; did you mean {near[0]!r}?")
    if foreign:
        warnings.warn(f"GenGeoConfig does not know {', '.join(sorted(foreign))}: stored, not used", stacklevel=4)


# Keys of config.json and arguments that the base class takes without a field.
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
