"""Breaks a result down by city, season, brightness or age of the photos, or by any column of the evaluated table.

Facts about photos come from the evaluated table; hits come from the table of queries of the result.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.tables import Table, read_table
from gengeo_hf.data.column_names import NAMES
from gengeo_hf.data.sources import read_sources
from gengeo_hf.evaluation.intervals import Groups, Interval, mean_interval
from gengeo_hf.evaluation.results import Result

SEASONS = (
    "winter",
    "spring",
    "summer",
    "autumn",
)  # meteorological; winter starts in December in the northern hemisphere
AGE_EDGES = (1, 2, 5, 10)  # years
GREYS = (50, 100)  # edges of the bins of mean grey level, of 255
DATE = "capturedat"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Slice:
    """One group of queries.

    Args:
        by: Fact or column by which queries are grouped.
        name: Name of the group.
        queries: Number of queries in the group.
        value: Mean of the metric, 0 to 1.
        interval: 95 % interval of the mean.
    """

    by: str
    name: str
    queries: int
    value: float
    interval: Interval


def slice_result(result: Result, root: str | Path, by: Sequence[str], metric: str = "recall@1") -> list[Slice]:
    """Group the queries of a result by facts about their photos.

    Args:
        result: Result with its table of queries.
        root: The evaluated table, see `read_table`.
        by: "city", "season", "brightness", "age" (years from the photo to the flight), or the name of a column.
        metric: Name of a metric of the result.

    Returns:
        The groups of each fact, in the order of `by`.

    Raises:
        GenGeoError: The table lacks a needed column, holds none of the queries, or the metric is unknown.
    """
    if metric not in result.outcomes:
        raise GenGeoError(f"the result has no metric {metric!r}; it has {', '.join(result.outcomes)}")
    facts = _Facts(result, root)
    values, codes = result.outcomes[metric], result.groups.codes
    found = []
    for one in by:
        names = np.array(facts.groups(one), dtype=object)
        for name in sorted(set(names), key=_order):
            inside = names == name
            groups = np.unique(codes[inside], return_inverse=True)[1]
            interval = mean_interval(values[inside], Groups(groups, ""))
            found.append(Slice(one, str(name), int(inside.sum()), float(values[inside].mean()), interval))
    return found


def format_slices(slices: Sequence[Slice], metric: str) -> str:
    """Format the groups for a terminal."""
    width = max(len(one.name) for one in slices)
    lines, last = [], ""
    for one in slices:
        if one.by != last:
            lines.append(f"{metric} by {one.by}")
            last = one.by
        low, high = one.interval
        lines.append(f"  {one.name:{width}}  {one.value:6.1%} ({low:.1%} to {high:.1%})  {one.queries:,} queries")
    return "\n".join(lines)


def _order(name: str) -> tuple[bool, float, str]:
    """Sort key: numbers by value, names alphabetically, unknown last."""
    number = re.match(r"[<>]?=?\s*(\d+)", name)
    return name == UNKNOWN, float(number[1]) if number else -1.0, name


class _Facts:
    """Facts about the photos of a result, read from the evaluated table."""

    def __init__(self, result: Result, root: str | Path) -> None:
        self._result, self._root = result, root
        self._table: Table = read_table(root)
        column = self._table.find(NAMES["query_id"]) or self._table.find(NAMES["ground"])
        if column is None:
            raise GenGeoError(f"{self._table.file} has neither ids nor names of photos")
        row_of = {text: row for row, text in enumerate(self._table.text(column)) if text}
        ids = result.queries["query_id"].to_pylist()
        rows = [row_of.get(name, -1) for name in ids]
        if max(rows) < 0:
            raise GenGeoError(f"{self._table.file} has none of the result's {len(ids):,} photos, such as {ids[0]}")
        self._rows = rows

    def groups(self, by: str) -> list[str]:
        """Name of each query's group by a fact or a column."""
        known: dict[str, Callable[[], list[str]]] = {
            "city": lambda: [area or UNKNOWN for area in self._result.queries["area"].to_pylist()],
            "season": self._seasons,
            "brightness": self._brightness,
            "age": self._ages,
        }
        return known[by]() if by in known else self._column(by)

    def _column(self, column: str) -> list[str]:
        texts = self._table.text(column)
        return [(texts[row] if row >= 0 else None) or UNKNOWN for row in self._rows]

    def _dates(self) -> list[tuple[int, int] | None]:
        """Year and month of each photo."""
        column = self._table.find([DATE, "date", "taken", "time"])
        if column is None:
            raise GenGeoError(f"{self._table.file} has no column captured_at (YYYY-MM-DD) with the dates of the photos")
        matches = (re.match(r"(\d{4})-(\d{2})", text) for text in self._column(column))
        return [(int(m[1]), int(m[2])) if m and 1 <= int(m[2]) <= 12 else None for m in matches]

    def _seasons(self) -> list[str]:
        south = self._result.queries["lat"].to_numpy() < 0
        return [
            UNKNOWN if date is None else SEASONS[(date[1] % 12 // 3 + 2 * bool(below)) % 4]
            for date, below in zip(self._dates(), south, strict=True)
        ]

    def _ages(self) -> list[str]:
        sources = read_sources(self._root)
        stated = " ".join(one.acquired for one in sources.sources if "aerial" in one.what) if sources else ""
        years = [int(text) for text in re.findall(r"\b(?:19|20)\d{2}\b", stated)]
        if not years:
            raise GenGeoError(f"{self._root} does not state when its aerial imagery was taken (SOURCES.json)")
        flight = sum(years) / len(years)
        return [UNKNOWN if date is None else _age(abs(date[0] - flight)) for date in self._dates()]

    def _brightness(self) -> list[str]:
        column = self._table.find(NAMES["ground"])
        if column is None or self._table.is_image(column) or self._table.folder is None:
            raise GenGeoError(f"{self._table.file} has no column with photo files: their brightness cannot be measured")
        paths = self._table.text(column)
        return [self._grey(paths[row] if row >= 0 else None) for row in self._rows]

    def _grey(self, name: str | None) -> str:
        if name is None or self._table.folder is None:
            return UNKNOWN
        try:
            with Image.open(self._table.folder / name) as image:
                image.draft("L", (64, 64))
                level = float(np.asarray(image.convert("L").resize((32, 32))).mean())
        except OSError:
            return UNKNOWN
        return next((f"< {grey} of 255" for grey in GREYS if level < grey), f">= {GREYS[-1]} of 255")


def _age(years: float) -> str:
    """Name the bin of a difference in years."""
    return next((f"< {edge} years" for edge in AGE_EDGES if years < edge), f">= {AGE_EDGES[-1]} years")
