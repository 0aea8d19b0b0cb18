"""Additional terms of the loss: an auxiliary view, the position of the photo in its tile, random layouts.

Each term works with any pair loss and any model with the required outputs; published methods combine them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.learning import gather_rows
from gengeo_hf.learning.counterfactual import counterfactual_loss
from gengeo_hf.learning.position import position_error
from gengeo_hf.model import GenGeoModel
from gengeo_hf.model.backbones import family_of, read_tokens, token_width
from gengeo_hf.training.objective import Outputs, Term
from gengeo_hf.training.settings import Settings


class AuxiliaryView(Term):
    """An auxiliary view in training, such as the bird's-eye view of a panorama (AuxGeo, arXiv 2412.11529).

    The term is the loss of (ground, auxiliary) plus that of (auxiliary, aerial), each with a learned temperature.

    Args:
        model: See `Term`.
        settings: Settings of the run, with `data.auxiliary_view`.
        weight: Factor of both losses; AuxGeo uses 0.1.
        view: View whose backbone and head encode the auxiliary view, for models with separate ones.

    Raises:
        GenGeoError: `data.auxiliary_view` is not set.
    """

    needs = ("auxiliary",)

    def __init__(self, model: GenGeoModel, settings: Settings, weight: float = 0.1, view: str = "ground") -> None:
        super().__init__(model, settings, weight)
        if settings.data.auxiliary_view is None:
            raise GenGeoError("loss.terms.auxiliary_view needs a view: set data.auxiliary_view, for example bev:384")
        self.view = view
        start = math.log(1 / 0.07)
        self.ground_scale, self.aerial_scale = (nn.Parameter(torch.tensor(start)) for _ in range(2))

    def encode(
        self, encode: Callable[[Tensor, str], Any], model: GenGeoModel, part: Mapping[str, Tensor], outputs: Outputs
    ) -> dict[str, Tensor]:
        """Encode the auxiliary view."""
        outputs["auxiliary"] = encode(part["auxiliary"], self.view)
        return {"descriptor": outputs["auxiliary"].pooler_output}

    def loss(self, columns: Mapping[str, Tensor], pair_loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Compute the loss of (ground, auxiliary) plus that of (auxiliary, aerial)."""
        auxiliary = gather_rows(columns["descriptor"])
        return pair_loss(columns["ground"], auxiliary, self.ground_scale) + pair_loss(
            auxiliary, columns["aerial"], self.aerial_scale
        )


class Position(Term):
    """The position of the photo in its tile, from the similarity of its descriptor to the tokens of the tile (AuxGeo).

    The queries are the ground view and the auxiliary view, if there is one. AuxGeo has pooled descriptors; for models
    with an aggregator or a projection, a linear layer maps the tokens to the space of the descriptors (our extension).

    Args:
        model: See `Term`.
        settings: See `Term`.
        weight: Factor of the term; AuxGeo uses 0.05.
        grids: Cells per side of the grids to which the tokens are averaged; AuxGeo uses 12, 6 and 3 at 384 px.
        temperature: Temperature of the softmax over cells.
        centred: Whether to assume that every photo was taken at the centre of its tile, as published for CVUSA and
            CVACT; the model can then only learn the centre.

    Raises:
        GenGeoError: A grid is finer than the tokens of an aerial image.
    """

    def __init__(
        self,
        model: GenGeoModel,
        settings: Settings,
        weight: float = 0.05,
        grids: tuple[int, ...] = (12, 6, 3),
        temperature: float = 0.05,
        centred: bool = False,
    ) -> None:
        super().__init__(model, settings, weight)
        self.grids, self.temperature, self.centred = tuple(grids), temperature, centred
        self.needs = () if centred else ("position",)
        high, wide = family_of(model.config.backbone_config).patch_sides(model.config.backbone_config)
        self.shape = settings.data.aerial_size[0] // high, settings.data.aerial_size[1] // wide
        if not self.grids or max(self.grids) > min(self.shape) or min(self.grids) < 1:
            raise GenGeoError(
                f"loss.terms.position.grids is {list(self.grids)}: an aerial image has {self.shape[0]} x "
                f"{self.shape[1]} tokens, and a grid cannot be finer"
            )
        if model.config.aerial_keep is not None:
            raise GenGeoError("loss.terms.position needs all tokens of a tile: leave model.config.aerial_keep out")
        width, head = token_width(model.config.backbone_config), next(iter(model.heads.values()))
        pooled = model.config.aggregator in ("mean", "cls") and model.config.descriptor_dim is None
        self.to_descriptors = nn.Identity() if pooled else nn.Linear(width, int(head.width_out))  # type: ignore[arg-type]  # a number

    def encode(
        self, encode: Callable[[Tensor, str], Any], model: GenGeoModel, part: Mapping[str, Tensor], outputs: Outputs
    ) -> dict[str, Tensor]:
        """Compute the error of each pair in cells, (B, 1)."""
        aerial, backbone = outputs["aerial"].last_hidden_state, model.backbone_of("aerial")
        if aerial.ndim == 4:  # a convolutional map before its norm, as published
            cells = aerial
        else:
            cells = read_tokens(backbone, outputs["aerial"])[0].transpose(1, 2).unflatten(2, self.shape)
        cells = self.to_descriptors(cells.movedim(1, -1).float()).movedim(-1, 1)
        position = cells.new_full((len(cells), 2), 0.5) if self.centred else part["position"].to(cells.device)
        queries = [outputs[name].pooler_output for name in ("ground", "auxiliary") if name in outputs]
        errors = [position_error(query, cells, position, self.grids, self.temperature) for query in queries]
        return {"error": torch.stack(errors, dim=1).sum(dim=1, keepdim=True)}

    def loss(self, columns: Mapping[str, Tensor], pair_loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Compute the mean error of the batch."""
        return columns["error"].mean()


class Counterfactual(Term):
    """The counterfactual loss of GeoDTR: descriptors must differ from those with a random layout.

    Args:
        model: See `Term`.
        settings: See `Term`.
        weight: Factor of the term.
        sharpness: See `counterfactual_loss`.

    Raises:
        GenGeoError: The aggregator has no layout.
    """

    def __init__(self, model: GenGeoModel, settings: Settings, weight: float = 1.0, sharpness: float = 5.0) -> None:
        super().__init__(model, settings, weight)
        self.sharpness = sharpness
        aggregator: Any = next(iter(model.heads.values())).aggregator
        if not aggregator.has_layout:
            raise GenGeoError(
                f"loss.terms.counterfactual needs an aggregator with a layout, such as layout; found "
                f"{model.config.aggregator}"
            )

    def encode(
        self, encode: Callable[[Tensor, str], Any], model: GenGeoModel, part: Mapping[str, Tensor], outputs: Outputs
    ) -> dict[str, Tensor]:
        """Compute the loss of both images of each pair, (B, 2)."""
        losses = []
        for view in ("ground", "aerial"):
            head: Any = model.heads["shared" if model.config.share_aggregator else view]
            tokens, _ = read_tokens(model.backbone_of(view), outputs[view])
            other = head.project(head.aggregator.counterfactual(tokens))
            losses.append(counterfactual_loss(outputs[view].pooler_output, other, self.sharpness))
        return {"losses": torch.stack(losses, dim=1)}

    def loss(self, columns: Mapping[str, Tensor], pair_loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Compute the mean over both views."""
        return columns["losses"].mean()
