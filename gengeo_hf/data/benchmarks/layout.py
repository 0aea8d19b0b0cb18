"""Helpers of the benchmark loaders: finding files, reporting missing ones, comparing counts with published ones."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gengeo_hf.common.errors import GenGeoError

logger = logging.getLogger(__name__)

MISSING = ("error", "drop")


def existing_folder(root: str | Path, inner: Sequence[str], proof: Sequence[str]) -> Path:
    """The directory that holds a data set: `root` itself, or one of the directories `inner` in it.

    Args:
        root: Directory that the user gave.
        inner: Names of directories that unpacking an archive may have added.
        proof: Relative paths, at least one of which exists in the directory of the data set.

    Raises:
        GenGeoError: No directory holds one of these paths.
    """
    root = Path(root)
    if not root.is_dir():
        raise GenGeoError(f"there is no directory {root}")
    for folder in (root, *(root / name for name in inner)):
        if any((folder / path).exists() for path in proof):
            return folder
    raise GenGeoError(f"{root} holds none of {', '.join(proof)}: give the directory that holds one of them")


def first_file(root: Path, paths: Sequence[str]) -> Path | None:
    """The first of some paths relative to `root` that is a file; None without any."""
    return next((root / path for path in paths if (root / path).is_file()), None)


def need_file(root: Path, paths: Sequence[str], what: str) -> Path:
    """The first of some paths relative to `root` that is a file.

    Raises:
        GenGeoError: None of them is a file; the message names `what` and all paths.
    """
    found = first_file(root, paths)
    if found is None:
        raise GenGeoError(f"{root} lacks {what}: expected one of {', '.join(paths)}")
    return found


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, stripped and without blank ones; CRLF and a byte-order mark are accepted.

    Raises:
        GenGeoError: The file cannot be read as UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GenGeoError(f"{path} cannot be read as text ({error}); fetch it again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def names_in(folder: Path) -> set[str]:
    """Names of all entries of a directory; empty if there is no such directory."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def existing_name(name: str, present: set[str], suffixes: Sequence[str]) -> str | None:
    """The name of a file, also with another suffix, since lists and archives of some data sets differ in the suffix.

    Args:
        name: Name in a list.
        present: Names of existing files.
        suffixes: Suffixes to try, each with its dot.

    Returns:
        The first variant in `present`, None without any.
    """
    if name in present:
        return name
    stem = name.rpartition(".")[0]
    return next((stem + suffix for suffix in suffixes if stem + suffix in present), None)


def kept_pairs(
    name: str, pairs: Sequence[str] | Callable[[int], str], present: np.ndarray, missing: str, known: int = 0
) -> np.ndarray:
    """Rows of the pairs whose images exist.

    Args:
        name: Name of the data set and split, for messages.
        pairs: Name of each pair for messages, as a list or as a function of the row.
        present: Whether both images of each pair exist, bool (N,).
        missing: "error" raises an error if images are missing; "drop" leaves such pairs out with a warning.
        known: Number of pairs whose images are missing in the published data; up to so many are left out silently.

    Returns:
        Rows, int64, ascending.

    Raises:
        GenGeoError: Images are missing and `missing` is "error"; no pair has both images; or `missing` has another
            value.
    """
    if missing not in MISSING:
        raise GenGeoError(f"missing must be one of {', '.join(MISSING)}, found {missing!r}")
    gone = np.flatnonzero(~present)
    label = pairs if callable(pairs) else pairs.__getitem__
    if len(gone) == len(present):
        raise GenGeoError(f"{name}: none of {len(present):,} pairs has both images, first {label(0)}")
    if len(gone) > known:
        message = f"{name}: {len(gone):,} of {len(present):,} pairs lack an image, first {label(int(gone[0]))}"
        if missing == "error":
            raise GenGeoError(f"{message}; see `gengeo data check`, or set missing=drop to leave them out")
        logger.warning("%s; they are left out", message)
    return np.flatnonzero(present)


def compare_count(name: str, found: int, published: int, also: dict[int, str] | None = None) -> None:
    """Warn if the number of pairs differs from the published one.

    Args:
        name: Name of the data set and split.
        found: Number of pairs found.
        published: Number of pairs of the published list.
        also: Names of other lists in use, by their number of pairs.
    """
    if found == published:
        return
    known = (also or {}).get(found)
    logger.warning(
        "%s: found %s pairs%s, published are %s; results are not comparable",
        name,
        f"{found:,}",
        f" ({known})" if known else "",
        f"{published:,}",
    )


def unknown_split(name: str, split: str, splits: Sequence[str]) -> GenGeoError:
    """The error for a split that a data set lacks."""
    return GenGeoError(f"{name} has no split {split!r}; expected one of {', '.join(splits)}")
