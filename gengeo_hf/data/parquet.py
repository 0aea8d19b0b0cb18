"""Reading and writing pairs as Parquet files with the images inside, the format for the Hub.

The files are `queries/<split>-00000-of-00001.parquet` and `gallery/<split>-...`; `datasets.load_dataset` reads them
without this package.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CAMERA_FEATURES, GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset, present_camera

ROWS_IN_FILE = 2000  # a few hundred MB of images
TABLES = {"queries": QUERY_FEATURES, "gallery": GALLERY_FEATURES}


def write_pairs(data: CrossViewDataset, folder: Path, split: str) -> None:
    """Write both tables of one split into an empty directory.

    Args:
        data: Data set to write.
        folder: Output directory; the directories of the tables must not exist in it.
        split: Name of the split: letters, digits and underscores.

    Raises:
        GenGeoError: The name of the split is invalid, or an image is missing.
    """
    check_split_name(split)
    for table in TABLES:
        source = getattr(data, table)
        (folder / table).mkdir(parents=True)
        for path, rows in file_parts(folder / table, f"{split}-", ".parquet", len(source), ROWS_IN_FILE):
            write_rows(source.select(rows), table, path)


def check_split_name(split: str) -> None:
    """Check that a name of a split can be part of a file name that `datasets` recognises.

    Raises:
        GenGeoError: A character is not a letter, digit or underscore.
    """
    if not re.fullmatch(r"\w+", split):
        raise GenGeoError(f"invalid name of a split {split!r}: use letters, digits and underscores only")


def file_parts(folder: Path, start: str, suffix: str, count: int, rows_in_file: int) -> Iterator[tuple[Path, range]]:
    """Path and row indices of each file of a table.

    Args:
        folder: Directory of the files.
        start: Start of their names, for example "train-".
        suffix: Suffix with its dot.
        count: Number of rows of the table.
        rows_in_file: Maximum number of rows of one file.
    """
    files = -(-count // rows_in_file)
    for number in range(files):
        rows = range(number * rows_in_file, min(count, (number + 1) * rows_in_file))
        yield folder / f"{start}{number:05d}-of-{files:05d}{suffix}", rows


def find_files(folder: Path, kind: str, split: str, suffix: str, name: str | None = None) -> list[Path]:
    """All files of one table of a split, in order.

    Args:
        folder: Directory that holds `queries` and `gallery`.
        kind: "queries" or "gallery".
        split: Name of the split.
        suffix: Suffix with its dot.
        name: Name of the data set in messages; None takes the directory.

    Raises:
        GenGeoError: There is no file, or their number differs from the one in their names.
    """
    files = sorted((folder / kind).glob(f"{split}-*-of-*{suffix}"))
    counts = {file.stem.rpartition("-")[2].lstrip("0") for file in files}
    if not files:
        raise GenGeoError(f"{name or folder} has no {kind} of the split {split!r}")
    if counts != {str(len(files))}:
        raise GenGeoError(
            f"{name or folder} has {len(files)} files of the {kind} of {split!r}, but their names state "
            f"{', '.join(sorted(counts))}: fetch it again"
        )
    return files


def write_rows(part: datasets.Dataset, table: str, path: Path, change: Callable[[bytes], bytes] | None = None) -> None:
    """Write one file with the images inside, 100 rows at a time.

    Args:
        part: Rows to write.
        table: "queries" or "gallery".
        path: File to write.
        change: Transform of each image file, see `view_transform`; camera columns then become null. None copies them.

    Raises:
        GenGeoError: An image cannot be read or transformed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gengeo_hf.data.loading import ImageColumn  # imports torch, which `read_pairs` does not need

    schema = stored_features(table, part.column_names).arrow_schema
    column = "ground" if table == "queries" else "aerial"
    images = ImageColumn(part, column)
    with pq.ParquetWriter(path, schema, compression="none") as writer:  # the images are compressed already
        for start in range(0, len(part), 100):
            piece = part.select(range(start, min(start + 100, len(part))))
            sources = images.sources(range(start, start + len(piece)))
            cells = [{"bytes": image_bytes(source, change), "path": None} for source in sources]
            rest = piece.select_columns([name for name in schema.names if name != column]).with_format("arrow")[:]
            columns = {name: rest[name] for name in rest.column_names}
            if change is not None:
                lost = [name for name in ("heading", "fov", *CAMERA_FEATURES) if name in columns]
                columns |= {name: pa.nulls(len(piece), schema.field(name).type) for name in lost}
            columns[column] = pa.array(cells, schema.field(column).type)
            writer.write_table(pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema))


def stored_features(table: str, names: Iterable[str]) -> datasets.Features:
    """Features of a stored table: the required columns and the camera columns that it has.

    Args:
        table: "queries" or "gallery".
        names: Column names of the table.
    """
    return datasets.Features(TABLES[table] | (present_camera(names) if table == "queries" else {}))


def image_bytes(source: Any, change: Callable[[bytes], bytes] | None) -> bytes:
    """The encoded image of a table's cell.

    Args:
        source: Bytes or path, from `ImageColumn.sources`.
        change: Transform of the image file; None returns it unchanged.

    Raises:
        GenGeoError: The file cannot be read or transformed.
    """
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, TypeError) as error:
        raise GenGeoError(f"the image {source} cannot be read: {error}") from error
    if change is None:
        return content
    try:
        return change(content)
    except GenGeoError as error:  # its message does not name the file
        name = "an image inside the table" if isinstance(source, bytes) else source
        raise GenGeoError(f"{name}: {error}") from error


def read_pairs(
    folder: str | Path, split: str, name: str | None = None, cache_dir: str | Path | None = None
) -> CrossViewDataset:
    """Read one split that `write_pairs` or `export_pairs` wrote.

    Args:
        folder: Directory that holds `queries` and `gallery`.
        split: Name of the split in the file names.
        name: Name of the data set in results; None takes the directory's name.
        cache_dir: Cache directory of `datasets`; None takes its default.

    Raises:
        GenGeoError: The split or one of its files is missing, or the tables do not fit the schema.
    """
    tables = []
    import pyarrow.parquet as pq

    for kind in TABLES:
        files = find_files(Path(folder), kind, split, ".parquet", name)
        try:
            table = datasets.Dataset.from_parquet(
                [str(file) for file in files],
                features=stored_features(kind, pq.read_schema(files[0]).names),
                cache_dir=str(cache_dir) if cache_dir else None,
            )
        except Exception as error:  # pyarrow and datasets raise many types for a damaged file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GenGeoError(f"the {kind} of {name or folder} cannot be read: {reason}") from error
        column = "ground" if kind == "queries" else "aerial"
        # Published tables must hold their images: a path could refer to any file of the reader's machine.
        if any(cell.field("bytes").null_count > cell.null_count for cell in table.data.column(column).chunks):
            raise GenGeoError(f"the {kind} of {name or folder} hold paths instead of images")
        tables.append(table)
    return CrossViewDataset(f"{name or Path(folder).name}/{split}", *tables).validate()
