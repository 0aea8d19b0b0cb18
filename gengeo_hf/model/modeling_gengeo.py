"""The model: an image of either view goes in, a unit descriptor comes out.

Before: pixel values (B, 3, H, W) from `GenGeoImageProcessor`. After: `pooler_output` (B, D), whose dot product with
another descriptor is their cosine similarity.
This file travels with published checkpoints, so it imports only torch, transformers and its siblings.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .aggregators import GenGeoGem, GenGeoHead, GenGeoNetVlad
from .backbones import build_backbone, patch_sides, read_tokens, set_trainable, token_width
from .configuration_gengeo import GenGeoConfig
from .salad import GenGeoSalad, float32_island

VIEWS = ("ground", "aerial")
MAX_SCALE = 100.0  # CLIP's bound on the InfoNCE scale


@dataclass
class GenGeoModelOutput(ModelOutput):
    """What `GenGeoModel` gives. With two views, everything but `loss` and `aerial_pooler_output` is the ground's.

    Args:
        loss: symmetric InfoNCE of the batch's pairs, only when both views are given.
        pooler_output: (B, D) descriptors, float32, of length 1.
        last_hidden_state: the backbone's last output, after its final norm (ConvNeXt: its map, not normalised).
        hidden_states: (B, 1 + n, C) after the embeddings and after each block, with `output_hidden_states=True`.
        attentions: (B, heads, 1 + n, 1 + n) per block, with `output_attentions=True` and eager attention.
        aerial_pooler_output: (B, D) descriptors of the aerial view, when both views are given.
        assignment: (B, m + 1, n) share of each token that goes to each cluster, the dustbin last ((B, m, n) without a
            dustbin and for NetVLAD), with `output_assignment=True`.
        token_grid: rows and columns of the n tokens, which are in row-major order, with `output_assignment=True`.
        unprojected: the aggregator's vector before projection and truncation, with `output_assignment=True`.
        rejected_share: (B,) share of all token mass in the dustbin, with `output_assignment=True`.
    """

    # The order is part of the interface: `pipeline` and `outputs[0]` take the first field that is not None.
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
    """What transformers needs to know to load, save, initialise and distribute a GenGeo."""

    config: GenGeoConfig
    base_model_prefix = "backbone"  # the attribute name: lets a bare backbone checkpoint fill the backbone
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
            # Only the head's layers come here: a backbone initialises its own. With the library's 0.02 the scores of a
            # narrow head hardly differ, the transport plan is flat, all clusters sum the same mean of the tokens, and
            # equal clusters get equal gradients (docs/learning.md).
            init.normal_(module.weight, std=self.config.initializer_range or module.in_features**-0.5)
        elif isinstance(module, GenGeoSalad):
            if module.dust_bin is not None:
                init.ones_(module.dust_bin)
            if module.dustbin_shift is not None:
                init.zeros_(module.dustbin_shift.weight)  # the learned dustbin starts out as SALAD's
        elif isinstance(module, GenGeoGem):
            init.constant_(module.exponent, module.exponent_init)
        elif isinstance(module, GenGeoNetVlad):
            init.normal_(module.centroids, std=module.centroids.shape[1] ** -0.5)
        elif isinstance(module, GenGeoModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if self.config.position_init_std is not None:
                embeddings: Any = module.backbone.embeddings
                init.trunc_normal_(embeddings.position_embeddings, std=self.config.position_init_std)


class GenGeoModel(GenGeoPreTrainedModel):
    """DINOv2 (or another backbone), an aggregation head, a projection: images of both views to one descriptor space.

    `GenGeoModel.from_pretrained(<a DINOv2 checkpoint>)` takes the backbone from there and makes a new head.

    Args:
        config: see `GenGeoConfig`. `requires_grad` of the backbone follows `config.trainable_blocks`.
    """

    def __init__(self, config: GenGeoConfig) -> None:
        config.validate_architecture()  # fields may have been changed after the config was made
        super().__init__(config)
        self.backbone = build_backbone(config)
        width = token_width(config.backbone_config)
        names = ("shared",) if config.share_aggregator else VIEWS
        self.heads = nn.ModuleDict({name: GenGeoHead(config, width) for name in names})
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()
        set_trainable(self.backbone, config.trainable_blocks)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint as `PreTrainedModel.from_pretrained` does, with `config.trainable_blocks` in force."""
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading puts new parameters in place, and all of them require gradients again.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        set_trainable(model.backbone, model.config.trainable_blocks)
        return loaded

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        aerial_pixel_values: torch.Tensor | None = None,
        view: str | None = None,
        output_assignment: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GenGeoModelOutput:
        """Describe images, and compute the loss when both views of each pair are given.

        Args:
            pixel_values: (B, 3, H, W); the ground view if `aerial_pixel_values` is given too.
            aerial_pixel_values: (B, 3, H', W'), row i the true match of row i of `pixel_values`.
            view: "ground" or "aerial"; needed only by a model with one head per view.
            output_assignment: also give the token assignment, its grid and the unprojected vector.
            kwargs: passed to the backbone (`output_hidden_states`, `output_attentions`).

        Raises:
            ValueError: a side is no multiple of the patch, the image has too few tokens, or the view is unknown.
        """
        if aerial_pixel_values is None:
            return self._describe(pixel_values, view, output_assignment, **kwargs)
        output = self._describe(pixel_values, "ground", output_assignment, **kwargs)
        aerial = self._describe(aerial_pixel_values, "aerial", False)
        loss = self._pair_loss(output[0], aerial[0])
        # Made anew: a field that is set later would come last in the tuple order.
        return GenGeoModelOutput(**{**output, "loss": loss, "aerial_pooler_output": aerial.pooler_output})

    def _describe(
        self,
        pixel_values: torch.Tensor,
        view: str | None,
        output_assignment: bool,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GenGeoModelOutput:
        head = self._head(view)
        grid = self._token_grid(pixel_values)
        backbone: Any = self.backbone
        if backbone.config.model_type == "convnext":  # the transformers cast for themselves
            pixel_values = pixel_values.to(backbone.embeddings.patch_embeddings.weight.dtype)
        features = backbone(pixel_values, **kwargs)
        descriptor, unprojected, assignment = head(*read_tokens(self.backbone, features))
        extra = {}
        if output_assignment:
            extra = {"assignment": assignment, "token_grid": grid, "unprojected": unprojected}
            if self.config.aggregator == "salad" and self.config.use_dustbin:
                extra["rejected_share"] = assignment[:, -1].mean(dim=1)
        return GenGeoModelOutput(
            pooler_output=descriptor,
            last_hidden_state=features.last_hidden_state,
            hidden_states=features.hidden_states,
            attentions=getattr(features, "attentions", None),
            **extra,
        )

    def _head(self, view: str | None) -> nn.Module:
        if view is not None and view not in VIEWS:
            raise ValueError(f'view is {view!r}: expected "ground" or "aerial"')
        if self.config.share_aggregator:
            return self.heads["shared"]
        if view is None:
            raise ValueError('this model has one head per view: say view="ground" or view="aerial"')
        return self.heads[view]

    def _token_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        height, width = pixel_values.shape[-2:]
        backbone: Any = self.config.backbone_config
        patch_height, patch_width = patch_sides(backbone)
        # A ConvNeXt has no patches to cut: its strided convolutions leave what is over at the right and bottom out.
        if backbone.model_type != "convnext" and (height % patch_height or width % patch_width):
            raise ValueError(
                f"the image is {height} x {width} pixels (height x width): both sides must be multiples of the patch, "
                f"{patch_height} x {patch_width}"
            )
        rows, columns = height // patch_height, width // patch_width
        if self.config.aggregator == "salad" and self.config.use_dustbin and rows * columns <= self.config.num_clusters:
            raise ValueError(
                f"an image of {height} x {width} pixels gives {rows * columns} tokens for {self.config.num_clusters} "
                "clusters: SALAD with a dustbin needs more tokens than clusters; use larger images or fewer clusters"
            )
        return rows, columns

    def _pair_loss(self, ground: torch.Tensor, aerial: torch.Tensor) -> torch.Tensor:
        """Symmetric InfoNCE (van den Oord et al. 2018; Sample4Geo, equation 1), averaged over nested widths."""
        if ground.shape != aerial.shape:
            raise ValueError(
                f"{len(ground)} ground and {len(aerial)} aerial images: the loss needs one true pair per row"
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


__all__ = ["GenGeoModel", "GenGeoModelOutput", "GenGeoPreTrainedModel"]
