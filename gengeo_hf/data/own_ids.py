"""Ids in a user's table of pairs: of photos, of tiles, and of further positive tiles of a photo."""

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
    """The id of each row's tile.

    Ids of a column are used if each belongs to one image only. For images inside a table this is not checked.

    Args:
        table: Table of the user.
        given: Cell of the column `tile_id` in each row, None where empty; None without the column.
        texts: Identifier of each row's image: normalised path, or row.
        stated: Whether the user named the column, instead of it being recognised.
        is_inside: Whether the images are inside the table.
        notes: List to which notes are appended.

    Returns:
        Id of each row's tile; id by the identifier of the image.

    Raises:
        GenGeoError: The user named the column, and one id belongs to two images.
    """
    if given is None:
        return texts, dict(zip(texts, texts, strict=True))
    empty = sum(value is None for value in given)
    if empty:
        notes.append(f"{table.file}: {empty:,} rows have no tile_id; their image is used as the id")
    ids = [value or text for value, text in zip(given, texts, strict=True)]
    if is_inside:
        return ids, dict(zip(texts, ids, strict=True))
    image_of: dict[str, str] = {}
    for tile, text in zip(ids, texts, strict=True):
        if image_of.setdefault(tile, text) != text:
            if stated:
                raise GenGeoError(
                    f"{table.file}: the tile_id {tile!r} belongs to {image_of[tile]} and to {text}; each needs its own"
                )
            notes.append(
                f"{table.file}: the column tile_id is not used, since {tile!r} belongs to {image_of[tile]} and {text}; "
                "file names are used as ids"
            )
            return texts, dict(zip(texts, texts, strict=True))
    return ids, dict(zip(texts, ids, strict=True))


def query_ids(
    given: list[str | None] | None, texts: Sequence[str | None], stated: bool, notes: list[str], file: str
) -> list[str]:
    """The id of each row's photo, from a column or, without usable ids, the path of the photo.

    A recognised column is used only if its ids are unique. Repeated ids of a column that the user named are refused
    later, by `CrossViewDataset.validate`.

    Args:
        given: Cell of the column `query_id` in each row, None where empty; None without the column.
        texts: Identifier of each row's photo, None for a row without one.
        stated: Whether the user named the column, instead of it being recognised.
        notes: List to which notes are appended.
        file: Name of the table, for notes.

    Returns:
        Id of each row, "" for a row without an id and a photo.
    """
    fallback = [text or "" for text in texts]
    if given is None:
        return fallback
    ids = [value or text for value, text in zip(given, fallback, strict=True)]
    empty = sum(value is None and bool(text) for value, text in zip(given, texts, strict=True))
    if empty:
        notes.append(f"{file}: {empty:,} photos have no query_id; their path is used as the id")
    seen: dict[str, str] = {}
    for value, text in zip(ids, fallback, strict=True):
        if text and seen.setdefault(value, text) != text and not stated:
            notes.append(
                f"{file}: the column query_id is not used, since {value!r} belongs to {seen[value]} and {text}"
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
    """Ids of further positive tiles of each row.

    A cell names tiles by id, by path, or by a unique file name.

    Args:
        table: Table of the user.
        cells: Cell of the column `extra_positives` in each row.
        tiles: Id of each row's own tile.
        own_id_of: Id by the identifier of the image, from `tile_ids`.
        path_of: Function that returns the path of a file that a cell names, None if there is no such file.
        notes: List to which notes are appended.

    Returns:
        Ids of further tiles of each row; path by id of those tiles that have no row of their own.
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

    def resolve(name: str) -> str | None:
        if name in known:
            return name
        normal = os.path.normpath(name)
        if normal in own_id_of:
            return own_id_of[normal]
        path = path_of(name)
        if path is not None:
            paths.setdefault(normal, path)
            return normal
        same_name = by_name.get(name.rpartition("/")[2], set())
        return next(iter(same_name)) if len(same_name) == 1 else None

    out = []
    for cell, tile in zip(cells, tiles, strict=True):
        found: dict[str, None] = {}
        for name in _split_cell(cell, known):
            other = resolve(name)
            if other is None:
                unknown[name] += 1
            elif other == tile:
                own += 1
            else:
                found[other] = None
        out.append(list(found))
    if unknown:
        name, total = next(iter(unknown)), sum(unknown.values())
        notes.append(
            f"{table.file}: {total:,} extra_positives match no tile, first {name!r}; they are ignored, so such tiles "
            "count as negatives; write tile ids or paths separated by ;"
        )
    if own:
        notes.append(f"{table.file}: {own:,} rows repeat their own tile in extra_positives; the repetition is ignored")
    return out, paths


def _split_cell(value: Any, known: set[str]) -> list[str]:
    """Ids in one cell: a list, a JSON list as text, or text separated by `;`, `|` or commas."""
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
