"""Diagnostics of the head in the log."""

import numpy as np
import pytest
import torch

from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.training.diagnostics import head_statistics
from gengeo_hf.training.token_cache import run_view
from tests.conftest import TINY


def batch(count=6):
    generator = torch.Generator().manual_seed(1)
    return {"ground": torch.randint(0, 256, (count, 3, 28, 112), dtype=torch.uint8, generator=generator)}


def model_with(**changes):
    torch.manual_seed(0)
    return GenGeoModel(GenGeoConfig(**{**TINY, **changes}))


@pytest.mark.parametrize("aggregator", ["salad", "netvlad", "mean"])
@pytest.mark.parametrize("shared", [True, False])
def test_head_statistics_of_each_kind_of_head(tiny_processor, aggregator, shared):
    model = model_with(aggregator=aggregator, share_aggregator=shared).train()
    values = head_statistics(model, batch(), tiny_processor)
    assert model.training
    assert 1 <= values["head/effective_rank"] <= 6
    assert ("head/cluster_cosine" in values) == (aggregator != "mean")


def test_head_statistics_equal_clusters_are_detected(tiny_processor):
    model = model_with()
    score = model.heads["shared"].aggregator.score[3]
    torch.nn.init.zeros_(score.weight)
    values = head_statistics(model, batch(), tiny_processor)
    assert values["head/cluster_cosine"] == pytest.approx(1, abs=1e-5)
    assert values["head/plan_entropy"] == pytest.approx(1, abs=1e-5)


def test_head_statistics_fan_in_initialisation_separates_clusters(tiny_processor):
    default, narrow = (
        head_statistics(model_with(initializer_range=scale), batch(), tiny_processor) for scale in (None, 0.02)
    )
    assert default["head/cluster_cosine"] < narrow["head/cluster_cosine"] - 0.001
    assert narrow["head/plan_entropy"] > 0.999 > default["head/plan_entropy"]


def slow_statistics(vectors, plan):
    """Return the mean cosine of the clusters (B, m, l) of an image, and the entropy of the plan (B, m, n)."""
    cosines, entropy, mass = [], 0.0, 0.0
    for image in vectors:
        for i, one in enumerate(image):
            others = [other for j, other in enumerate(image) if j != i]
            cosines += [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in others]
    for shares in plan.transpose(0, 2, 1).reshape(-1, plan.shape[1]):
        weights = shares / shares.sum()
        entropy -= shares.sum() * (weights * np.log(weights)).sum() / np.log(len(shares))
        mass += shares.sum()
    return np.mean(cosines), entropy / mass


@pytest.mark.parametrize("aggregator", ["salad", "netvlad"])
def test_head_statistics_equal_slow_formula(tiny_processor, aggregator):
    """Four clusters, after the global part of SALAD (8 values), whose clusters (8 values each) vary fastest."""
    model = model_with(aggregator=aggregator, head_dropout=0.0).eval()
    values = head_statistics(model, batch(3), tiny_processor)
    with torch.no_grad():
        output = run_view(model, model, tiny_processor, batch(3)["ground"], "ground", output_assignment=True)
    unprojected, plan = output.unprojected.double().numpy(), output.assignment.double().numpy()
    if aggregator == "salad":
        assert unprojected.shape == (3, 8 + 4 * 8)
        vectors = np.array([[row[8 + cluster :: 4] for cluster in range(4)] for row in unprojected])
    else:
        vectors = np.array([np.split(row, 4) for row in unprojected])
    cosine, entropy = slow_statistics(vectors, plan[:, :4])
    assert values["head/cluster_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert values["head/plan_entropy"] == pytest.approx(entropy, abs=1e-5)


def test_head_statistics_are_of_at_most_64_images(tiny_processor, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "gengeo_hf.training.diagnostics.run_view",
        lambda *arguments, **options: sizes.append(len(arguments[3])) or run_view(*arguments, **options),
    )
    for count in (63, 70):
        head_statistics(model_with(), batch(count), tiny_processor)
    assert sizes == [63, 64]
