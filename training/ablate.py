"""Train every row of a table at equal budget, with several seeds, and write the table.

    python training/ablate.py table7 --seeds 3 --out runs/ablations

Each run is `training/train.py` with a few keys changed; a finished run is not repeated, a killed one goes on. The
result is `<table>.md`, `.csv` and `.json`: mean and spread of R@1 in the training domain and in one never seen.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gengeo_hf.errors import GenGeoError
from gengeo_hf.files import atomic_file, write_json, write_text

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a table of the file of rows, for example table7")
    parser.add_argument("--rows", type=Path, default=HERE / "ablations" / "world.yaml", help="file of rows")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row; the spread needs at least two")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder of runs and tables")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="laid over every row")
    given = parser.parse_args()
    plan = OmegaConf.to_container(OmegaConf.load(given.rows))
    if given.table not in plan["tables"]:
        raise GenGeoError(f"{given.rows} has no {given.table!r}; it has {', '.join(plan['tables'])}")
    results = {
        row: [
            run_row(given.out / given.table, row, changes, seed, plan, given.rows.parent, given.overrides)
            for seed in range(given.seeds)
        ]
        for row, changes in plan["tables"][given.table].items()
    }
    write_table(given.out, given.table, results, list(plan["test"]), " ".join(sys.argv))
    print((given.out / f"{given.table}.md").read_text(encoding="utf-8"))


def run_row(
    folder: Path, row: str, changes: list[str], seed: int, plan: dict[str, Any], home: Path, overrides: list[str]
) -> dict[str, float]:
    """Train and test one row with one seed, unless its result is there; gives R@1 on each test set."""
    output = folder / f"{row.replace(' ', '-').replace('+', 'and')}-seed{seed}"
    result = output / "ablation.json"
    if not result.is_file():
        keys = [*plan["budget"], *changes, *overrides, f"seed={seed}", f"output={output}"]
        print(f"{row}, seed {seed}", flush=True)
        command = [sys.executable, str(HERE / "train.py"), "--config", str(home / plan["base"]), *keys]
        if subprocess.run(command, check=False).returncode:
            raise GenGeoError(f"the run of {row!r} with seed {seed} failed; its output is above")
        write_json(result, {"changes": keys, "recall@1": test(output / "model", plan["test"])})
    recalls: dict[str, float] = json.loads(result.read_text(encoding="utf-8"))["recall@1"]
    return recalls


def test(model: Path, sets: dict[str, dict[str, Any]]) -> dict[str, float]:
    """R@1 of a trained model on the test split of each dataset."""
    from gengeo_hf.data import load_pairs
    from gengeo_hf.data.loading import AerialImages, GroundImages
    from gengeo_hf.encoder import Encoder
    from gengeo_hf.evaluation import evaluate_descriptors

    encoder = Encoder.from_pretrained(model)
    out = {}
    for name, options in sets.items():
        data = load_pairs(name, split="test", **options)
        ground = encoder.encode(GroundImages(data), "ground")
        aerial = encoder.encode(AerialImages(data), "aerial")
        out[name] = float(evaluate_descriptors(ground, aerial, data.positive_rows())["recall@1"])
    return out


def write_table(
    folder: Path, table: str, results: dict[str, list[dict[str, float]]], sets: list[str], command: str
) -> None:
    """Mean and standard deviation over the seeds, as JSON, CSV and Markdown."""
    rows = []
    for row, runs in results.items():
        values = {name: [100 * run[name] for run in runs] for name in sets}
        spread = {name: statistics.stdev(v) if len(v) > 1 else None for name, v in values.items()}
        rows.append({"row": row, "mean": {n: statistics.mean(v) for n, v in values.items()}, "spread": spread})
    seeds = len(next(iter(results.values())))
    write_json(folder / f"{table}.json", {"command": command, "seeds": seeds, "rows": rows, "runs": results})
    with atomic_file(folder / f"{table}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *(f"{name} {what}" for name in sets for what in ("mean R@1", "spread"))])
        writer.writerows([r["row"], *(x for name in sets for x in (r["mean"][name], r["spread"][name]))] for r in rows)
    lines = [
        f"R@1 in percent on the synthetic world, mean ± standard deviation over {seeds} seeds. `{command}`",
        "",
        f"| row | {' | '.join(sets)} |",
        f"| --- | {' | '.join('---:' for _ in sets)} |",
    ]
    for r in rows:
        cells = [
            f"{r['mean'][name]:.1f}" + (f" ± {r['spread'][name]:.1f}" if r["spread"][name] is not None else "")
            for name in sets
        ]
        lines.append(f"| {r['row']} | {' | '.join(cells)} |")
    write_text(folder / f"{table}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main()
    except GenGeoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")
