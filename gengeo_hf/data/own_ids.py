"""Ids of a user's table of pairs: of photos, of tiles, and of the further tiles that a photo names."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.tables import Table


def tile_ids(
    table: Table, given: list[str | None] | None, texts: list[str], stated: bool, is_inside: bool, notes: list[str]
) -> tuple[list[str], dict[str, str]]:
    """The id of each row's tile, and the id by the text of its image.

    Ids of a column are taken where each stands for one image; images inside a table are known by their id alone.

    Raises:
        GenGeoError: The user named the column, and an id stands for two images.
    """
    if given is None:
        return texts, dict(zip(texts, texts, strict=True))
    lost = sum(value is None for value in given)
    if lost:
        notes.append(f"{table.file}: {lost:,} rows have no tile_id, and are known by their image instead")
    ids = [value or text for value, text in zip(given, texts, strict=True)]
    if is_inside:
        return ids, dict(zip(texts, ids, strict=True))
    image_of: dict[str, str] = {}
    for tile, text in zip(ids, texts, strict=True):
        if image_of.setdefault(tile, text) != text:
            if stated:
                raise GenGeoError(f"{table.file}: the tile_id {tile!r} stands for {image_of[tile]} and for {text}")
            notes.append(
                f"{table.file}: the column tile_id is not used, since {tile!r} stands for {image_of[tile]} and {text}; "
                "tiles are known by their file"
            )
            return texts, dict(zip(texts, texts, strict=True))
    return ids, dict(zip(texts, ids, strict=True))


def query_ids(
    given: list[str | None] | None, texts: Sequence[str | None], stated: bool, notes: list[str], file: str
) -> list[str]:
    """The user's ids, or the photos' paths where there are none or they repeat.

    Ids of a column that was only recognised must be unique to be taken; `validate` refuses repeated ones of the user.
    """
    fallback = [text or "" for text in texts]
    if given is None:
        return fallback
    ids = [value or text for value, text in zip(given, fallback, strict=True)]
    lost = sum(value is None and bool(text) for value, text in zip(given, texts, strict=True))
    if lost:
        notes.append(f"{file}: {lost:,} photos have no query_id, and are known by their path instead")
    seen: dict[str, str] = {}
    for value, text in zip(ids, fallback, strict=True):
        if text and seen.setdefault(value, text) != text and not stated:
            notes.append(
                f"{file}: the column query_id is not used, since {value!r} stands for {seen[value]} and {text}"
            )
            return fallback
    return ids


def extra_positives(
    table: Table,
    cells: list[Any],
    tiles: list[str],
    own_id_of: dict[str, str],
    path_of: Callable[[str], str | None],
    notes: list[str],
) -> tuple[list[list[str]], dict[str, str]]:
    """Ids of further tiles of each row, and the paths of those that are in no row.

    A cell names tiles by id, by path, or by a file name that is the only one of its kind.
    """
    if not any(cell not in (None, "") for cell in cells):
        return [[] for _ in cells], {}
    known = set(tiles)
    by_name: dict[str, set[str]] = {}
    for text, tile in own_id_of.items():
        by_name.setdefault(text.rpartition("/")[2], set()).add(tile)
    paths: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    own = 0

    def resolve(word: str) -> str | None:
        if word in known:
            return word
        normal = os.path.normpath(word)
        if normal in own_id_of:
            return own_id_of[normal]
        path = path_of(word)
        if path is not None:
            paths.setdefault(normal, path)
            return normal
        alike = by_name.get(word.rpartition("/")[2], set())
        return next(iter(alike)) if len(alike) == 1 else None

    out = []
    for cell, tile in zip(cells, tiles, strict=True):
        found: dict[str, None] = {}
        for word in _listed(cell, known):
            other = resolve(word)
            if other is None:
                unknown[word] += 1
            elif other == tile:
                own += 1
            else:
                found[other] = None
        out.append(list(found))
    if unknown:
        word, total = next(iter(unknown)), sum(unknown.values())
        notes.append(
            f"{table.file}: {total:,} extra_positives name no tile, first {word!r}: they count as negatives; write "
            "tile ids or paths with ; between them"
        )
    if own:
        notes.append(f"{table.file}: {own:,} rows name their own tile among extra_positives; it is left out there")
    return out, paths


def _listed(value: Any, known: set[str]) -> list[str]:
    """Several ids in one cell: a list, a JSON list as text, or text with `;`, `|` or commas between them."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple | np.ndarray):
        return [str(part).strip() for part in value if str(part).strip()]
    text = str(value).strip()
    if text.startswith("["):
        try:
            return [str(part) for part in json.loads(text.replace("'", '"'))]
        except ValueError:
            text = text.strip("[]")
    parts = re.split(r"[;|]", text)
    if len(parts) == 1 and text not in known and "," in text:
        parts = text.split(",")
    return [part.strip() for part in parts if part.strip()]
