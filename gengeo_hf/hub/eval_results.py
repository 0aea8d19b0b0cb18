"""Evaluation results as `.eval_results/*.yaml`, which the Hub shows on the page of a model and on leaderboards.

Only for benchmarks that are data sets on the Hub; see https://huggingface.co/docs/hub/eval-results.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gengeo_hf.common.files import write_text

FOLDER = ".eval_results"
SHOWN = ("recall@1", "recall@5", "recall@10", "within_40m", "within_50m", "within_100m")


def write_eval_results(folder: Path, names: Sequence[str], results: Sequence[dict[str, Any]]) -> list[str]:
    """Write one file for each result on a data set of the Hub.

    Args:
        folder: Directory of the model.
        names: Stem of the file of each result.
        results: Evaluation summaries, as many as names.

    Returns:
        Paths of the written files, relative to `folder`.
    """
    import yaml

    written = []
    for name, summary in zip(names, results, strict=True):
        if entries := _entries(summary):
            path = f"{FOLDER}/{name}.yaml"
            (folder / FOLDER).mkdir(exist_ok=True)
            write_text(folder / path, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))
            written.append(path)
    return written


def _entries(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each metric, in percent; empty for a data set that is not on the Hub."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    protocol, data, metrics = summary["protocol"], summary["dataset"], summary["metrics"]
    hub_id = protocol.get("hub_id")
    if not hub_id:
        return []
    return eval_result_entries_to_yaml(
        [
            EvalResultEntry(
                dataset_id=hub_id,
                task_id=f"{protocol['name']}/{metric}",
                value=round(100 * float(metrics[metric]), 4),
                notes=_notes(summary, protocol, data),
            )
            for metric in SHOWN
            if metric in metrics
        ]
    )


def _notes(summary: dict[str, Any], protocol: dict[str, Any], data: dict[str, Any]) -> str:
    """Facts that are needed to compare the value: queries, gallery, ties, protocol."""
    queries = f"{data['queries']:,}"
    if protocol.get("queries") not in (None, data["queries"]):
        queries += f" of {protocol['queries']:,}"
    return (
        f"percent; {queries} queries, {data['gallery']:,} tiles; ties count {summary['rules']['ties']}; "
        f"made with gengeo_hf, protocol {protocol['name']}. {protocol.get('note', '')}"
    ).strip()
