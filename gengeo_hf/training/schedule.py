"""Schedule of the learning rate: warm-up, cosine decay, and the scaling rule for other batch sizes."""

import math

from gengeo_hf.training.settings import Settings


def learning_rate(step: float, total: int, settings: Settings) -> float:
    """Return the learning rate: linear warm-up, then cosine annealing to the final rate (GenGeo, section 4.1.3).

    Args:
        step: Step, which can be fractional: an epoch with fewer batches than possible has larger step sizes.
        total: Number of steps of the run.
        settings: Settings of the run.
    """
    plan = settings.optimisation
    highest = plan.learning_rate * rate_factor(settings)
    warmup = max(1, round(plan.warmup * total))
    if step < warmup:
        return highest * min(1.0, (step + 1) / warmup)
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return plan.final_learning_rate + (highest - plan.final_learning_rate) * (1 + math.cos(math.pi * share)) / 2


def rate_factor(settings: Settings) -> float:
    """Return the factor of the learning rate for a batch size other than `learning_rate_batch`.

    The step of Adam does not depend on the scale of the gradient, so that its noise decreases with the square root of
    the batch size: the square root rule (Malladi et al. 2022). The linear rule is for plain SGD.
    """
    plan, batch = settings.optimisation, settings.sampling.batch_size
    if plan.learning_rate_batch is None:
        return 1.0
    ratio = batch / plan.learning_rate_batch
    return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[plan.batch_rule]
