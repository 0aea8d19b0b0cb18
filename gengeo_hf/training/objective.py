"""The objective of a training: the loss of the pairs, and additional terms.

Plugins can register both (docs/extend.md): a pair loss is a function; a term is a module, whose parameters are trained
and not saved with the model.
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
from gengeo_hf.training.settings import Settings
from gengeo_hf.training.token_cache import run_view

PairLoss = Callable[..., Tensor]
Outputs = dict[str, Any]  # outputs of the model for "ground", "aerial" and the views that terms add


def _info_nce(ground: Tensor, aerial: Tensor, logit_scale: Tensor, **options: Any) -> Tensor:
    return symmetric_info_nce(ground, aerial, logit_scale, **options)


def _soft_triplet(ground: Tensor, aerial: Tensor, logit_scale: Tensor, **options: Any) -> Tensor:
    return soft_margin_triplet(ground, aerial, **options)


# Functions (ground, aerial, logit_scale, positives=, ignored=, **options) that return the loss of a batch of pairs.
PAIR_LOSSES: Registry[PairLoss] = Registry("pair loss", {"info_nce": _info_nce, "soft_triplet": _soft_triplet})
TERMS: Registry[type["Term"]] = Registry(
    "term of the loss",
    {
        "auxiliary_view": "gengeo_hf.training.terms:AuxiliaryView",
        "position": "gengeo_hf.training.terms:Position",
        "counterfactual": "gengeo_hf.training.terms:Counterfactual",
        "pose": "gengeo_hf.training.pose_term:Pose",
    },
)


class Term(nn.Module):
    """Base class of terms that are added to the loss of the pairs. Subclasses are registered in `TERMS`.

    Args:
        model: Model that is trained, to read its sizes; a term must not keep a reference to it.
        settings: Settings of the run.
        weight: Factor of the term.

    Attributes:
        needs: Keys that a batch must have for the term, such as "auxiliary" or "position".
    """

    needs: tuple[str, ...] = ()

    def __init__(self, model: GenGeoModel, settings: Settings, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def encode(
        self, encode: Callable[[Tensor, str], Any], model: GenGeoModel, part: Mapping[str, Tensor], outputs: Outputs
    ) -> dict[str, Tensor]:
        """Compute the inputs of `loss` for a micro-batch.

        Args:
            encode: Function of pixels (B, 3, H, W) and a view that returns the output of the model.
            model: Unwrapped model.
            part: Micro-batch.
            outputs: Outputs of the model for "ground" and "aerial", and outputs that previous terms added.

        Returns:
            Tensors with one row per pair, by name.
        """
        raise NotImplementedError

    def loss(self, columns: Mapping[str, Tensor], pair_loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Compute the term for the whole batch, without its weight.

        Args:
            columns: Unit descriptors "ground" and "aerial" of all processes, and the results of `encode` of this one.
            pair_loss: Function (ground, aerial, logit_scale) with the options and masks of the run.

        Returns:
            The term, 0-d.
        """
        raise NotImplementedError


class Objective(nn.Module):
    """The pair loss and the terms of a run.

    Args:
        model: Model that is trained.
        settings: Settings of the run.

    Raises:
        GenGeoError: A loss, term or option is unknown.
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
        """Keys that batches must have in addition to both views."""
        terms: list[Any] = list(self.terms.values())
        return {key for term in terms for key in term.needs}

    def _pairs(self, ground: Tensor, aerial: Tensor, logit_scale: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        # A loss without temperature leaves it a gradient of zero: distributed training waits for each parameter.
        return self.pair_loss(ground, aerial, logit_scale, **self.options, **masks) + 0 * logit_scale

    def encode(
        self, wrapped: nn.Module, model: GenGeoModel, processor: GenGeoImageProcessor, part: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute the descriptors of a micro-batch and the inputs of the terms; each tensor has one row per pair.

        Args:
            wrapped: Model, wrapped for several processes.
            model: The same model, unwrapped.
            processor: Preprocessing with the normalisation.
            part: Micro-batch.
        """

        def encode(pixels: Tensor, view: str) -> Any:
            return run_view(wrapped, model, processor, pixels, view)

        outputs = {view: encode(part[view], view) for view in ("ground", "aerial")}
        columns = {view: output.pooler_output for view, output in outputs.items()}
        for name, term in self.terms.items():
            found = term.encode(encode, model, part, outputs)  # type: ignore[operator]  # a Term
            columns |= {f"{name}/{key}": value for key, value in found.items()}
        return columns

    def loss(self, columns: Mapping[str, Tensor], logit_scale: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """Compute the loss of the global batch; descriptors are gathered from all processes.

        Args:
            columns: Tensors of `encode` for all micro-batches of this process.
            logit_scale: Logarithm of the inverse temperature, 0-d.
            masks: Masks `positives` or `ignored` of the global batch, bool (batch, batch).
        """
        together = {view: gather_rows(columns[view]) for view in ("ground", "aerial")}
        total = self._pairs(together["ground"], together["aerial"], logit_scale, masks)
        term: Any
        for name, term in self.terms.items():
            own = {key.partition("/")[2]: value for key, value in columns.items() if key.startswith(f"{name}/")}
            found = term.loss({**together, **own}, lambda a, b, scale: self._pairs(a, b, scale, masks))
            total = total + term.weight * found
        return total

    def clamp(self) -> None:
        """Clamp the temperatures of the terms after a step."""
        for name, parameter in self.named_parameters():
            if name.endswith("scale"):
                clamp_scale(parameter)


def build_objective(model: GenGeoModel, settings: Settings) -> Objective:
    """Build the objective of a run; the parameters of its terms are added to the model as `objective`.

    They are trained, stored in checkpoints of the run, and not saved with the model; see `model_weights`.

    Args:
        model: Model that is trained, changed in place.
        settings: Settings of the run.

    Raises:
        GenGeoError: A loss, term or option is unknown.
    """
    objective = Objective(model, settings)
    objective.to(model.device)
    if any(True for _ in objective.parameters()):
        model.add_module("objective", objective)
    return objective


def model_weights(model: GenGeoModel) -> dict[str, Tensor]:
    """Return the state dict of a model without the parameters of the objective."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("objective.")}
