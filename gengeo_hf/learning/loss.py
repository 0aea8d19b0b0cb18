"""Symmetric InfoNCE, and the gather that makes it exact over several processes."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

MAX_SCALE = 100.0  # CLIP's bound: a sharper softmax overflows half precision and learns nothing more
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
    """Mean of the two cross-entropies: ground finds its tile, tile finds its ground photo (GenGeo, section 3.4).

    Computed in float32 whatever the autocast state, because exp(100 x) leaves no room for bfloat16's rounding.

    Args:
        ground: unit descriptors of the ground photos, (batch, dim).
        aerial: unit descriptors of the tiles, row i belonging to ground row i, (batch, dim).
        logit_scale: logarithm of the inverse temperature, 0-d; its exponential is clamped to 100.
        label_smoothing: share of the target spread evenly over all candidates, 0 to 1.
        positives: bool (batch, batch), true where a ground photo and a tile show one place; the target is spread
            evenly over them. The diagonal is always positive. None means the diagonal alone.
        ignored: bool (batch, batch), true where a tile is neither right nor wrong for a photo (a semi-positive);
            such candidates leave the softmax. Positives are never ignored.
        prefixes: widths of nested descriptors (Kusupati et al. 2022, equation 1 with equal weights): the loss is the
            mean over the first `w` values, normalised again, for each width `w`, and the whole.

    Returns:
        The loss, 0-d float32.

    Raises:
        ValueError: the descriptors are not two matrices of one shape, a batch of one has nothing to contrast, or a
            prefix is wider than the descriptors.
    """
    if ground.shape != aerial.shape or ground.ndim != 2:
        raise ValueError(f"expected two (batch, dim) matrices of one shape, found {ground.shape} and {aerial.shape}")
    if len(ground) < 2:
        raise ValueError("a batch of one pair has no negatives: InfoNCE needs at least two pairs")
    if prefixes and not 1 <= min(prefixes) <= max(prefixes) <= ground.shape[1]:
        raise ValueError(f"prefixes {list(prefixes)} must lie between 1 and the width {ground.shape[1]}")
    with torch.autocast(ground.device.type, enabled=False):
        scale = logit_scale.float().clamp(max=MAX_LOG_SCALE).exp()  # at the bound itself the gradient passes
        target = torch.eye(len(ground), device=ground.device)
        if positives is not None:
            target = torch.maximum(target, positives.to(target))
        losses = []
        for width in (*prefixes, None):  # None: the whole, which has length 1 already
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
    """Bring the temperature's parameter back to its bound after a step: beyond it the gradient is zero, for ever.

    Args:
        logit_scale: Logarithm of the inverse temperature, 0-d, changed in place.
    """
    logit_scale.clamp_(max=MAX_LOG_SCALE)


def _soft_cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy against `target` normalised by row, smoothed over the candidates that are not masked out."""
    candidates = torch.isfinite(logits)
    log_share = F.log_softmax(logits, dim=1).masked_fill(~candidates, 0.0)
    share = target / target.sum(dim=1, keepdim=True)
    even = candidates.float() / candidates.sum(dim=1, keepdim=True)
    share = (1 - label_smoothing) * share + label_smoothing * even
    return -(share * log_share).sum(dim=1).mean()


class _GatherRows(torch.autograd.Function):
    """All processes' rows, forward; the summed gradient of the own rows, backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        # Every process computed the same global loss, so the sum is `processes` times the true gradient; the mean
        # over processes that DistributedDataParallel takes of the weights' gradients brings that factor back to one.
        total = gradients[0].clone()
        dist.all_reduce(total)
        own = len(total) // dist.get_world_size()
        first = dist.get_rank() * own
        return total[first : first + own]


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes in rank order, with exact gradients; with one process, `rows` itself.

    Under data parallelism each process must see the negatives of all others, or a batch of 256 on 8 cards is
    contrasted as 8 batches of 32. All processes must hold the same number of rows.

    Args:
        rows: (rows of this process, dim).

    Returns:
        (rows of all processes, dim). When each process then computes the loss of the global batch, the gradients
        that DistributedDataParallel averages equal those of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered
