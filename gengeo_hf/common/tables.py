"""The reader of tables: CSV, TSV, Parquet, JSON lines, Arrow, saved data sets, dictionaries of splits, the Hub.

All commands read tables with this module, so that a file which one command accepts is accepted by all. Cells of text
formats stay text; ids stay text in every format. An unreadable file raises an error that says what to change in it;
omitted rows and columns are counted in `Table.notes`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.table_files import read_arrow, read_json_lines, read_parquet, read_text
from gengeo_hf.common.transfer import first_line

if TYPE_CHECKING:
    import datasets

TEXT_SUFFIXES = (".csv", ".tsv")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".jsonl", ".ndjson", ".arrow", ".feather")
HUB_PREFIXES = ("hf://datasets/", "hf://", "hf:")
SPLIT = "split"
PAIRS_FILE = "pairs.parquet"  # table in a directory that `gengeo data get` or `gengeo data make` wrote
EXACT = 2**53  # larger integers are not exact as float64
_EMPTY = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})
_OTHER_SUFFIXES = {
    ".xlsx": "save it as 'CSV UTF-8'",
    ".xls": "save it as 'CSV UTF-8'",
    ".ods": "save it as CSV, UTF-8",
    ".json": "write one JSON object a line and name it .jsonl",
    ".geojson": "export its attributes as CSV",
    ".txt": "name it .csv or .tsv",
    ".gz": "unpack it",
    ".zip": "unpack it",
}


@dataclass(frozen=True)
class Table:
    """A table that was read by `read_table` or `as_table`.

    Args:
        name: Short name in results: that of the file or directory.
        file: Name in messages.
        folder: Directory to which relative paths in the table refer; None is the working directory.
        rows: Rows of the table; text formats have text columns.
        notes: One line, with a count, for everything that was omitted or changed.
        doubled: Column names that occur more than once in the file; only the first of each is in `rows`.
    """

    name: str
    file: str
    folder: Path | None
    rows: "datasets.Dataset"
    notes: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.rows.column_names)

    def find(self, names: Sequence[str]) -> str | None:
        """Find the first column with one of the names, ignoring case and punctuation; None if there is none.

        Args:
            names: Names in lower-case letters and digits, in order of preference.
        """
        by_plain = {plain(column): column for column in reversed(self.columns)}
        return next((by_plain[name] for name in names if name in by_plain), None)

    def is_image(self, column: str) -> bool:
        """Whether a column contains images, not paths of images."""
        import datasets

        return isinstance(self.rows.features[column], datasets.Image)

    def text(self, column: str) -> list[str | None]:
        """Return a column as text, None for empty cells. Integers above 2**53 stay exact.

        Raises:
            GenGeoError: The column is missing, occurs twice, or contains floating point numbers of 2**53 or more, which
                cannot be exact ids.
        """
        return [self._as_text(column, row, value) for row, value in enumerate(self._array(column).to_pylist())]

    def values(self, column: str) -> list[Any]:
        """Return a column as Python values; lists stay lists, class labels become their names."""
        import datasets

        feature = self.rows.features[column]
        values = self._array(column).to_pylist()
        if isinstance(feature, datasets.ClassLabel):
            return [None if value is None else feature.int2str(value) for value in values]
        return values

    def numbers(self, column: str, what: str | None = None) -> np.ndarray:
        """Return a column as float64, NaN for empty cells.

        Args:
            column: Name of the column.
            what: Name of the values in messages; None uses the name of the column.

        Raises:
            GenGeoError: A value is not a finite number; the message says in which row and what to change.
        """
        array = self._array(column)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            out = _parse(array)
            if out is None:
                texts = self.text(column)
                out = np.array([self._as_number(what or column, row, text) for row, text in enumerate(texts)])
        else:
            try:
                out = np.asarray(array.cast(pa.float64()).to_numpy(), dtype=np.float64)
            except (pa.ArrowException, ValueError) as error:
                raise GenGeoError(f"{self.file}: column {column!r} must hold numbers ({first_line(error)})") from error
        if np.isinf(out).any():
            row = int(np.argmax(np.isinf(out)))
            raise GenGeoError(f"{self.file}, row {row + 1}: {what or column} is infinite, expected a number")
        return out

    def _array(self, column: str) -> pa.ChunkedArray:
        if column in self.doubled:
            raise GenGeoError(f"{self.file} has two columns {column!r}: give them different names")
        if column not in self.rows.column_names:
            raise GenGeoError(f"{self.file} has no column {column!r}; it has {', '.join(self.columns)}")
        found = self.rows.select_columns([column]).with_format("arrow")[:][column]
        return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])

    def _as_text(self, column: str, row: int, value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, float):
            if not np.isfinite(value):
                return None
            if not value.is_integer():
                return repr(value)
            if abs(value) >= EXACT:
                raise GenGeoError(
                    f"{self.file}, row {row + 1}: {column} {value:.0f} was stored as a floating point number, which "
                    "does not hold so many digits; store ids as text or integers"
                )
            return str(int(value))
        return str(value).strip() or None

    def _as_number(self, what: str, row: int, text: str | None) -> float:
        if text is None or text.lower() in _EMPTY:
            return np.nan
        try:
            return float(text)
        except ValueError:
            hint = _number_hint(text)
            raise GenGeoError(f"{self.file}, row {row + 1}: {what} is {text!r}, expected a number{hint}") from None


def read_table(source: str | Path) -> Table:
    """Read a table of any supported kind.

    Args:
        source: A CSV, TSV, Parquet, JSON-lines or Arrow file; a directory that `save_to_disk` of a `Dataset` or
            `DatasetDict` wrote; a directory with exactly one such file, with `pairs.parquet`, or with Parquet files
            that contain images; or `hf://owner/name[/config[/split]]`. The splits of a dictionary become a column
            `split`.

    Raises:
        GenGeoError: The source does not exist, is not supported, is damaged, is not UTF-8, or has no rows.
    """
    address = str(source)
    prefix = next((prefix for prefix in HUB_PREFIXES if address.startswith(prefix)), None)
    if prefix is not None:
        table = _hub_table(address.removeprefix(prefix))
    else:
        path = Path(source)
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            table = _saved_table(path)
        else:
            table = _file_table(find_table(path), path)
    if not len(table):
        raise GenGeoError(f"{table.file} has a header and no rows")
    return table


def as_table(rows: "datasets.Dataset", name: str = "dataset") -> Table:
    """Wrap a data set in memory as a table.

    Args:
        rows: Data set; image columns contain images or paths.
        name: Name in messages and results.
    """
    return Table(name, name, None, _with_image_features(rows))


def find_table(source: Path) -> Path:
    """Find the table at `source`, which is the file or a directory with exactly one table.

    Raises:
        GenGeoError: There is no table or more than one, or the file is not supported.
    """
    kinds = ", ".join(TABLE_SUFFIXES)
    if source.is_dir():
        if (source / PAIRS_FILE).is_file():
            return source / PAIRS_FILE
        found = sorted(
            path for path in source.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.name[0] not in "._"
        )
        if found and all(path.suffix.lower() == ".parquet" for path in found):
            return found[0]
        if len(found) != 1:
            there = ", ".join(path.name for path in found[:5]) or "none"
            raise GenGeoError(f"{source}: expected a table ({kinds}) or a directory with exactly one, found {there}")
        return found[0]
    if not source.is_file():
        raise GenGeoError(f"there is no table at {source}")
    if source.suffix.lower() not in TABLE_SUFFIXES:
        hint = _OTHER_SUFFIXES.get(source.suffix.lower())
        advice = f"; {hint}" if hint else ""
        raise GenGeoError(f"{source} is not a supported table ({kinds} or a saved data set){advice}")
    return source


def plain(name: str) -> str:
    """Reduce a column name to its lower-case letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _file_table(path: Path, source: Path) -> Table:
    """Read the table of one file, or of the Parquet files of one directory."""
    import datasets

    suffix = path.suffix.lower()
    notes: list[str] = []
    doubled: tuple[str, ...] = ()
    is_whole_folder = source.is_dir() and suffix == ".parquet" and path.name != PAIRS_FILE
    files = sorted(source.glob("*.parquet")) if is_whole_folder else [path]
    try:
        if suffix in TEXT_SUFFIXES:
            arrow, notes, doubled = read_text(path)
            rows = datasets.Dataset(arrow)
        elif suffix == ".parquet":
            rows = read_parquet(files)
        elif suffix in (".jsonl", ".ndjson"):
            rows = datasets.Dataset(read_json_lines(path))
        else:
            rows = datasets.Dataset(read_arrow(path))
    except GenGeoError:
        raise
    except Exception as error:  # pyarrow, csv and datasets raise many kinds of error for damaged files
        raise GenGeoError(f"{path} cannot be read as a table: {first_line(error)}") from error
    name = source.name if len(files) > 1 or (source.is_dir() and path.name == PAIRS_FILE) else path.stem
    return Table(name, str(path), path.parent, _with_image_features(rows), tuple(notes), doubled)


