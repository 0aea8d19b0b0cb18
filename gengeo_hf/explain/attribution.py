"""Attribution of one image: token mass kept by the head, patch norms, and what each patch adds to the descriptor.

Arrays on the patch grid of an image, for `links`, `clusters` and the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import open_image
from gengeo_hf.encoding.adaptation import adaptation_name
from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.encoding.inputs import load_image


@dataclass(frozen=True)
class Attribution:
    """Attribution of one image by a SALAD model. Patches are in row-major order; n = rows x columns, m clusters.

    Args:
        image: the image as it was given, RGB.
        view: "ground" or "aerial".
        grid: rows and columns of patches.
        norms: float32 (n,), length of each patch's features after the last block and before the final LayerNorm
            (GenGeo, Figure 4; after that norm, lengths are nearly constant).
        plan: float32 (m, n), share of each patch that goes to each cluster; the dustbin is left out.
        dustbin: float32 (n,), share of each patch that the dustbin takes; zeros for a head without dustbin.
        features: float32 (n, l), the local feature of each patch.
        clusters: float32 (m, l), the clusters' sums, each of length 1.
        weights: float32 (m, n), how much of each patch's feature is in each cluster's vector:
            `clusters = weights @ features`.
        parts: float32 (n, D), what each patch adds to the descriptor.
        rest: float32 (D,), what the global token and the projection's bias add.
        descriptor: float32 (D,), of length 1. `parts.sum(0) + rest` gives it.
    """

    image: Image.Image
    view: View
    grid: tuple[int, int]
    norms: np.ndarray
    plan: np.ndarray
    dustbin: np.ndarray
    features: np.ndarray
    clusters: np.ndarray
    weights: np.ndarray
    parts: np.ndarray
    rest: np.ndarray
    descriptor: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Share of each patch's mass that reaches the clusters, 1 - w (GenGeo, section 5.1): (n,) in 0..1."""
        kept: np.ndarray = 1 - self.dustbin
        return kept

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Values of patches (n,) as a map (rows, columns)."""
        return values.reshape(self.grid)


def attribute(encoder: Encoder, image: Any, view: View) -> Attribution:
    """Run the model once and attribute the descriptor to the patches.

    The descriptor is a sum over patches once the lengths that SALAD divides by are known: cluster j is
    sum_i P_ji h_i over its length, and the projection is linear. So the share of each patch is exact
    (`Attribution.parts`).

    Args:
        encoder: a model with a SALAD head, run by torch.
        image: a path, bytes or a PIL image.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: another head, an encoder without a torch model, or an image that cannot be read.
    """
    return attribute_many(encoder, [image], view)[0]


@torch.inference_mode()
def attribute_many(encoder: Encoder, images: list[Any], view: View) -> list[Attribution]:
    """Like `attribute`, for a batch of images in one forward pass."""
    model, head = _salad(encoder, view)
    opened = [as_picture(image) for image in images]
    inputs = encoder.processor(opened, view=view, return_tensors="pt")
    pixels = inputs["pixel_values"].to(encoder.device)
    output = model(pixels, view=view, output_assignment=True, output_hidden_states=True)
    tokens = _patch_tokens(model.backbone_of(view), output)
    features = head.aggregator.cluster_features(tokens).float()
    norms = _features_before_norm(model, output).float().norm(dim=-1)
    found = []
    for row, picture in enumerate(opened):
        assignment = output.assignment[row].float()
        plan = assignment[: model.config.num_clusters]
        sums = plan @ features[row]
        weights = plan / sums.norm(dim=1, keepdim=True).clamp(min=1e-12)
        parts, rest = _contributions(head, features[row], weights, output.unprojected[row].float())
        found.append(
            Attribution(
                image=picture,
                view=view,
                grid=output.token_grid,
                norms=_array(norms[row]),
                plan=_array(plan),
                dustbin=_array(assignment[-1] if model.config.use_dustbin else torch.zeros_like(norms[row])),
                features=_array(features[row]),
                clusters=_array(weights @ features[row]),
                weights=_array(weights),
                parts=_array(parts),
                rest=_array(rest),
                descriptor=_array(output.pooler_output[row].float()),
            )
        )
    return found


def kept_map(encoder: Encoder, image: Any, view: View) -> np.ndarray:
    """Share of each patch's mass that reaches the clusters, 1 - w (GenGeo, section 5.1).

    Its mean over an image is close to clusters / patches on any image (`rejected_share` is fixed), so only
    differences within one image carry meaning.

    Args:
        encoder: a model with a SALAD head and a dustbin.
        image: a path or a PIL image.
        view: "ground" or "aerial".

    Returns:
        float32 (patch rows, patch columns), each value in 0..1.

    Raises:
        GenGeoError: the model has no dustbin, or the image cannot be read.
    """
    need_dustbin(encoder)
    found = attribute(encoder, image, view)
    return found.on_grid(found.kept)


def need_dustbin(encoder: Encoder) -> None:
    """Refuse a model whose head has no dustbin.

    Raises:
        GenGeoError: there is none, so every patch is kept whole.
    """
    _need_plain(encoder)
    config = encoder.model.config
    if config.aggregator != "salad" or not config.use_dustbin:
        raise GenGeoError(f"a {config.aggregator} head without dustbin keeps every patch, so there is nothing to draw")


def _need_plain(encoder: Encoder) -> None:
    """Refuse an adapted encoder: its scores are not sums over the patches of one image."""
    if name := adaptation_name(encoder):
        raise GenGeoError(f"scores with {name} cannot be explained by patches: explain with the plain model")


def _salad(encoder: Encoder, view: View) -> tuple[Any, Any]:
    """The model and the head of a view."""
    _need_plain(encoder)
    model: Any = encoder.model
    if model.config.aerial_keep is not None and view == "aerial":
        raise GenGeoError("this model encodes some of a tile's patches (aerial_keep): explain its photos alone")
    if model.config.aggregator != "salad":
        raise GenGeoError(
            f"this model has a {model.config.aggregator} head; only SALAD's assignment of patches can be explained"
        )
    return model, model.heads["shared" if model.config.share_aggregator else view]


def _contributions(
    head: Any, features: torch.Tensor, weights: torch.Tensor, unprojected: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each patch (n, D) and everything else (D,) add to the unit descriptor.

    Args:
        head: aggregator and projection.
        features: (n, l). weights: (m, n). unprojected: (g + l m,), the global part first, clusters running fastest.
    """
    clusters = (weights @ features).T.flatten()
    start = len(unprojected) - len(clusters)
    scale = (unprojected[start:] @ clusters) / (clusters @ clusters)  # the last L2 norm: 1 / sqrt(m + 1)
    joined = (features[:, :, None] * weights.T[:, None, :]).flatten(1) * scale
    if head.projection is None:
        parts = torch.cat((joined.new_zeros(len(joined), start), joined), dim=1)
        rest = torch.cat((unprojected[:start], joined.new_zeros(joined.shape[1])))
    else:
        weight = head.projection.weight.float()
        parts = joined @ weight[:, start:].T
        rest = weight[:, :start] @ unprojected[:start]
        if head.projection.bias is not None:
            rest = rest + head.projection.bias.float()
    parts, rest = parts[:, : head.truncate_dim], rest[: head.truncate_dim]
    length = (parts.sum(0) + rest).norm().clamp(min=1e-12)
    return parts / length, rest / length


def _patch_tokens(backbone: Any, output: Any) -> torch.Tensor:
    """What the head read: (B, n, C), after the final norm."""
    from gengeo_hf.model.backbones import read_tokens

    tokens: torch.Tensor = read_tokens(backbone, output)[0]  # the global token it gives besides is not used
    return tokens


def _features_before_norm(model: Any, output: Any) -> torch.Tensor:
    """The last block's patch features before the final LayerNorm: (B, n, C)."""
    from gengeo_hf.model.backbones import family_of

    return family_of(model.backbone.config).patches_before_norm(model.backbone, output)


def as_picture(image: Any) -> Image.Image:
    """A path, bytes or PIL image as an upright RGB picture.

    Raises:
        GenGeoError: it is missing or broken.
    """
    picture: Image.Image = load_image(image).convert("RGB") if isinstance(image, Image.Image) else open_image(image)
    return picture


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array
