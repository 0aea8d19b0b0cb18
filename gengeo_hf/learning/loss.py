"""Symmetric InfoNCE, and an exact gather of descriptors over several processes."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

MAX_SCALE = 100.0  # bound of CLIP: a larger scale overflows half precision and does not help
MAX_LOG_SCALE = math.log(MAX_SCALE)


def symmetric_info_nce(
    ground: Tensor,
    aerial: Tensor,
    logit_scale: Tensor,
    *,
    label_smoothing: float = 0.0,
    positives: Tensor | None = None,
    ignored: Tensor | None = None,
    prefixes: Sequence[int] = (),
) -> Tensor:
    """Mean of the cross-entropies of ground to aerial and of aerial to ground (GenGeo, section 3.4).

    Computed in float32 also under autocast, because the rounding of bfloat16 is too coarse for exp(100 x).

    Args:
        ground: Unit descriptors of the ground photos, shape (batch, dim).
        aerial: Unit descriptors of the tiles, row i being the tile of ground row i, shape (batch, dim).
        logit_scale: Logarithm of the inverse temperature, 0-d; its exponential is clamped to 100.
        label_smoothing: Fraction of the target that is spread evenly over all candidates, 0 to 1.
        positives: Bool (batch, batch), True where a ground photo and a tile match; the target is spread evenly over
            them. The diagonal is always positive. None stands for the diagonal only.
        ignored: Bool (batch, batch), True where a tile is neither a positive nor a negative of a photo (a
            semi-positive); such candidates are removed from the softmax. Positives are never ignored.
        prefixes: Widths of nested descriptors (Kusupati et al. 2022, equation 1 with equal weights). The loss is the
            mean over the descriptors truncated to each width, normalised again, and the full descriptors.

    Returns:
        The loss, 0-d float32.

    Raises:
        ValueError: The descriptors are not two matrices of one shape, the batch has one pair, or a prefix is wider than
            the descriptors.
    """
    if ground.shape != aerial.shape or ground.ndim != 2:
        raise ValueError(f"expected two (batch, dim) matrices of one shape, found {ground.shape} and {aerial.shape}")
    if len(ground) < 2:
        raise ValueError("a batch of one pair has no negatives: InfoNCE needs at least two pairs")
    if prefixes and not 1 <= min(prefixes) <= max(prefixes) <= ground.shape[1]:
        raise ValueError(f"prefixes {list(prefixes)} must lie between 1 and the width {ground.shape[1]}")
    with torch.autocast(ground.device.type, enabled=False):
        scale = logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()  # at the bound itself the gradient is not zero
        target = torch.eye(len(ground), device=ground.device)
        if positives is not None:
            target = torch.maximum(target, positives.to(target))
        losses = []
        for width in (*prefixes, None):  # None: the full descriptor, which is normalised already
            queries, gallery = ground.float(), aerial.float()
            if width is not None:
                queries, gallery = (F.normalize(x[:, :width], dim=1) for x in (queries, gallery))
            logits = scale * queries @ gallery.T
            if ignored is not None:
                logits = logits.masked_fill(ignored & (target == 0), -torch.inf)
            losses.append(_soft_cross_entropy(logits, target, label_smoothing))
            losses.append(_soft_cross_entropy(logits.T, target.T, label_smoothing))
        return torch.stack(losses).mean()


@torch.no_grad()
def clamp_scale(logit_scale: Tensor) -> None:
    """Clamp the parameter of the temperature after a step: above its bound, the gradient would stay zero.

    Args:
        logit_scale: Logarithm of the inverse temperature, 0-d, changed in place.
    """
    logit_scale.clamp_(max=MAX_LOG_SCALE)


def _soft_cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy against the row-normalised `target`, smoothed over the candidates that are not masked."""
    candidates = torch.isfinite(logits)
    log_probability = F.log_softmax(logits, dim=1).masked_fill(~candidates, 0.0)
    probability = target / target.sum(dim=1, keepdim=True)
    uniform = candidates.float() / candidates.sum(dim=1, keepdim=True)
    probability = (1 - label_smoothing) * probability + label_smoothing * uniform
    return -(probability * log_probability).sum(dim=1).mean()


class _GatherRows(torch.autograd.Function):
    """Forward: the rows of all processes. Backward: the summed gradient of the rows of this process."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        # Every process computes the same global loss, so the sum is the true gradient times the number of processes;
        # DistributedDataParallel averages the gradients of the weights over processes, which cancels this factor.
        total = gradients[0].clone()
        dist.all_reduce(total)
        own = len(total) // dist.get_world_size()
        first = dist.get_rank() * own
        return total[first : first + own]


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes in rank order, with exact gradients; with one process, `rows` itself.

    Without it, a batch of 256 on 8 devices would be contrasted as 8 batches of 32. All processes must have the same
    number of rows.

    Args:
        rows: Rows of this process, shape (rows, dim).

    Returns:
        Rows of all processes, shape (processes * rows, dim). If each process then computes the loss of the global
        batch, the gradients that DistributedDataParallel averages equal those of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered
