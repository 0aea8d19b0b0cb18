"""From finished runs to a table: mean and spread, beside the paper's numbers, as Markdown, CSV, JSON and a plot.

Before: the recalls of each row's runs. After: files that `ablate.py` writes anew after each run.
"""

import csv
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gengeo_hf.common.files import atomic_file, write_json, write_text

HEADLINE = "recall@1"
Runs = list[dict[str, dict[str, float]]]  # of each seed: data set -> metric -> share


@dataclass
class Row:
    """One row of a table.

    Args:
        name: as the table shows it. The first row is the full model that the others are compared with.
        runs: recalls of the finished runs, in the order of the seeds.
        paper: R@1 in percent on each test set, in their order; None where the paper has no such row.
    """

    name: str
    runs: Runs = field(default_factory=list)
    paper: list[float] | None = None

    def percents(self, data: str) -> list[float]:
        """R@1 of each run on a test set, in percent."""
        return [100 * run[data][HEADLINE] for run in self.runs]


def write_table(folder: Path, table: str, rows: list[Row], sets: list[str], command: str, seeds: int) -> None:
    """Write `<table>.md`, `.csv`, `.json` and, where matplotlib is installed, `.png`.

    Args:
        folder: where to.
        table: name of the files.
        rows: finished so far; a row without runs is shown as open.
        sets: test sets, the training domain first.
        command: what made the table, for the reader.
        seeds: how many runs a row will have.
    """
    verdicts = {name: compare(rows, number, name) for number, name in enumerate(sets)}
    write_json(
        folder / f"{table}.json",
        {"command": command, "seeds": seeds, "rows": [vars(row) for row in rows], "verdicts": verdicts},
    )
    write_text(folder / f"{table}.md", "\n".join(markdown(rows, sets, command, seeds, verdicts)) + "\n")
    with atomic_file(folder / f"{table}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        metrics = list(next((run[sets[0]] for row in rows for run in row.runs), {}))
        writer.writerow(["row", "seed", *(f"{name} {metric}" for name in sets for metric in metrics)])
        for row in rows:
            for seed, run in enumerate(row.runs):
                writer.writerow([row.name, seed, *(run[name][metric] for name in sets for metric in metrics)])
    plot(folder / f"{table}.png", rows, sets)


def compare(rows: list[Row], number: int, data: str) -> list[str]:
    """For each row: does its difference to the first row have the paper's sign?

    The spread is pooled over the table's rows (two seeds of one row say little about it), and a difference counts
    when it is larger than twice its standard error.

    Returns:
        For each row "", "agrees", "contradicts" or "within the spread".
    """
    full = rows[0].percents(data)
    spreads = [statistics.variance(row.percents(data)) for row in rows if len(row.runs) > 1]
    words = [""]
    for row in rows[1:]:
        ours, paper, base = row.percents(data), row.paper, rows[0].paper
        if not ours or not full or not spreads or paper is None or base is None:
            words.append("")
            continue
        error = (statistics.mean(spreads) * (1 / len(ours) + 1 / len(full))) ** 0.5
        gap = statistics.mean(ours) - statistics.mean(full)
        if abs(gap) <= 2 * error:
            words.append("within the spread")
        else:
            words.append("agrees" if gap * (paper[number] - base[number]) > 0 else "contradicts")
    return words


def markdown(rows: list[Row], sets: list[str], command: str, seeds: int, verdicts: dict[str, list[str]]) -> list[str]:
    """Lines of the table."""
    done = sum(len(row.runs) for row in rows)
    open_runs = "" if done == seeds * len(rows) else f" **{done} of {seeds * len(rows)} runs are finished.**"
    head = [f"{name} R@1 | paper | sign" for name in sets]
    lines = [
        f"R@1 in percent, mean ± standard deviation over seeds.{open_runs} `{command}`",
        "",
        f"| row | {' | '.join(head)} | seeds |",
        f"| --- | {' | '.join('---: | ---: | ---' for _ in sets)} | ---: |",
    ]
    for index, row in enumerate(rows):
        cells = []
        for number, name in enumerate(sets):
            paper = "" if row.paper is None else f"{row.paper[number]:.2f}"
            cells += [mean_and_spread(row.percents(name)), paper, verdicts[name][index]]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {len(row.runs)} |")
    return lines


def mean_and_spread(values: list[float]) -> str:
    """For example 45.2 ± 3.1; without a spread for one value."""
    if not values:
        return "open"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def plot(path: Path, rows: list[Row], sets: list[str]) -> None:
    """A dot for each run and a bar for each mean, one panel for each test set; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(4.2 * len(sets), 0.8 + 0.42 * len(rows)), dpi=120, layout="constrained")
    panels: Any = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, sets, strict=True):
        for place, row in enumerate(rows):
            values = row.percents(name)
            if values:
                panel.barh(place, statistics.mean(values), height=0.6, color="#9fc3dc")
                panel.plot(values, [place] * len(values), "o", color="#1f4e70", markersize=4)
        panel.set_yticks(range(len(rows)), [row.name for row in rows])
        panel.set_xlabel(f"R@1 on {name} (%)")
        panel.set_xlim(left=0)
    panels[0].invert_yaxis()
    with atomic_file(path) as temporary:
        figure.savefig(temporary)
