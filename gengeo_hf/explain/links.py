"""Matching patches of the two views, and why one tile scores higher than another.

The similarity of two images is decomposed into an exact sum over pairs of patches.
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
    """Exact decomposition of one score: the parts sum to the cosine similarity.

    Args:
        ground: Attribution of the ground image.
        aerial: Attribution of the aerial image.
        score: Cosine similarity of their descriptors.
        links: float32 (n ground, n aerial), what each pair of patches adds to the score.
        ground_evidence: float32 (n ground,), what each ground patch adds to the score, with the whole tile.
        aerial_evidence: float32 (n aerial,), what each aerial patch adds to the score, with the whole photo.
        ground_rest: What the global token and the bias of the projection of the ground view add:
            `ground_evidence.sum() + ground_rest` is the score.
        aerial_rest: The same for the aerial view: `aerial_evidence.sum() + aerial_rest` is the score.
        cluster_agreement: float32 (m,), cosine similarity of the two views' vectors of each cluster, before the
            projection.
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
        """Find the pairs of patches that add most; their ground patches are neither the same nor adjacent.

        Args:
            count: Largest number of pairs.

        Returns:
            For each pair: index of the ground patch and of the aerial patch (row-major), what the pair adds to the
            score, and the index of the cluster that contributes most of it before the projection.
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
            chosen.append((int(patch), other, float(best[patch]), self._main_cluster(int(patch), other)))
            free[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = False
        return chosen

    def _main_cluster(self, ground: int, aerial: int) -> int:
        """The cluster that contributes most to a pair of patches: product of weights and similarity of features."""
        similarity = self.ground.features[ground] @ self.aerial.features[aerial]
        return int((self.ground.weights[:, ground] * self.aerial.weights[:, aerial] * similarity).argmax())


def explain_match(encoder: Encoder, ground: Any, aerial: Any) -> Match:
    """Decompose the score of a photo and a tile.

    Patch i of the photo and patch k of the tile add to the score where both are assigned to the same cluster and their
    features are similar. With s_i the part of a patch in its descriptor (`Attribution.parts`), the pair adds s_i . s_k
    to the cosine similarity.

    Args:
        encoder: An encoder of a model with a SALAD head.
        ground: The photo: a path, bytes or a PIL image.
        aerial: The tile: a path, bytes or a PIL image.

    Raises:
        GenGeoError: The model cannot be explained, or an image cannot be read, see `attribute`.
    """
    return match_attributions(attribute(encoder, ground, "ground"), attribute(encoder, aerial, "aerial"))


def match_attributions(ground: Attribution, aerial: Attribution) -> Match:
    """Decompose the score of a photo and a tile from their attributions, see `explain_match`.

    Args:
        ground: Attribution of the photo.
        aerial: Attribution of the tile, by the same model.
    """
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
    """Compute the mean error of the directions of links, in degrees: 0 if all directions agree, 90 for random links.

    The photo must be a panorama with north in its centre column, and the tile centred on the camera. Each positive link
    is weighted by what it adds. The central patch of a tile has no direction and is left out.

    Args:
        match: Decomposition of the score of the photo and the tile.

    Returns:
        Mean absolute angle between the azimuth of the ground patch and the direction of the aerial patch from the
        centre of the tile; NaN if no link is positive.
    """
    columns = np.arange(len(match.ground.norms)) % match.ground.grid[1]
    azimuth = ((columns + 0.5) / match.ground.grid[1] - 0.5) * 360
    down, right = np.divmod(np.arange(len(match.aerial.norms)), match.aerial.grid[1])
    north, east = (match.aerial.grid[0] - 1) / 2 - down, right - (match.aerial.grid[1] - 1) / 2
    direction = np.degrees(np.arctan2(east, north))
    error = np.abs((azimuth[:, None] - direction + 180) % 360 - 180)
    weight = np.clip(match.links, 0, None) * ((north != 0) | (east != 0))
    return float(np.average(error, weights=weight)) if weight.any() else math.nan


@dataclass(frozen=True)
class Preference:
    """Why one tile scores higher than another for the same photo.

    Args:
        chosen: Decomposition of the score of the chosen tile.
        other: Decomposition of the score of the other tile.
        ground_difference: float32 (n ground,), what each ground patch adds to the score of the chosen tile, minus what
            it adds to that of the other tile; the sum, plus `rest_difference`, is `gap`.
        rest_difference: The same difference for the global token of the photo.
    """

    chosen: Match
    other: Match
    ground_difference: np.ndarray
    rest_difference: float

    @property
    def gap(self) -> float:
        """Score of the chosen tile minus score of the other tile."""
        return self.chosen.score - self.other.score


def explain_preference(encoder: Encoder, ground: Any, chosen: Any, other: Any) -> Preference:
    """Find which parts of a photo favour one tile and which another; for a wrong answer, the chosen and the true tile.

    Args:
        encoder: An encoder of a model with a SALAD head.
        ground: The photo: a path, bytes or a PIL image.
        chosen: The first tile: a path, bytes or a PIL image.
        other: The second tile: a path, bytes or a PIL image.

    Raises:
        GenGeoError: The two tiles have the same descriptor, the model cannot be explained, or an image cannot be read.
    """
    photo = attribute(encoder, ground, "ground")
    return compare_matches(*(match_attributions(photo, attribute(encoder, tile, "aerial")) for tile in (chosen, other)))


def compare_matches(chosen: Match, other: Match) -> Preference:
    """Compare the scores of two tiles with the same photo, see `explain_preference`.

    Args:
        chosen: Decomposition of the score of the first tile.
        other: Decomposition of the score of the second tile.

    Raises:
        GenGeoError: The two tiles have the same descriptor.
    """
    if np.array_equal(chosen.aerial.descriptor, other.aerial.descriptor):
        raise GenGeoError("the two tiles have the same descriptor: there is no difference to explain")
    difference = chosen.ground_evidence - other.ground_evidence
    return Preference(chosen, other, difference, chosen.ground_rest - other.ground_rest)
