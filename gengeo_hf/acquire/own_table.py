"""Output format of `gengeo data get` and `gengeo data make`: a table of pairs beside its images.

::

    DIR/pairs.parquet      table; `gengeo_hf.data.own` lists the columns. Image paths are relative to DIR
    DIR/ATTRIBUTION.csv    id, creator, link and time of each photo
    DIR/SOURCES.json       sources, licences and settings, for programs
    DIR/LICENCES.md        sources and licences, for people

Each file is written under a temporary name and renamed, the table last: a directory with a table is complete.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file, write_text
from gengeo_hf.common.tables import PAIRS_FILE
from gengeo_hf.data.column_names import NAMES, NUMBERS
from gengeo_hf.data.sources import DataSources, write_sources

ATTRIBUTION_FILE, LICENCES_FILE = "ATTRIBUTION.csv", "LICENCES.md"
ATTRIBUTION_COLUMNS = ("id", "creator", "link", "captured_at")


def write_own_table(
    folder: str | Path,
    columns: Mapping[str, Any],
    sources: DataSources,
    attribution: Iterable[Sequence[Any]] = (),
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a table of pairs with its attribution and sources. Existing files are replaced.

    Args:
        folder: Directory of the data set, which the image paths are relative to.
        columns: Columns by the names in `gengeo_hf.data.column_names.NAMES`, N values each. `ground` (None or "" for
            a tile without a photo) and `aerial` are required. Numbers may be arrays with NaN where unknown;
            `extra_positives` holds a list of tile ids for each row; ids are text.
        sources: Sources of the images.
        attribution: Rows of `ATTRIBUTION_COLUMNS`, one for each photo.
        extra: Further columns that loading ignores, for example `captured_at`.

    Returns:
        Path of the table.

    Raises:
        GenGeoError: A column is unknown, columns differ in length, or `ground` or `aerial` is missing.
    """
    folder = Path(folder)
    if unknown := sorted(set(columns) - set(NAMES)):
        raise GenGeoError(f"an own-data table has no column {unknown[0]!r}; it may have {', '.join(NAMES)}")
    if missing := [name for name in ("ground", "aerial") if name not in columns]:
        raise GenGeoError(f"an own-data table needs the column {missing[0]!r}")
    arrays = {name: _array(name, values) for name, values in columns.items()}
    arrays |= {name: pa.array(values, from_pandas=True) for name, values in (extra or {}).items()}
    counts = {name: len(values) for name, values in arrays.items()}
    if len(set(counts.values())) != 1:
        raise GenGeoError(f"columns of an own-data table differ in length: {counts}")
    folder.mkdir(parents=True, exist_ok=True)
    write_attribution(folder, attribution)
    write_sources(folder, sources)
    write_text(folder / LICENCES_FILE, f"# Licences of {sources.name}\n\n" + _bullets(sources))
    path = folder / PAIRS_FILE
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(arrays), temporary, compression="zstd")
    return path


def write_attribution(folder: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write `ATTRIBUTION.csv`, the creator of each photo.

    Args:
        folder: Directory of the data set.
        rows: Rows of `ATTRIBUTION_COLUMNS`, one for each photo.
    """
    with atomic_file(folder / ATTRIBUTION_FILE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(ATTRIBUTION_COLUMNS)
        writer.writerows(rows)


def _array(name: str, values: Any) -> pa.Array:
    """A column in the type that loading expects."""
    if name in NUMBERS:
        return pa.array(np.asarray(values, dtype=np.float64), from_pandas=True)
    if name == "extra_positives":
        return pa.array([list(row or ()) for row in values], pa.list_(pa.string()))
    return pa.array([None if value is None or value == "" else str(value) for value in values], pa.string())


def _bullets(sources: DataSources) -> str:
    """Markdown list of the sources."""
    lines = sources.summary().splitlines()
    return "".join(f"- {line}\n" for line in lines) + (
        f"\nPhotos by creator: {ATTRIBUTION_FILE}. This page is not legal advice; the licences' own texts decide.\n"
    )
