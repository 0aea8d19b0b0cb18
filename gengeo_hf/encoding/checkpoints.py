"""Loads the parts of an `Encoder`: model or exported graphs, preprocessing, training record."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST, ExportedGraphs, find_export
from gengeo_hf.encoding.backends.protocol import FEW
from gengeo_hf.encoding.preprocessing import FileProcessor

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

EXPORT_REASON = "CPU: onnx float32, the export of these weights, which starts without torch"
TRAINING_RECORD = "gengeo_training.json"


def load_parts(
    name: str | Path, backend: str, compute_dtype: str | None, **kwargs: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """Load a model or exported graphs, with preprocessing and training record.

    Args:
        name: Checkpoint directory or Hub id.
        backend, compute_dtype: As in `Encoder`.
        kwargs: Arguments of `GenGeoModel.from_pretrained`; for an export `revision`, `token` and `cache_dir`.
    """
    if compute_dtype == "int8" and backend in ("onnx", "openvino"):
        return load_export(name, f"{backend}_int8", **kwargs)
    return load_export(name, **kwargs) if backend == "onnx" else load_checkpoint(name, **kwargs)


def load_checkpoint(name: str | Path, **kwargs: Any) -> tuple[GenGeoModel, GenGeoImageProcessor, dict[str, Any]]:
    """Load model, preprocessing and training record of a checkpoint directory or Hub id."""
    from transformers import AutoConfig

    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise GenGeoError(f"{name} is a directory without config.json; give the directory of a GenGeo checkpoint")
    # The same revision for all three: preprocessing of another one would silently change descriptors.
    where = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
    try:
        # Never run code of a repository, and never ask on the terminal.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
    except Exception as error:  # a damaged file may raise any exception
        raise GenGeoError(f"no GenGeo checkpoint at {name}: {first_line(error)}") from error
    if config.model_type != "gengeo":
        raise GenGeoError(
            f"{name} holds a {config.model_type!r} model, not a GenGeo checkpoint; "
            "a DINOv2 checkpoint must be trained first (see training/train.py)"
        )
    try:
        model = GenGeoModel.from_pretrained(name, **kwargs)
        processor = GenGeoImageProcessor.from_pretrained(name, **where)
    except Exception as error:  # a damaged file may raise any exception
        why = " ".join(str(error).split()) or type(error).__name__
        if why.startswith("the checkpoint") or "unexpected keyword argument" in why:
            raise GenGeoError(why) from error  # the message is complete
        raise GenGeoError(f"the checkpoint {name} cannot be read ({why:.300}); fetch or save it again") from error
    return model, processor, training_record(name, **where)


def load_export(
    name: str | Path, folder: str = FOLDER, **where: Any
) -> tuple[ExportedGraphs, FileProcessor, dict[str, Any]]:
    """Load graphs, preprocessing and training record of an export.

    Args:
        name: Checkpoint directory or Hub id.
        folder: Name of the directory of the export.
        where: `revision`, `token` and `cache_dir` for the Hub.
    """
    graphs, processor, home = find_export(name, folder, **where)
    return graphs, processor, training_record(home)


def is_worth_export(name: str | Path, compute_dtype: str | None, images: int | None) -> bool:
    """Whether a few images should be encoded with the ONNX export of a checkpoint instead of the model.

    Args:
        name: Checkpoint directory.
        compute_dtype: Requested precision; the export computes in float32.
        images: Number of images that will be encoded; None if unknown.

    Returns:
        Also False if the export was made from other weights, or onnxruntime is not installed.
    """
    if images is None or images >= FEW or compute_dtype not in (None, "auto", "float32"):
        return False
    if not (Path(name) / FOLDER / MANIFEST).is_file() or importlib.util.find_spec("onnxruntime") is None:
        return False
    try:
        return find_export(name)[0].belongs_to_weights()
    except GenGeoError:
        return False  # the export is damaged: use the weights


def training_record(name: str | Path, revision: str | None = None, **where: Any) -> dict[str, Any]:
    """Load the training record of a checkpoint; empty if there is none.

    Args:
        name: Checkpoint directory or Hub id.
        revision: Branch, tag or commit on the Hub.
        where: `token`, `cache_dir` and `subfolder`, as for the weights.

    Raises:
        GenGeoError: The file exists and is not a training record.
    """
    if Path(name).is_dir():
        own = Path(name) / where.get("subfolder", "") / TRAINING_RECORD
        path = own if own.is_file() else None
    else:
        from transformers.utils import cached_file

        path = cached_file(
            str(name),
            TRAINING_RECORD,
            revision=revision,
            **where,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    try:
        return {} if path is None else dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise GenGeoError(f"{path} is not a training record ({error}); fetch or save the checkpoint again") from error


def caveat_of(record: Mapping[str, Any]) -> str:
    """Warning about the answers of a model with this training record; empty if there is none."""
    if not record:
        return (
            "unknown training data: this checkpoint has no training record, and its weights may be random; evaluate "
            "the model before you use its answers"
        )
    if record.get("synthetic"):
        return (
            f"this model was trained on the synthetic {record.get('trained_on', 'world')} only, not on real "
            "photos: its answers for real photos are meaningless"
        )
    return ""
