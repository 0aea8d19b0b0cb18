"""Sensitivity to batch size and learning rate on the synthetic world, at equal epochs: one short run for each cell.

python benchmarks/sensitivity.py --out runs/sensitivity --table docs/sensitivity_table.md

A finished run is not repeated, and the table is rewritten after each. Every number is from a short run of a small model
on synthetic places: compare the ranking of cells, not the values, and consider the spread over the seeds of a cell.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import torch

from gengeo_hf.common.errors import exit_on_error
from gengeo_hf.common.files import write_json, write_text

HERE = Path(__file__).resolve().parents[1] / "training"


def run_cell(out: Path, batch: int, rate: float, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train one run of a cell, or read its stored result."""
    from gengeo_hf.training.loop import main as train
    from gengeo_hf.training.settings import load_settings

    folder = out / f"batch{batch}-rate{rate:g}-pairs{given.pairs}-epochs{given.epochs}-seed{seed}"
    stored = folder / "cell.json"
    if stored.is_file():
        return dict(json.loads(stored.read_text(encoding="utf-8")))
    settings = load_settings(
        "world_small",
        [
            *(f"output={folder}", f"seed={seed}", f"sampling.batch_size={batch}", f"optimisation.learning_rate={rate}"),
            *(f"sampling.neighbours={batch // 4}", f"sampling.pool={batch}", f"optimisation.epochs={given.epochs}"),
            *(f"data.train.num_pairs={given.pairs}", f"data.validation.num_pairs={given.places}"),
            *("save_every=1000", f"evaluate_every={given.epochs}", "data.workers=0"),
            *([f"data.root={given.world}"] if given.world else []),
        ],
    )
    result = train(settings)
    cell = {"batch": batch, "rate": rate, "seed": seed, "epochs": given.epochs, "pairs": given.pairs}
    cell |= {"tiles": result["gallery_size"], **{key: result[key] for key in ("recall@1", "recall@5")}}
    write_json(stored, cell)
    return cell


def as_table(runs: list[dict[str, Any]], batches: list[int], rates: list[float]) -> str:
    """Return a Markdown table: rows are batch sizes, columns learning rates; a cell has each R@1 and the mean R@5."""
    some = runs[0]
    lines = [
        f"R@1 of each seed, and in brackets the mean R@5, in % on {some['tiles']} unseen tiles of the synthetic urban "
        f"world (chance {100 / some['tiles']:.1f} and {500 / some['tiles']:.1f}); {some['pairs']:,} training pairs, "
        f"{some['epochs']} epochs.",
        "",
        "| batch | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |",
        "| --- |" + " --- |" * len(rates),
    ]
    for batch in batches:
        cells = [[run for run in runs if (run["batch"], run["rate"]) == (batch, rate)] for rate in rates]
        lines.append(f"| {batch} | " + " | ".join(shown(cell) for cell in cells) + " |")
    made = f"Made by `python benchmarks/sensitivity.py` on {date.today()}, PyTorch {torch.__version__}."
    return "\n".join([*lines, "", made, ""])


def shown(cell: list[dict[str, Any]]) -> str:
    """Return the text of one cell."""
    if not cell:
        return "not run"
    seeds = " and ".join(f"{100 * run['recall@1']:.1f}" for run in sorted(cell, key=lambda run: run["seed"]))
    return f"{seeds} ({100 * sum(run['recall@5'] for run in cell) / len(cell):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"), help="directory of the runs")
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to which the table is written")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001, 0.003, 0.01])
    parser.add_argument("--seeds", type=int, default=2, help="number of runs of each cell")
    parser.add_argument("--pairs", type=int, default=3150, help="number of training pairs")
    parser.add_argument("--places", type=int, default=500, help="number of validation places")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--world", default=None, help="directory of rendered worlds, such as demo/world")
    given = parser.parse_args()
    # First seed and centre of the grid first, so that an interrupted run has the most important cells.
    grid = [(batch, rate) for batch in given.batches for rate in given.rates]
    centre = (given.batches[len(given.batches) // 2], given.rates[len(given.rates) // 2])
    grid.sort(key=lambda cell: (cell[0] != centre[0]) + (cell[1] != centre[1]))
    runs: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for batch, rate in grid:
            runs.append(run_cell(given.out, batch, rate, seed, given))
            table = as_table(runs, given.batches, given.rates)
            if given.table:
                write_text(given.table, table)
    print(table)


if __name__ == "__main__":
    with exit_on_error():
        main()
