"""Tables of ablations: means, paired differences with intervals, and the numbers of the paper.

Tables are written as Markdown, CSV, JSON and a plot; `ablate.py` updates them after each run.
"""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ablate_cost
from gengeo_hf.common.files import atomic_file, write_json, write_text
from gengeo_hf.evaluation.seeds import Difference, paired_differences, warn_comparisons

HEADLINE = "recall@1"
Recalls = dict[str, dict[str, float]]  # data set -> metric -> fraction


@dataclass
class Row:
    """One row of a table.

    Args:
        name: Name in the table. The other rows are compared with the first one, the full model.
        runs: Recalls of the finished runs by seed.
        paper: R@1 of the paper in percent on each test set, None for sets that the paper does not have; None if the
            paper does not have this row.
        note: Note below the table; empty for none.
        rate: Learning rate of the runs; None for that of the configuration.
        costs: Costs of the finished runs, see `ablate_cost`; empty for tables without costs.
    """

    name: str
    runs: dict[int, Recalls] = field(default_factory=dict)
    paper: Sequence[float | None] | None = None
    note: str = ""
    rate: float | None = None
    costs: list[dict[str, Any]] = field(default_factory=list)

    def percents(self, data: str) -> dict[int, float]:
        """Return R@1 on a test set in percent by seed."""
        return {seed: 100 * run[data][HEADLINE] for seed, run in self.runs.items() if run[data]}


def write_table(
    folder: Path, table: str, rows: list[Row], sets: list[str], command: str, seeds: int, note: str
) -> None:
    """Write `<table>.md`, `.csv`, `.json` and, if matplotlib is installed, `.png`.

    Args:
        folder: Directory of the files.
        table: Name of the files without suffix.
        rows: Rows with the finished runs; a row without runs is shown as open.
        sets: Names of the test sets, the training domain first.
        command: Command that makes the table.
        seeds: Number of runs per row when the table is complete.
        note: Note about initial weights and learning rates.
    """
    differences = {name: paired_differences([row.percents(name) for row in rows]) for name in sets}
    verdicts = {name: give_verdicts(rows, number, differences[name]) for number, name in enumerate(sets)}
    stored = {name: [None if x is None else asdict(x) for x in found] for name, found in differences.items()}
    write_json(
        folder / f"{table}.json",
        {
            "command": command,
            "seeds": seeds,
            "note": note,
            "rows": [vars(row) for row in rows],
            "differences": _finite(stored),
            "verdicts": verdicts,
        },
    )
    lines = markdown(rows, sets, command, seeds, differences, verdicts, note)
    write_text(folder / f"{table}.md", "\n".join(lines) + "\n")
    with atomic_file(folder / f"{table}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        metrics = list(next((run[sets[0]] for row in rows for run in row.runs.values()), {}))
        writer.writerow(["row", "seed", *(f"{name} {metric}" for name in sets for metric in metrics)])
        for row in rows:
            for seed, run in row.runs.items():
                writer.writerow([row.name, seed, *(run[name].get(metric, "") for name in sets for metric in metrics)])
    plot(folder / f"{table}.png", rows, sets)


def _finite(value: Any) -> Any:
    """Replace infinite values, which JSON does not support, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def give_verdicts(rows: list[Row], number: int, differences: Sequence[Difference | None]) -> list[str]:
    """Return the verdict on the difference of each row to the first row.

    Args:
        rows: Rows of the table.
        number: Index of the test set in `Row.paper`.
        differences: Difference of each row to the first row; None for the first row and for open rows.

    Returns:
        "undecided" if the interval contains zero; otherwise "agrees" or "contradicts" if the paper has a difference,
        "better" or "worse" if not. Empty for rows without a difference.
    """
    verdicts = []
    base = rows[0].paper
    for row, found in zip(rows, differences, strict=True):
        if found is None:
            verdicts.append("")
            continue
        paper = None if row.paper is None else row.paper[number]
        full = None if base is None else base[number]
        if not found.is_clear:
            verdicts.append("undecided")
        elif paper is None or full is None or paper == full:
            verdicts.append("better" if found.mean > 0 else "worse")
        else:
            verdicts.append("agrees" if found.mean * (paper - full) > 0 else "contradicts")
    return verdicts


def markdown(
    rows: list[Row],
    sets: list[str],
    command: str,
    seeds: int,
    differences: dict[str, list[Difference | None]],
    verdicts: dict[str, list[str]],
    note: str,
) -> list[str]:
    """Return the lines of the Markdown table."""
    done = sum(len(row.runs) for row in rows)
    open_runs = "" if done == seeds * len(rows) else f" **{done} of {seeds * len(rows)} runs are finished.**"
    compared = sum(found is not None for row in differences.values() for found in row)
    head = [f"{name} R@1 | difference | paper | verdict" for name in sets]
    lines = [
        f"R@1 in percent: mean ± standard deviation over seeds; difference to the first row, paired by seed, with its "
        f"95 % interval.{open_runs} `{command}`",
        "",
        *([note, ""] if note else []),
        f"| row | {' | '.join(head)} | rate | seeds |",
        f"| --- | {' | '.join('---: | ---: | ---: | ---' for _ in sets)} | ---: | ---: |",
    ]
    for index, row in enumerate(rows):
        cells = []
        for number, name in enumerate(sets):
            value = None if row.paper is None else row.paper[number]
            paper = "" if value is None else f"{value:.2f}"
            cells += [
                mean_and_spread(list(row.percents(name).values())),
                format_difference(differences[name][index]),
                paper,
                verdicts[name][index],
            ]
        rate = "" if row.rate is None else f"{row.rate:g}"
        lines.append(f"| {row.name} | {' | '.join(cells)} | {rate} | {len(row.runs)} |")
    if any(found and found.own_spread for row in differences.values() for found in row):
        lines += ["", "† interval from the spread of this row, which differs from that of the other rows."]
    if any(row.costs for row in rows):
        lines += ["", *ablate_cost.cost_lines(rows, sets)]
    notes = [f"{row.name}: {row.note}" for row in rows if row.note]
    return [*lines, "", *notes, *filter(None, [warn_comparisons(compared)])]


def format_difference(found: Difference | None) -> str:
    """Format a difference as "+2.8 ± 2.9", with "?" as margin if it is infinite (one run)."""
    if found is None:
        return ""
    margin = "?" if found.margin == float("inf") else f"{found.margin:.1f}"
    return f"{found.mean:+.1f} ± {margin}{' †' if found.own_spread else ''}"


def mean_and_spread(values: list[float]) -> str:
    """Format mean and standard deviation as "45.2 ± 3.1"; one value has no deviation, no value is "open"."""
    if not values:
        return "open"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def plot(path: Path, rows: list[Row], sets: list[str]) -> None:
    """Plot a dot for each run and a bar for each mean, one panel per test set; does nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(4.2 * len(sets), 0.8 + 0.42 * len(rows)), dpi=120, layout="constrained")
    panels: Any = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, sets, strict=True):
        for position, row in enumerate(rows):
            values = list(row.percents(name).values())
            if values:
                panel.barh(position, statistics.mean(values), height=0.6, color="#9fc3dc")
                panel.plot(values, [position] * len(values), "o", color="#1f4e70", markersize=4)
        panel.set_yticks(range(len(rows)), [row.name for row in rows])
        panel.set_xlabel(f"R@1 on {name} (%)")
        panel.set_xlim(left=0)
    panels[0].invert_yaxis()
    with atomic_file(path) as temporary:
        figure.savefig(temporary)
