"""One optimizer step: its seed, its loss, its gradient."""

import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.learning import FrozenPrefix, Pairs, cached_backward
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel
from gengeo_hf.model.backbones import frozen_stages
from gengeo_hf.training.batches import covering
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
    """The gradient of the global batch's loss, in parts where `sampling.micro_batch` asks for it; gives the loss."""
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
        prefix=FrozenPrefix(kept_stages(model, settings) if batch["ground"].ndim == 4 else []),
    )


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed PyTorch's generators for one step (dropout): a resumed run needs no stored state of them.

    Args:
        seed: Of the run.
        step: Zero-based index of the step.
        process: Index of this process; processes drop out different values.
    """
    words = np.random.SeedSequence([seed, step, process]).generate_state(2)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def finite(loss: torch.Tensor, step: int, settings: Settings) -> float:
    """The loss as a number.

    Raises:
        GenGeoError: it is infinite or NaN, as all later ones would be.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise GenGeoError(
            f"the loss is {value} at step {step}: lower optimisation.learning_rate "
            f"(now {settings.optimisation.learning_rate}) or use mixed_precision=bf16 instead of fp16"
        )
    return value


def kept_stages(model: GenGeoModel, settings: Settings) -> list[torch.nn.Module]:
    """The modules whose outputs GradCache keeps between its two descriptions of a part."""
    wanted = settings.sampling.keep_frozen and settings.optimisation.compile is None
    return frozen_stages(model.backbone) if wanted and model.config.share_backbone else []


def semi_positive_masks(
    batch: dict[str, torch.Tensor], accelerator: Accelerator, settings: Settings, pairs: Pairs
) -> dict[str, torch.Tensor]:
    """What the loss is told about tiles of the global batch that cover another member's place.

    With `sampling.semi_positives=banned` there are none, but for a pair that the loader put in the place of a broken
    one; that one leaves the softmax.
    """
    if settings.sampling.semi_positives == "negative" or settings.sampling.protocol == "sample4geo":
        return {}
    rows = accelerator.gather(batch["query_row"].to(accelerator.device)).cpu().numpy()
    mask = covering(pairs, rows)
    if mask.sum() == len(rows):  # the diagonal alone: the common case
        return {}
    name = "positives" if settings.sampling.semi_positives == "positive" else "ignored"
    return {name: torch.from_numpy(np.ascontiguousarray(mask)).to(accelerator.device)}


def build_optimizer(model: torch.nn.Module, settings: Settings) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW, and what perturbs the weights for sharpness-aware minimisation (Foret et al. 2021; Kwon et al. 2021).

    Returns:
        The optimizer, and a `pytorch_optimizer.SAM` around it or None. Its `first_step` moves the weights to their
        worst neighbours, w + e with e = rho (w w g) / ||abs(w) g|| where adaptive; `second_step` brings them back and
        steps by the gradient found there.

    Raises:
        GenGeoError: The library is missing.
    """
    plan = settings.optimisation
    groups = parameter_groups(model, plan.weight_decay)
    betas = plan.betas[0], plan.betas[1]
    if plan.sharpness is None:
        return torch.optim.AdamW(groups, betas=betas, lr=1.0), None
    try:
        from pytorch_optimizer import SAM
    except ImportError as error:
        raise GenGeoError("optimisation.sharpness needs pytorch-optimizer: pip install gengeo_hf[train]") from error
    around = SAM(groups, torch.optim.AdamW, rho=plan.sharpness, adaptive=plan.sharpness_adaptive, betas=betas, lr=1.0)
    return around.base_optimizer, around


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for biases, norms, the dustbin and the temperature, which it would shrink."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
