# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""What `GenGeoModel.from_pretrained` does with the weights of a checkpoint: names, second backbones, completeness.

This file travels with published checkpoints, so it imports only torch, transformers and its siblings.
"""

from typing import Any

import torch
from transformers import PreTrainedConfig

from .backbones import BACKBONES, family_of

# What a backbone's checkpoint may hold beside the backbone.
_OTHER_TASKS = (
    "classifier.",
    "cls_classifier.",
    "distillation_classifier.",
    "pooler.",
    "head.",
    "decode_head.",
    "decoder.",
    "hidden_states_norms.",
)


def stored_config(name: Any, kwargs: Any) -> dict[str, Any]:
    """The config.json of a checkpoint."""
    where = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    stored, _ = PreTrainedConfig.get_config_dict(name, **{key: kwargs[key] for key in where if key in kwargs})
    return dict(stored)


def backbone_names(stored: dict[str, Any]) -> dict[str, str]:
    """The renaming of weights of another model with the backbone: one for a task, or a backbone class."""
    from transformers import AutoConfig, AutoModel

    if stored["model_type"] not in BACKBONES:  # refused when the config is read, with the types that are known
        return {}
    config = AutoConfig.for_model(**stored)
    kind: Any = AutoModel._model_mapping[type(config)]
    prefix = kind.base_model_prefix
    # "model." is a part of DINOv3's own names.
    names = {} if prefix in ("", "model") else {rf"^{prefix}\.": "backbone."}
    return names | family_of(config).renamed_weights(config)


def check_complete(model: Any, info: Any, name: Any, is_new: bool, may_differ: bool) -> None:
    """Refuse a checkpoint whose weights do not fill the model.

    Raises:
        ValueError: A weight is missing, unknown, of another shape or not finite; the message names the first one.
    """
    found = info if isinstance(info, dict) else vars(info)
    for key, stored, expected in () if may_differ else sorted(found["mismatched_keys"]):
        raise ValueError(
            f"the checkpoint {name} has {key} of shape {tuple(stored)}, and its config.json or the arguments ask for "
            f"{tuple(expected)}: give the config that these weights were saved with"
        )
    new = ("heads.", "logit_scale") if is_new else ()
    lacking = set(found["missing_keys"]) - {key for key, _, _ in found["mismatched_keys"]}
    missing = sorted(key for key in lacking if not key.startswith(new) or not new)
    extra = sorted(key for key in found["unexpected_keys"] if not (is_new and key.startswith(_OTHER_TASKS)))
    advice = "fetch or save the checkpoint again; in Python, allow_missing=True "
    filling = f"{advice}fills it with random weights"
    norms = any(key.startswith("hidden_states_norms.") for key in found["unexpected_keys"])
    if norms and missing == ["backbone.layernorm.bias", "backbone.layernorm.weight"]:
        filling = "it has norms of other stages only; save the backbone with the last stage in out_features"
    for what, keys, then in (
        ("lacks", missing, filling),
        ("has the unknown weight", extra, f"{advice}ignores unknown weights"),
    ):
        if keys:
            raise ValueError(f"the checkpoint {name} {what} {keys[0]} ({len(keys)} in all): {then}")
    for key, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta and not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"the checkpoint {name} is damaged: {key} holds values that are not finite numbers")


def copy_backbones(model: Any, info: Any) -> None:
    """Fill a second backbone that a checkpoint lacks as a whole, and take its weights off the list of missing ones."""
    found = info if isinstance(info, dict) else vars(info)
    missing = set(found["missing_keys"])
    for name, source in (("aerial_backbone", model.backbone), ("guide", model.backbone_of("aerial"))):
        own = {f"{name}.{key}" for key in getattr(model, name).state_dict()} if hasattr(model, name) else set()
        if own and missing >= own:
            getattr(model, name).load_state_dict(source.state_dict())
            missing -= own
    found["missing_keys"] = type(found["missing_keys"])(missing)
