"""How much batch size and learning rate matter, on the synthetic world at equal epochs: one short run for each cell.

python benchmarks/sensitivity.py --out runs/sensitivity --table docs/sensitivity_table.md

A finished cell is not repeated. Every number is a short run of a small model on made-up places: read the order, not the
size, and mind that one run has a seed noise of several points.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from gengeo_hf.errors import GenGeoError
from gengeo_hf.files import write_json, write_text

HERE = Path(__file__).resolve().parents[1] / "training"


def run_cell(out: Path, batch: int, rate: float, given: argparse.Namespace) -> dict[str, Any]:
    """Train one cell, or read what it gave before."""
    sys.path.insert(0, str(HERE))  # training/ holds scripts that import one another
    from settings import load_settings
    from train import main as train

    folder = out / f"batch{batch}-rate{rate:g}"
    stored = folder / "cell.json"
    if stored.is_file():
        return dict(json.loads(stored.read_text(encoding="utf-8")))
    settings = load_settings(
        HERE / "configs" / "world_small.yaml",
        [
            *(f"output={folder}", f"sampling.batch_size={batch}", f"optimisation.learning_rate={rate}"),
            *(f"sampling.neighbours={batch // 4}", f"sampling.pool={batch}", f"optimisation.epochs={given.epochs}"),
            *(f"data.train.num_pairs={given.pairs}", f"data.validation.num_pairs={given.places}"),
            *("save_every=1000", f"evaluate_every={given.epochs}", "data.workers=0"),
            *([f"data.root={given.world}"] if given.world else []),
        ],
    )
    result = train(settings)
    cell = {"batch": batch, "rate": rate, "epochs": given.epochs, "pairs": given.pairs}
    cell |= {"tiles": result["gallery_size"], **{key: result[key] for key in ("recall@1", "recall@5")}}
    write_json(stored, cell)
    return cell


def as_table(cells: dict[tuple[int, float], dict[str, Any]], batches: list[int], rates: list[float]) -> str:
    """Markdown: rows are batch sizes, columns learning rates; each cell R@1 / R@5."""
    some = next(iter(cells.values()))
    lines = [
        f"R@1 / R@5 in % on {some['tiles']} unseen tiles of the synthetic urban world (chance "
        f"{100 / some['tiles']:.1f}), {some['pairs']:,} training pairs, {some['epochs']} epochs, one seed.",
        "",
        "| batch | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |",
        "| --- |" + " --- |" * len(rates),
    ]
    for batch in batches:
        row = [cells.get((batch, rate)) for rate in rates]
        shown = [f"{100 * cell['recall@1']:.1f} / {100 * cell['recall@5']:.1f}" if cell else "not run" for cell in row]
        lines.append(f"| {batch} | " + " | ".join(shown) + " |")
    made = f"Made by `python benchmarks/sensitivity.py` on {date.today()}, PyTorch {torch.__version__}."
    return "\n".join([*lines, "", made, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"), help="folder of the runs")
    parser.add_argument("--table", type=Path, default=None, help="write the table here as Markdown")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001, 0.003, 0.01])
    parser.add_argument("--pairs", type=int, default=1350, help="training pairs")
    parser.add_argument("--places", type=int, default=150, help="validation places")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--world", default=None, help="folder of drawn worlds, such as demo/world")
    given = parser.parse_args()
    cells: dict[tuple[int, float], dict[str, Any]] = {}
    # The middle of the grid first: a run that is stopped has the cells that matter most.
    grid = [(batch, rate) for batch in given.batches for rate in given.rates]
    centre = (given.batches[len(given.batches) // 2], given.rates[len(given.rates) // 2])
    for batch, rate in sorted(grid, key=lambda cell: (cell[0] != centre[0]) + (cell[1] != centre[1])):
        cells[batch, rate] = run_cell(given.out, batch, rate, given)
        table = as_table(cells, given.batches, given.rates)
        if given.table:
            write_text(given.table, table)
    print(table)


if __name__ == "__main__":
    try:
        main()
    except GenGeoError as error:
        sys.exit(f"error: {error}")
