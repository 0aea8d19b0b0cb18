"""What trials of backends chose on this machine, kept between starts.

A choice is looked up by the processor and its instructions, the number of threads, the versions of the engines, what
was asked for, and the fingerprint of the model: when one of them changes there is a new trial. The file is small JSON
in the user's cache; `GENGEO_TRIALS` names another file, or `off`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from gengeo_hf.common.files import digest_of, write_json

ENGINES = ("gengeo_hf", "torch", "openvino", "onnxruntime")
MOST = 200  # choices that are kept


def trials_file() -> Path | None:
    """Where choices are kept; None where they are not."""
    asked = os.environ.get("GENGEO_TRIALS", "")
    if asked == "off":
        return None
    return Path(asked) if asked else Path.home() / ".cache" / "gengeo_hf" / "trials.json"


def trial_key(**facts: Any) -> str:
    """SHA-256 of what a choice depends on: the machine, the engines, and what the caller adds."""
    import torch

    versions = {}
    for name in ENGINES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    able = {key: value for key, value in torch.cpu.get_capabilities().items() if isinstance(value, str | bool | int)}
    machine = {"processor": platform.processor(), "able": able, "threads": torch.get_num_threads()}
    return digest_of({"machine": machine, "versions": versions, **facts})


def remembered(key: str) -> dict[str, str] | None:
    """`name` and `reason` of an earlier choice, None where there is none that can be read."""
    found = _read().get(key)
    is_choice = isinstance(found, dict) and all(isinstance(found.get(field), str) for field in ("name", "reason"))
    return found if is_choice else None


def remember(key: str, name: str, reason: str) -> None:
    """Keep a choice; a disk that cannot be written costs only the next trial."""
    path = trials_file()
    if path is None:
        return
    kept = {old: value for old, value in _read().items() if old != key}
    kept = dict([*kept.items()][-(MOST - 1) :])
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kept | {key: {"name": name, "reason": reason}})


def _read() -> dict[str, Any]:
    path = trials_file()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
