"""Seed, loss, gradient and optimizer of a training step."""

import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.learning import FrozenPrefix, Pairs, cached_backward
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel
from gengeo_hf.model.backbones import frozen_stages
from gengeo_hf.training.batches import coverage_mask
from gengeo_hf.training.objective import Objective
from gengeo_hf.training.settings import Settings


def backward_pass(
    batch: dict[str, torch.Tensor],
    accelerator: Accelerator,
    wrapped: torch.nn.Module,
    model: GenGeoModel,
    processor: GenGeoImageProcessor,
    settings: Settings,
    pairs: Pairs,
    objective: Objective,
) -> torch.Tensor:
    """Accumulate the gradient of the loss of the global batch, in parts if `sampling.micro_batch` is set.

    Args:
        batch: Batch of this process.
        accelerator: Accelerator with processes and precision.
        wrapped: Model, wrapped for several processes.
        model: The same model, unwrapped.
        processor: Preprocessing with the normalisation.
        settings: Settings of the run.
        pairs: Training pairs, for the masks of semi-positives.
        objective: Objective of the run.

    Returns:
        The loss, detached, 0-d.
    """
    masks = semi_positive_masks(batch, accelerator, settings, pairs)

    names: list[str] = []

    def encode_part(part: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with accelerator.autocast():
            columns = objective.encode(wrapped, model, processor, part)
        names[:] = columns
        return tuple(columns.values())

    def loss_of(*columns: torch.Tensor) -> torch.Tensor:
        return objective.loss(dict(zip(names, columns, strict=True)), model.logit_scale, masks)

    size = settings.sampling.micro_batch
    if size is None or size >= len(batch["ground"]):
        loss = loss_of(*encode_part(batch))
        accelerator.backward(loss)
        return loss.detach()
    return cached_backward(
        [{key: value[i : i + size] for key, value in batch.items()} for i in range(0, len(batch["ground"]), size)],
        encode_part,
        loss_of,
        backward=accelerator.backward,
        no_sync=lambda: accelerator.no_sync(wrapped),
        loss_parameters=[model.logit_scale, *objective.parameters()],
        device=accelerator.device,
        prefix=FrozenPrefix(cached_stages(model, settings) if batch["ground"].ndim == 4 else []),
    )


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed the generators of PyTorch for one step (dropout), so that checkpoints need not store their state.

    Args:
        seed: Seed of the run.
        step: Zero-based step.
        process: Index of this process, so that dropout differs between processes.
    """
    state = np.random.SeedSequence([seed, step, process]).generate_state(2)
    torch.manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def check_finite(loss: torch.Tensor, step: int, settings: Settings) -> float:
    """Return the loss as a float.

    Raises:
        GenGeoError: The loss is infinite or NaN, as all later ones would be.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise GenGeoError(
            f"the loss is {value} at step {step}: lower optimisation.learning_rate "
            f"(now {settings.optimisation.learning_rate}) or use mixed_precision=bf16 instead of fp16"
        )
    return value


def cached_stages(model: GenGeoModel, settings: Settings) -> list[torch.nn.Module]:
    """Return the modules whose outputs GradCache keeps between the two passes over a micro-batch."""
    wanted = settings.sampling.keep_frozen and settings.optimisation.compile is None
    return frozen_stages(model.backbone) if wanted and model.config.share_backbone else []


def semi_positive_masks(
    batch: dict[str, torch.Tensor], accelerator: Accelerator, settings: Settings, pairs: Pairs
) -> dict[str, torch.Tensor]:
    """Return the masks for tiles of the global batch that cover the position of another photo.

    With `sampling.semi_positives=banned` there are such tiles only if the loader replaced a broken pair; they are
    ignored in the softmax.

    Returns:
        Mask `positives` or `ignored`, bool (batch, batch), or an empty dict.
    """
    if settings.sampling.semi_positives == "negative" or settings.sampling.protocol == "sample4geo":
        return {}
    rows = accelerator.gather(batch["query_row"].to(accelerator.device)).cpu().numpy()
    mask = coverage_mask(pairs, rows)
    if mask.sum() == len(rows):  # only the diagonal, which is the common case
        return {}
    name = "positives" if settings.sampling.semi_positives == "positive" else "ignored"
    return {name: torch.from_numpy(np.ascontiguousarray(mask)).to(accelerator.device)}


def build_optimizer(model: torch.nn.Module, settings: Settings) -> tuple[torch.optim.Optimizer, Any]:
    """Build AdamW, with sharpness-aware minimisation if configured (Foret et al. 2021; Kwon et al. 2021).

    Returns:
        The optimizer, and a `pytorch_optimizer.SAM` around it or None. `SAM.first_step` moves the weights w to w + e
        with e = rho (w w g) / ||abs(w) g|| if adaptive; `SAM.second_step` restores w and applies the gradient at w + e.

    Raises:
        GenGeoError: The package pytorch-optimizer is not installed.
    """
    plan = settings.optimisation
    groups = parameter_groups(model, plan.weight_decay)
    betas = plan.betas[0], plan.betas[1]
    if plan.sharpness is None:
        return torch.optim.AdamW(groups, betas=betas), None  # the loop sets the learning rate before each step
    try:
        from pytorch_optimizer import SAM
    except ImportError as error:
        raise GenGeoError("optimisation.sharpness needs pytorch-optimizer: pip install gengeo_hf[train]") from error
    around = SAM(groups, torch.optim.AdamW, rho=plan.sharpness, adaptive=plan.sharpness_adaptive, betas=betas)
    return around.base_optimizer, around


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups: weight decay for matrices, none for biases, norms, the dustbin and the temperature."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
