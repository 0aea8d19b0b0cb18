"""The model card: model, training, data and results of a checkpoint, as its files state them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.hub.data_rights import data_facts, data_rows, hub_ids, share_alike

ASSETS = Path(__file__).parents[1] / "assets" / "hub"
SHOWN = ("recall@1", "recall@5", "recall@10", "recall@1%", "hit_rate_code", "hit_rate_wording")
# Rows of the training table: label, and keys of the value in the training record.
RECIPE = (
    ("started from", ("settings", "model", "init")),
    ("batch size (pairs)", ("settings", "sampling", "batch_size")),
    ("learning rate", ("settings", "optimisation", "learning_rate")),
    ("weight decay", ("settings", "optimisation", "weight_decay")),
    ("label smoothing", ("settings", "optimisation", "label_smoothing")),
    ("precision", ("settings", "optimisation", "mixed_precision")),
    ("seed", ("settings", "seed")),
)


def read_results(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Read the summaries of evaluation results.

    Raises:
        GenGeoError: A file is missing or is not an evaluation result.
    """
    from gengeo_hf.evaluation.results import Result

    return [Result.load(path, with_queries=False).summary for path in paths]


def model_card(
    model: Any,
    processor: Any,
    *,
    name: str,
    repository: str,
    record: dict[str, Any],
    results: Sequence[dict[str, Any]] = (),
    license: str | None = None,
    examples: Sequence[str] = (),
) -> str:
    """Fill the template of the model card.

    Args:
        model: The model that is published.
        processor: Image processor of the model.
        name: Title of the card.
        repository: What users load: a Hub id, `organisation/name`, or a directory.
        record: Training record; empty if there is none.
        results: Evaluation summaries, see `gengeo_hf.evaluation.results.compute_result`.
        license: Identifier of the licence of the weights; None states none.
        examples: URLs of example images for the widget.

    Returns:
        The card in Markdown, with its metadata.

    Raises:
        GenGeoError: A result lacks a value of the table.
    """
    from huggingface_hub import ModelCard

    from gengeo_hf.model.aggregators import AGGREGATORS

    config = model.config
    rows, metrics = _table(results)  # first, because it checks the results
    card = ModelCard.from_template(
        _card_data(config, name, record, results, license, examples),
        template_str=(ASSETS / "model_card.md").read_text(encoding="utf-8"),
        name=name,
        repository=repository,
        dim=config.truncate_dim or next(iter(model.heads.values())).width_out,
        backbone=config.backbone_config.model_type,
        aggregator=AGGREGATORS[config.aggregator].title + ("" if config.share_aggregator else ", one head per view"),
        view_sizes=processor.view_sizes,
        synthetic=record.get("synthetic", False),
        record=record,
        recipe=_recipe(record),
        images=data_rows(record),
        data_facts=data_facts(record),
        share_alike=share_alike(record),
        validation=[(key, _number(value)) for key, value in (record.get("results") or {}).items()],
        results=rows,
        metrics=metrics,
        ties=", ".join(sorted({row["ties"] for row in rows})),
        license=license,
    )
    return str(card)


def _card_data(
    config: Any,
    name: str,
    record: dict[str, Any],
    results: Sequence[dict[str, Any]],
    license: str | None,
    examples: Sequence[str],
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    entries = [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="Cross-view geo-localization",
            dataset_type=summary["dataset"]["name"],
            dataset_name=f"{summary['dataset']['name']} ({summary['protocol']['name']})",
            metric_type=metric,
            metric_name=metric,
            metric_value=summary["metrics"][metric],
        )
        for summary in results
        for metric in SHOWN
        if metric in summary["metrics"]
    ]
    return ModelCardData(
        license=license or "other",
        license_name=None if license else "not-stated",
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        base_model=_hub_id(_look_up(record, ("settings", "model", "init"))),
        datasets=hub_ids(record) or None,
        tags=["geo-localization", "cross-view", "gengeo", f"descriptor-{config.aggregator}"],
        model_name=name if entries else None,
        eval_results=entries or None,
        widget=[{"src": source, "example_title": Path(source).stem} for source in examples] or None,
    )


def _hub_id(name: Any) -> str | None:
    """The name if it is a Hub id; None for a local directory."""
    text = str(name or "")
    return text if text.count("/") == 1 and text[0].isalnum() and not Path(text).exists() else None


def _recipe(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the training table, of the values in the record."""
    rows = [("data", record.get("trained_on")), ("epochs of the kept weights", record.get("epochs"))]
    rows += [(label, _look_up(record, keys)) for label, keys in RECIPE]
    return [(label, str(value)) for label, value in rows if value is not None]


def _look_up(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(results: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the result table, and the metrics of its columns."""
    metrics = [name for name in SHOWN if any(name in summary["metrics"] for summary in results)]
    rows = []
    for summary in results:
        try:
            data = summary["dataset"]
            row = {"protocol": summary["protocol"]["name"], "dataset": data["name"], "complete": data["complete"]}
            row |= {"queries": data["queries"], "gallery": data["gallery"], "ties": summary["rules"]["ties"]}
        except (KeyError, TypeError) as error:
            raise GenGeoError(f"an evaluation result lacks {error}: make it with gengeo evaluate") from error
        rows.append(row | {"cells": [_cell(summary, name) for name in metrics]})
    return rows, metrics


def _cell(summary: dict[str, Any], metric: str) -> str:
    value = summary["metrics"].get(metric)
    if value is None:
        return ""
    interval = summary.get("intervals", {}).get(metric)
    return f"{value:.1%}" + (f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else "")
