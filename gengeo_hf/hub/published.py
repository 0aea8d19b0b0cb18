"""What may be published of a record: values without paths, user names and host names of this machine."""

import re
from pathlib import Path
from typing import Any

# Keys whose values say who trained and where.
PRIVATE_KEYS = {"host", "hostname", "user", "username", "cwd", "command", "argv", "environment"}
# Settings that take a path; other texts with slashes may be names, such as "world/urban/train".
PATH_KEYS = {"cache_dir", "descriptors", "folder", "init", "model", "output", "path", "pretrained", "resume", "root"}
LOCAL = "(a local path)"
_LOCAL = re.compile(r"^(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\|file:)")
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+://")


def without_local_paths(value: Any) -> Any:
    """A copy of JSON values in which every local path is replaced, and private keys are left out.

    Also the last part of a path may be the name of a person or a client. Addresses (http, hf) and Hub ids
    (`organisation/name`) stay.

    Args:
        value: Dicts, lists and plain values.
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
    # A data set is written as "NAME:SPLIT ROOT key=value": each word may be, or hold, a path.
    return "".join(_public_word(word) for word in re.split(r"(\s+)", value))


def _names_path(key: Any, entry: Any) -> bool:
    """Whether a setting that takes a path holds one that is relative; a Hub id has one slash."""
    return key in PATH_KEYS and isinstance(entry, str) and entry.count("/") > 1 and not _ADDRESS.match(entry)


def _public_word(word: str) -> str:
    if _ADDRESS.match(word) and not word.startswith("file:"):
        return word
    parts = re.split(r"([=,;]|:(?=[/~.]))", word)
    return "".join(LOCAL if _is_local(part) else part for part in parts)


def _is_local(text: str) -> bool:
    """Whether all of a text is a path of this machine, as far as that can be seen."""
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
