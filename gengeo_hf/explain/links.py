"""Which patches of the two views match, and why one tile won over another.

The similarity of two images as an exact sum over pairs of patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain.attribution import Attribution, attribute


@dataclass(frozen=True)
class Match:
    """An account of one score. Nothing in it is an approximation: the pieces add up to the cosine.

    Args:
        ground, aerial: attributions of the two images.
        score: cosine of their descriptors.
        links: float32 (n ground, n aerial), what each pair of patches adds to the score.
        ground_evidence: float32 (n ground,), what each ground patch adds, against the whole tile.
        aerial_evidence: float32 (n aerial,), what each aerial patch adds, against the whole photo.
        ground_rest, aerial_rest: what the global token (and the projection's bias) of each view adds:
            `ground_evidence.sum() + ground_rest` is the score, and so is the aerial sum.
        cluster_agreement: float32 (m,), cosine of the two views' vectors in each cluster, before the projection.
    """

    ground: Attribution
    aerial: Attribution
    score: float
    links: np.ndarray
    ground_evidence: np.ndarray
    aerial_evidence: np.ndarray
    ground_rest: float
    aerial_rest: float
    cluster_agreement: np.ndarray

    def strongest(self, count: int = 5) -> list[tuple[int, int, float, int]]:
        """Pairs of patches that add most, no two of which share or touch a ground patch.

        Returns:
            For each: ground patch, aerial patch (row-major numbers), what it adds to the score, and the cluster that
            carries most of it before the projection.
        """
        rows, columns = self.ground.grid
        free = np.ones((rows, columns), bool)
        best = self.links.max(axis=1)
        chosen: list[tuple[int, int, float, int]] = []
        for patch in np.argsort(-best):
            if len(chosen) >= count:
                break
            row, column = divmod(int(patch), columns)
            if not free[row, column]:
                continue
            other = int(self.links[patch].argmax())
            chosen.append((int(patch), other, float(best[patch]), self._carrier(int(patch), other)))
            free[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = False
        return chosen

    def _carrier(self, ground: int, aerial: int) -> int:
        """The shared cluster through which two patches meet most: weights times likeness of their features."""
        likeness = self.ground.features[ground] @ self.aerial.features[aerial]
        return int((self.ground.weights[:, ground] * self.aerial.weights[:, aerial] * likeness).argmax())


def explain_match(encoder: Encoder, ground: Any, aerial: Any) -> Match:
    """Account for the score of a photo and a tile.

    Similarity goes through the shared clusters: patch i of the photo meets patch k of the tile where both were assigned
    to a cluster and their features there agree. With s_i the share of a patch in its descriptor (`Attribution.parts`),
    the pair adds s_i . s_k to the cosine.

    Args:
        encoder: a model with a SALAD head.
        ground, aerial: paths, bytes or PIL images.

    Raises:
        GenGeoError: see `attribute`.
    """
    return account(attribute(encoder, ground, "ground"), attribute(encoder, aerial, "aerial"))


def account(ground: Attribution, aerial: Attribution) -> Match:
    """Like `explain_match`, for images that were looked at before."""
    return Match(
        ground,
        aerial,
        score=float(ground.descriptor @ aerial.descriptor),
        links=ground.parts @ aerial.parts.T,
        ground_evidence=ground.parts @ aerial.descriptor,
        aerial_evidence=aerial.parts @ ground.descriptor,
        ground_rest=float(ground.rest @ aerial.descriptor),
        aerial_rest=float(aerial.rest @ ground.descriptor),
        cluster_agreement=np.einsum("ml,ml->m", ground.clusters, aerial.clusters),
    )


def link_direction_error(match: Match) -> float:
    """How far links point off, in degrees: 0 when patches are linked with what lies in their direction, 90 by chance.

    The photo must be a panorama with north in its middle, and the tile centred on the camera. Positive links count by
    what they add. A tile's central patch has no direction and is left out.

    Returns:
        Mean absolute angle between a ground patch's azimuth and an aerial patch's direction from the tile's centre; NaN
        where no link is positive.
    """
    columns = np.arange(len(match.ground.norms)) % match.ground.grid[1]
    azimuth = ((columns + 0.5) / match.ground.grid[1] - 0.5) * 360
    down, right = np.divmod(np.arange(len(match.aerial.norms)), match.aerial.grid[1])
    north, east = (match.aerial.grid[0] - 1) / 2 - down, right - (match.aerial.grid[1] - 1) / 2
    direction = np.degrees(np.arctan2(east, north))
    apart = np.abs((azimuth[:, None] - direction + 180) % 360 - 180)
    weight = np.clip(match.links, 0, None) * ((north != 0) | (east != 0))
    return float(np.average(apart, weights=weight)) if weight.any() else math.nan


@dataclass(frozen=True)
class Preference:
    """Why one tile scores higher than another for the same photo.

    Args:
        chosen, other: the accounts of the two scores.
        ground_difference: float32 (n ground,), what each ground patch adds to the chosen tile's score more than to the
            other's; with `rest_difference` it sums to `gap`.
        rest_difference: the same for the global token of the photo.
    """

    chosen: Match
    other: Match
    ground_difference: np.ndarray
    rest_difference: float

    @property
    def gap(self) -> float:
        """By how much the chosen tile's score is higher."""
        return self.chosen.score - self.other.score


def explain_preference(encoder: Encoder, ground: Any, chosen: Any, other: Any) -> Preference:
    """Which parts of a photo support one tile and which another: for a wrong answer, chosen and true tile.

    Args:
        encoder: a model with a SALAD head.
        ground: the photo.
        chosen, other: the two tiles.

    Raises:
        GenGeoError: see `attribute`; or the two tiles are the same picture.
    """
    photo = attribute(encoder, ground, "ground")
    return contrast(*(account(photo, attribute(encoder, tile, "aerial")) for tile in (chosen, other)))


def contrast(chosen: Match, other: Match) -> Preference:
    """Like `explain_preference`, for two tiles whose scores with one photo are accounted for.

    Raises:
        GenGeoError: the two tiles give the same descriptor.
    """
    if np.array_equal(chosen.aerial.descriptor, other.aerial.descriptor):
        raise GenGeoError("the two tiles give the same descriptor: there is no difference to explain")
    difference = chosen.ground_evidence - other.ground_evidence
    return Preference(chosen, other, difference, chosen.ground_rest - other.ground_rest)
