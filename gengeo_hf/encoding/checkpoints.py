"""What an `Encoder` is loaded from: a checkpoint or an ONNX export, with its preprocessing and its training record."""

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
    """What a backend runs (a model, or exported graphs), its preprocessing and the training record.

    Args:
        name: Folder or Hub id.
        backend, compute_dtype: As `Encoder` takes them.
        kwargs: For `GenGeoModel.from_pretrained`, or `revision`, `token` and `cache_dir` of an export.
    """
    if compute_dtype == "int8" and backend in ("onnx", "openvino"):
        return load_export(name, f"{backend}_int8", **kwargs)
    return load_export(name, **kwargs) if backend == "onnx" else load_checkpoint(name, **kwargs)


def load_checkpoint(name: str | Path, **kwargs: Any) -> tuple[GenGeoModel, GenGeoImageProcessor, dict[str, Any]]:
    """Model, preprocessing and training record of a checkpoint folder or Hub id."""
    from transformers import AutoConfig

    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise GenGeoError(f"{name} is a folder without config.json; give the folder of a GenGeo checkpoint")
    # All three from one place: preprocessing of another revision would silently change descriptors.
    where = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "subfolder") if key in kwargs}
    try:
        # Code in a repository is never run, and transformers does not ask on the terminal.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
    except Exception as error:  # a damaged file raises whatever its reader happens to meet
        raise GenGeoError(f"no GenGeo checkpoint at {name}: {first_line(error)}") from error
    if config.model_type != "gengeo":
        raise GenGeoError(
            f"{name} holds a {config.model_type!r} model, not a GenGeo checkpoint; "
            "a bare DINOv2 gives no place descriptor before it is trained (see training/train.py)"
        )
    try:
        model = GenGeoModel.from_pretrained(name, **kwargs)
        processor = GenGeoImageProcessor.from_pretrained(name, **where)
    except Exception as error:  # a damaged file raises whatever its reader happens to meet
        why = " ".join(str(error).split()) or type(error).__name__
        if why.startswith("the checkpoint") or "unexpected keyword argument" in why:
            raise GenGeoError(why) from error  # complete as it is
        raise GenGeoError(f"the checkpoint {name} cannot be read ({why:.300}); fetch or save it again") from error
    return model, processor, training_record(name, **where)


def load_export(
    name: str | Path, folder: str = FOLDER, **where: Any
) -> tuple[ExportedGraphs, FileProcessor, dict[str, Any]]:
    """Graphs, preprocessing and training record of an export.

    Args:
        name: Folder or Hub id.
        folder: Which export of it.
        where: `revision`, `token`, `cache_dir`.
    """
    graphs, processor, home = find_export(name, folder, **where)
    return graphs, processor, training_record(home)


def is_worth_export(name: str | Path, compute_dtype: str | None, images: int | None) -> bool:
    """Whether a few images should go through the ONNX export of a checkpoint folder instead of the model.

    Args:
        name: The folder.
        compute_dtype: Asked for; the export computes in float32.
        images: How many will be encoded, None where that is not known.

    Returns:
        False too where the export was made from other weights, or onnxruntime is not installed.
    """
    if images is None or images >= FEW or compute_dtype not in (None, "auto", "float32"):
        return False
    if not (Path(name) / FOLDER / MANIFEST).is_file() or importlib.util.find_spec("onnxruntime") is None:
        return False
    try:
        return find_export(name)[0].belongs_to_weights()
    except GenGeoError:
        return False  # damaged: the weights serve, and are checked by themselves


def training_record(name: str | Path, revision: str | None = None, **where: Any) -> dict[str, Any]:
    """What training wrote beside a checkpoint, in a folder or on the Hub; empty where there is no such file.

    Args:
        name: The folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        where: `token`, `cache_dir`, `subfolder`, the same as for the weights.

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
    """What a user must know before believing the answers of a model with this training record."""
    if not record:
        return (
            "unknown training data: this checkpoint has no training record, and its weights may even be random; "
            "believe its answers only after an evaluation"
        )
    if record.get("synthetic"):
        return (
            f"this model was trained on the synthetic {record.get('trained_on', 'world')} only and has never seen a "
            "real photo: its answers on real photos mean nothing"
        )
    return ""
