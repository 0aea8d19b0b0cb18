"""Conversion of published weights of DINOv2 (torch hub), SALAD, MegaLoc, Sample4Geo and P-BEV to GenGeo's format.

The source is a state dict (.pth, .ckpt, .safetensors); the result is a directory for `GenGeoModel.from_pretrained`.
Source files cannot run code: `.pth` and `.ckpt` are read with `weights_only=True`.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Resampling

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, check_replaceable
from gengeo_hf.common.transfer import first_line

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

# Original DINOv2 names (torch hub) on the left, names inside transformers' Dinov2Model on the right.
DINOV2_NAMES = (
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"(cls_token|mask_token|register_tokens)", r"embeddings.\1"),
    (r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embeddings.projection.\1"),
    (r"blocks\.(\d+)\.(norm[12])\.(weight|bias)", r"encoder.layer.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"encoder.layer.\1.attention.o_proj.\2"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"encoder.layer.\1.mlp.\2.\3"),
    (r"blocks\.(\d+)\.mlp\.w3\.(weight|bias)", r"encoder.layer.\1.mlp.down_proj.\2"),
    (r"norm\.(weight|bias)", r"layernorm.\1"),
)
# Fused matrices: their rows are split into equal parts with these names.
DINOV2_FUSED = (
    (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"encoder.layer.\1.attention.{}_proj.\2", ("q", "k", "v")),
    (r"blocks\.(\d+)\.mlp\.w12\.(weight|bias)", r"encoder.layer.\1.mlp.{}_proj.\2", ("gate", "up")),
)
# timm's ConvNeXt on the left, transformers' ConvNextModel on the right.
CONVNEXT_NAMES = (
    (r"stem\.0\.(weight|bias)", r"embeddings.patch_embeddings.\1"),
    (r"stem\.1\.(weight|bias)", r"embeddings.layernorm.\1"),
    (r"stages\.(\d+)\.downsample\.(\d+)\.(weight|bias)", r"encoder.stages.\1.downsampling_layer.\2.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.(weight|bias)", r"encoder.stages.\1.layers.\2.dwconv.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.norm\.(weight|bias)", r"encoder.stages.\1.layers.\2.layernorm.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.(weight|bias)", r"encoder.stages.\1.layers.\2.pwconv\3.\4"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.gamma", r"encoder.stages.\1.layers.\2.layer_scale_parameter"),
    (r"head\.norm\.(weight|bias)", r"layernorm.\1"),
)
HEAD_WIDTH = 64  # channels of one attention head, in every DINOv2


def read_tensors(path: str | Path) -> "Tensors":
    """Read a state dict, also if it is nested under the keys `state_dict` or `model`, as in Lightning files.

    Args:
        path: Path of a .pth, .ckpt or .safetensors file.

    Returns:
        Tensors by name.

    Raises:
        GenGeoError: The file is missing or damaged, or contains other objects than tensors and plain values.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise GenGeoError(f"{path} is not a file: give the path of the checkpoint file")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise GenGeoError(f"{path} cannot be read as tensors alone: {first_line(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if torch.is_tensor(v)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise GenGeoError(f"{path} holds no tensors: expected a state dict")
    return tensors


def rename(tensors: "Tensors", names: tuple[tuple[str, str], ...]) -> tuple["Tensors", list[str]]:
    """Rename tensors by patterns.

    Args:
        tensors: Tensors by name.
        names: (pattern, replacement) pairs; a pattern must match the whole name.

    Returns:
        The renamed tensors, and the names that no pattern matches.
    """
    renamed, unknown = {}, []
    for name, tensor in tensors.items():
        for pattern, replacement in names:
            match = re.fullmatch(pattern, name)
            if match:
                renamed[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(name)
    return renamed, unknown


def rename_dinov2(tensors: "Tensors") -> tuple["Tensors", list[str]]:
    """Rename tensors of a DINOv2 of torch hub to the names of transformers, and split fused matrices.

    Args:
        tensors: Tensors of the state dict by name.

    Returns:
        The renamed tensors, and the unknown names. A fused qkv (3 C, C) becomes three matrices (C, C).
    """
    renamed, left = rename(tensors, DINOV2_NAMES)
    unknown = []
    for name in left:
        for pattern, replacement, parts in DINOV2_FUSED:
            match = re.fullmatch(pattern, name)
            if match:
                for part, rows in zip(parts, tensors[name].chunk(len(parts)), strict=True):
                    renamed[match.expand(replacement).format(part)] = rows.clone()
                break
        else:
            unknown.append(name)
    return renamed, unknown


def dinov2_settings(tensors: "Tensors") -> dict[str, Any]:
    """Derive the configuration of the backbone from the shapes of a DINOv2 state dict of torch hub.

    Args:
        tensors: Tensors of the state dict by name.

    Returns:
        Arguments of the backbone's configuration.

    Raises:
        GenGeoError: A tensor that every DINOv2 has is missing, or has another number of axes.
    """
    gated = "blocks.0.mlp.w12.weight" in tensors
    mlp = "blocks.0.mlp.w12.weight" if gated else "blocks.0.mlp.fc1.weight"
    sides = {"pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.attn.qkv.weight": 2, mlp: 2, "norm.weight": 1}
    for name, count in sides.items():
        if name not in tensors:
            raise GenGeoError(f"this is not a DINOv2 state dict: {name} is missing")
        if tensors[name].ndim != count:
            raise GenGeoError(
                f"this is not a DINOv2 state dict: {name} has {tensors[name].ndim} axes, expected {count}"
            )
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    settings: dict[str, Any] = {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "mlp_ratio": 4 if gated else tensors[mlp].shape[0] // width,
        "use_swiglu_ffn": gated,
        "patch_size": patch,
        "image_size": patch * round((tensors["pos_embed"].shape[1] - 1) ** 0.5),
        "num_channels": channels,
    }
    if "register_tokens" in tensors:
        settings |= {"model_type": "dinov2_with_registers", "num_register_tokens": tensors["register_tokens"].shape[1]}
    return settings


def fill(module: Any, tensors: "Tensors", unknown: list[str], optional: tuple[str, ...] = ()) -> None:
    """Load tensors into a module; names and shapes must match exactly.

    Args:
        module: Module to load the tensors into.
        tensors: Tensors by their names in the module.
        unknown: Names in the source that could not be renamed; any of them is an error.
        optional: Endings of names that may be missing from `tensors`.

    Raises:
        GenGeoError: A name is unknown or missing, or a shape is wrong; the message has the first one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = module.state_dict()
    missing = [name for name in expected if name not in tensors and not name.endswith(optional)]
    extra = unknown + [name for name in tensors if name not in expected]
    for what, names in (("misses", missing), ("has the unknown", extra)):
        if names:
            raise GenGeoError(
                f"the checkpoint {what} {names[0]} ({len(names)} in total): is it a checkpoint of the given kind?"
            )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            found, needed = tuple(tensor.shape), tuple(expected[name].shape)
            raise GenGeoError(f"{name} has the shape {found}, expected {needed}: is it a checkpoint of the given kind?")
    module.load_state_dict(tensors, strict=False)


def _under(tensors: "Tensors", *prefixes: str) -> "Tensors":
    """Tensors whose names start with the first prefix that occurs, by the rest of their names."""
    for prefix in prefixes:
        found = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        if found:
            return found
    return {}


def convert_dinov2(tensors: "Tensors") -> tuple[Any, None]:
    """Convert a DINOv2 of torch hub (plain, with registers, giant) to the backbone of transformers.

    Args:
        tensors: Tensors of the checkpoint by name.

    Returns:
        The backbone, and None, because it has no image processor.

    Raises:
        GenGeoError: A tensor is missing, unknown or has another shape.
    """
    from transformers import AutoConfig, AutoModel

    settings = dinov2_settings(tensors)
    backbone = AutoModel.from_config(AutoConfig.for_model(**settings))
    fill(backbone, *rename_dinov2(tensors))
    return backbone.eval(), None


def _salad_model(backbone: "Tensors", head: "Tensors", linear: "Tensors", side: int) -> tuple[Any, Any]:
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    needed = ("score.3.bias", "cluster_features.3.bias", "token_features.2.bias", "score.0.bias")
    if missing := [name for name in needed if name not in head]:
        raise GenGeoError(
            f"the checkpoint misses {missing[0]} of the SALAD head: is it a checkpoint of the given kind?"
        )
    clusters, cluster_dim, token_dim, hidden = (head[name].shape[0] for name in needed)
    config = GenGeoConfig(
        backbone_config=dinov2_settings(backbone),
        num_clusters=clusters,
        cluster_dim=cluster_dim,
        token_dim=token_dim,
        head_hidden_dim=hidden,
        descriptor_dim=linear["weight"].shape[0] if linear else None,
    )
    model = GenGeoModel(config).eval()
    fill(model.backbone, *rename_dinov2(backbone), optional=("mask_token",))
    # A 1x1 convolution over the token map is a linear layer on each token.
    salad = {name: t.flatten(1) if t.ndim == 4 else t for name, t in head.items()}
    fill(model.heads["shared"].aggregator, salad, [])
    if linear:
        fill(model.heads["shared"].projection, linear, [])
    size = {"height": side, "width": side}
    # Published evaluations resize images bilinearly; the default of the processor is bicubic.
    return model, GenGeoImageProcessor(view_sizes={"ground": size, "aerial": size}, resample=Resampling.BILINEAR)


def convert_dino_salad(tensors: "Tensors") -> tuple[Any, Any]:
    """Convert DINOv2-SALAD: descriptors of token_dim + clusters x cluster_dim values, images of 322 x 322 pixels.

    Args:
        tensors: Tensors of the checkpoint by name.

    Returns:
        The model and its image processor.

    Raises:
        GenGeoError: A tensor is missing, unknown or has another shape.
    """
    head = _under(tensors, "aggregator.")
    return _salad_model(_under(tensors, "backbone.model.", "backbone."), head, {}, side=322)


def convert_megaloc(tensors: "Tensors") -> tuple[Any, Any]:
    """Convert MegaLoc: SALAD with a linear projection, images of 322 x 322 pixels.

    Args:
        tensors: Tensors of the checkpoint by name.

    Returns:
        The model and its image processor.

    Raises:
        GenGeoError: A tensor is missing, unknown or has another shape.
    """
    head, linear = _under(tensors, "aggregator.agg."), _under(tensors, "aggregator.linear.")
    if "weight" not in linear:
        raise GenGeoError("the checkpoint misses aggregator.linear.weight: is it a checkpoint of the given kind?")
    return _salad_model(_under(tensors, "backbone.model.", "backbone."), head, linear, side=322)


def convert_sample4geo(tensors: "Tensors") -> tuple[Any, Any]:
    """Convert the ConvNeXt of Sample4Geo with timm's names (with or without the prefix `model.`) and its logit scale.

    Args:
        tensors: Tensors of the checkpoint by name; the logit scale may be missing.

    Returns:
        The model and its image processor.

    Raises:
        GenGeoError: The state dict is not a ConvNeXt of timm, or a tensor is missing or unknown.
    """
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    backbone = _under(tensors, "model.") or {k: v for k, v in tensors.items() if k != "logit_scale"}
    # The ImageNet classifier, if the file has it, is not a part of the descriptor.
    backbone = {name: t for name, t in backbone.items() if not name.startswith("head.fc.")}
    renamed, unknown = rename(backbone, CONVNEXT_NAMES)
    stages = sorted({int(name.split(".")[1]) for name in backbone if name.startswith("stages.")})
    depths = [len({n.split(".")[3] for n in backbone if n.startswith(f"stages.{s}.blocks.")}) for s in stages]
    first = [f"stages.{s}.blocks.0.conv_dw.weight" for s in stages]
    widths = [backbone[name].shape[0] for name in first if name in backbone]
    if not widths:
        raise GenGeoError("this is not a ConvNeXt state dict of timm: stages.0.blocks.0.conv_dw.weight is missing")
    config = GenGeoConfig(
        backbone_config={
            "model_type": "convnext",
            "num_stages": len(stages),
            "depths": depths,
            "hidden_sizes": widths,
            "layer_norm_eps": 1e-6,
        },
        aggregator="cls",
        descriptor_dim=None,
        trainable_blocks=None,
    )
    model = GenGeoModel(config).eval()
    fill(model.backbone, renamed, unknown)
    if "logit_scale" in tensors:
        model.logit_scale.data.copy_(tensors["logit_scale"].reshape(()))
    sizes = {"ground": {"height": 140, "width": 768}, "aerial": {"height": 384, "width": 384}}
    return model, GenGeoImageProcessor(view_sizes=sizes, resample=Resampling.BILINEAR)  # as in Sample4Geo


def convert_pbev_bev(tensors: "Tensors") -> tuple[Any, Any]:
    """Convert P-BEV's model of bird's-eye views of CVACT: the network of Sample4Geo on projected panoramas.

    Args:
        tensors: Tensors of the checkpoint by name.

    Returns:
        The model and its image processor, which projects panoramas to bird's-eye views.

    Raises:
        GenGeoError: The state dict is not a ConvNeXt of timm, or a tensor is missing or unknown.
    """
    from gengeo_hf.model import GenGeoImageProcessor

    model, _ = convert_sample4geo(tensors)
    size = {"height": 384, "width": 384}
    views = {"ground": "bev:512:0.06:1.5"}  # parameters of P-BEV for CVACT
    processor = GenGeoImageProcessor(
        view_sizes={"ground": size, "aerial": size}, view_transforms=views, resample=Resampling.BILINEAR
    )
    return model, processor


CONVERTERS: dict[str, Callable[["Tensors"], tuple[Any, Any]]] = {
    "dinov2": convert_dinov2,
    "dino-salad": convert_dino_salad,
    "megaloc": convert_megaloc,
    "sample4geo": convert_sample4geo,
    "pbev-bev": convert_pbev_bev,
}


def convert(kind: str, source: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Convert a published checkpoint file to a directory in Hub format.

    Args:
        kind: "dinov2" (a backbone alone, to train from), "dino-salad", "megaloc", "sample4geo" or "pbev-bev".
        source: Path of a file with a state dict.
        out: Directory to write, completely or not at all.
        overwrite: Whether to replace the result of an earlier conversion.

    Returns:
        Path of the written directory.

    Raises:
        GenGeoError: The kind is unknown, the file is not of this kind, `out` has other contents, or `out` is an earlier
            result and `overwrite` is False.
    """
    if kind not in CONVERTERS:
        raise GenGeoError(f"unknown kind {kind!r}: expected one of {', '.join(CONVERTERS)}")
    check_replaceable(out, "conversion", overwrite)
    model, processor = CONVERTERS[kind](read_tensors(source))
    with atomic_folder(out, "conversion") as folder:
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
    return Path(out)
