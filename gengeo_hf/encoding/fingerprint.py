"""One short string for everything that decides a descriptor: weights, architecture, preprocessing.

The fingerprint of a model and its image processor is a SHA-256. It is stored with each index, so that descriptors of
two models are never compared by mistake.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

# What may differ between two configs that give the same descriptors: initialisation, training and book-keeping.
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
# Settings that came later, with what they are where nothing is said: left out then, so that fingerprints of stored
# indexes stay.
LATER = {
    "share_backbone": True,
    "token_counts": None,
    "layout_layers": 2,
    "layout_heads": 4,
    "aerial_keep": None,
    "guide_size": None,
}
# Parameters that no descriptor depends on.
UNUSED_WEIGHTS = ("logit_scale", "mask_token")


def _relevant(config: dict[str, Any]) -> dict[str, Any]:
    usual = object()
    kept = {key: value for key, value in config.items() if key not in IRRELEVANT and LATER.get(key, usual) != value}
    return {key: _relevant(value) if isinstance(value, dict) else value for key, value in kept.items()}


def preprocessing(processor: "GenGeoImageProcessor") -> dict[str, Any]:
    """What of an image processor's settings decides the descriptors."""
    settings = processor.to_dict()
    found = {key: settings.get(key) for key in PREPROCESSING}
    changed = settings.get("view_transforms")  # left out where there is none: fingerprints of stored indexes stay
    return found | ({"view_transforms": changed} if changed else {})


def fingerprint(model: "GenGeoModel", processor: "GenGeoImageProcessor") -> str:
    """SHA-256, in hex, of what decides the descriptors.

    The same on any device. Weights in another precision give another fingerprint. A model that truncates its
    descriptors (`truncate_dim`) has that of the whole model with the width mixed in, see `truncated`.

    Args:
        model: A GenGeo model whose weights are in memory.
        processor: The image processor that prepares its input. Its default `view` does not count.

    Raises:
        GenGeoError: Weights are not in memory (the model is offloaded or was made on the meta device).
    """
    return truncated(whole_fingerprint(model, processor), model.config.truncate_dim)


def whole_fingerprint(model: "GenGeoModel", processor: "GenGeoImageProcessor") -> str:
    """Like `fingerprint`, of whole descriptors even where the model truncates them.

    Raises:
        GenGeoError: A tensor is not in memory, as after offloading.
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
    """The fingerprint of a model that sees images at `scale` times its own sizes, from that of the model."""
    return fingerprint if scale == 1 else hashlib.sha256(f"{fingerprint} input scale {scale:g}".encode()).hexdigest()


def truncated(whole: str, width: int | None) -> str:
    """The fingerprint of a model whose descriptors are truncated to `width` values, from that of the whole model.

    With it an ONNX file, which does not hold the weights in the form that is hashed, can be truncated as well.
    """
    return whole if width is None else hashlib.sha256(f"{whole} first {width}".encode()).hexdigest()
