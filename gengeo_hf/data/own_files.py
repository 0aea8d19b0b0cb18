"""Image files of a user's table of pairs: which of them are there, and one spelling for each."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np

from gengeo_hf.common.tables import Table


class InsideImages:
    """Images inside the table."""

    def __init__(self, table: Table, ground: str, aerial: str) -> None:
        self.ground, self.aerial = ground, aerial
        count = len(table)
        self.photo_texts: list[str | None] = [f"row-{row}" for row in range(count)]
        self.tile_texts = [f"tile-{row}" for row in range(count)]
        self.has_photo, self.present = (_filled(table, column) for column in (ground, aerial))
        self.photo_texts = [text if has else None for text, has in zip(self.photo_texts, self.has_photo, strict=True)]
        self.path_of: Callable[[str], str | None] = lambda _: None

    def hints(self) -> list[str]:
        """Nothing can be said about missing images inside a table."""
        return []


def _filled(table: Table, column: str) -> np.ndarray:
    """Which rows of an image column hold an image, bool (N,)."""
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
    """Images as files beside the table. One file is one text, however its path is spelt."""

    def __init__(self, folder: Path, ground: list[str | None], aerial: list[str | None]) -> None:
        self.folder = str(folder)
        self._names: dict[str, set[str]] = {}
        self._texts: dict[str, str] = {}
        self.photo_texts = [None if text is None else self._same(text) for text in ground]
        self.tile_texts = ["" if text is None else self._same(text) for text in aerial]
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
        """Path of a file that a cell names, None where there is none."""
        path = self._path(self._same(text))
        return path if self._exists(path) else None

    def hints(self) -> list[str]:
        """What may be wrong with the first missing file's name."""
        for photo, tile in zip(self.ground, self.aerial, strict=True):
            for path in (photo, tile):
                if path and not self._exists(path) and (hint := spelling_hint(path)):
                    return [hint]
        return []

    def _same(self, text: str) -> str:
        """One spelling for each file: relative to the table's folder where it lies in it."""
        if text not in self._texts:
            path = os.path.normpath(os.path.join(self.folder, text))  # noqa: PTH118  # 300,000 times
            base = os.path.normpath(self.folder) + os.sep
            short = path.removeprefix(base) if base != f".{os.sep}" else path
            self._texts[text] = short if text.startswith(os.sep) else os.path.normpath(text)
        return self._texts[text]

    def _path(self, text: str) -> str:
        return os.path.join(self.folder, text)  # noqa: PTH118  # 300,000 times

    def _exists(self, path: str) -> bool:
        home, name = os.path.split(path)
        if home not in self._names:
            self._names[home] = _file_names(home)
        return name in self._names[home]


def _file_names(folder: str) -> set[str]:
    """Names of the files in a folder, in one look; empty where there is no folder."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def spelling_hint(path: str) -> str:
    """A file that was meant perhaps: another letter case, ending, slash or Unicode form."""
    if "\\" in path:
        return f"{path} has backslashes: write forward slashes"
    home, name = os.path.split(path)
    if not Path(home or ".").is_dir():
        return f"there is no folder {home}: paths start from the table's folder"
    names = _file_names(home)
    for change, advice in ((str.lower, "in another letter case"), (_composed, "in another Unicode form (NFC, NFD)")):
        alike = [other for other in names if change(other) == change(name)]
        if alike:
            return f"{name} is not there, but {alike[0]} is, {advice}: rename the file or the cell"
    stem = name.rpartition(".")[0] or name
    alike = [other for other in names if other.rpartition(".")[0].lower() == stem.lower()]
    return f"{name} is not there, but {alike[0]} is, with another ending: correct the cell" if alike else ""


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
