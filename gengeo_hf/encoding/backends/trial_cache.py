"""Cache of the choices of backend trials on this machine.

The key of a choice depends on the processor and its instructions, the number of threads, the versions of the engines,
the requested options, and the fingerprint of the model: a change of any of them leads to a new trial. The cache is a
small JSON file in the user's cache directory; the environment variable `GENGEO_TRIALS` sets another file, or `off`.
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
MOST = 200  # maximum number of stored choices


def trials_file() -> Path | None:
    """Path of the cache; None if it is off."""
    setting = os.environ.get("GENGEO_TRIALS", "")
    if setting == "off":
        return None
    return Path(setting) if setting else Path.home() / ".cache" / "gengeo_hf" / "trials.json"


def trial_key(**facts: Any) -> str:
    """SHA-256 of the machine, the engines and other facts on which a choice depends."""
    import torch

    versions = {}
    for name in ENGINES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    capabilities = {
        key: value for key, value in torch.cpu.get_capabilities().items() if isinstance(value, str | bool | int)
    }
    machine = {"processor": platform.processor(), "able": capabilities, "threads": torch.get_num_threads()}
    return digest_of({"machine": machine, "versions": versions, **facts})


def load_choice(key: str) -> dict[str, str] | None:
    """Load `name` and `reason` of an earlier choice; None if there is none or it cannot be read."""
    found = _read().get(key)
    is_choice = isinstance(found, dict) and all(isinstance(found.get(field), str) for field in ("name", "reason"))
    return found if is_choice else None


def store_choice(key: str, name: str, reason: str) -> None:
    """Store a choice; if the file cannot be written, there is a trial at the next start."""
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
