"""Pose head: queries from ground patch tokens, keys from aerial patch tokens, scores of positions and headings.

    S(p, h) = e^s / sqrt(d) * sum over columns c, radius classes r and patches k of <Q[c, r], k_k> M[p, k, r, a_c + h]

with the visibility M of `geometry`. The encoder is frozen: a head does not change descriptors, fingerprints or indexes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.pose.geometry import (
    Layout,
    azimuth_weights,
    is_circle,
    positions_of,
    score_matrix,
    visibility,
    visibility_spectrum,
)

PRIORS = {
    "known": 0.0,
    "45": 45.0,
    "180": 180.0,
}  # heading prior -> largest difference from the stated heading, degrees
LARGEST_MATRIX = 16_000_000  # elements of a score matrix; larger ones use features of (position, direction)
WHOLE_TILE = 1.02  # coverage whose positions reach the edge of a tile
SIZE_SLACK = 1.02  # tiles may be this much smaller or larger than those that a head was fitted on
FOLDER = "pose"  # directory in a checkpoint, with a subdirectory for each heading prior


class PoseConfig(PreTrainedConfig):
    """Configuration of a pose head.

    Args:
        token_dim: Width of the encoder's patch tokens.
        ground_rows: Number of rows of patches in ground images.
        dim: Width d of queries and keys.
        hidden_dim: Hidden width of the two MLPs.
        heading_prior: "known", "45" or "180": largest difference of true and stated heading in degrees.
        heading_step: Spacing of the candidate headings, degrees.
        coverage: Share of a tile's sides in which positions are searched.
        step_m: Spacing of the candidate positions, metres.
        radius_edges_m: Inner edges of the radius classes, metres.
        bins, sigma_deg: Number of azimuth bins and blur over azimuth, see `Layout`.
        tile_m: Smallest and largest side of the tiles in the fit, metres.
        encoder: Fingerprint of the encoder of the tokens.
        radius_factors: Conformal factors by coverage, see `gengeo_hf.pose.posterior`.
        record: Data, settings and held-out errors of the fit.
    """

    model_type = "gengeo-pose"

    def __init__(
        self,
        token_dim: int = 768,
        ground_rows: int = 11,
        dim: int = 16,
        hidden_dim: int = 64,
        heading_prior: str = "known",
        heading_step: float = 10.0,
        coverage: float = 0.55,
        step_m: float = 3.0,
        radius_edges_m: Sequence[float] = (5.0, 10.0, 16.0, 24.0),
        bins: int = 36,
        sigma_deg: float = 10.0,
        tile_m: Sequence[float] = (0.0, math.inf),
        encoder: str = "",
        radius_factors: dict[str, float] | None = None,
        record: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if heading_prior not in PRIORS:
            raise GenGeoError(f"the heading prior must be one of {', '.join(PRIORS)}, found {heading_prior!r}")
        self.token_dim, self.ground_rows, self.dim, self.hidden_dim = token_dim, ground_rows, dim, hidden_dim
        self.heading_prior, self.heading_step = heading_prior, heading_step
        self.coverage, self.step_m = coverage, step_m
        self.radius_edges_m, self.tile_m = list(radius_edges_m), list(tile_m)
        self.bins, self.sigma_deg = bins, sigma_deg
        self.encoder, self.radius_factors, self.record = encoder, radius_factors or {}, record or {}
        super().__init__(**kwargs)

    @property
    def headings(self) -> tuple[float, ...]:
        """Candidate headings relative to the stated one, degrees."""
        reach = PRIORS[self.heading_prior]
        if reach >= 180:
            return tuple(torch.arange(0.0, 360.0, self.heading_step).tolist())
        steps = int(reach // self.heading_step)
        return tuple(step * self.heading_step for step in range(-steps, steps + 1))


class PoseHead(PreTrainedModel):
    """Scores positions and headings of ground photos in aerial tiles from patch tokens.

    Args:
        config: Configuration of the head.

    Example:
        >>> head = PoseHead.from_pretrained("./gengeo-world-urban", subfolder="pose/known")
    """

    config_class = PoseConfig
    config: PoseConfig
    base_model_prefix = "pose"
    main_input_name = "ground_tokens"

    def __init__(self, config: PoseConfig) -> None:
        super().__init__(config)
        self.ground = _mlp(config)
        self.aerial = _mlp(config)
        self.row_weights = nn.Parameter(torch.empty(config.ground_rows, len(config.radius_edges_m) + 1))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, PoseHead):
            init.constant_(module.row_weights, 1 / self.config.ground_rows)
            init.zeros_(module.log_scale)

    @property
    def checksum(self) -> str:
        """SHA-256 of the weights, which is stored with keys of this head."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()

    def queries(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute features of the columns of photos.

        Args:
            tokens: (N, rows, C, token_dim) patch tokens. Row weights are interpolated for another number of rows than
                in the fit.

        Returns:
            (N, C, R, d), one feature for each column and radius class.
        """
        weights: torch.Tensor = self.row_weights
        if tokens.shape[1] != len(weights):
            resized = nn.functional.interpolate(weights.T[None], tokens.shape[1], mode="linear")[0].T
            weights = resized * (len(weights) / tokens.shape[1])
        return torch.einsum("nycd,yr->ncrd", self.ground(tokens), weights)

    def keys(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute features of the patches of tiles, relative to their mean over the tile.

        Args:
            tokens: (N, K, token_dim) patch tokens in row-major order.

        Returns:
            (N, K, d).
        """
        keys = self.aerial(tokens)
        return keys - keys.mean(dim=1, keepdim=True)

    def layout(self, size_m: tuple[float, float], grid: tuple[int, int]) -> Layout:
        """Create the geometry of a tile.

        Args:
            size_m: Width and height of the tile in metres.
            grid: Number of rows and columns of patches.

        Raises:
            GenGeoError: The tile is larger or smaller than the tiles of the fit.
        """
        config, (smallest, largest) = self.config, self.config.tile_m
        if not (smallest / SIZE_SLACK <= min(size_m) and max(size_m) <= largest * SIZE_SLACK):
            raise GenGeoError(
                f"a tile of {size_m[0]:.0f} x {size_m[1]:.0f} m is outside what the pose head was fitted on, tiles of "
                f"{smallest:.0f} to {largest:.0f} m: index tiles of that size, or fit a head on them (gengeo pose fit)"
            )
        edges = tuple(config.radius_edges_m)
        return Layout(*size_m, *grid, config.coverage, config.step_m, edges, config.bins, config.sigma_deg).rounded()

    def scores(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        layout: Layout,
        azimuths: torch.Tensor,
        headings: Sequence[float],
    ) -> torch.Tensor:
        """Compute the scores of all headings and positions.

        The method is a circular correlation for headings over the whole circle, else one matrix product; if its matrix
        is too large, features of positions and directions.

        Args:
            queries: (N, C, R, d) result of `queries`.
            keys: (N, K, d) result of `keys`, one tile for each photo; or (N, T, K, d), T tiles for each photo.
            layout: Geometry of the tiles.
            azimuths: (C,) azimuths of the photo's columns relative to its centre column, degrees.
            headings: H candidate headings of the centre column, degrees clockwise from north.

        Returns:
            (N, H, P), or (N, T, H, P): logits of a distribution over headings and positions.
        """
        if keys.ndim == 4:
            count, tiles = keys.shape[:2]
            flat = self.scores(queries.repeat_interleave(tiles, 0), keys.flatten(0, 1), layout, azimuths, headings)
            return flat.view(count, tiles, *flat.shape[1:])
        scale = self.log_scale.exp() / math.sqrt(queries.shape[-1])
        if is_circle(headings, layout.bins):
            return scale * scores_by_frequency(queries, keys, layout, azimuths, headings[0])
        count, columns, classes, _ = queries.shape
        size = columns * classes * keys.shape[1] * len(headings) * len(positions_of(layout))
        if size <= LARGEST_MATRIX:
            matrix = score_matrix(layout, tuple(azimuths.tolist()), tuple(headings)).to(keys.device)
            products = (queries.flatten(1, 2) @ keys.transpose(1, 2)).flatten(1)  # (N, C R K)
            return (scale * (products @ matrix)).view(count, len(headings), -1)
        return scale * scores_by_direction(queries, keys, layout, azimuths, headings)

    @classmethod
    def load(cls, checkpoint: str | Path, prior: str, **where: Any) -> PoseHead:
        """Load the head of a checkpoint for a heading prior.

        Args:
            checkpoint: Directory or Hub id of the GenGeo model.
            prior: "known", "45" or "180".
            where: `revision`, `token` and `cache_dir`, as for the model.

        Raises:
            GenGeoError: The checkpoint has no such head, or it cannot be read.
        """
        try:
            head = cls.from_pretrained(str(checkpoint), subfolder=f"{FOLDER}/{prior}", **where)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
            if Path(checkpoint).is_dir() and (Path(checkpoint) / FOLDER / prior / "config.json").is_file():
                raise GenGeoError(
                    f"the pose head {Path(checkpoint) / FOLDER / prior} cannot be read ({first_line(error)}); fetch or "
                    "fit it again"
                ) from error
            raise GenGeoError(
                f"{checkpoint} has no pose head {FOLDER}/{prior}: fit one with gengeo pose fit --heading-prior {prior}"
            ) from error
        return head.eval()


def scores_by_frequency(
    queries: torch.Tensor, keys: torch.Tensor, layout: Layout, azimuths: torch.Tensor, first: float
) -> torch.Tensor:
    """Scores for one heading in each azimuth bin by Fourier transform, with a fifth of the multiplications.

    Args:
        queries, keys, layout, azimuths: As in `PoseHead.scores`, with keys (N, K, d).
        first: First candidate heading in degrees; the others follow clockwise.

    Returns:
        (N, B, P) scores without the head's scale.
    """
    onto = azimuth_weights(azimuths, (first,), layout.bins)[:, 0].to(keys.device)  # (C, B)
    products = (queries.flatten(1, 2) @ keys.transpose(1, 2)).unflatten(1, queries.shape[1:3]).flatten(2)  # (N, C, R K)
    spectrum = torch.fft.rfft(onto, dim=1).conj()  # (C, F)
    photos = torch.einsum("cf,ncx->fnx", spectrum, products.to(spectrum.dtype))
    scores = photos @ visibility_spectrum(layout).to(keys.device)  # (F, N, P)
    return torch.fft.irfft(scores, n=layout.bins, dim=0).transpose(0, 1)


def scores_by_direction(
    queries: torch.Tensor,
    keys: torch.Tensor,
    layout: Layout,
    azimuths: torch.Tensor,
    headings: Sequence[float],
) -> torch.Tensor:
    """Scores by features of each position and direction, for large grids and many headings.

    Features F[p, r, b] = sum_k M[p, k, r, b] k_k depend only on the tile; photos are mapped to azimuth bins, and scores
    are the correlation of both.

    Args:
        queries, keys, layout, azimuths, headings: As in `PoseHead.scores`, with keys (N, K, d).

    Returns:
        (N, H, P) scores without the head's scale.
    """
    visible = visibility(layout).to(keys.device)  # (P, K, R, B)
    onto = azimuth_weights(azimuths, headings, layout.bins).to(keys.device)  # (C, H, B)
    rings = torch.einsum("chb,ncrd->nhrbd", onto, queries).flatten(2)  # (N, H, R B d)
    features = torch.einsum("pkrb,nkd->nprbd", visible, keys).flatten(2)  # (N, P, R B d)
    return rings @ features.transpose(1, 2)


def _mlp(config: PoseConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.token_dim, config.hidden_dim), nn.GELU(), nn.Linear(config.hidden_dim, config.dim)
    )


def heads_of(checkpoint: str | Path) -> list[str]:
    """Heading priors for which a checkpoint directory has a head, narrowest first."""
    root = Path(checkpoint) / FOLDER
    return [prior for prior in PRIORS if (root / prior / "config.json").is_file()]
