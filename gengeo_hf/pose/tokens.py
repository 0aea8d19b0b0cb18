"""Patch tokens of a frozen encoder, the input of pose heads.

Encoders need a transformer backbone (DINOv2, DINOv2 with registers, DINOv3). Their last hidden state holds a global
token, register tokens, and then the patch tokens in row-major order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.fingerprint import whole_fingerprint
from gengeo_hf.model.backbones import BACKBONES, family_of, patch_sides, read_tokens

if TYPE_CHECKING:
    from gengeo_hf.encoding.backends.protocol import View
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.model import GenGeoConfig
    from gengeo_hf.pose.head import PoseHead


def check_tokens(encoder: Encoder) -> None:
    """Check that an encoder has patch tokens of both views.

    Raises:
        GenGeoError: The encoder runs exported graphs, has a backbone without patch tokens or one for each view, or
            encodes only some patches of tiles.
    """
    model: Any = getattr(encoder, "model", None)
    if model is None:
        raise GenGeoError(
            "pose needs patch tokens, and exported graphs compute only descriptors: "
            "use --backend torch with the checkpoint"
        )
    check_config(model.config)


def check_config(config: GenGeoConfig) -> None:
    """Check that models of a configuration have all patch tokens of both views, in one space.

    Raises:
        GenGeoError: The backbone has no patch tokens, each view has its own, or only some patches of tiles are encoded.
    """
    if not config.share_backbone or config.aerial_keep is not None:
        raise GenGeoError(
            "pose compares the patch tokens of both views, and this model has one backbone per view or encodes some of "
            "a tile's patches: use a model with one backbone for both"
        )
    backbone: Any = config.backbone_config
    model_type = backbone.model_type
    if not family_of(backbone).has_blocks:
        raise GenGeoError(
            f"pose needs patch tokens, and a {model_type} backbone has none: expected one of "
            f"{', '.join(name for name, family in BACKBONES.items() if family.has_blocks)}"
        )


def encoder_fingerprint(encoder: Encoder) -> str:
    """Fingerprint of the encoder without truncation and adaptation of its descriptors."""
    if encoder.truncate_dim is None:
        return encoder.source.fingerprint()
    return whole_fingerprint(encoder.model, encoder.processor)


def check_head(head: PoseHead, encoder: Encoder) -> None:
    """Check that a head was fitted on the tokens of an encoder.

    Raises:
        GenGeoError: The fingerprints differ, or the encoder has no patch tokens.
    """
    check_tokens(encoder)
    ours = encoder_fingerprint(encoder)
    if head.config.encoder != ours:
        raise GenGeoError(
            f"the pose head was fitted on another encoder ({head.config.encoder[:12] or 'unknown'}, this one is "
            f"{ours[:12]}): fit one for it with gengeo pose fit"
        )


def grid_of(encoder: Encoder, height: int, width: int) -> tuple[int, int]:
    """Number of rows and columns of patches of an image of height x width pixels."""
    high, wide = patch_sides(encoder.model.config.backbone_config)
    return height // high, width // wide


@torch.inference_mode()
def patch_tokens(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Compute patch tokens after the final norm of the backbone.

    Args:
        encoder: Encoder with patch tokens, see `check_tokens`.
        pixels: float (N, 3, H, W) normalised pixel values.

    Returns:
        float32 (N, rows, columns, D) on the encoder's device.
    """
    model: Any = encoder.model
    tokens, _ = read_tokens(model.backbone, model.backbone(pixels.to(encoder.device, model.dtype)))
    return tokens.float().unflatten(1, grid_of(encoder, *pixels.shape[-2:]))


@torch.inference_mode()
def tokens_and_descriptors(encoder: Encoder, pixels: torch.Tensor, view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute patch tokens and descriptors of a batch in one pass.

    Returns:
        Tokens as in `patch_tokens`, and unit descriptors, float32 (N, dim).

    Raises:
        ValueError: The model's aggregator cannot take images of this size.
    """
    model: Any = encoder.model
    output = model(pixels.to(encoder.device, model.dtype), view=view)
    rows, columns = grid_of(encoder, *pixels.shape[-2:])
    patches = output.last_hidden_state[:, -rows * columns :]  # the global and register tokens come first
    return patches.float().unflatten(1, (rows, columns)), output.pooler_output.float()


def normalised(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Normalise uint8 images (N, 3, H, W) that already have the size of their view."""
    settings: Any = encoder.processor
    mean = torch.tensor(settings.image_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(settings.image_std, device=pixels.device)[:, None, None]
    return (pixels.float() * settings.rescale_factor - mean) / std
