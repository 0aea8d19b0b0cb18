"""Pairs as Parquet files with the images inside: what is published on the Hub and what comes back from there.

The files are `queries/<split>-00000-of-00001.parquet` and the same under `gallery`; `datasets.load_dataset` reads them
without this package.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CAMERA_FEATURES, GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset, present_camera

ROWS_IN_FILE = 2000  # some hundred MB of images
TABLES = {"queries": QUERY_FEATURES, "gallery": GALLERY_FEATURES}


def write_pairs(data: CrossViewDataset, folder: Path, split: str) -> None:
    """Write both tables of one split into an empty folder.

    Raises:
        GenGeoError: the name of the split cannot be part of a file name that `datasets` recognises, or an image is
            missing.
    """
    check_split_name(split)
    for table in TABLES:
        rows_of = getattr(data, table)
        (folder / table).mkdir(parents=True)
        for path, rows in file_parts(folder / table, f"{split}-", ".parquet", len(rows_of), ROWS_IN_FILE):
            write_rows(rows_of.select(rows), table, path)


def check_split_name(split: str) -> None:
    """Refuse what cannot be part of a file name that `datasets` recognises.

    Raises:
        GenGeoError: a character is neither letter, digit nor underscore.
    """
    if not re.fullmatch(r"\w+", split):
        raise GenGeoError(f"the split is called {split!r}: use letters, digits and underscores only")


def file_parts(folder: Path, start: str, suffix: str, count: int, rows_in_file: int) -> Iterator[tuple[Path, range]]:
    """File and rows of each part of a table."""
    files = -(-count // rows_in_file)
    for number in range(files):
        rows = range(number * rows_in_file, min(count, (number + 1) * rows_in_file))
        yield folder / f"{start}{number:05d}-of-{files:05d}{suffix}", rows


def whole_set(folder: Path, kind: str, split: str, suffix: str, name: str | None = None) -> list[Path]:
    """All files of one table of a split, in their order.

    Raises:
        GenGeoError: there is none, or their names speak of more.
    """
    files = sorted((folder / kind).glob(f"{split}-*-of-*{suffix}"))
    counts = {file.stem.rpartition("-")[2].lstrip("0") for file in files}
    if not files:
        raise GenGeoError(f"{name or folder} has no {kind} of the split {split!r}")
    if counts != {str(len(files))}:
        raise GenGeoError(
            f"{name or folder} has {len(files)} files of the {kind} of {split!r}, and their names speak of "
            f"{', '.join(sorted(counts))}: fetch it again"
        )
    return files


def write_rows(part: datasets.Dataset, table: str, path: Path, change: Callable[[bytes], bytes] | None = None) -> None:
    """One file with the images inside, in pieces that fit into memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gengeo_hf.data.loading import ImageColumn  # brings torch, which reading does not need

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
    """The features of a stored table: those that every one has, and of the camera those that are there.

    Args:
        table: "queries" or "gallery".
        names: Column names of the table.
    """
    return datasets.Features(TABLES[table] | (present_camera(names) if table == "queries" else {}))


def image_bytes(source: Any, change: Callable[[bytes], bytes] | None) -> bytes:
    """The encoded image, from memory or from its file, in the view that was asked for.

    Raises:
        GenGeoError: the file cannot be read, or not be shown in that view.
    """
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except (OSError, TypeError) as error:
        raise GenGeoError(f"the image {source} cannot be read: {error}") from error
    if change is None:
        return content
    try:
        return change(content)
    except GenGeoError as error:  # it speaks of so many bytes
        name = "an image inside the table" if isinstance(source, bytes) else source
        raise GenGeoError(f"{name}: {error}") from error


def read_pairs(
    folder: str | Path, split: str, name: str | None = None, cache_dir: str | Path | None = None
) -> CrossViewDataset:
    """Read one split that `write_pairs` wrote.

    Args:
        folder: holds the folders `queries` and `gallery`.
        split: of the file names.
        name: what results call the data; default: the folder's name.
        cache_dir: of `datasets`, for the tables in its own format.

    Raises:
        GenGeoError: the split or one of its files is missing, or the tables do not fit the schema.
    """
    tables = []
    import pyarrow.parquet as pq

    for kind in TABLES:
        files = whole_set(Path(folder), kind, split, ".parquet", name)
        try:
            table = datasets.Dataset.from_parquet(
                [str(file) for file in files],
                features=stored_features(kind, pq.read_schema(files[0]).names),
                cache_dir=str(cache_dir) if cache_dir else None,
            )
        except Exception as error:  # whatever pyarrow and datasets say of a damaged file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GenGeoError(f"the {kind} of {name or folder} cannot be read: {reason}") from error
        column = "ground" if kind == "queries" else "aerial"
        # Published pairs hold their pictures; a path would let a stranger name files of this machine.
        if any(cell.field("bytes").null_count > cell.null_count for cell in table.data.column(column).chunks):
            raise GenGeoError(f"the {kind} of {name or folder} name files instead of holding the pictures")
        tables.append(table)
    return CrossViewDataset(f"{name or Path(folder).name}/{split}", *tables).validate()
