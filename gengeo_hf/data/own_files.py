"""Images of a user's table of pairs: which of them exist, and one normalised path for each file.

`InsideImages` and `ImageFiles` have the same attributes: `ground` and `aerial` (name of the image column, or paths),
`photo_texts` and `tile_texts` (identifier of each row's image, None or "" without one), `has_photo` and `present`,
bool (N,).
"""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np

from gengeo_hf.common.tables import Table


class InsideImages:
    """Images inside the table.

    Args:
        table: The table.
        ground, aerial: Names of its image columns.
    """

    def __init__(self, table: Table, ground: str, aerial: str) -> None:
        self.ground, self.aerial = ground, aerial
        count = len(table)
        self.photo_texts: list[str | None] = [f"row-{row}" for row in range(count)]
        self.tile_texts = [f"tile-{row}" for row in range(count)]
        self.has_photo, self.present = (_filled(table, column) for column in (ground, aerial))
        self.photo_texts = [text if has else None for text, has in zip(self.photo_texts, self.has_photo, strict=True)]
        self.path_of: Callable[[str], str | None] = lambda _: None

    def hints(self) -> list[str]:
        """Hints about missing images: always empty for images inside a table."""
        return []


def _filled(table: Table, column: str) -> np.ndarray:
    """Whether each row of an image column holds an image, bool (N,)."""
    undecoded = table.rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    if undecoded._indices is not None:  # rows were selected without being copied
        undecoded = undecoded.flatten_indices()
    chunks = undecoded.data.column(column).chunks
    filled = [~chunk.is_null().to_numpy(False) for chunk in chunks]
    parts = [
        ~(chunk.field("bytes").is_null().to_numpy(False) & chunk.field("path").is_null().to_numpy(False))
        for chunk in chunks
    ]
    return np.concatenate([a & b for a, b in zip(filled, parts, strict=True)])


class ImageFiles:
    """Images in files. Different spellings of a path give the same identifier.

    Args:
        folder: Directory that relative paths start from.
        ground, aerial: Path of each row's image as the table states it, None for an empty cell.
    """

    def __init__(self, folder: Path, ground: list[str | None], aerial: list[str | None]) -> None:
        self.folder = str(folder)
        self._names: dict[str, set[str]] = {}
        self._texts: dict[str, str] = {}
        self.photo_texts = [None if text is None else self._normalise(text) for text in ground]
        self.tile_texts = ["" if text is None else self._normalise(text) for text in aerial]
        self.ground = [self._path(text) if text else "" for text in self.photo_texts]
        self.aerial = [self._path(text) if text else "" for text in self.tile_texts]
        self.has_photo = np.array([bool(text) for text in self.photo_texts], dtype=bool)
        self.present = np.array(
            [
                (not photo or self._exists(photo)) and bool(tile) and self._exists(tile)
                for photo, tile in zip(self.ground, self.aerial, strict=True)
            ],
            dtype=bool,
        )

    def path_of(self, text: str) -> str | None:
        """Path of the file that a cell names, None if there is no such file."""
        path = self._path(self._normalise(text))
        return path if self._exists(path) else None

    def hints(self) -> list[str]:
        """Hint about the name of the first missing file, as a list of at most one line."""
        for photo, tile in zip(self.ground, self.aerial, strict=True):
            for path in (photo, tile):
                if path and not self._exists(path) and (hint := spelling_hint(path)):
                    return [hint]
        return []

    def _normalise(self, text: str) -> str:
        """Normalised path, relative to the table's directory for files in it."""
        if text not in self._texts:
            path = os.path.normpath(os.path.join(self.folder, text))  # noqa: PTH118  # pathlib is slow in large tables
            base = os.path.normpath(self.folder) + os.sep
            short = path.removeprefix(base) if base != f".{os.sep}" else path
            self._texts[text] = short if text.startswith(os.sep) else os.path.normpath(text)
        return self._texts[text]

    def _path(self, text: str) -> str:
        return os.path.join(self.folder, text)  # noqa: PTH118  # pathlib is slow in large tables

    def _exists(self, path: str) -> bool:
        home, name = os.path.split(path)
        if home not in self._names:
            self._names[home] = _file_names(home)
        return name in self._names[home]


def _file_names(folder: str) -> set[str]:
    """Names of the files in a directory, read once; empty if there is no such directory."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def spelling_hint(path: str) -> str:
    """Hint for a missing file: a similar name with another letter case, suffix, slash or Unicode form.

    Args:
        path: Path of the missing file.

    Returns:
        One clause for an error message, "" if no similar file exists.
    """
    if "\\" in path:
        return f"{path} has backslashes: write forward slashes"
    home, name = os.path.split(path)
    if not Path(home or ".").is_dir():
        return f"there is no directory {home}: paths are relative to that of the table"
    names = _file_names(home)
    for change, advice in ((str.lower, "in another letter case"), (_to_nfc, "in another Unicode form (NFC, NFD)")):
        similar = [other for other in names if change(other) == change(name)]
        if similar:
            return f"{name} is not there, but {similar[0]} is, {advice}: rename the file or the cell"
    stem = name.rpartition(".")[0] or name
    similar = [other for other in names if other.rpartition(".")[0].lower() == stem.lower()]
    return f"{name} is not there, but {similar[0]} is, with another ending: correct the cell" if similar else ""


def _to_nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)
