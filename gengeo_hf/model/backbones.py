# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""Image backbones: one `BackboneFamily` per architecture reads its tokens and selects the blocks that are trained.

`register_backbone` adds a subclass under the `model_type` of its configuration; see docs/extend.md.
This file is copied into published checkpoints and therefore imports only torch and transformers.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

# The original DINOv2 code adds this to the new number of patches before it divides by the old one.
HUB_OFFSET = 0.1


class GenGeoDinov2Embeddings(Dinov2Embeddings):
    """DINOv2 embeddings whose position grid is resized exactly as in the original DINOv2 code.

    The original passes a scale factor of (new + 0.1) / old, which samples the grid at slightly different points than
    transformers, which passes the size. Only this module is replaced: a subclass of `Dinov2Model` would lose the
    renaming of checkpoint weights that transformers keeps per class.
    """

    def interpolate_pos_encoding(self, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return the position embeddings (1, 1 + n, C) for an image of height x width pixels."""
        positions = self.position_embeddings
        side = round(self.patch_embeddings.num_patches**0.5)
        patch: Any = self.patch_size  # one number of pixels, see `GenGeoConfig`
        rows, columns = height // patch, width // patch
        if rows == side and columns == side:
            return positions
        grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        # In float32: bicubic weights in half precision shift the embeddings.
        grid = nn.functional.interpolate(
            grid.float(),
            scale_factor=((rows + HUB_OFFSET) / side, (columns + HUB_OFFSET) / side),
            mode="bicubic",
            align_corners=False,
        )
        grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
        return torch.cat((positions[:, :1], grid), dim=1)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if prefix == "embeddings.":  # only the backbone is saved, not a GenGeoModel
            warnings.warn(
                "a checkpoint of the backbone alone does not store position_interpolation='hub': a plain Dinov2Model "
                "resizes its position grid differently and gives other features; save the GenGeoModel to keep it",
                stacklevel=2,
            )


class BackboneFamily:
    """A vision transformer with the output [global token, other tokens, patch tokens]; subclasses override differences.

    Attributes:
        has_blocks: Whether there is a sequence of equal blocks, of which `trainable_blocks` trains the last.
        has_position_grid: Whether a grid of position embeddings is learned and resized to each image.
        smooth_positions: Whether the grid is resized with antialiasing.
        whole_patches: Whether both sides of an image must be multiples of the patch size.
        embeddings_name: Name of the module with the embeddings.
        global_tokens: Number of global tokens, which come first: 2 with a distillation token.
    """

    has_blocks = True
    has_position_grid = False
    smooth_positions = False
    whole_patches = True
    embeddings_name = "embeddings"
    global_tokens = 1

    def build(self, backbone_config: Any, position_interpolation: str) -> Any:
        """Build the backbone with random weights.

        Args:
            backbone_config: Configuration of the backbone.
            position_interpolation: See `GenGeoConfig`.
        """
        return AutoModel.from_config(backbone_config)

    def renamed_weights(self, backbone_config: Any) -> dict[str, str]:
        """Return patterns of weight names in checkpoints of the backbone class of transformers, with new names."""
        return {}

    def token_width(self, backbone_config: Any) -> int:
        """Return the width C of the tokens."""
        return int(backbone_config.hidden_size)

    def global_width(self, backbone_config: Any) -> int:
        """Return the width of the global token of `read_tokens`."""
        return self.token_width(backbone_config)

    def embed(self, backbone: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the input of the first block, (B, 1 + n, C) with positions, for pixel values (B, 3, H, W)."""
        tokens: torch.Tensor = self.embeddings(backbone)(pixel_values)
        return tokens

    def patch_sides(self, backbone_config: Any) -> tuple[int, int]:
        """Return height and width of the image patch of one token in pixels."""
        patch = backbone_config.patch_size
        return (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))

    def other_tokens(self, backbone_config: Any) -> int:
        """Return the number of tokens between the global token and the patch tokens."""
        return int(getattr(backbone_config, "num_register_tokens", 0))  # not a field of all configurations

    def run(self, backbone: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Run the backbone on pixel values (B, 3, H, W) of any float type."""
        return backbone(pixel_values, **kwargs)

    def read_tokens(self, backbone: Any, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return patch tokens (B, n, C) in row-major order and the global token (B, C), both after the final norm."""
        skip = 1 + self.other_tokens(backbone.config)
        return output.last_hidden_state[:, skip:], output.last_hidden_state[:, 0]

    def patches_before_norm(self, backbone: Any, output: Any) -> torch.Tensor:
        """Return the patch tokens (B, n, C) before the final norm; needs `output_hidden_states=True`."""
        hidden: torch.Tensor = output.hidden_states[-1]
        return hidden[:, 1 + self.other_tokens(backbone.config) :]

    def embeddings(self, backbone: Any) -> Any:
        """Return the module that computes the input of the first block from pixels."""
        return getattr(backbone, self.embeddings_name)

    def blocks(self, backbone: Any) -> list[nn.Module]:
        """Return the blocks in order of execution; empty without blocks."""
        return list(backbone.encoder.layer)

    def final_norm(self, backbone: Any) -> nn.Module:
        """Return the norm after the last block."""
        norm: nn.Module = backbone.layernorm
        return norm


class _Dinov2(BackboneFamily):
    has_position_grid = True

    def build(self, backbone_config: Any, position_interpolation: str) -> Any:
        backbone = super().build(backbone_config, position_interpolation)
        if position_interpolation == "hub":
            backbone.embeddings = GenGeoDinov2Embeddings(backbone.config)
        return backbone


class _Dinov2WithRegisters(BackboneFamily):
    has_position_grid = True
    smooth_positions = True


class _Dinov3(BackboneFamily):
    def blocks(self, backbone: Any) -> list[nn.Module]:
        return list(backbone.model.layer)

    def final_norm(self, backbone: Any) -> nn.Module:
        norm: nn.Module = backbone.norm
        return norm


class _Deit(BackboneFamily):
    """DeiT with a distillation token; the global token is [class token, distillation token] of width 2 C."""

    has_position_grid = True
    global_tokens = 2
    whole_patches = False  # as in TransGeo: incomplete patches at the right and at the bottom are ignored

    def build(self, backbone_config: Any, position_interpolation: str) -> Any:
        return AutoModel.from_config(
            backbone_config, add_pooling_layer=False
        )  # the pooler of DeiT uses only the class token

    def global_width(self, backbone_config: Any) -> int:
        return 2 * self.token_width(backbone_config)

    def other_tokens(self, backbone_config: Any) -> int:
        return 1

    def run(self, backbone: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        return backbone(pixel_values, interpolate_pos_encoding=True, **kwargs)

    def embed(self, backbone: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = backbone.embeddings(pixel_values, interpolate_pos_encoding=True)
        return tokens

    def read_tokens(self, backbone: Any, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return output.last_hidden_state[:, 2:], output.last_hidden_state[:, :2].flatten(1)

    def blocks(self, backbone: Any) -> list[nn.Module]:
        return list(backbone.layers)


class _ConvNext(BackboneFamily):
    has_blocks = False
    whole_patches = False  # strided convolutions ignore incomplete patches at the right and at the bottom

    def renamed_weights(self, backbone_config: Any) -> dict[str, str]:
        # ConvNextBackbone has a norm for each output stage; that of the last stage is the final norm.
        return {rf"^hidden_states_norms\.stage{len(backbone_config.hidden_sizes)}\.": "layernorm."}

    def token_width(self, backbone_config: Any) -> int:
        return int(backbone_config.hidden_sizes[-1])

    def patch_sides(self, backbone_config: Any) -> tuple[int, int]:
        side = backbone_config.patch_size * 2 ** (len(backbone_config.hidden_sizes) - 1)
        return side, side

    def run(self, backbone: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        # ConvNeXt does not cast the pixels to the dtype of its weights, unlike the vision transformers.
        return backbone(pixel_values.to(backbone.embeddings.patch_embeddings.weight.dtype), **kwargs)

    def read_tokens(self, backbone: Any, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # The last map is not normalised: apply the final norm to each position, as ConvNeXt does to the average.
        tokens = backbone.layernorm(output.last_hidden_state.flatten(2).transpose(1, 2))
        return tokens, output.pooler_output

    def patches_before_norm(self, backbone: Any, output: Any) -> torch.Tensor:
        hidden: torch.Tensor = output.hidden_states[-1]
        return hidden.flatten(2).transpose(1, 2)

    def blocks(self, backbone: Any) -> list[nn.Module]:
        return []


BACKBONES: dict[str, BackboneFamily] = {
    "dinov2": _Dinov2(),
    "dinov2_with_registers": _Dinov2WithRegisters(),
    "dinov3_vit": _Dinov3(),
    "convnext": _ConvNext(),
    "deit": _Deit(),
}


def register_backbone(model_type: str) -> Callable[[type[BackboneFamily]], type[BackboneFamily]]:
    """Return a class decorator that registers a family of backbones.

    Args:
        model_type: Field `model_type` of the configuration of the backbone in transformers.

    Raises:
        ValueError: Another family has this model type.
    """

    def add(family: type[BackboneFamily]) -> type[BackboneFamily]:
        present = BACKBONES.get(model_type)
        if present is not None and type(present).__qualname__ != family.__qualname__:
            raise ValueError(f"a backbone family of model type {model_type!r} is registered already")
        BACKBONES[model_type] = family()
        return family

    return add


def family_of(backbone_config: Any) -> BackboneFamily:
    """Return the family of a backbone by its configuration.

    Raises:
        ValueError: The family is unknown.
    """
    model_type = backbone_config.model_type
    if model_type not in BACKBONES:
        raise ValueError(
            f"backbone_config has model_type {model_type!r}: GenGeo can use {', '.join(BACKBONES)}; import the module "
            "that registers another one (see docs/extend.md)"
        )
    return BACKBONES[model_type]


def build_backbone(config: Any) -> Any:
    """Build the backbone of a `GenGeoConfig` with random weights and its `position_interpolation`."""
    return family_of(config.backbone_config).build(config.backbone_config, config.position_interpolation)


def run_backbone(backbone: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
    """Run a backbone on pixel values (B, 3, H, W) of any float type."""
    return family_of(backbone.config).run(backbone, pixel_values, **kwargs)


def token_width(backbone_config: Any) -> int:
    """Return the width C of the tokens of a backbone."""
    return family_of(backbone_config).token_width(backbone_config)


def patch_sides(backbone_config: Any) -> tuple[int, int]:
    """Return height and width of the image patch of one token in pixels."""
    return family_of(backbone_config).patch_sides(backbone_config)


def read_tokens(backbone: Any, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return patch tokens (B, n, C) in row-major order and the global token (B, C), both after the final norm."""
    return family_of(backbone.config).read_tokens(backbone, output)


def transformer_blocks(backbone: Any) -> list[nn.Module]:
    """Return the blocks in order of execution; empty for a family without blocks."""
    return family_of(backbone.config).blocks(backbone)


def set_trainable(backbone: Any, blocks: int | None) -> None:
    """Freeze all but the last `blocks` transformer blocks and the final norm.

    Args:
        backbone: Backbone whose parameters get a new `requires_grad`; quantised weights, which have no gradient, are
            not changed.
        blocks: Number of trained blocks; 0 freezes the backbone with its final norm, None trains all of it.
    """
    family = family_of(backbone.config)
    _require_gradients(backbone, blocks is None)
    if blocks:
        for module in (*family.blocks(backbone)[-blocks:], family.final_norm(backbone)):
            _require_gradients(module, True)
    for name, parameter in backbone.named_parameters():
        if name.endswith("mask_token"):
            # Not used in a forward pass; DistributedDataParallel raises an error for parameters without gradient.
            parameter.requires_grad_(False)


def _require_gradients(module: nn.Module, required: bool) -> None:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(required)


def frozen_stages(backbone: Any) -> list[nn.Module]:
    """Return the embeddings and the blocks before the first trained one, in order of execution.

    The list is empty if the embeddings are trained, and for a family without a sequence of blocks.
    """
    family = family_of(backbone.config)
    if not family.has_blocks:
        return []
    stages = [family.embeddings(backbone), *family.blocks(backbone)]
    first = next((i for i, stage in enumerate(stages) if any(p.requires_grad for p in stage.parameters())), len(stages))
    return stages[:first]


__all__ = [
    "BACKBONES",
    "BackboneFamily",
    "GenGeoDinov2Embeddings",
    "build_backbone",
    "family_of",
    "frozen_stages",
    "patch_sides",
    "read_tokens",
    "register_backbone",
    "run_backbone",
    "set_trainable",
    "token_width",
    "transformer_blocks",
]
