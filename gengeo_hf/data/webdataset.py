"""Webdataset shards that `gengeo data export --format webdataset` wrote, as pairs again.

Tar files lie in the folders `queries` and `gallery`. Members are only read, never unpacked to files, and their names
are only compared.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.parquet import TABLES, find_files, stored_features


def read_shards(folder: str | Path, split: str, cache_dir: str | Path | None = None) -> CrossViewDataset:
    """Read one split; its images are copied into the cache of `datasets` once.

    Args:
        folder: holds the folders `queries` and `gallery`.
        split: of the file names.
        cache_dir: of `datasets`, for the tables in its own format.

    Raises:
        GenGeoError: the split or one of its files is missing or damaged, or the tables do not fit the schema.
    """
    tables = []
    for kind in TABLES:
        files = find_files(Path(folder), kind, split, ".tar")
        # Size and time are part of the cache's key: shards that were written again are read again.
        marks = [f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
        asked = {"files": [str(file) for file in files], "marks": marks, "column": _column(kind)}
        try:
            table = datasets.Dataset.from_generator(
                _rows,
                features=stored_features(kind, _first_names(files[0])),
                gen_kwargs=asked,
                cache_dir=str(cache_dir) if cache_dir else None,
            )
        except Exception as error:  # `datasets` wraps what the generator says
            why = error.__cause__ or error
            reason = str(why).splitlines()[0] if str(why) else type(why).__name__
            raise GenGeoError(f"the {kind} of {folder} cannot be read: {reason}") from error
        tables.append(table)
    return CrossViewDataset(f"{Path(folder).name}/{split}", *tables).validate()


def _column(kind: str) -> str:
    return "ground" if kind == "queries" else "aerial"


def _first_names(file: Path) -> list[str]:
    """Names of the facts in the first JSON of a shard; empty where there is none, which reading the rows reports."""
    with tarfile.open(file) as tar:
        for member in tar:
            if member.name.endswith(".json") and (content := tar.extractfile(member)) is not None:
                return list(json.loads(content.read()))
    return []


def _rows(files: list[str], marks: list[str], column: str) -> Iterator[dict[str, Any]]:
    """Rows of some shards: the facts of `<key>.json`, with the image of `<key>.<column>.<suffix>`."""
    for file in files:
        waiting: dict[str, dict[str, Any]] = {}
        with tarfile.open(file) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None:  # no file
                    continue
                key, _, kind = member.name.partition(".")
                found = waiting.setdefault(key, {})
                if kind == "json":
                    found["facts"] = json.loads(content.read())
                elif kind.startswith(f"{column}."):
                    found["image"] = {"bytes": content.read(), "path": None}
                if len(found) == 2:
                    yield {**waiting.pop(key)["facts"], column: found["image"]}
        if waiting:
            raise GenGeoError(f"{file}: {next(iter(waiting))} lacks its image or its JSON")
