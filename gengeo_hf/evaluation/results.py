"""The result of an evaluation: metrics, the rules by which they were computed, and the outcome of each query.

`compute_result` computes one from descriptors. On disk a result is a JSON file, and a Parquet file of the queries in
the same directory. Tables, comparisons and pictures need only these two files, not the images or the model.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file, digest_of, write_json
from gengeo_hf.evaluation.ground_truth import GroundTruth
from gengeo_hf.evaluation.intervals import (
    Groups,
    Interval,
    breakdown,
    distance_groups,
    mean_interval,
    median_interval,
    query_groups,
)
from gengeo_hf.evaluation.metrics import (
    average_precision_trapezoid,
    metrics_of_scan,
    per_query_outcomes,
    within_outcomes,
)
from gengeo_hf.evaluation.neighbourhood import near_rule_outcomes, prior_outcomes
from gengeo_hf.evaluation.positions import errors_m
from gengeo_hf.evaluation.protocols import Protocol
from gengeo_hf.evaluation.ranks import TIES, Descriptors, Scan, Ties, scan

FORMAT = 1
TOP_TILES = 5  # stored for each query, for strips and groups of failures
_PACKAGES = ("gengeo_hf", "torch", "transformers", "numpy", "datasets")


@dataclass(frozen=True)
class Result:
    """Result of an evaluation.

    Args:
        summary: JSON object, see `compute_result`.
        queries: Table with one row for each query: ids, rank, best tiles, error, area, and a column for each metric.
    """

    summary: dict[str, Any]
    queries: pa.Table

    def save(self, path: str | Path) -> Path:
        """Write `path` (JSON) and `<stem>.queries.parquet` in the same directory; neither is ever half-written.

        The JSON file holds the SHA-256 of the table and of itself. If the process is killed between the two writes,
        `load` refuses the pair, so metrics of one evaluation are never read with the queries of another.

        Args:
            path: JSON file to write.

        Returns:
            The path of the JSON file.

        Raises:
            GenGeoError: The disk is full, or the directory cannot be written.
        """
        path = Path(path)
        try:
            with atomic_file(queries_path(path)) as temporary:
                pq.write_table(self.queries, temporary)
                digests = {"queries": hashlib.sha256(temporary.read_bytes()).hexdigest()}
            write_json(path, self.summary | {"sha256": digests | {"summary": digest_of(self.summary)}})
        except OSError as error:
            raise GenGeoError(f"the result could not be written to {path}: {error.strerror or error}") from error
        return path

    @classmethod
    def load(cls, path: str | Path, *, with_queries: bool = True) -> "Result":
        """Read a result.

        Args:
            path: JSON file of the result.
            with_queries: Also read the table of queries.

        Raises:
            GenGeoError: A file is missing, damaged, or not a result.
        """
        path = Path(path)
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise GenGeoError(f"{path} is not a readable result ({error}); make one with gengeo evaluate") from error
        # Other JSON files of this package have a "format" as well.
        is_result = isinstance(summary, dict) and {"dataset", "model", "metrics"} <= summary.keys()
        if not is_result or summary.get("format") != FORMAT:
            raise GenGeoError(f"{path} is not an evaluation result of format {FORMAT}; make one with gengeo evaluate")
        digests = summary.pop("sha256", {})  # results of earlier versions have none
        if digests and (not isinstance(digests, dict) or digests.get("summary") != digest_of(summary)):
            raise GenGeoError(f"{path} was changed or damaged after it was written; evaluate again")
        if not with_queries:
            return cls(summary, pa.table({}))
        try:
            content = queries_path(path).read_bytes()
            if digests and digests.get("queries") != hashlib.sha256(content).hexdigest():
                raise ValueError("it is damaged, or belongs to another evaluation than the JSON file; evaluate again")
            return cls(summary, pq.read_table(pa.BufferReader(content)))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise GenGeoError(f"cannot read {queries_path(path)}, which belongs to {path.name}: {error}") from error

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by name: fractions of 1, metres where the name ends in `_m`, counts."""
        return dict(self.summary["metrics"])

    @property
    def notes(self) -> list[str]:
        """Caveats of the result, one sentence each: incomplete data, other training data, note of the protocol."""
        protocol, data, model = (self.summary[key] for key in ("protocol", "dataset", "model"))
        notes = []
        if not data["complete"]:
            notes.append(
                f"not the whole set of {_published_sizes(protocol)}, but {data['queries']:,} of "
                f"{protocol['queries']:,} queries: do not compare with published numbers"
            )
        if protocol["trained_on"] and model["trained_on"] not in protocol["trained_on"]:
            notes.append(f"the model was trained on {model['trained_on'] or 'unknown data'}, not as the protocol says")
        if overlap := self.summary["settings"].get("training_pairs"):
            notes.append(f"{overlap:,} of {data['queries']:,} queries are pairs that the model was trained on")
        return [*notes, *([protocol["note"]] if protocol["note"] else [])]

    def percent(self) -> dict[str, Any]:
        """Convert to one flat object for JSON: rates in percent, distances in metres, each with its 95 % interval.

        Returns:
            model, data, protocol, queries, gallery; "R@1", "R@1_interval", "R@5", ... ; where positions are known
            "R@1_within_25m", "R@1_within_50m", "R@1_within_100m" (distance to the best tile's centre) and
            "median_error_m"; notes.
        """
        data, metrics = self.summary["dataset"], self.summary["metrics"]
        out: dict[str, Any] = {
            "model": self.summary["model"]["name"],
            "data": data["name"],
            "protocol": self.summary["protocol"]["name"],
            "queries": data["queries"],
            "gallery": data["gallery"],
        }
        for name, interval in self.summary["intervals"].items():
            metres = name.endswith("_error_m")
            shown = name.replace("recall", "R") if not name.startswith("within_") else f"R@1_{name}"
            out[shown] = round((1 if metres else 100) * metrics[name], 4)
            out[f"{shown}_interval"] = [round((1 if metres else 100) * bound, 4) for bound in interval]
        return out | {"notes": self.notes}

    @property
    def outcomes(self) -> dict[str, np.ndarray]:
        """(queries,) outcomes of single queries by metric name; the metric is their mean."""
        return {
            name: self.queries[name].to_numpy() for name in self.queries.column_names if name in self.summary["metrics"]
        }

    @property
    def groups(self) -> Groups:
        """Groups of correlated queries, for intervals."""
        positions = np.stack([self.queries["lat"].to_numpy(), self.queries["lon"].to_numpy()], axis=1)
        return query_groups(self.queries["area"].to_pylist(), positions)


