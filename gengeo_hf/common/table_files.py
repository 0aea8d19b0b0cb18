"""Readers of table files into Arrow tables: delimited text, Parquet, JSON lines, Arrow; see `tables.read_table`."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    import datasets

_BLOCK = 20_000  # rows that are held as Python strings at one time


def read_text(path: Path) -> tuple[pa.Table, list[str], tuple[str, ...]]:
    """Read a text table.

    Returns:
        The table with columns of text, notes about omitted rows and columns, and the column names that occur twice.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (b"\0" in head):
        raise GenGeoError(f"{path} is UTF-16, expected UTF-8: save it as 'CSV UTF-8'")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_rows(path, file)
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1 if error.start < 1 << 30 else 0
        raise GenGeoError(
            f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x}, about line {max(line, 1)}): save it as "
            "'CSV UTF-8' (Excel), or convert it: iconv -f cp1252 -t utf-8"
        ) from None
    except csv.Error as error:
        raise GenGeoError(f"{path} cannot be read as CSV: {error}; is a quotation mark missing?") from error


def _read_rows(path: Path, file: Any) -> tuple[pa.Table, list[str], tuple[str, ...]]:
    first = file.readline()
    separator = None
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # written by some spreadsheets
        separator, first = first.strip()[4], file.readline()
    separator = separator or max(",;\t|", key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
    if not any(header):
        raise GenGeoError(f"{path} is empty: expected a header line such as ground,aerial,lat,lon")
    kept = [index for index, name in enumerate(header) if name and name not in header[:index]]
    doubled = tuple(sorted({name for name in header if name and header.count(name) > 1}))
    counts = {"empty": 0, "short": 0, "first short": 0}
    blocks = [
        pa.table([pa.array(column, pa.string()) for column in columns], names=[header[index] for index in kept])
        for columns in _blocks(csv.reader(file, delimiter=separator), header, kept, path, counts)
    ]
    names = [header[index] for index in kept]
    table = pa.concat_tables(blocks) if blocks else pa.table({name: pa.array([], pa.string()) for name in names})
    notes = []
    if counts["empty"]:
        notes.append(f"{path}: {counts['empty']:,} rows without any value are left out")
    if counts["short"]:
        where = f"the first in line {counts['first short']}"
        notes.append(f"{path}: {counts['short']:,} rows have fewer cells than the header, {where}; the rest is empty")
    if doubled:
        notes.append(f"{path}: two columns are called {doubled[0]!r}; they cannot be used")
    return table, notes, doubled


def _blocks(
    reader: Any, header: list[str], kept: list[int], path: Path, counts: dict[str, int]
) -> Iterator[list[list[str]]]:
    """Yield the columns of `_BLOCK` rows at a time."""
    columns: list[list[str]] = [[] for _ in kept]
    width = len(header)
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            counts["empty"] += bool(cells)
            continue
        if len(cells) < width:
            counts["short"] += 1
            counts["first short"] = counts["first short"] or reader.line_num + 1
            cells = [*cells, *[""] * (width - len(cells))]
        elif any(cell.strip() for cell in cells[width:]):
            raise GenGeoError(
                f"{path}, line {reader.line_num + 1} has {len(cells)} cells and the header {width}: write cells that "
                "hold the separator in quotation marks; numbers need a decimal point, not a comma"
            )
        for column, index in zip(columns, kept, strict=True):
            column.append(cells[index].strip())
        if len(columns[0]) >= _BLOCK:
            yield columns
            columns = [[] for _ in kept]
    if columns and columns[0]:
        yield columns


def read_parquet(files: Sequence[Path]) -> "datasets.Dataset":
    """Read Parquet files; those with images are copied into the cache of `datasets` and not loaded into memory."""
    import datasets
    import pyarrow.parquet as pq

    schema = pq.read_schema(files[0])
    has_images = any(
        pa.types.is_struct(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary(kind) for kind in schema.types
    )
    if has_images:
        return datasets.Dataset.from_parquet([str(file) for file in files])
    return datasets.Dataset(pa.concat_tables([pq.read_table(file) for file in files]).replace_schema_metadata(None))


def read_json_lines(path: Path) -> pa.Table:
    """Read JSON lines; columns that contain numbers and text become text."""
    import json

    import pyarrow.json

    try:
        return pyarrow.json.read_json(path)
    except pa.ArrowException:
        rows = []
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise GenGeoError(f"{path}, line {number} is not a JSON object: {error}") from None
                if not isinstance(row, dict):
                    raise GenGeoError(f"{path}, line {number} is not a JSON object but {line.strip()[:40]!r}") from None
                rows.append(row)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pa.table({name: _mixed([row.get(name) for row in rows]) for name in names})


def _mixed(values: list[Any]) -> pa.Array:
    """Build a column from values; values of different types become text."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def read_arrow(path: Path) -> pa.Table:
    """Read an Arrow file, or an Arrow stream as `datasets` writes it, memory-mapped."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
