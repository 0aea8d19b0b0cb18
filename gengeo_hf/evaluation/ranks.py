"""Ranks of the right tiles, computed in blocks: memory does not grow with queries x gallery.

`scan` compares the descriptors of all ground queries with those of all aerial tiles and returns ranks and best tiles,
from which every metric is computed.

Scores are float32 dot products (cosines, for unit descriptors). The last digits of a sum of a thousand float32 products
depend on the block size, so two scores closer than `SCORE_TOLERANCE` are compared again in float64. Ranks are therefore
the same for every block size, device and number of processes, and equal descriptors are exact ties.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.blocks import Descriptors, QueryBlock, to_device
from gengeo_hf.evaluation.positions import Prior

Ties = Literal["pessimistic", "sample4geo", "mid"]
TIES: tuple[Ties, ...] = ("pessimistic", "sample4geo", "mid")
SCORE_TOLERANCE = 2e-6  # relative to |query| * |tile|; float32 sums of 1024 products differ by about 1e-7


@dataclass(frozen=True)
class Scan:
    """Scores, counts and best tiles of each query from one pass over the gallery.

    `M` is 1 + the largest number of semi-positives; column 0 is the positive.

    Args:
        relevant_rows: (queries, M) gallery rows of positive and semi-positives, -1 where there is none.
        scores: (queries, M) float64 scores of these, -inf where there is none or where the prior excludes it.
        above: (queries, M) number of tiles *outside* the query's relevant ones that score higher.
        tied: (queries, M) number of these tiles that score the same.
        top_rows: (queries, k) best tiles, best first; -1 where fewer are searched.
        top_scores: (queries, k) float32 scores of these.
        gallery_size: Number of tiles.
    """

    relevant_rows: np.ndarray
    scores: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    top_rows: np.ndarray
    top_scores: np.ndarray
    gallery_size: int

    def positive_ranks(self, ties: Ties = "pessimistic", *, mask_semi_positives: bool = False) -> np.ndarray:
        """Rank of the positive, 0 is the best.

        Args:
            ties: Tie rule, see `rank_of_positives`.
            mask_semi_positives: Leave the semi-positives out of the ranking.

        Returns:
            (queries,) int64; float64 for ties="mid".
        """
        above, tied = self.above[:, 0], self.tied[:, 0]
        if not mask_semi_positives:
            positive, others = self.scores[:, :1], self.scores[:, 1:]
            above = above + (others > positive).sum(axis=1)
            tied = tied + ((others == positive) & np.isfinite(others)).sum(axis=1)
        return self._settle(above, tied, ties, np.isfinite(self.scores[:, 0]))

    def covering_ranks(self, ties: Ties = "pessimistic") -> np.ndarray:
        """Rank of the best of positive and semi-positives among all other tiles, 0 is the best, (queries,)."""
        best = self.scores.argmax(axis=1)[:, None]
        above, tied = (np.take_along_axis(table, best, axis=1)[:, 0] for table in (self.above, self.tied))
        return self._settle(above, tied, ties, np.isfinite(self.scores.max(axis=1)))

    def relevant_ranks(self, ties: Ties = "pessimistic") -> np.ndarray:
        """Ranks of positive and semi-positives in the whole gallery, best first, (queries, M).

        The rank is `gallery_size` where there is no such tile. Relevant tiles of equal score get consecutive ranks.
        """
        order = np.argsort(-self.scores, axis=1, kind="stable")
        above, tied, scores = (np.take_along_axis(t, order, axis=1) for t in (self.above, self.tied, self.scores))
        return self._settle(above + np.arange(scores.shape[1]), tied, ties, np.isfinite(scores))

    def _settle(self, above: np.ndarray, tied: np.ndarray, ties: Ties, found: np.ndarray) -> np.ndarray:
        """Apply the tie rule; a right tile outside the prior ranks last."""
        added = {"pessimistic": tied, "sample4geo": 0, "mid": tied / 2}[check_ties(ties)]
        return np.where(found, above + added, self.gallery_size)


def check_ties(ties: str) -> Ties:
    """Return the tie rule if it exists.

    Raises:
        GenGeoError: `ties` is not one of `TIES`.
    """
    if ties not in TIES:
        raise GenGeoError(f"ties must be one of {', '.join(TIES)}; found {ties!r}")
    return ties


def rank_of_positives(
    queries: Descriptors,
    gallery: Descriptors,
    positive_rows: np.ndarray,
    *,
    semi_positive_rows: np.ndarray | None = None,
    ties: Ties = "pessimistic",
    block: tuple[int, int] = (2048, 8192),
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Rank of each query's true tile among all tiles by dot product: 0 is the best.

    Args:
        queries: (Q, D) descriptors of ground images, numpy or torch, float16 to float64.
        gallery: (N, D) descriptors of aerial tiles.
        positive_rows: (Q,) gallery row of each query's true tile.
        semi_positive_rows: (Q, S) gallery rows that are left out of the query's ranking, -1 for none.
        ties: "pessimistic" ranks tiles of equal score before the true one; "sample4geo" after it (the strict comparison
            of that code, by which a constant descriptor has recall 1); "mid" gives the middle rank, as float64.
        block: Numbers of queries and tiles compared at a time; memory is about 6 bytes times their product.
        device: Device on which blocks are multiplied; None uses that of `queries` (CPU for arrays).

    Returns:
        (Q,) int64 ranks (float64 for "mid").

    Raises:
        GenGeoError: Shapes do not fit, a row is outside the gallery, or a descriptor is not finite.
    """
    result = scan(queries, gallery, positive_rows, semi_positive_rows=semi_positive_rows, block=block, device=device)
    return result.positive_ranks(ties, mask_semi_positives=semi_positive_rows is not None)


