"""Diagnostics of the head for the log, from some images of the current batch."""

import torch

from gengeo_hf.learning.diagnostics import cluster_cosine, effective_rank, plan_entropy
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel
from gengeo_hf.training.token_cache import run_view

IMAGES = 64  # maximum number of images, from the part of this process


@torch.no_grad()
def head_statistics(
    model: GenGeoModel, batch: dict[str, torch.Tensor], processor: GenGeoImageProcessor
) -> dict[str, float]:
    """Compute diagnostics of the ground head on the first images of a batch, with the weights after the step.

    Args:
        model: Unwrapped model. Its training mode is restored; no random numbers are drawn.
        batch: Batch of the training step.
        processor: Preprocessing with the normalisation.

    Returns:
        `head/effective_rank` of the descriptors and, for heads with clusters, `head/cluster_cosine` and
        `head/plan_entropy` (see `gengeo_hf.learning.diagnostics`).
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    try:
        images = batch["ground"][:IMAGES].to(device)
        output = run_view(model, model, processor, images, "ground", output_assignment=True)
    finally:
        model.train(was_training)
    values = {"head/effective_rank": effective_rank(output.pooler_output)}
    config, plan = model.config, output.assignment
    if plan is None:
        return values
    plan = plan[:, : config.num_clusters]  # the dustbin of SALAD is the last row
    if config.aggregator == "salad":  # the global part first, then the clusters, whose index varies fastest
        clusters = output.unprojected[:, config.token_dim :].unflatten(1, (-1, config.num_clusters)).transpose(1, 2)
    else:
        clusters = output.unprojected.unflatten(1, (config.num_clusters, -1))
    return {**values, "head/cluster_cosine": cluster_cosine(clusters), "head/plan_entropy": plan_entropy(plan)}