def _saved_table(path: Path) -> Table:
    """Read a directory of `save_to_disk`."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # readers raise many kinds of error for damaged files
        raise GenGeoError(f"{path} is not a saved data set that can be read: {first_line(error)}") from error
    return _join_splits(path.name, str(path), path, found)


def _hub_table(address: str) -> Table:
    """Read a data set of the Hub: `owner/name`, `owner/name/config` or `owner/name/config/split`."""
    import datasets

    owner, name, config, split, *more = [*address.strip("/").split("/"), "", "", ""]
    if not (owner and name) or any(more):
        raise GenGeoError(f"hf://{address} is not a data set: write hf://owner/name, with /config and /split if needed")
    try:
        found = datasets.load_dataset(f"{owner}/{name}", config or None, split=split or None)
    except Exception as error:  # errors of the Hub, of the network or of the files
        raise GenGeoError(f"the data set {owner}/{name} cannot be read: {first_line(error)}") from error
    return _join_splits(name, f"hf://{address}", None, found)


def _join_splits(name: str, file: str, folder: Path | None, found: Any) -> Table:
    """Build one table from a data set, or from the splits of a dictionary."""
    import datasets

    if not isinstance(found, datasets.DatasetDict):
        return Table(name, file, folder, _with_image_features(found))
    notes = []
    parts = []
    for split, part in found.items():
        if SPLIT in part.column_names:
            notes.append(f"{file}: its splits {', '.join(found)} replace its column {SPLIT!r}")
            part = part.remove_columns([SPLIT])
        parts.append(part.add_column(SPLIT, [str(split)] * len(part)))
    return Table(name, file, folder, _with_image_features(datasets.concatenate_datasets(parts)), tuple(notes[:1]))


def _with_image_features(rows: "datasets.Dataset") -> "datasets.Dataset":
    """Declare the columns of encoded images as image features."""
    import datasets

    for name, feature in dict(rows.features).items():
        if isinstance(feature, datasets.Image):
            continue
        is_struct = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
        is_bytes = isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
        if is_bytes and feature.dtype == "large_binary":  # pyarrow 21 does not cast it to images
            rows = rows.cast_column(name, datasets.Value("binary"))
        if is_struct or is_bytes:
            rows = rows.cast_column(name, datasets.Image(decode=False)).cast_column(name, datasets.Image())
    return rows


def _parse(array: pa.ChunkedArray) -> np.ndarray | None:
    """Parse a column of text as numbers; None if a value is not a plain number."""
    trimmed = pc.utf8_trim_whitespace(array)
    try:
        numbers = pc.cast(pc.if_else(pc.equal(trimmed, ""), None, trimmed), pa.float64())
    except pa.ArrowException:
        return None
    return np.asarray(numbers.to_numpy(), dtype=np.float64)


def _number_hint(text: str) -> str:
    """Return advice for a cell that should contain a number."""
    if re.fullmatch(r"[-+]?\d+,\d+", text):
        return f": use a decimal point ({text.replace(',', '.')}); the spreadsheet's language decides what it writes"
    if re.search(r"[°º'\"′″]", text):
        return ": write decimal degrees without signs, for example 60.1699"
    if re.fullmatch(r"[-+]?[\d.]+\s*[NSEWnsew]", text):
        return ": write a sign for the hemisphere, for example -24.9 for 24.9 W"
    return "; leave the cell empty where it is unknown"