def _published_sizes(protocol: dict[str, Any]) -> str:
    """Format the sizes of a published set, as far as they are known."""
    tiles = "" if protocol["gallery"] is None else f" and {protocol['gallery']:,} tiles"
    return f"{protocol['queries']:,} queries{tiles}"


def queries_path(path: str | Path) -> Path:
    """Path of the table of queries of a result."""
    return Path(path).with_suffix(".queries.parquet")


def compute_result(
    query_descriptors: Descriptors,
    gallery_descriptors: Descriptors,
    truth: GroundTruth,
    protocol: Protocol,
    *,
    model: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    ties: Ties = "pessimistic",
    device: torch.device | str | None = None,
) -> Result:
    """Evaluate descriptors by a protocol.

    Args:
        query_descriptors: (Q, D) in the order of `truth.query_ids`.
        gallery_descriptors: (N, D) in the order of `truth.tile_ids`.
        truth: Ground truth of the data set.
        protocol: Rules by which metrics are computed.
        model: Facts about the model for the summary: name, fingerprint, training data.
        settings: Other settings for the summary: image sizes, seed of the headings, precision.
        ties: Tie rule of "metrics"; "metrics_by_ties" holds the metrics by every rule.
        device: Device on which blocks are multiplied; None uses that of `query_descriptors`.

    Returns:
        A summary with format, protocol, dataset, model, settings, rules, metrics (fractions of 1, metres),
        metrics_by_ties, intervals (95 %), areas, offsets, versions; and the table of queries.
    """
    given = (query_descriptors, gallery_descriptors, truth.positive_rows)
    found = scan(*given, semi_positive_rows=truth.semi_positive_rows, top=TOP_TILES, device=device)
    errors = errors_m(truth.query_positions, truth.gallery_positions, found.top_rows[:, 0])
    offsets = errors_m(truth.query_positions, truth.gallery_positions, truth.positive_rows)
    options: dict[str, Any] = {"ks": protocol.ks, "rounding": protocol.rounding}
    metrics: dict[str, Any] = metrics_of_scan(found, ties=ties, errors=errors, **options)
    outcomes = per_query_outcomes(found, ties=ties, **options)
    if protocol.trapezoid_ap:
        ranks = found.relevant_ranks(ties)
        outcomes["average_precision_trapezoid"] = average_precision_trapezoid(ranks, found.gallery_size)
        metrics["average_precision_trapezoid"] = float(outcomes["average_precision_trapezoid"].mean())
    if truth.has_all_positions:
        outcomes |= within_outcomes(errors) | _by_distance(given, truth, protocol, ties, device)
        metrics |= {name: float(values.mean()) for name, values in outcomes.items()}
    groups = query_groups(truth.areas, truth.query_positions)
    intervals = {name: mean_interval(values, groups) for name, values in outcomes.items()}
    if "median_error_m" in metrics:
        intervals["median_error_m"] = _median_interval(errors, groups)
    summary = {
        "format": FORMAT,
        "protocol": protocol.as_dict(),
        "dataset": _dataset(truth, protocol),
        "model": dict(model),
        "settings": dict(settings or {}),
        "rules": {"ties": ties, "rounding": protocol.rounding, "interval": f"95 %, {groups.description}"},
        "metrics": metrics,
        "metrics_by_ties": {rule: metrics_of_scan(found, ties=rule, **options) for rule in TIES},
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "areas": breakdown(outcomes, truth.areas) if len(set(truth.areas)) > 1 else {},
        "offsets": _by_offset(outcomes, offsets, protocol.offset_edges_m),
        "versions": versions(),
    }
    return Result(summary, _query_table(truth, found, errors, offsets, outcomes, ties))


def _median_interval(errors: np.ndarray, groups: Groups) -> Interval:
    """Interval of the median error over the queries whose position is known."""
    known = ~np.isnan(errors)
    codes = np.unique(groups.codes[known], return_inverse=True)[1]
    return median_interval(errors[known], Groups(codes.ravel(), groups.description))


def _dataset(truth: GroundTruth, protocol: Protocol) -> dict[str, Any]:
    """Facts about the data for the summary; without a published size every data set is complete."""
    sizes = len(truth.query_ids), len(truth.tile_ids)
    return {
        "name": truth.name,
        "queries": sizes[0],
        "gallery": sizes[1],
        "complete": all(
            published in (None, found)
            for found, published in zip(sizes, (protocol.queries, protocol.gallery), strict=True)
        ),
        "fingerprint": truth.fingerprint,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the metrics."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _by_distance(
    given: tuple[Any, Any, np.ndarray],
    truth: GroundTruth,
    protocol: Protocol,
    ties: Ties,
    device: torch.device | str | None,
) -> dict[str, np.ndarray]:
    """Outcomes of single queries for the distance-based metrics of a protocol."""
    common: dict[str, Any] = {"gallery_positions": truth.gallery_positions, "ks": protocol.ks, "ties": ties}
    outcomes: dict[str, np.ndarray] = {}
    if protocol.near_rule_m is not None:
        outcomes |= near_rule_outcomes(
            *given,
            query_positions=truth.query_positions,
            radius_m=protocol.near_rule_m,
            rounding=protocol.rounding,
            device=device,
            **common,
        )
    if protocol.prior_radii_m:
        outcomes |= prior_outcomes(
            *given, search_centres=truth.query_positions, radii_m=protocol.prior_radii_m, device=device, **common
        )
    return outcomes


def _by_offset(
    outcomes: Mapping[str, np.ndarray], offsets: np.ndarray, edges: Sequence[float]
) -> dict[str, dict[str, float | int]]:
    """Metrics by the distance from query to tile centre, where the protocol has bins and positions are known."""
    if not edges or np.isnan(offsets).all():
        return {}
    return breakdown(outcomes, distance_groups(offsets, edges))


def _query_table(
    truth: GroundTruth,
    found: Scan,
    errors: np.ndarray,
    offsets: np.ndarray,
    outcomes: Mapping[str, np.ndarray],
    ties: Ties,
) -> pa.Table:
    """Build the table of queries, one row for each."""
    tiles = np.array([*truth.tile_ids, ""], dtype=object)  # row -1: no tile
    semi = found.relevant_rows[:, 1:]
    return pa.table(
        {
            "query_id": truth.query_ids,
            "positive": tiles[truth.positive_rows].tolist(),
            "semi_positives": [tiles[rows[rows >= 0]].tolist() for rows in semi],
            "rank": found.positive_ranks(ties),
            "top_tiles": tiles[found.top_rows].tolist(),
            "top_scores": found.top_scores.astype(np.float32).tolist(),
            "positive_score": found.scores[:, 0],
            "lat": truth.query_positions[:, 0],
            "lon": truth.query_positions[:, 1],
            "found_lat": truth.gallery_positions[found.top_rows[:, 0], 0],
            "found_lon": truth.gallery_positions[found.top_rows[:, 0], 1],
            "error_m": errors,
            "offset_m": offsets,
            "area": pa.array(truth.areas, type=pa.string()),
            **outcomes,
        }
    )
