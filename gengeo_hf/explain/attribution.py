"""Attribution of one image: token mass kept by the head, patch norms, and what each patch adds to the descriptor.

All are arrays on the patch grid of the image; `links`, `clusters` and `figures` use them.
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
    """Attribution of one image by a SALAD model.

    The n = rows x columns patches are in row-major order; m is the number of clusters, l the width of a cluster, D the
    width of the descriptor.

    Args:
        image: The image at its original size, RGB.
        view: "ground" or "aerial".
        grid: Number of rows and of columns of patches.
        norms: float32 (n,), length of each patch's features after the last block and before the final LayerNorm
            (GenGeo, Figure 4; after that LayerNorm, lengths are nearly constant).
        plan: float32 (m, n), share of each patch's mass that is assigned to each cluster, without the dustbin.
        dustbin: float32 (n,), share of each patch's mass that is assigned to the dustbin; zeros for a head without one.
        features: float32 (n, l), local feature of each patch.
        clusters: float32 (m, l), vector of each cluster, of length 1.
        weights: float32 (m, n), weight of each patch's feature in the vector of each cluster:
            `clusters = weights @ features`.
        parts: float32 (n, D), what each patch adds to the descriptor.
        rest: float32 (D,), what the global token and the bias of the projection add to the descriptor.
        descriptor: float32 (D,), of length 1: `parts.sum(0) + rest`.
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
        """Share of each patch's mass that the head keeps, 1 - w (GenGeo, section 5.1): float32 (n,), 0 to 1."""
        kept: np.ndarray = 1 - self.dustbin
        return kept

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Reshape values of patches, (n,), to a map, (rows, columns)."""
        return values.reshape(self.grid)


def attribute(encoder: Encoder, image: Any, view: View) -> Attribution:
    """Run the model once and attribute the descriptor to the patches.

    The descriptor is a sum over patches once the norms that SALAD divides by are known: the vector of cluster j is
    sum_i P_ji h_i divided by its norm, and the projection is linear. So the part of each patch is exact
    (`Attribution.parts`).

    Args:
        encoder: An encoder of a model with a SALAD head, computed by torch.
        image: A path, bytes or a PIL image.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: The model has another head, the encoder has no torch model, or the image cannot be read.
    """
    return attribute_many(encoder, [image], view)[0]


@torch.inference_mode()
def attribute_many(encoder: Encoder, images: list[Any], view: View) -> list[Attribution]:
    """Attribute several images in one forward pass, see `attribute`.

    Args:
        encoder: An encoder of a model with a SALAD head, computed by torch.
        images: Paths, bytes or PIL images.
        view: "ground" or "aerial".

    Raises:
        GenGeoError: The model cannot be explained, or an image cannot be read.
    """
    model, head = _salad(encoder, view)
    pictures = [as_picture(image) for image in images]
    inputs = encoder.processor(pictures, view=view, return_tensors="pt")
    pixels = inputs["pixel_values"].to(encoder.device)
    output = model(pixels, view=view, output_assignment=True, output_hidden_states=True)
    tokens = _patch_tokens(model.backbone_of(view), output)
    features = head.aggregator.cluster_features(tokens).float()
    norms = _features_before_norm(model, output).float().norm(dim=-1)
    found = []
    for row, picture in enumerate(pictures):
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
    """Compute the share of each patch's mass that the head keeps, 1 - w (GenGeo, section 5.1).

    Its mean over an image is close to clusters / patches on any image (`rejected_share` is fixed), so only differences
    within one image are meaningful.

    Args:
        encoder: An encoder of a model with a SALAD head and a dustbin.
        image: A path, bytes or a PIL image.
        view: "ground" or "aerial".

    Returns:
        float32 (patch rows, patch columns), values from 0 to 1.

    Raises:
        GenGeoError: The model has no dustbin, or the image cannot be read.
    """
    require_dustbin(encoder)
    found = attribute(encoder, image, view)
    return found.on_grid(found.kept)


def require_dustbin(encoder: Encoder) -> None:
    """Check that the head of a model has a dustbin.

    Raises:
        GenGeoError: It has none, so it keeps every patch; or the encoder is adapted.
    """
    _require_plain(encoder)
    config = encoder.model.config
    if config.aggregator != "salad" or not config.use_dustbin:
        raise GenGeoError(f"a {config.aggregator} head without dustbin keeps every patch: there is no map to draw")


def _require_plain(encoder: Encoder) -> None:
    """Raise for an adapted encoder: its scores are not sums over the patches of one image."""
    if name := adaptation_name(encoder):
        raise GenGeoError(f"scores with {name} cannot be attributed to patches: use the model without it")


def _salad(encoder: Encoder, view: View) -> tuple[Any, Any]:
    """Return the model and its head for a view.

    Raises:
        GenGeoError: The descriptor of this model and view cannot be attributed to patches.
    """
    _require_plain(encoder)
    model: Any = encoder.model
    if model.config.aerial_keep is not None and view == "aerial":
        raise GenGeoError("this model encodes some patches of a tile (aerial_keep): only photos can be explained")
    if model.config.aggregator != "salad":
        raise GenGeoError(
            f"this model has a {model.config.aggregator} head: only models with a SALAD head can be explained"
        )
    return model, model.heads["shared" if model.config.share_aggregator else view]


def _contributions(
    head: Any, features: torch.Tensor, weights: torch.Tensor, unprojected: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute what each patch (n, D) and everything else (D,) add to the descriptor of length 1.

    Args:
        head: Aggregator and projection.
        features: Local features, (n, l).
        weights: Weights of the features in the cluster vectors, (m, n).
        unprojected: Descriptor before the projection, (g + l m,): the global token first, the cluster index fastest.
    """
    clusters = (weights @ features).T.flatten()
    start = len(unprojected) - len(clusters)
    scale = (unprojected[start:] @ clusters) / (clusters @ clusters)  # of the last L2 normalisation: 1 / sqrt(m + 1)
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
    """The patch tokens that the head reads, after the final LayerNorm: (B, n, C)."""
    from gengeo_hf.model.backbones import read_tokens

    tokens: torch.Tensor = read_tokens(backbone, output)[0]  # without the global token
    return tokens


def _features_before_norm(model: Any, output: Any) -> torch.Tensor:
    """The patch features of the last block, before the final LayerNorm: (B, n, C)."""
    from gengeo_hf.model.backbones import family_of

    return family_of(model.backbone.config).patches_before_norm(model.backbone, output)


def as_picture(image: Any) -> Image.Image:
    """Open a path, bytes or a PIL image as an upright RGB image.

    Raises:
        GenGeoError: The file is missing or damaged.
    """
    picture: Image.Image = load_image(image).convert("RGB") if isinstance(image, Image.Image) else open_image(image)
    return picture


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array
