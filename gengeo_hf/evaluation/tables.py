"""Tables of results as Markdown, LaTeX or CSV: tables of the paper with our rows, or any results side by side.

A cell is filled only if its rules are known; notes state every difference from the published setting.
`assets/published.yaml` holds the published numbers.
"""

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.results import Result

Format = Literal["md", "latex", "csv"]
_FILE = Path(__file__).parents[1] / "assets" / "published.yaml"
_LATEX = str.maketrans(
    {letter: "\\" + letter for letter in "%&_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
_SHORT = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "recall@1%": "R@1%",
    "hit_rate_code": "Hit",
    "average_precision_trapezoid": "AP",
    "within_25m": "<= 25 m",
    "within_50m": "<= 50 m",
    "within_100m": "<= 100 m",
}


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    Args:
        title: Title in one line.
        groups: Name and metrics of each group of columns; a group is a protocol.
        rows: Label of each row, and for each metric of each group a value in percent, None if not given.
        notes: Caveats below the table, one sentence each.
    """

    title: str
    groups: list[tuple[str, list[str]]]
    rows: list[tuple[str, list[float | None]]]
    notes: list[str]


def table_numbers() -> list[int]:
    """Numbers of the paper's tables that `build_table` knows."""
    return sorted(_published()["tables"])


def build_table(number: int, results: Sequence[str | Path] = ()) -> Table:
    """Build one of the paper's tables, with our results below the published rows.

    A result fills a column only if it has the protocol of that column. The column's tie rule applies; any other
    difference from the published setting (incomplete data, another training set) becomes a numbered note.

    Args:
        number: Number of the table in the paper, 2 to 9.
        results: JSON files of `gengeo evaluate`.

    Raises:
        GenGeoError: There is no such table, or two results of one model are for the same cell.
    """
    if number not in table_numbers():
        raise GenGeoError(f"there is no table {number}; known are {', '.join(map(str, table_numbers()))}")
    published = _published()["tables"][number]
    groups = [(name, list(metrics)) for name, metrics in published["columns"].items()]
    rows = [(row["method"], _published_values(row, groups)) for row in published["rows"]]
    notes = [_published()["sources"]["gengeo"], *published.get("notes", ())]
    summaries = {str(path): Result.load(path, with_queries=False).summary for path in results}
    ours, our_notes = _our_rows(summaries, groups, published.get("accepts", {}))
    return Table(f"Table {number}: {published['title']} (percent)", groups, rows + ours, notes + our_notes)


def build_results_table(results: Sequence[str | Path]) -> Table:
    """Build a table of any results: a row for each model, a group of columns for each data set and protocol.

    Args:
        results: JSON files of `gengeo evaluate`.

    Raises:
        GenGeoError: There are no results, or two results of one model are for the same cell.
    """
    if not results:
        raise GenGeoError("a table of results needs result files; make one with gengeo evaluate --out")
    summaries = {str(path): Result.load(path, with_queries=False).summary for path in results}
    groups: dict[str, list[str]] = {}
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    notes: list[str] = []
    for path, summary in summaries.items():
        protocol, data, name = summary["protocol"], summary["dataset"], summary["model"]["name"]
        group = (
            protocol["name"]
            if protocol["name"].startswith(data["name"].split("/")[0])
            else (f"{data['name']} ({protocol['name']})")
        )
        shown = [metric for metric in _SHORT if metric in summary["metrics"]]
        groups[group] = [metric for metric in _SHORT if metric in {*groups.get(group, ()), *shown}]
        if group in cells.setdefault(name, {}):
            raise GenGeoError(f"{path}: there are two results of {name} on {group}; name the models apart with --name")
        cells[name][group] = summary
        rules = summary["rules"]
        note = (
            f"{group}: {data['queries']:,} queries, {data['gallery']:,} tiles; ties {rules['ties']}, R@1% rounded by "
            f"{rules['rounding']}" + ("" if data["complete"] else "; NOT the whole published set")
        )
        if note not in notes:
            notes.append(note)
    rows = [
        (name, [_own_percent(found.get(group), metric) for group, metrics in groups.items() for metric in metrics])
        for name, found in cells.items()
    ]
    return Table("Results (percent)", list(groups.items()), rows, notes)


def _own_percent(summary: Mapping[str, Any] | None, metric: str) -> float | None:
    """Value by the tie rule of the result, in percent; None if the result lacks the metric."""
    return None if summary is None or metric not in summary["metrics"] else 100 * summary["metrics"][metric]


def render(table: Table, style: Format = "md") -> str:
    """Render a table as text.

    Args:
        table: Table of `build_table` or `build_results_table`.
        style: "md", "latex" or "csv".

    Raises:
        GenGeoError: `style` has another value.
    """
    writers = {"md": _markdown, "latex": _latex, "csv": _csv}
    if style not in writers:
        raise GenGeoError(f"the format must be one of {', '.join(writers)}; found {style!r}")
    return writers[style](table)


@functools.cache
def _published() -> dict[str, Any]:
    """Read the file of published numbers once."""
    contents: Any = OmegaConf.to_container(OmegaConf.load(_FILE))
    return dict(contents)


def _published_values(row: Mapping[str, Any], groups: Sequence[tuple[str, list[str]]]) -> list[float | None]:
    """Cells of a published row, in the order of the groups."""
    return [value for name, metrics in groups for value in (row[name] or [None] * len(metrics))]


def _our_rows(
    summaries: Mapping[str, dict[str, Any]],
    groups: Sequence[tuple[str, list[str]]],
    accepts: Mapping[str, Sequence[str]],
) -> tuple[list[tuple[str, list[float | None]]], list[str]]:
    """Build our rows, one for each model, and the notes on them."""
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    sources: dict[tuple[str, str], str] = {}
    notes: list[str] = []
    note_numbers: dict[str, set[int]] = {}  # numbers of the notes on each row, from 1
    for path, summary in summaries.items():
        # Rows are made by model name, as in the paper: each column may hold another checkpoint, trained on another data
        # set or with another input size.
        protocol, name = summary["protocol"]["name"], summary["model"]["name"]
        group = next((column for column, _ in groups if protocol in accepts.get(column, [column])), None)
        if group is None:
            notes.append(
                f"Left out: {Path(path).name} was evaluated by the protocol {protocol}, which this table does not have."
            )
            continue
        if (name, group) in sources:
            raise GenGeoError(
                f"{sources[name, group]} and {path} are both {name} on {protocol}; give one of them, or name "
                "the models apart with --name"
            )
        sources[name, group] = path
        cells.setdefault(name, {})[group] = summary
        for note in _differences(summary, group):
            if note not in notes:
                notes.append(note)
            note_numbers.setdefault(name, set()).add(1 + notes.index(note))
    rows = []
    for name, found in cells.items():
        label = f"{name} (ours)" + "".join(f"[{number}]" for number in sorted(note_numbers.get(name, ())))
        rows.append((label, [_percent(found.get(column), metric) for column, metrics in groups for metric in metrics]))
    return rows, [f"[{number}] {note}" for number, note in enumerate(notes, 1)]


def _percent(summary: Mapping[str, Any] | None, metric: str) -> float | None:
    """Value by the tie rule of the published column, in percent; None if the result lacks the metric."""
    if summary is None:
        return None
    by_rule = summary["metrics_by_ties"][summary["protocol"]["published_ties"]]
    return 100 * by_rule[metric] if metric in by_rule else None


def _differences(summary: Mapping[str, Any], group: str) -> list[str]:
    """List the differences between a result and the published setting of its column."""
    protocol, data, model = summary["protocol"], summary["dataset"], summary["model"]
    where = protocol["name"]
    notes = []
    if where != group:
        notes.append(f"{group}: ours is the protocol {where}; the paper does not state its own.")
    if not data["complete"]:
        notes.append(
            f"{where}: NOT COMPARABLE, on {data['queries']:,} queries and {data['gallery']:,} tiles instead of "
            f"{protocol['queries']:,} and {protocol['gallery']:,}."
        )
    if model["trained_on"] not in protocol["trained_on"]:
        notes.append(
            f"{where}: NOT COMPARABLE, the model was trained on {model['trained_on'] or 'unknown data'} instead of "
            f"{' or '.join(protocol['trained_on'])}."
        )
    notes += _size_notes(summary)
    ours = summary["metrics_by_ties"]["pessimistic"]["recall@1"]
    theirs = summary["metrics_by_ties"][protocol["published_ties"]]["recall@1"]
    if ours != theirs:
        notes.append(
            f"{where}: computed as published, with ties in favour of the query; with ties against it R@1 is "
            f"{100 * ours:.2f}."
        )
    return notes


def _size_notes(summary: Mapping[str, Any]) -> list[str]:
    """Note on input sizes that differ from the paper's, or that the paper does not state."""
    protocol, used = summary["protocol"], summary["settings"].get("view_sizes")
    if used is None:
        return []
    ours = {view: f"{used[view]['height']}x{used[view]['width']}" for view in ("ground", "aerial")}
    paper = {view: protocol[f"{view}_size"] for view in ("ground", "aerial")}
    if ours == paper:
        return []
    theirs = " and ".join(size for size in paper.values() if size) or "sizes that it does not state"
    return [f"{protocol['name']}: at {ours['ground']} and {ours['aerial']} pixels; the paper's are at {theirs}."]


def _cells(values: Sequence[float | None]) -> list[str]:
    """Format values with two decimals, as in the paper."""
    return ["-" if value is None else f"{value:.2f}" for value in values]


def _markdown(table: Table) -> str:
    heads = [f"{name} {_SHORT.get(metric, metric)}" for name, metrics in table.groups for metric in metrics]
    lines = [f"**{table.title}**", "", "| method | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for label, values in table.rows:
        name = label.replace("|", "\\|")
        lines.append(f"| {name} | " + " | ".join(_cells(values)) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]) + "\n"


def _latex(table: Table) -> str:
    width = sum(len(metrics) for _, metrics in table.groups)
    spans = [f"\\multicolumn{{{len(metrics)}}}{{c}}{{{name.translate(_LATEX)}}}" for name, metrics in table.groups]
    rules, first = [], 2
    for _, metrics in table.groups:
        rules.append(f"\\cmidrule(lr){{{first}-{first + len(metrics) - 1}}}")
        first += len(metrics)
    heads = [_SHORT.get(metric, metric).translate(_LATEX) for _, metrics in table.groups for metric in metrics]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        f"\\caption{{{table.title.translate(_LATEX)}}}",
        f"\\begin{{tabular}}{{l{'r' * width}}}",
        "\\toprule",
        " & ".join(["", *spans]) + " \\\\",
        " ".join(rules),
        " & ".join(["method", *heads]) + " \\\\",
        "\\midrule",
        *(" & ".join([label.translate(_LATEX), *_cells(values)]) + " \\\\" for label, values in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        *(f"\\par\\footnotesize {note.translate(_LATEX)}" for note in table.notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", *(f"{name} {metric}" for name, metrics in table.groups for metric in metrics)])
    for label, values in table.rows:
        writer.writerow([label, *("" if value is None else f"{value:.4f}" for value in values)])
    writer.writerows([f"# {note}"] for note in table.notes)
    return out.getvalue()
