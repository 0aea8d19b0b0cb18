"""Reading of pairs from webdataset shards that `gengeo data export --format webdataset` wrote.

The tar files are in the directories `queries` and `gallery`. Their members are read in memory and never extracted to
files, so names of members are not used as paths.
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
    """Read one split. Its images are copied once into the cache of `datasets`.

    Args:
        folder: Directory that holds `queries` and `gallery`.
        split: Name of the split in the file names.
        cache_dir: Cache directory of `datasets`; None takes its default.

    Raises:
        GenGeoError: The split or one of its files is missing or damaged, or the tables do not fit the schema.
    """
    tables = []
    for kind in TABLES:
        files = find_files(Path(folder), kind, split, ".tar")
        # Size and time of each file are part of the cache key, so that rewritten shards are read again.
        stamps = [f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
        arguments = {"files": [str(file) for file in files], "marks": stamps, "column": _column(kind)}
        try:
            table = datasets.Dataset.from_generator(
                _rows,
                features=stored_features(kind, _first_names(files[0])),
                gen_kwargs=arguments,
                cache_dir=str(cache_dir) if cache_dir else None,
            )
        except Exception as error:  # `datasets` wraps the error of the generator
            cause = error.__cause__ or error
            reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
            raise GenGeoError(f"the {kind} of {folder} cannot be read: {reason}") from error
        tables.append(table)
    return CrossViewDataset(f"{Path(folder).name}/{split}", *tables).validate()


def _column(kind: str) -> str:
    return "ground" if kind == "queries" else "aerial"


def _first_names(file: Path) -> list[str]:
    """Column names in the first JSON of a shard; empty without one, an error that `_rows` reports."""
    with tarfile.open(file) as tar:
        for member in tar:
            if member.name.endswith(".json") and (content := tar.extractfile(member)) is not None:
                return list(json.loads(content.read()))
    return []


def _rows(files: list[str], marks: list[str], column: str) -> Iterator[dict[str, Any]]:
    """Rows of some shards: the columns of `<key>.json` and the image of `<key>.<column>.<suffix>`."""
    for file in files:
        incomplete: dict[str, dict[str, Any]] = {}
        with tarfile.open(file) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None:  # not a regular file
                    continue
                key, _, kind = member.name.partition(".")
                found = incomplete.setdefault(key, {})
                if kind == "json":
                    found["columns"] = json.loads(content.read())
                elif kind.startswith(f"{column}."):
                    found["image"] = {"bytes": content.read(), "path": None}
                if len(found) == 2:
                    yield {**incomplete.pop(key)["columns"], column: found["image"]}
        if incomplete:
            raise GenGeoError(f"{file}: {next(iter(incomplete))} lacks its image or its JSON")
