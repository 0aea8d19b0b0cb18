"""Diagnostics of the head in the log."""

import pytest
import torch

from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.training.diagnostics import head_statistics
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
