"""Interpolate between the weights of two models, to balance gains in a new domain against losses in others.

    python training/interpolate.py demo/gengeo-world-urban runs/world_anywhere/model --shares 0 0.3 0.5 0.7 1 \\
        --data "world-urban demo/world" --data "world-rural demo/world" --data "world-offcenter demo/world"

The second model must have been trained from the first one. A share of 0 is the first model, 1 the second; between them
every weight is the weighted mean of both (WiSE-FT, Wortsman et al., CVPR 2022). `--save SHARE DIRECTORY` writes the
model of one share.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from gengeo_hf.common.errors import GenGeoError, UsageError, exit_on_error
from gengeo_hf.common.files import write_json, write_text
from gengeo_hf.data import load_notation
from gengeo_hf.encoding.encoder import TRAINING_RECORD, Encoder
from gengeo_hf.evaluation import evaluate

KEYS = ("recall@1", "recall@5", "recall@10")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, evaluate each share, print and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="Checkpoint from which the second one was trained.")
    parser.add_argument("second", type=Path, help="Checkpoint.")
    parser.add_argument(
        "--shares",
        nargs="+",
        type=float,
        default=[0.0, 0.25, 0.5, 0.75, 1.0],
        help="Weights of the second model, 0 to 1 (default: 0 0.25 0.5 0.75 1).",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        help="Data set to evaluate: NAME[:SPLIT] [ROOT] [key=value ...]; repeatable.",
    )
    parser.add_argument("--out", type=Path, help="Markdown file of the table; a JSON file is written beside it.")
    parser.add_argument("--save", nargs=2, metavar=("SHARE", "DIRECTORY"), help="Write the model of one share.")
    given = parser.parse_args(arguments)
    if not given.data and not given.save:
        raise UsageError("found neither --data nor --save: --data evaluates, --save writes a model")
    for path, needed in ((given.first, "config.json"), (given.second, TRAINING_RECORD)):
        if not (path / needed).is_file():
            raise UsageError(f"{path} is not a model that a training wrote: it has no {needed}")
    if given.save:
        save_between(given.first, given.second, _number(given.save[0]), Path(given.save[1]))
    if not given.data:
        return
    rows = []
    for share in given.shares:
        encoder = Encoder.from_pretrained(given.first, device="cpu")
        encoder.model.load_state_dict(weights_between(given.first, given.second, share))
        results = {name: evaluate(encoder, load_notation(name)).metrics for name in given.data}
        rows.append({"share": share, "results": {name: {k: row[k] for k in KEYS} for name, row in results.items()}})
        print(format_row(rows[-1]), flush=True)
    table = "\n".join([*format_heading(given.data), *map(format_row, rows), ""])
    if given.out:
        write_text(given.out, table)
        write_json(given.out.with_suffix(".json"), rows)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--save needs a share in 0..1 and a directory, found {text!r} as the share") from None


def weights_between(first: Path, second: Path, share: float) -> dict[str, torch.Tensor]:
    """Return the weighted mean of the weights of two models.

    Args:
        first, second: Directories of checkpoints of the same architecture.
        share: Weight of the second model, 0 to 1.

    Raises:
        GenGeoError: The share is outside 0..1, or the architectures differ.
    """
    from gengeo_hf.model import GenGeoModel

    if not 0.0 <= share <= 1.0:
        raise GenGeoError(f"the share of the second model must lie in 0..1, found {share:g}")
    one, other = (GenGeoModel.from_pretrained(path).state_dict() for path in (first, second))
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        raise GenGeoError(f"{first} and {second} have different architectures: their weights cannot be averaged")
    return {key: torch.lerp(value, other[key], share) for key, value in one.items()}


def save_between(first: Path, second: Path, share: float, out: Path) -> None:
    """Write the model of one share, with the image processor and the training record of the second model.

    Raises:
        GenGeoError: The directory exists, or see `weights_between`.
    """
    import json

    from gengeo_hf.common.files import atomic_folder
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

    if out.exists():
        raise GenGeoError(f"{out} exists: give another directory")
    model = GenGeoModel.from_pretrained(second)
    model.load_state_dict(weights_between(first, second, share))
    record: dict[str, Any] = json.loads((second / TRAINING_RECORD).read_text(encoding="utf-8"))
    record.pop("results", None)  # results of the second model
    record["interpolated"] = {"from": first.name, "share_of_second": share}
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        GenGeoImageProcessor.from_pretrained(second).save_pretrained(folder)
        write_json(folder / TRAINING_RECORD, record)


def format_heading(names: list[str]) -> list[str]:
    """Return the first two lines of the table."""
    cells = [f"{name.split()[0]}: R@1 / R@5 / R@10" for name in names]
    return ["| share of the second | " + " | ".join(cells) + " |", "| ---: |" + " ---: |" * len(names)]


def format_row(row: dict[str, Any]) -> str:
    """Format the results of one share in percent as a line of the table."""
    cells = [" / ".join(f"{100 * result[key]:.1f}" for key in KEYS) for result in row["results"].values()]
    return f"| {row['share']:g} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    with exit_on_error():
        main()
