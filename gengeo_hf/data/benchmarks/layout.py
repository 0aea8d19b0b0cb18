"""Shared by the loaders of all benchmarks: find files, name what is missing, compare counts with the published ones.

Gives paths, and one line for each thing that is not as expected.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gengeo_hf.common.errors import GenGeoError

logger = logging.getLogger(__name__)

MISSING = ("error", "drop")


def existing_folder(root: str | Path, inner: Sequence[str], proof: Sequence[str]) -> Path:
    """The folder that holds a data set: `root` itself, or one of the folders `inner` in it.

    Args:
        root: what the user gave.
        inner: names that an archive may have added.
        proof: relative paths, one of which the right folder has.

    Raises:
        GenGeoError: none of them has it.
    """
    root = Path(root)
    if not root.is_dir():
        raise GenGeoError(f"there is no folder {root}")
    for folder in (root, *(root / name for name in inner)):
        if any((folder / path).exists() for path in proof):
            return folder
    raise GenGeoError(f"{root} holds none of {', '.join(proof)}: give the folder that has one of them directly in it")


def first_file(root: Path, places: Sequence[str]) -> Path | None:
    """The first of some relative paths that is a file."""
    return next((root / place for place in places if (root / place).is_file()), None)


def need_file(root: Path, places: Sequence[str], what: str) -> Path:
    """Like `first_file`.

    Raises:
        GenGeoError: none is there; the message lists all places.
    """
    found = first_file(root, places)
    if found is None:
        raise GenGeoError(f"{root} lacks {what}: expected one of {', '.join(places)}")
    return found


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without blank ones, whatever ends them (CRLF, no final newline, a byte-order mark).

    Raises:
        GenGeoError: the file is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GenGeoError(f"{path} cannot be read as text ({error}); fetch it again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def names_in(folder: Path) -> set[str]:
    """Names of all that lies in a folder, in one look; empty where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def existing_name(name: str, present: set[str], suffixes: Sequence[str]) -> str | None:
    """The name itself or, as lists and archives differ in it, the name with another suffix."""
    if name in present:
        return name
    stem = name.rpartition(".")[0]
    return next((stem + suffix for suffix in suffixes if stem + suffix in present), None)


def kept_pairs(
    name: str, pairs: Sequence[str] | Callable[[int], str], present: np.ndarray, missing: str, known: int = 0
) -> np.ndarray:
    """Which pairs can be used.

    Args:
        name: of the data set and split, for messages.
        pairs: how a message calls each pair, as a list or by its row.
        present: bool (N,): both images are there.
        missing: "error" refuses a set with gaps, "drop" goes on without the missing pairs and says so.
        known: pairs that everyone lacks; so many are left out without a word.

    Returns:
        Rows, int64.

    Raises:
        GenGeoError: images are missing and `missing` is "error", or none is there, or `missing` is another word.
    """
    if missing not in MISSING:
        raise GenGeoError(f"missing must be one of {', '.join(MISSING)}, found {missing!r}")
    gone = np.flatnonzero(~present)
    label = pairs if callable(pairs) else pairs.__getitem__
    if len(gone) == len(present):
        raise GenGeoError(f"{name}: not one of {len(present):,} pairs has both images, first {label(0)}")
    if len(gone) > known:
        said = f"{name}: {len(gone):,} of {len(present):,} pairs lack an image, first {label(int(gone[0]))}"
        if missing == "error":
            raise GenGeoError(f"{said}; see `gengeo data check`, or set missing=drop to go on without them")
        logger.warning("%s; they are left out", said)
    return np.flatnonzero(present)


def compare_count(name: str, found: int, published: int, also: dict[int, str] | None = None) -> None:
    """Say it where a set has another size than the published one.

    Args:
        name: of the data set and split.
        found: pairs in the list at hand.
        published: pairs of the published list.
        also: sizes of other lists that are in use, with their names.
    """
    if found == published:
        return
    known = (also or {}).get(found)
    logger.warning(
        "%s: %s pairs, published are %s%s; results are not comparable",
        name,
        f"{found:,}",
        f"{published:,}",
        f" (this is {known})" if known else "",
    )


def unknown_split(name: str, split: str, splits: Sequence[str]) -> GenGeoError:
    """The error for a split that a data set lacks."""
    return GenGeoError(f"{name} has no split {split!r}; expected one of {', '.join(splits)}")
