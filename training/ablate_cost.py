"""Costs of rows (CPU time of training and encoding, width of descriptors), rows of several trainings, equal-time rows.

CPU time is that of the process, so that other load on the machine is not counted, although it affects caches.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import write_json

SPENT = "spent.json"
IMAGES = 64  # number of encoded images in a measurement
INDEX_TILES = 100_000  # tiles of the index whose size is stated
BYTES = 2  # bytes per value in an index, float16
# Fields of a row: configurations whose models are fused, configuration of the initial model, skipped test sets.
PARTS: dict[str, Any] = {"fuse": None, "after": None, "skip": []}


def parts_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trainings that a row needs first: the branches of a fused model, or the first stage."""
    if row["fuse"]:
        return [{**row, "config": config, "fuse": None} for config in row["fuse"]]
    return [{**row, "config": row["after"], "after": None, "kind": "usual"}] if row["after"] else []


@contextlib.contextmanager
def count_cpu_time(folder: Path) -> Iterator[None]:
    """Add the CPU time of a training to the time stored in its directory, also if it is interrupted."""
    before, started, finished = spent_in(folder) or 0.0, time.process_time(), False
    try:
        yield
        finished = True
    finally:
        spent = before + time.process_time() - started
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SPENT, {"cpu_s": spent, "finished": finished})


def is_finished(folder: Path) -> bool:
    """Whether the training in this directory is finished."""
    path = folder / SPENT
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8"))["finished"])


def spent_in(folder: Path) -> float | None:
    """Return the CPU seconds of the run in a directory; None if they are unknown."""
    path = folder / SPENT
    return float(json.loads(path.read_text(encoding="utf-8"))["cpu_s"]) if path.is_file() else None


def cost_in(path: Path) -> dict[str, Any]:
    """Read the costs in the result of a run; empty if there are none."""
    return dict(json.loads(path.read_text(encoding="utf-8")).get("cost") or {}) if path.is_file() else {}


def encoding_cost(model: Path) -> dict[str, float]:
    """Measure the CPU milliseconds of a photo and of a tile, including preprocessing.

    Args:
        model: Directory of a checkpoint for images of the synthetic world.

    Returns:
        `ground_cpu_ms`, `aerial_cpu_ms`, and the width of descriptors as `dim`.
    """
    from gengeo_hf.encoding.encoder import Encoder, View

    encoder, rng = Encoder.from_pretrained(model, device="cpu"), np.random.default_rng(0)
    found: dict[str, float] = {"dim": encoder.dim}
    sizes: dict[View, tuple[int, int, int]] = {"ground": (42, 168, 3), "aerial": (70, 70, 3)}
    for view, size in sizes.items():
        images = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(IMAGES)]
        encoder.encode(images[:8], view)  # warm-up
        started = time.process_time()
        encoder.encode(images, view)
        found[f"{view}_cpu_ms"] = 1000 * (time.process_time() - started) / IMAGES
    return found


def equal_time_rows(rows: Sequence[dict[str, Any]], spent: Sequence[float | None], epochs: int) -> list[dict[str, Any]]:
    """Return rows that train for about the CPU time of the first row, in whole epochs.

    Args:
        rows: Rows at equal steps.
        spent: CPU seconds of the training of each row; that of the first is the budget.
        epochs: Number of epochs of each row.

    Raises:
        GenGeoError: A CPU time is unknown, for example of a run of an earlier version.
    """
    out = []
    for row, seconds in zip(rows, spent, strict=True):
        if seconds is None or spent[0] is None:
            raise GenGeoError(f"the CPU time of {row['name']} is not known: remove its run, and it is trained again")
        count = max(1, round(epochs * spent[0] / seconds))
        changed = [] if count == epochs else [f"optimisation.epochs={count}"]  # without an override it is the same run
        out.append({**row, "set": [*row["set"], *changed], "note": f"{count} of {epochs} epochs"})
    return out


def cost_lines(rows: Sequence[Any], sets: Sequence[str]) -> list[str]:
    """Format a Markdown table of costs.

    Args:
        rows: Rows of the comparison, with `name`, `runs` and `costs`.
        sets: Names of the test sets.
    """
    head = [f"{name} median error, m" for name in sets]
    columns = [*head, "CPU ms a photo", "CPU ms a tile", f"MB of {INDEX_TILES:,} tiles", "CPU s of training"]
    lines = [f"| row | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for row in rows:
        cells = []
        for name in sets:
            errors = [run[name]["median_error_m"] for run in row.runs.values() if "median_error_m" in run[name]]
            cells.append(f"{statistics.mean(errors):.0f}" if errors else "")
        for key, scale, digits in (
            ("ground_cpu_ms", 1.0, 1),
            ("aerial_cpu_ms", 1.0, 1),
            ("dim", INDEX_TILES * BYTES / 1e6, 0),
            ("train_cpu_s", 1.0, 0),
        ):
            values = [cost[key] for cost in row.costs if cost.get(key) is not None]
            cells.append(f"{scale * statistics.mean(values):.{digits}f}" if values else "")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines
