"""Compares two results on the same queries, and chooses between checkpoints.

A comparison has one primary metric, which alone gets a verdict; the intervals of the other metrics are not corrected
for multiple comparisons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.intervals import Interval, paired_differences
from gengeo_hf.evaluation.results import Result


@dataclass(frozen=True)
class Difference:
    """Difference of one metric between two results.

    Args:
        metric: Name of the metric.
        first, second: Values of the two results, fractions of 1.
        difference: `second - first`, in -1..1.
        interval: 95 % interval of the difference over the same queries.
    """

    metric: str
    first: float
    second: float
    difference: float
    interval: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.interval.low <= 0 <= self.interval.high


def compare(first: str | Path, second: str | Path) -> list[Difference]:
    """Paired differences of two results over the same queries.

    Args:
        first, second: JSON files of results, with their tables of queries in the same directory.

    Raises:
        GenGeoError: The results were not evaluated on the same queries and tiles by the same rules.
    """
    a, b = Result.load(first), Result.load(second)
    for what, keys in (
        ("protocol", ("protocol", "name")),
        ("dataset", ("dataset", "fingerprint")),
        ("tie rule", ("rules", "ties")),
        ("rounding rule", ("rules", "rounding")),
        ("image", ("settings", "images")),
    ):
        found = [result.summary[keys[0]].get(keys[1]) for result in (a, b)]
        if found[0] != found[1]:
            raise GenGeoError(
                f"the results have different {what}s ({str(found[0])[:24]} and {str(found[1])[:24]}); "
                "evaluate both by one protocol on the same data"
            )
    seeds = [result.summary["settings"].get("seed") for result in (a, b)]
    if a.summary["protocol"]["heading"] == "unknown" and seeds[0] != seeds[1]:
        raise GenGeoError(
            f"the crops have different headings (seeds {seeds[0]} and {seeds[1]}); evaluate both with one --seed"
        )
    if a.queries["query_id"].to_pylist() != b.queries["query_id"].to_pylist():
        raise GenGeoError(f"{first} and {second} hold different queries; a table was changed after the evaluation")
    old, new = a.outcomes, b.outcomes
    return [
        Difference(metric, float(old[metric].mean()), float(new[metric].mean()), difference, interval)
        for metric, (difference, interval) in paired_differences(old, new, a.groups).items()
    ]


PRIMARY = "recall@1"


def format_comparison(differences: Sequence[Difference], first: str, second: str, primary: str = PRIMARY) -> str:
    """Format a comparison for a terminal, in percentage points.

    Args:
        differences: Result of `compare`.
        first, second: Names of the two sides.
        primary: Name of the metric that gets a verdict.

    Raises:
        GenGeoError: `primary` is not a metric of both results.
    """
    names = [row.metric for row in differences]
    if primary not in names:
        raise GenGeoError(f"there is no metric {primary!r} in both results; they have {', '.join(names)}")
    width = max(map(len, names))
    lines = [f"{'':{width}} {first[:16]:>16} {second[:16]:>16}   difference (95 %)"]
    for row in sorted(differences, key=lambda row: row.metric != primary):
        verdict = ""
        if row.metric == primary:
            verdict = "  " + (("better" if row.difference > 0 else "worse") if row.is_clear else "within the noise")
        lines.append(
            f"{row.metric:{width}} {100 * row.first:16.2f} {100 * row.second:16.2f}   {100 * row.difference:+.2f} "
            f"({100 * row.interval.low:+.2f} to {100 * row.interval.high:+.2f}){verdict}"
        )
    if len(names) > 1:
        lines.append(
            f"{primary} is the primary metric. Intervals of other metrics, here {len(names) - 1}, are not corrected "
            "for their number: about one in twenty excludes zero by chance."
        )
    return "\n".join(lines)


def select_best(summaries: Sequence[Mapping[str, Any]], metric: str = PRIMARY) -> int:
    """Select the best of several results on one validation set.

    Args:
        summaries: `Result.summary` of each checkpoint.
        metric: Name of a share of the queries, such as recall@1 or within_25m: greater is better.

    Returns:
        Index of the best result in `summaries`.

    Raises:
        GenGeoError: A result is on a split whose numbers are reported, the results are on different sets, or the metric
            is not a share (errors in metres are better when they are smaller).
    """
    if not summaries:
        raise GenGeoError("there is no result to choose from")
    for summary in summaries:
        refuse_reported_split(summary["protocol"]["split"])
    if len(sets := {summary["dataset"]["fingerprint"] for summary in summaries}) > 1:
        raise GenGeoError(f"the results are on {len(sets)} different sets; evaluate every checkpoint on the same one")
    for number, summary in enumerate(summaries):
        shares = [name for name in summary["intervals"] if not name.endswith("_m")]
        if metric not in shares:
            raise GenGeoError(
                f"{metric!r} cannot choose a checkpoint: expected a share, of which more is better; result "
                f"{number} has {', '.join(shares)}"
            )
    return max(range(len(summaries)), key=lambda number: summaries[number]["metrics"][metric])


def choose_checkpoint(paths: Sequence[str | Path], metric: str = PRIMARY) -> str:
    """Rank checkpoints by their results on the validation split, and test each against the best.

    Args:
        paths: JSON files of `gengeo evaluate`, all by one `<protocol>@validation`.
        metric: Name of a share of the queries, as in `select_best`.

    Returns:
        Text for a terminal: every result, the best first, and whether its paired difference to the best excludes 0.

    Raises:
        GenGeoError: As `select_best` and `compare`.
    """
    results = [Result.load(path, with_queries=False) for path in paths]
    best = select_best([result.summary for result in results], metric)
    lines = []
    for path, result in zip(paths, results, strict=True):
        value, line = result.summary["metrics"][metric], ""
        if path != paths[best]:
            row = next((row for row in compare(path, paths[best]) if row.metric == metric), None)
            line = "" if row is None else "clearly worse" if row.is_clear else "within the noise of the best"
        lines.append((value, f"{result.summary['model']['name']:24} {100 * value:6.2f} %  {path}  {line}".rstrip()))
    lines.sort(key=lambda line: -line[0])
    return "\n".join([*(text for _, text in lines), f"best by {metric}: {paths[best]}"])


def refuse_reported_split(split: str) -> None:
    """Raise an error unless the split may choose a checkpoint: only "validation", a part of the training data, may.

    CVACT's "val" is refused like "test": Table 2 of the paper reports it, and its pairs are part of the test set.

    Raises:
        GenGeoError: Numbers are reported on this split.
    """
    if split != "validation":
        raise GenGeoError(
            f"a checkpoint must not be chosen on the split {split!r}: its result there would be biased; choose on "
            "'validation', a part of the training areas"
        )
