"""Two results side by side, and the choice between checkpoints.

One metric is the primary one, and the claim of a comparison; the intervals of the others are not corrected for their
number.
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
    """One metric of two results.

    Args:
        metric: Its name.
        first, second: Fractions of 1.
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
        """Whether the interval leaves 0 out."""
        return not self.interval.low <= 0 <= self.interval.high


def compare(first: str | Path, second: str | Path) -> list[Difference]:
    """Paired differences of two results over the same queries.

    Args:
        first, second: JSON files with their tables of queries beside them.

    Raises:
        GenGeoError: They were not evaluated on the same queries and tiles by the same rules.
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
        raise GenGeoError(f"the cuts look in different directions (seeds {seeds[0]} and {seeds[1]}); use one seed")
    if a.queries["query_id"].to_pylist() != b.queries["query_id"].to_pylist():
        raise GenGeoError(f"{first} and {second} hold different queries; a table was changed after the evaluation")
    old, new = a.outcomes, b.outcomes
    return [
        Difference(metric, float(old[metric].mean()), float(new[metric].mean()), difference, interval)
        for metric, (difference, interval) in paired_differences(old, new, a.groups).items()
    ]


PRIMARY = "recall@1"


def comparison_text(differences: Sequence[Difference], first: str, second: str, primary: str = PRIMARY) -> str:
    """The comparison for a terminal, in percentage points.

    Args:
        differences: Of `compare`.
        first, second: Names of the two sides.
        primary: The metric that the claim is about; the others have no verdict.

    Raises:
        GenGeoError: There is no such metric.
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
            f"{primary} is the primary metric. The other {len(names) - 1} intervals are not corrected for their "
            "number: about one in twenty excludes zero by chance."
        )
    return "\n".join(lines)


def select_best(summaries: Sequence[Mapping[str, Any]], metric: str = PRIMARY) -> int:
    """Which of several results of one validation set is the best: its position in the list.

    Args:
        summaries: `Result.summary` of each checkpoint.
        metric: A share of the queries, such as recall@1 or within_25m: greater is better.

    Raises:
        GenGeoError: A result is of a set on which numbers are reported, they are not of one set, or the metric is no
            share: metres are better when they are less.
    """
    if not summaries:
        raise GenGeoError("there is no result to choose from")
    for summary in summaries:
        refuse_reported_split(summary["protocol"]["split"])
    if len(sets := {summary["dataset"]["fingerprint"] for summary in summaries}) > 1:
        raise GenGeoError(f"the results are of {len(sets)} different sets; evaluate every checkpoint on the same one")
    for number, summary in enumerate(summaries):
        shares = [name for name in summary["intervals"] if not name.endswith("_m")]
        if metric not in shares:
            raise GenGeoError(
                f"{metric!r} cannot pick: expected a share of which more is better; result {number} has "
                f"{', '.join(shares)}"
            )
    return max(range(len(summaries)), key=lambda number: summaries[number]["metrics"][metric])


def choose_checkpoint(paths: Sequence[str | Path], metric: str = PRIMARY) -> str:
    """Which checkpoint to keep, by results of the validation part, and whether the choice can be told from chance.

    Args:
        paths: Results of gengeo evaluate by one `<protocol>@validation`.
        metric: As in `select_best`.

    Returns:
        Text for a terminal: every result, the best first, with the paired interval of its distance to the best.

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
    """Only a validation part of the training data may pick a checkpoint.

    "test" is refused, and CVACT's "val" too: Table 2 reports it, and its pairs are part of the test set.

    Raises:
        GenGeoError: The split is one on which numbers are reported.
    """
    if split != "validation":
        raise GenGeoError(
            f"a checkpoint must not be picked on the split {split!r}: its number would no longer be an estimate; "
            "pick on 'validation', a part of the training areas"
        )