@torch.inference_mode()
def scan(
    queries: Descriptors,
    gallery: Descriptors,
    positive_rows: np.ndarray,
    *,
    semi_positive_rows: np.ndarray | None = None,
    top: int = 1,
    prior: Prior | None = None,
    block: tuple[int, int] = (2048, 8192),
    device: torch.device | str | None = None,
) -> Scan:
    """Compare every query with every tile, once, and keep what the metrics need.

    Args:
        queries, gallery, positive_rows, block, device: As in `rank_of_positives`.
        semi_positive_rows: (Q, S) gallery rows of other right tiles, -1 for none.
        top: Number of best tiles to keep for each query, at least 1.
        prior: Restricts each query to tiles near a position; a right tile outside it ranks last.

    Raises:
        GenGeoError: As `rank_of_positives`.
    """
    relevant = _relevant_rows(len(queries), len(gallery), positive_rows, semi_positive_rows)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise GenGeoError(
            f"query descriptors are {tuple(queries.shape)} and gallery descriptors {tuple(gallery.shape)}; "
            "both must be (count, D) with the same D: encode both with one model"
        )
    if device is None:
        device = queries.device if isinstance(queries, torch.Tensor) else "cpu"
    # 1e-30 keeps the tolerance above zero for a zero vector, whose scores are all ties.
    tolerance = SCORE_TOLERANCE * _norms("query", queries) * _norms("gallery", gallery).max() + 1e-30
    top = min(top, len(gallery))
    parts = []
    with _full_float32():
        for start in range(0, len(queries), block[0]):
            rows = slice(start, min(start + block[0], len(queries)))
            pass_ = QueryBlock(
                queries, gallery, relevant[rows], tolerance[rows], rows, top, prior, torch.device(device)
            )
            for first in range(0, len(gallery), block[1]):
                pass_.compare(first, min(first + block[1], len(gallery)))
            parts.append(pass_.finish())
    scores, above, tied, top_rows, top_scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Scan(relevant, scores, above, tied, top_rows, top_scores, len(gallery))


def _norms(which: str, descriptors: Descriptors) -> np.ndarray:
    """Norms of the descriptors; raises an error for NaN and infinity, which have no rank."""
    norms = np.empty(len(descriptors))
    for start in range(0, len(descriptors), 8192):
        part = descriptors[start : start + 8192]
        where = part.device if isinstance(part, torch.Tensor) else torch.device("cpu")
        norms[start : start + 8192] = torch.linalg.vector_norm(to_device(part, where), dim=1).cpu().numpy()
    if bad := int((~np.isfinite(norms)).sum()):
        raise GenGeoError(
            f"{bad} of {len(norms)} {which} descriptors hold NaN or infinity, first in row "
            f"{int(np.nonzero(~np.isfinite(norms))[0][0])}; encode them again, in float32"
        )
    return norms


def _relevant_rows(
    num_queries: int, gallery_size: int, positive_rows: np.ndarray, semi_positive_rows: np.ndarray | None
) -> np.ndarray:
    """Check the rows of right tiles and join them: (queries, M), the positive first."""
    positive = np.asarray(positive_rows, dtype=np.int64).reshape(-1, 1)
    if not num_queries or not gallery_size:
        raise GenGeoError(f"found {num_queries} queries and {gallery_size} tiles; ranks need at least one of each")
    if len(positive) != num_queries:
        raise GenGeoError(f"found {len(positive)} positive rows for {num_queries} queries; each query needs one")
    semi = np.empty((num_queries, 0), np.int64) if semi_positive_rows is None else np.asarray(semi_positive_rows)
    if semi.ndim != 2 or len(semi) != num_queries:
        raise GenGeoError(f"semi_positive_rows must be (queries, S), -1 for none; found the shape {semi.shape}")
    relevant = np.concatenate([positive, semi.astype(np.int64)], axis=1)
    if positive.min() < 0 or relevant.min() < -1 or relevant.max() >= gallery_size:
        raise GenGeoError(
            f"found rows {relevant.min()}..{relevant.max()}, but the gallery has rows 0..{gallery_size - 1}"
        )
    ordered = np.sort(relevant, axis=1)
    if twice := np.nonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))[0].tolist():
        raise GenGeoError(f"query {twice[0]} has one tile twice among its positive and semi-positives")
    return relevant


@contextmanager
def _full_float32() -> Iterator[None]:
    """Disable TF32 and autocast: their shorter mantissas would reorder near ties."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
