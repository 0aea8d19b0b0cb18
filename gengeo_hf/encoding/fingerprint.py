"""Fingerprint of a model: SHA-256 of weights, architecture and preprocessing, which determine a descriptor.

It is stored with each index, so that descriptors of different models are not compared.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

# Settings that do not change descriptors: initialisation, training and metadata.
IRRELEVANT = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "chunk_size_feed_forward",
    "custom_pipelines",
    "dtype",
    "head_dropout",
    "initializer_range",
    "label_smoothing",
    "layerscale_value",
    "logit_scale_init_value",
    "matryoshka_dims",
    "output_attentions",
    "output_hidden_states",
    "position_init_std",
    "return_dict",
    "trainable_blocks",
    "transformers_version",
    "ground_camera",
    "ground_vertical_fov",
}
PREPROCESSING = (
    "view_sizes",
    "size",
    "resample",
    "do_resize",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
)
# Settings of later versions with their defaults. A default is left out, so that fingerprints in stored indexes do not
# change.
LATER = {
    "share_backbone": True,
    "token_counts": None,
    "layout_layers": 2,
    "layout_heads": 4,
    "aerial_keep": None,
    "guide_size": None,
}
# Parameters that do not change descriptors.
UNUSED_WEIGHTS = ("logit_scale", "mask_token")


def _relevant(config: dict[str, Any]) -> dict[str, Any]:
    usual = object()
    kept = {key: value for key, value in config.items() if key not in IRRELEVANT and LATER.get(key, usual) != value}
    return {key: _relevant(value) if isinstance(value, dict) else value for key, value in kept.items()}


def preprocessing(processor: "GenGeoImageProcessor") -> dict[str, Any]:
    """Settings of an image processor that change descriptors."""
    settings = processor.to_dict()
    found = {key: settings.get(key) for key in PREPROCESSING}
    changed = settings.get("view_transforms")  # left out if empty, so that fingerprints in stored indexes do not change
    return found | ({"view_transforms": changed} if changed else {})


def fingerprint(model: "GenGeoModel", processor: "GenGeoImageProcessor") -> str:
    """Compute the fingerprint of a model, a SHA-256 in hexadecimal.

    It does not depend on the device, but on the precision of the weights. The fingerprint of a model that truncates its
    descriptors (`truncate_dim`) also depends on their number of values, see `truncated`.

    Args:
        model: GenGeo model whose weights are in memory.
        processor: Image processor of the model. Its default `view` has no effect.

    Raises:
        GenGeoError: Weights are not in memory (offloaded, or on the meta device).
    """
    return truncated(whole_fingerprint(model, processor), model.config.truncate_dim)


def whole_fingerprint(model: "GenGeoModel", processor: "GenGeoImageProcessor") -> str:
    """Compute the fingerprint without the truncation of descriptors.

    Args:
        model, processor: As in `fingerprint`.

    Raises:
        GenGeoError: Weights are not in memory (offloaded, or on the meta device).
    """
    import torch

    digest = hashlib.sha256(b"gengeo-1\n")
    config = _relevant(model.config.to_dict()) | {"truncate_dim": None}
    content = {"config": config, "preprocessing": preprocessing(processor)}
    digest.update(json.dumps(content, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith(UNUSED_WEIGHTS):
            continue
        if tensor.is_meta:
            raise GenGeoError(f"{name} is not in memory: load the model without offloading to take its fingerprint")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def at_input_scale(fingerprint: str, scale: float) -> str:
    """Fingerprint of a model with images of `scale` times its own sizes, from the fingerprint of the model."""
    return fingerprint if scale == 1 else hashlib.sha256(f"{fingerprint} input scale {scale:g}".encode()).hexdigest()


def truncated(whole: str, width: int | None) -> str:
    """Fingerprint of a model whose descriptors are truncated to `width` values, from that without truncation.

    It does not need the weights, so descriptors of an ONNX export can be truncated as well.
    """
    return whole if width is None else hashlib.sha256(f"{whole} first {width}".encode()).hexdigest()
