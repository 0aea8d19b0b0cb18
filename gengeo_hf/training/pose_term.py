"""The pose of the photo in its tile as an additional term of the loss: tokens learn what a pose head needs later."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model import GenGeoModel
from gengeo_hf.model.backbones import family_of, read_tokens, token_width
from gengeo_hf.pose.geometry import column_azimuths, position_target
from gengeo_hf.pose.head import WHOLE_TILE, PoseConfig, PoseHead
from gengeo_hf.pose.tokens import check_config
from gengeo_hf.training.objective import Outputs, Term
from gengeo_hf.training.settings import Settings


class Pose(Term):
    """Cross entropy of the positions of a photo in its tile and in the most similar other tiles of the batch (ours).

    A small `PoseHead` for north-aligned panoramas is trained with the model and not saved: it teaches the patch tokens
    of both views to tell positions and overlapping tiles apart. Fit the head to use with `gengeo pose fit` afterwards.

    Args:
        model: See `Term`.
        settings: See `Term`.
        weight: Factor of the term.
        wrong_tiles: Number of other tiles of the batch whose positions are added to the denominator.
        tile_m: Side of the tiles in metres, about; positions are 3 m apart at this size.

    Raises:
        GenGeoError: Views are cropped, scaled, transformed or turned at random, tiles are not square, the model cannot
            have a pose head, a batch may hold several tiles of one place, or an option is out of range.
    """

    needs = ("position",)

    def __init__(
        self, model: GenGeoModel, settings: Settings, weight: float = 1.0, wrong_tiles: int = 8, tile_m: float = 65.0
    ) -> None:
        super().__init__(model, settings, weight)
        _check(model, settings, wrong_tiles, tile_m)
        backbone = model.config.backbone_config
        high, wide = family_of(backbone).patch_sides(backbone)
        ground, aerial = settings.data.ground_size, settings.data.aerial_size
        self.grid, self.wrong_tiles, self.tile_m = (ground[0] // high, ground[1] // wide), wrong_tiles, tile_m
        self.head = PoseHead(
            PoseConfig(
                token_dim=token_width(backbone),
                ground_rows=self.grid[0],
                coverage=WHOLE_TILE,
                tile_m=[tile_m, tile_m],
            )
        )
        self.layout = self.head.layout((tile_m, tile_m), (aerial[0] // high, aerial[1] // wide))

    def encode(
        self, encode: Callable[[Tensor, str], Any], model: GenGeoModel, part: Mapping[str, Tensor], outputs: Outputs
    ) -> dict[str, Tensor]:
        """Compute the queries (B, C, R, d) of the photos, the keys (B, K, d) of the tiles, and the true positions."""
        tokens = {view: read_tokens(model.backbone_of(view), outputs[view])[0].float() for view in ("ground", "aerial")}
        position = part["position"].to(tokens["ground"].device).float()
        return {
            "queries": self.head.queries(tokens["ground"].unflatten(1, self.grid)).float(),  # bfloat16 under autocast
            "keys": self.head.keys(tokens["aerial"]).float(),
            "offset": (position - 0.5) * position.new_tensor([self.tile_m, -self.tile_m]),
            "own_ground": outputs["ground"].pooler_output,
            "own_aerial": outputs["aerial"].pooler_output,
        }

    def loss(self, columns: Mapping[str, Tensor], pair_loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Compute the mean cross entropy of the pairs of this process; wrong tiles come from them too."""
        queries, keys, offset = columns["queries"], columns["keys"], columns["offset"]
        count = len(queries)
        with torch.no_grad():
            similarity = columns["own_ground"] @ columns["own_aerial"].T
            similarity.fill_diagonal_(-torch.inf)
            wrong = similarity.topk(min(self.wrong_tiles, count - 1), dim=1).indices
        tiles = torch.cat([torch.arange(count, device=wrong.device)[:, None], wrong], dim=1)
        azimuths = column_azimuths(self.grid[1], 360.0)
        scores = self.head.scores(queries, keys[tiles], self.layout, azimuths, (0.0,))  # (B, T, 1, P)
        log_mass = scores.flatten(1).log_softmax(dim=1)
        target = position_target(self.layout, offset)
        return -(target * log_mass[:, : target.shape[1]]).sum(dim=1).mean()


def _check(model: GenGeoModel, settings: Settings, wrong_tiles: int, tile_m: float) -> None:
    """Refuse settings for which positions, directions or wrong tiles would be wrong."""
    options = settings.augment.options if settings.augment.enabled else {}
    if wrong_tiles < 0:
        raise GenGeoError(f"loss.terms.pose.wrong_tiles must be at least 0, found {wrong_tiles}")
    if not tile_m > 0:
        raise GenGeoError(f"loss.terms.pose.tile_m must be positive, found {tile_m:g}")
    changes = [f"augment.options.{name}" for name in ("unknown_heading", "fov", "input_scales") if options.get(name)]
    changes += [f"data.{name}" for name in ("ground_view", "aerial_view") if getattr(settings.data, name) is not None]
    if changes:
        raise GenGeoError(
            f"loss.terms.pose needs whole, north-aligned panoramas and tiles: leave out {', '.join(changes)}"
        )
    check_config(model.config)
    sides = list(settings.data.aerial_size)
    if sides[0] != sides[1]:
        raise GenGeoError(f"loss.terms.pose needs square tiles, found data.aerial_size={sides}")
    sampling = settings.sampling
    if sampling.semi_positives != "banned" or sampling.protocol == "sample4geo":
        raise GenGeoError(
            "loss.terms.pose needs sampling.semi_positives=banned and sampling.protocol=gengeo, found "
            f"{sampling.semi_positives} and {sampling.protocol}: other tiles of a batch must not show the photo's place"
        )
