"""What a training step encodes and minimises: the loss of the pairs, and terms beside it.

Both are named parts that a module of your own can add to (docs/extend.md): a pair loss is a function, a term a module
that may have parameters of its own, which are trained and never saved with the model.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.registry import Registry
from gengeo_hf.learning import gather_rows, symmetric_info_nce
from gengeo_hf.learning.loss import clamp_scale
from gengeo_hf.learning.triplet import soft_margin_triplet
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel
from gengeo_hf.training.kept import run_view
from gengeo_hf.training.settings import Settings

PairLoss = Callable[..., Tensor]
Outputs = dict[str, Any]  # "ground", "aerial" and what terms add: outputs of the model


def _info_nce(ground: Tensor, aerial: Tensor, logit_scale: Tensor, **options: Any) -> Tensor:
    return symmetric_info_nce(ground, aerial, logit_scale, **options)


def _soft_triplet(ground: Tensor, aerial: Tensor, logit_scale: Tensor, **options: Any) -> Tensor:
    return soft_margin_triplet(ground, aerial, **options)


# Functions of (ground, aerial, logit_scale, positives=, ignored=, **options): the loss of a batch of pairs.
PAIR_LOSSES: Registry[PairLoss] = Registry("pair loss", {"info_nce": _info_nce, "soft_triplet": _soft_triplet})
TERMS: Registry[type["Term"]] = Registry(
    "term of the loss",
    {
        "auxiliary_view": "gengeo_hf.training.terms:AuxiliaryView",
        "position": "gengeo_hf.training.terms:Position",
        "counterfactual": "gengeo_hf.training.terms:Counterfactual",
    },
)


class Term(nn.Module):
    """A part of the loss beside that of the pairs. Subclasses are registered in `TERMS`.

    Args:
        model: What is trained, to read its sizes; a term must not keep it.
        settings: Of the run.
        weight: Factor of the term.

    Attributes:
        needs: Keys that a batch must have for it, such as "auxiliary" or "position".
    """

    needs: tuple[str, ...] = ()

    def __init__(self, model: GenGeoModel, settings: Settings, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def encode(
        self, encode: Callable[[Tensor, str], Any], model: GenGeoModel, part: Mapping[str, Tensor], outputs: Outputs
    ) -> dict[str, Tensor]:
        """What the loss needs of a micro-batch.

        Args:
            encode: Pixels of a batch (B, 3, H, W) and a view to the model's output.
            model: What is trained, unwrapped.
            part: The micro-batch.
            outputs: The model's outputs for "ground" and "aerial", and what earlier terms have added.

        Returns:
            Tensors with one row for each pair.
        """
        raise NotImplementedError

    def loss(self, columns: Mapping[str, Tensor], pair_loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """The term of the whole batch, without its weight.

        Args:
            columns: "ground" and "aerial", unit descriptors of all processes, and what `encode` gave on this one.
            pair_loss: Loss of (ground, aerial, logit_scale), with the run's options and masks.

        Returns:
            0-d tensor.
        """
        raise NotImplementedError


class Objective(nn.Module):
    """The pair loss and the terms of a run.

    Args:
        model: What is trained.
        settings: Of the run.

    Raises:
        GenGeoError: An unknown loss, term or option.
    """

    def __init__(self, model: GenGeoModel, settings: Settings) -> None:
        super().__init__()
        given, config = settings.loss, model.config
        self.pair_loss = PAIR_LOSSES[given.pair]
        self.options = dict(given.options)
        if given.pair == "info_nce":
            self.options.setdefault("label_smoothing", settings.optimisation.label_smoothing)
        if config.matryoshka_dims:
            if given.pair != "info_nce":
                raise GenGeoError(f"matryoshka_dims needs loss.pair=info_nce, found {given.pair}")
            self.options["prefixes"] = config.matryoshka_dims
        self.terms = nn.ModuleDict()
        for name, options in given.terms.items():
            kind = TERMS[name]
            try:
                self.terms[name] = kind(model, settings, **(options or {}))
            except TypeError as error:
                raise GenGeoError(f"loss.terms.{name}: {error}") from error
        try:
            head: Any = next(iter(model.heads.values()))
            two = torch.eye(2, int(head.width_out))
            self._pairs(two, two, torch.zeros(()), {})
        except TypeError as error:
            raise GenGeoError(f"loss.options: {error}") from error

    @property
    def needs(self) -> set[str]:
        """Keys that batches must have beside both views."""
        terms: list[Any] = list(self.terms.values())
        return {key for term in terms for key in term.needs}

    def _pairs(self, ground: Tensor, aerial: Tensor, logit_scale: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        # A loss without temperature leaves it a gradient of zero: distributed training waits for each parameter.
        return self.pair_loss(ground, aerial, logit_scale, **self.options, **masks) + 0 * logit_scale

    def encode(
        self, wrapped: nn.Module, model: GenGeoModel, processor: GenGeoImageProcessor, part: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Descriptors of a micro-batch and what the terms need of it; each tensor has one row for each pair."""

        def encode(pixels: Tensor, view: str) -> Any:
            return run_view(wrapped, model, processor, pixels, view)

        outputs = {view: encode(part[view], view) for view in ("ground", "aerial")}
        columns = {view: output.pooler_output for view, output in outputs.items()}
        for name, term in self.terms.items():
            found = term.encode(encode, model, part, outputs)  # type: ignore[operator]  # a Term
            columns |= {f"{name}/{key}": value for key, value in found.items()}
        return columns

    def loss(self, columns: Mapping[str, Tensor], logit_scale: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """The loss of the whole batch of this process; descriptors are gathered from all."""
        together = {view: gather_rows(columns[view]) for view in ("ground", "aerial")}
        total = self._pairs(together["ground"], together["aerial"], logit_scale, masks)
        term: Any
        for name, term in self.terms.items():
            own = {key.partition("/")[2]: value for key, value in columns.items() if key.startswith(f"{name}/")}
            found = term.loss({**together, **own}, lambda a, b, scale: self._pairs(a, b, scale, masks))
            total = total + term.weight * found
        return total

    def clamp(self) -> None:
        """Bring temperatures back to their bound after a step."""
        for name, parameter in self.named_parameters():
            if name.endswith("scale"):
                clamp_scale(parameter)


def build_objective(model: GenGeoModel, settings: Settings) -> Objective:
    """The objective of a run; parameters of its terms become a part of the model, under `objective.`.

    They are trained, stored in checkpoints of the run, and left out of the saved model; see `model_weights`.

    Raises:
        GenGeoError: An unknown loss, term or option.
    """
    objective = Objective(model, settings)
    objective.to(model.device)
    if any(True for _ in objective.parameters()):
        model.add_module("objective", objective)
    return objective


def model_weights(model: GenGeoModel) -> dict[str, Tensor]:
    """The state dict of a model without what belongs to the objective."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("objective.")}
