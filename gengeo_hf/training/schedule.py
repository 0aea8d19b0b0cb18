"""The schedule of the learning rate: warm-up, cosine decay, and the rule for other batch sizes."""

import math

from gengeo_hf.training.settings import Settings


def learning_rate(step: float, total: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to the final rate (GenGeo, section 4.1.3: cosine annealing)."""
    plan = settings.optimisation
    highest = plan.learning_rate * rate_factor(settings)
    warmup = max(1, round(plan.warmup * total))
    if step < warmup:  # a step may lie between two whole ones, where an epoch has fewer batches than it could
        return highest * min(1.0, (step + 1) / warmup)
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return plan.final_learning_rate + (highest - plan.final_learning_rate) * (1 + math.cos(math.pi * share)) / 2


def rate_factor(settings: Settings) -> float:
    """How much the learning rate changes because the batch is not the one that it was chosen for.

    Adam's step does not grow with the gradient, so its noise falls with the square root of the batch: the square root
    rule (Malladi et al. 2022); the linear rule is for plain SGD.
    """
    plan, batch = settings.optimisation, settings.sampling.batch_size
    if plan.learning_rate_batch is None:
        return 1.0
    ratio = batch / plan.learning_rate_batch
    return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[plan.batch_rule]
