"""Published errors of position and heading on VIGOR, and whether a result may be compared with them.

`assets/published.yaml` holds the rows under `pose`, each with its source.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gengeo_hf.common.schema import CrossViewDataset

FIGURES = ("mean_m", "median_m", "mean_deg", "median_deg")
_FILE = Path(__file__).parents[1] / "assets" / "published.yaml"


@cache
def _pose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))["pose"]
    return found


def published_poses(dataset: CrossViewDataset, prior: str) -> list[dict[str, Any]]:
    """Published rows for the area of a data set and a heading prior.

    Args:
        dataset: Data set whose name starts with "vigor-same/" or "vigor-cross/".
        prior: What is known about the heading: "known", "45" or "180".

    Returns:
        `method`, `FIGURES` (None where they were not published) and `source` of each; empty where nothing is published.
    """
    area = dataset.name.partition("/")[0].removeprefix("vigor-")
    rows = [row for row in _pose()["rows"] if row["area"] == area and str(row["prior"]) == prior]
    return [
        {"method": row["method"], "source": _pose()["sources"][row["source"]]}
        | {name: row.get(name) for name in FIGURES}
        for row in rows
    ]


def differences(dataset: CrossViewDataset, record: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """List the reasons why a result must not be compared with the published rows.

    Args:
        dataset: The evaluated data set.
        record: Training record of the model.
        result: Result of `evaluate_pose`.

    Returns:
        One phrase for each reason; empty where the result may be compared.
    """
    area, _, split = dataset.name.partition("/")
    wanted = _pose()["queries"].get(area)
    found = []
    if split != "test" or result["photos"] != wanted:
        found.append(f"{result['photos']:,} photos of {dataset.name}, not the {wanted:,} of the whole test set")
    trained = str(record.get("trained_on") or "unknown data")
    if not trained.startswith(f"{area}/"):
        found.append(f"the model was trained on {trained}, not on the training set of {area}")
    if result["method"] == "fitted" and not str(result.get("fitted_on") or "").startswith(f"{area}/train"):
        found.append(f"the pose head was fitted on {result.get('fitted_on') or 'unknown data'}")
    if result["fov"] < 360:
        found.append(f"panoramas were cropped to {result['fov']:g} degrees")
    return found


def format_published(result: Mapping[str, Any]) -> str:
    """Format the published rows and the result for a terminal."""
    reasons, rows = result["not_comparable"], result["published"]
    ours = {"method": "this model", "source": "not comparable" if reasons else "comparable"}
    ours |= {name: result[name] for name in FIGURES}
    lines = [
        "  published on VIGOR, corrected labels (mean / median):" if rows else "  nothing published for this prior"
    ]
    for row in [*rows, ours] if rows else ():
        metres = f"{_number(row['mean_m'])} / {_number(row['median_m'])} m"
        turn = f"{_number(row['mean_deg'])} / {_number(row['median_deg'])} deg"
        known = row["mean_deg"] is None and row["median_deg"] is None
        lines.append(f"    {row['method']:18} {metres:16} {'' if known else turn:20} {row['source']}")
    return "\n".join([*lines, *(f"    not comparable: {reason}" for reason in reasons)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
