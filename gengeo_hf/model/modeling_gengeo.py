# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""The model: pixel values (B, 3, H, W) of either view to unit descriptors (B, D), `pooler_output`.

The dot product of two descriptors is their cosine similarity.
This file is copied into published checkpoints and therefore imports only torch, transformers and its siblings.
"""

import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .aggregation import GenGeoAggregator, float32_island
from .aggregators import GenGeoHead
from .backbones import build_backbone, family_of, patch_sides, read_tokens, run_backbone, set_trainable, token_width
from .configuration_gengeo import GenGeoConfig
from .layout import GenGeoLayout  # noqa: F401  # imported to be copied, see configuration_gengeo.py
from .salad import GenGeoSalad  # noqa: F401  # imported to be copied
from .token_choice import attention_map, choose_tokens, run_chosen
from .weights import backbone_names, check_complete, copy_backbones, stored_config

VIEWS = ("ground", "aerial")
MAX_SCALE = 100.0  # bound of CLIP for the InfoNCE scale


@dataclass
class GenGeoModelOutput(ModelOutput):
    """Output of `GenGeoModel`. With two views, all fields except `loss` and `aerial_pooler_output` are of the ground.

    Args:
        loss: Symmetric InfoNCE of the pairs of the batch, only if both views are given.
        pooler_output: Unit descriptors, float32 (B, D).
        last_hidden_state: Last output of the backbone after its final norm (ConvNeXt: the last map, not normalised).
        hidden_states: Tokens (B, 1 + n, C) after the embeddings and after each block, with `output_hidden_states=True`.
        attentions: Attention (B, heads, 1 + n, 1 + n) of each block, with `output_attentions=True` and eager attention.
        aerial_pooler_output: Unit descriptors of the aerial view, float32 (B, D), only if both views are given.
        assignment: Fraction of each token that is assigned to each cluster, (B, m + 1, n) with the dustbin last;
            (B, m, n) without a dustbin and for NetVLAD. With `output_assignment=True`.
        token_grid: Rows and columns of the n tokens, which are in row-major order. With `output_assignment=True`.
        unprojected: Vector of the aggregator before projection and truncation. With `output_assignment=True`.
        rejected_share: Fraction of the token mass in the dustbin, (B,). With `output_assignment=True`.
    """

    # The order is part of the interface: `pipeline` and `outputs[0]` use the first field that is not None.
    loss: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    aerial_pooler_output: torch.Tensor | None = None
    assignment: torch.Tensor | None = None
    token_grid: tuple[int, int] | None = None
    unprojected: torch.Tensor | None = None
    rejected_share: torch.Tensor | None = None


class GenGeoPreTrainedModel(PreTrainedModel):
    """Base class with the attributes by which transformers loads, saves, initialises and distributes the model."""

    config: GenGeoConfig
    base_model_prefix = "backbone"  # name of the attribute into which a checkpoint of a backbone is loaded
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["GenGeoDinov2Embeddings", "GenGeoHead"]  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            # Only layers of the head: a backbone initialises its own. With 0.02, the default of transformers, the
            # scores of a narrow head hardly differ: the transport plan is uniform, all clusters are the same mean of
            # the tokens, and equal clusters have equal gradients (docs/learning.md).
            init.normal_(module.weight, std=self.config.initializer_range or module.in_features**-0.5)
        elif isinstance(module, GenGeoAggregator):
            module.init_weights(init)
        elif isinstance(module, GenGeoModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if self.config.position_init_std is not None:
                embeddings: Any = module.backbone.embeddings
                init.trunc_normal_(embeddings.position_embeddings, std=self.config.position_init_std)


class GenGeoModel(GenGeoPreTrainedModel):
    """A backbone such as DINOv2, an aggregation head and a projection that encode both views in one descriptor space.

    `GenGeoModel.from_pretrained(<a DINOv2 checkpoint>)` loads the backbone and initialises a new head.

    Args:
        config: Configuration. `requires_grad` of the backbone is set by `config.trainable_blocks`.

    Attributes:
        backbone: Backbone of both views, or of the ground view with `share_backbone=False`.
        aerial_backbone: Backbone of the aerial view, only with `share_backbone=False`.
        guide: Backbone that selects aerial tokens and is not trained, only with `aerial_keep`.
    """

    def __init__(self, config: GenGeoConfig) -> None:
        config.validate_architecture()  # fields may have been changed since the config was created
        super().__init__(config)
        self.backbone = build_backbone(config)
        if not config.share_backbone:
            self.aerial_backbone = build_backbone(config)
        if config.aerial_keep is not None:
            self.guide = build_backbone(config)
            self.guide.set_attn_implementation("eager")  # other implementations do not return attentions
        width = token_width(config.backbone_config)
        names = ("shared",) if config.share_aggregator else VIEWS
        self.heads = nn.ModuleDict({name: GenGeoHead(config, width, name) for name in names})
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()
        self._set_trainable()

    def _set_trainable(self) -> None:
        for backbone in self.backbones:
            set_trainable(backbone, self.config.trainable_blocks)
        if self.config.aerial_keep is not None:
            set_trainable(self.guide, 0)

    @property
    def backbones(self) -> tuple[Any, ...]:
        """The trained backbones: one for both views, or that of the ground view and that of the aerial view."""
        return (self.backbone,) if self.config.share_backbone else (self.backbone, self.aerial_backbone)

    def backbone_of(self, view: str | None) -> Any:
        """Return the backbone of a view, "ground", "aerial" or None."""
        return self.aerial_backbone if view == "aerial" and not self.config.share_backbone else self.backbone

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, allow_missing: bool = False, **kwargs: Any
    ) -> Any:
        """Load a checkpoint with `PreTrainedModel.from_pretrained`, and check that it is complete.

        A GenGeo checkpoint must contain every weight. The checkpoint of a backbone (also with a classifier, or of a
        class such as `ConvNextBackbone`) must contain every weight of the backbone; the head is initialised. A second
        backbone that is not in the checkpoint is a copy: the aerial backbone of that of the ground view, the guide of
        that of the aerial view.

        Args:
            pretrained_model_name_or_path: Directory or Hub id.
            args: Arguments of `PreTrainedModel.from_pretrained`.
            allow_missing: Whether to initialise missing weights at random and ignore unknown ones, as transformers
                does. An explicit `state_dict` has the same effect.
            kwargs: Arguments of `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: Weights are missing, unknown, of another shape or not finite.
        """
        checked = not allow_missing and kwargs.get("state_dict") is None and pretrained_model_name_or_path is not None
        wants_info = kwargs.pop("output_loading_info", False)
        may_differ = kwargs.get("ignore_mismatched_sizes", False)
        if checked:
            kwargs["ignore_mismatched_sizes"] = True  # `check_complete` names the weight, transformers does not
        stored = stored_config(pretrained_model_name_or_path, kwargs) if checked else {}
        is_new = stored.get("model_type", GenGeoConfig.model_type) != GenGeoConfig.model_type
        if is_new:
            kwargs["key_mapping"] = backbone_names(stored) | (kwargs.get("key_mapping") or {})
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        copy_backbones(model, info)
        if checked:
            check_complete(model, info, pretrained_model_name_or_path, is_new, may_differ)
        # Loading replaces the parameters, and new ones require gradients.
        model._set_trainable()
        return (model, info) if wants_info else model

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        aerial_pixel_values: torch.Tensor | None = None,
        view: str | None = None,
        output_assignment: bool = False,
        return_loss: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GenGeoModelOutput:
        """Encode images, and compute the loss if both views of each pair are given.

        Args:
            pixel_values: Pixel values (B, 3, H, W); the ground view if `aerial_pixel_values` is given.
            aerial_pixel_values: Pixel values of the tiles (B, 3, H', W'); row i matches row i of `pixel_values`.
            view: View, "ground" or "aerial" (or a list of equal ones, as pipelines collate them); required by models
                with separate heads or with `aerial_keep`.
            output_assignment: Whether to return the token assignment, its grid and the unprojected vector.
            return_loss: Whether to compute the loss. `Trainer` also detects from this argument that there is a loss.
            kwargs: Arguments of the backbone (`output_hidden_states`, `output_attentions`).

        Raises:
            ValueError: A side is not a multiple of the patch size, the image has too few tokens, or the view is unknown
                or missing.
            TypeError: An argument is misspelt.
        """
        if kwargs:
            _check_arguments(kwargs)
        if aerial_pixel_values is None:
            return self._encode(pixel_values, view, output_assignment, **kwargs)
        output = self._encode(pixel_values, "ground", output_assignment, **kwargs)
        aerial = self._encode(aerial_pixel_values, "aerial", False)
        loss = self._pair_loss(output[0], aerial[0]) if return_loss else None
        # A new output, since a field that is set later would be the last one in the order of the tuple.
        return GenGeoModelOutput(**{**output, "loss": loss, "aerial_pooler_output": aerial.pooler_output})

    def _encode(
        self,
        pixel_values: torch.Tensor,
        view: str | None,
        output_assignment: bool,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GenGeoModelOutput:
        head = self._head(view)
        grid = self._token_grid(pixel_values)
        backbone = self.backbone_of(_one_view(view))
        if self.config.aerial_keep is not None and _one_view(view) == "aerial":
            features = run_chosen(backbone, pixel_values, self.chosen_tokens(pixel_values))
        else:
            features = run_backbone(backbone, pixel_values, **kwargs)
        descriptor, unprojected, assignment = head(*read_tokens(backbone, features))
        extra = {}
        if output_assignment:
            extra = {"assignment": assignment, "token_grid": grid, "unprojected": unprojected}
            if head.aggregator.has_dustbin:
                extra["rejected_share"] = assignment[:, -1].mean(dim=1)
        return GenGeoModelOutput(
            pooler_output=descriptor,
            last_hidden_state=features.last_hidden_state,
            hidden_states=features.hidden_states,
            attentions=getattr(features, "attentions", None),
            **extra,
        )

    @torch.no_grad()
    def chosen_tokens(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the patches of aerial images (B, 3, H, W) that the guide selects, ascending indices, int64 (B, k)."""
        rows, columns = self._token_grid(pixel_values)
        size, training = self.config.guide_size, self.guide.training
        seen = (
            pixel_values
            if size is None
            else functional.interpolate(pixel_values, size, mode="bilinear", antialias=True)
        )
        self.guide.eval()
        keep: Any = self.config.aerial_keep  # a number, since there is a guide
        chosen = choose_tokens(attention_map(self.guide, seen), (rows, columns), keep)
        self.guide.train(training)
        return chosen

    def _head(self, view: Any) -> Any:
        view = _one_view(view)
        if view is not None and (not isinstance(view, str) or view not in VIEWS):
            raise ValueError(f'view is {view!r}: expected "ground" or "aerial"')
        if view is None and self.config.aerial_keep is not None:
            raise ValueError('this model selects aerial tokens: pass view="ground" or view="aerial"')
        if self.config.share_aggregator:
            return self.heads["shared"]
        if view is None:
            raise ValueError('this model has one head per view: pass view="ground" or view="aerial"')
        return self.heads[view]

    def _token_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        height, width = pixel_values.shape[2:]
        backbone: Any = self.config.backbone_config
        patch_height, patch_width = patch_sides(backbone)
        if family_of(backbone).whole_patches and (height % patch_height or width % patch_width):
            raise ValueError(
                f"the image is {height} x {width} pixels (height x width): both sides must be multiples of the patch, "
                f"{patch_height} x {patch_width}"
            )
        rows, columns = height // patch_height, width // patch_width
        head: Any = next(iter(self.heads.values()))
        if rows * columns < head.aggregator.fewest_tokens:
            raise ValueError(
                f"an image of {height} x {width} pixels gives {rows * columns} tokens for {self.config.num_clusters} "
                f"clusters: {head.aggregator.title} needs at least {head.aggregator.fewest_tokens} tokens; use larger "
                "images or fewer clusters"
            )
        return rows, columns

    def _pair_loss(self, ground: torch.Tensor, aerial: torch.Tensor) -> torch.Tensor:
        """Compute symmetric InfoNCE (van den Oord et al. 2018; Sample4Geo, equation 1), averaged over nested widths."""
        if ground.shape != aerial.shape:
            raise ValueError(
                f"found {len(ground)} ground and {len(aerial)} aerial images: the loss needs as many of both, in pairs"
            )
        targets = torch.arange(len(ground), device=ground.device)
        smoothing, losses = self.config.label_smoothing, []
        with float32_island(ground.device):  # autocast would round the cosines before they are multiplied by the scale
            scale = self.logit_scale.float().exp().clamp(max=MAX_SCALE)
            nested = [width for width in self.config.matryoshka_dims or () if width <= ground.shape[1]]
            for width in (*nested, ground.shape[1]):
                queries, gallery = (functional.normalize(x[:, :width], dim=1) for x in (ground, aerial))
                logits = scale * (queries @ gallery.T)
                losses += [functional.cross_entropy(x, targets, label_smoothing=smoothing) for x in (logits, logits.T)]
        return torch.stack(losses).mean()


def _one_view(view: Any) -> Any:
    """Return the view of a batch; a list of equal views becomes one."""
    several = isinstance(view, list | tuple) and view and all(one == view[0] for one in view)
    return view[0] if several else view


def _check_arguments(given: Any) -> None:
    """Refuse misspelt arguments, which the backbone would silently ignore."""
    known = ("aerial_pixel_values", "output_assignment", "pixel_values", "return_loss", "view")
    for name in given:
        if name not in TransformersKwargs.__annotations__ and (
            near := difflib.get_close_matches(name, known, cutoff=0.7)
        ):
            raise TypeError(f"GenGeoModel has no argument {name!r}; did you mean {near[0]!r}?")


__all__ = ["GenGeoModel", "GenGeoModelOutput", "GenGeoPreTrainedModel"]
