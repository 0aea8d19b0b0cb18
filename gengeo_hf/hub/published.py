"""Removal of local paths, user names and host names from records that are published."""

import re
from pathlib import Path
from typing import Any

# Keys whose values identify a user or a machine.
PRIVATE_KEYS = {"host", "hostname", "user", "username", "cwd", "command", "argv", "environment"}
# Settings whose value is a path; other values with slashes may be names, such as "world/urban/train".
PATH_KEYS = {"cache_dir", "descriptors", "folder", "init", "model", "output", "path", "pretrained", "resume", "root"}
LOCAL = "(a local path)"
_LOCAL = re.compile(r"^(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\|file:)")
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://")


def without_local_paths(value: Any) -> Any:
    """Copy JSON values with every local path replaced as a whole and private keys left out.

    The last part of a path is replaced too, because it may be the name of a person or a client. URLs (http, hf) and Hub
    ids (`organisation/name`) are kept.

    Args:
        value: JSON value: a dict, a list or a plain value.
    """
    if isinstance(value, dict):
        return {
            without_local_paths(key): LOCAL if _names_path(key, entry) else without_local_paths(entry)
            for key, entry in value.items()
            if not (isinstance(key, str) and key.lower() in PRIVATE_KEYS)
        }
    if isinstance(value, list | tuple):
        return [without_local_paths(entry) for entry in value]
    if not isinstance(value, str) or not ("/" in value or "\\" in value):
        return value
    if _is_local(value):
        return LOCAL
    # In the notation of a data set, "NAME:SPLIT ROOT key=value", each part may be or contain a path.
    return "".join(_public_part(part) for part in re.split(r"(\s+)", value))


def _names_path(key: Any, entry: Any) -> bool:
    """Whether a value of a path setting is a relative path: it has several slashes, a Hub id has one."""
    return key in PATH_KEYS and isinstance(entry, str) and entry.count("/") > 1 and not _ADDRESS.match(entry)


def _public_part(text: str) -> str:
    if _ADDRESS.match(text) and not text.startswith("file:"):
        return text
    parts = re.split(r"([=,;]|:(?=[/~.]))", text)
    return "".join(LOCAL if _is_local(part) else part for part in parts)


def _is_local(text: str) -> bool:
    """Whether a text looks like a local path, or is the path of an existing file."""
    if (
        not text.strip("/\\")
        or not ("/" in text or "\\" in text)
        or (_ADDRESS.match(text) and not text.startswith("file:"))
    ):
        return False
    return bool(_LOCAL.match(text)) or _exists(text)


def _exists(text: str) -> bool:
    try:
        return len(text) < 4096 and Path(text).exists()
    except (OSError, ValueError):
        return False
