# SPDX-License-Identifier: Apache-2.0
# Part of gengeo_hf. Licence: https://www.apache.org/licenses/LICENSE-2.0
"""Weights of a checkpoint in `GenGeoModel.from_pretrained`: names, second backbones, completeness.

This file is copied into published checkpoints and therefore imports only torch, transformers and its siblings.
"""

from typing import Any

import torch
from transformers import PreTrainedConfig

from .backbones import BACKBONES, family_of

# Prefixes of weights that the checkpoint of a backbone may contain in addition to the backbone.
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
    """Return the config.json of a checkpoint.

    Args:
        name: Directory or Hub id.
        kwargs: Arguments of `from_pretrained`.
    """
    where = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    stored, _ = PreTrainedConfig.get_config_dict(name, **{key: kwargs[key] for key in where if key in kwargs})
    return dict(stored)


def backbone_names(stored: dict[str, Any]) -> dict[str, str]:
    """Return patterns that rename the weights of another model with this backbone, such as an image classifier.

    Args:
        stored: The config.json of the checkpoint.
    """
    from transformers import AutoConfig, AutoModel

    if stored["model_type"] not in BACKBONES:  # `GenGeoConfig.get_config_dict` refuses it later
        return {}
    config = AutoConfig.for_model(**stored)
    kind: Any = AutoModel._model_mapping[type(config)]
    prefix = kind.base_model_prefix
    # "model." is a part of the names of DINOv3.
    names = {} if prefix in ("", "model") else {rf"^{prefix}\.": "backbone."}
    return names | family_of(config).renamed_weights(config)


def check_complete(model: Any, info: Any, name: Any, is_new: bool, may_differ: bool) -> None:
    """Refuse a checkpoint whose weights are not those of the model.

    Args:
        model: Loaded model.
        info: Loading info of transformers.
        name: Directory or Hub id, for messages.
        is_new: Whether the checkpoint is that of a backbone, so that the head is new.
        may_differ: Whether weights of other shapes are allowed.

    Raises:
        ValueError: A weight is missing, unknown, of another shape or not finite; the message names the first one.
    """
    found = info if isinstance(info, dict) else vars(info)
    for key, stored, expected in () if may_differ else sorted(found["mismatched_keys"]):
        raise ValueError(
            f"the checkpoint {name} has {key} of shape {tuple(stored)}, and its config.json or the arguments expect "
            f"{tuple(expected)}: give the config that these weights were saved with"
        )
    new = ("heads.", "logit_scale") if is_new else ()
    lacking = set(found["missing_keys"]) - {key for key, _, _ in found["mismatched_keys"]}
    missing = sorted(key for key in lacking if not key.startswith(new))
    extra = sorted(key for key in found["unexpected_keys"] if not (is_new and key.startswith(_OTHER_TASKS)))
    advice = "fetch or save the checkpoint again; in Python, allow_missing=True "
    filling = f"{advice}fills it with random weights"
    norms = any(key.startswith("hidden_states_norms.") for key in found["unexpected_keys"])
    if norms and missing == ["backbone.layernorm.bias", "backbone.layernorm.weight"]:
        filling = "it has norms only of other stages; save the backbone with the last stage in out_features"
    for what, keys, then in (
        ("lacks", missing, filling),
        ("has the unknown weight", extra, f"{advice}ignores unknown weights"),
    ):
        if keys:
            raise ValueError(f"the checkpoint {name} {what} {keys[0]} ({len(keys)} in all): {then}")
    for key, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta and not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"the checkpoint {name} is damaged: {key} contains values that are not finite numbers")


def copy_backbones(model: Any, info: Any) -> None:
    """Copy the first backbone to a second one that is not in the checkpoint, and update the missing keys.

    Args:
        model: Loaded model.
        info: Loading info of transformers, changed in place.
    """
    found = info if isinstance(info, dict) else vars(info)
    missing = set(found["missing_keys"])
    for name, source in (("aerial_backbone", model.backbone), ("guide", model.backbone_of("aerial"))):
        own = {f"{name}.{key}" for key in getattr(model, name).state_dict()} if hasattr(model, name) else set()
        if own and missing >= own:
            getattr(model, name).load_state_dict(source.state_dict())
            missing -= own
    found["missing_keys"] = type(found["missing_keys"])(missing)
