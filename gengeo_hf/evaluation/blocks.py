"""Compares one block of queries with the gallery, block by block, for `ranks.scan`.

`QueryBlock` counts how many tiles score above each right tile, and keeps the best tiles.

A product of 2048 x 8192 scores is 64 MB, and every pass over it costs time. One pass finds the highest score of each
`CHUNK` columns; the best tiles and the tiles above a right one are then searched only in chunks whose highest score
makes them possible. Where more than `_FEW` of the chunks qualify, all scores are compared.
"""

import numpy as np
import torch

from gengeo_hf.evaluation.positions import Near, Prior

Descriptors = np.ndarray | torch.Tensor
CHUNK = 32
_FEW = 1 / 8  # share of chunks up to which chunks are searched one by one
_MOST_RECHECKS = 65_536  # pairs of one block compared in float64; above this (a collapsed model) all count as ties
_RECHECK_ROWS = 4096  # pairs at a time: 3 * 4096 * 1024 float64 is 100 MB
_LANES = 128  # booleans added as bytes at a time: a byte cannot overflow


class QueryBlock:
    """Running counts and best tiles of one block of queries.

    Args:
        queries: (Q, D) descriptors of all queries.
        gallery: (N, D) descriptors of all tiles.
        relevant: (block, M) gallery rows of the right tiles of the block's queries, -1 for none.
        tolerance: (block,) largest difference of two scores that is compared again in float64.
        rows: Rows of the block in `queries`.
        top: Number of best tiles to keep for each query.
        prior: Restricts the tiles that each query is compared with; None compares with all.
        device: Device on which blocks are multiplied.
    """

    def __init__(
        self,
        queries: Descriptors,
        gallery: Descriptors,
        relevant: np.ndarray,
        tolerance: np.ndarray,
        rows: slice,
        top: int,
        prior: Prior | None,
        device: torch.device,
    ) -> None:
        self.gallery, self.relevant, self.device = gallery, relevant, device
        self.raw_queries = queries[rows]
        self.queries = to_device(self.raw_queries, device)
        self.near = None if prior is None else Near(prior, rows)
        self.scores = self._exact_relevant_scores()
        reference = np.where(np.isfinite(self.scores), self.scores, np.inf)  # no tile counts as above a missing one
        self.high = torch.from_numpy(reference + tolerance[:, None]).to(device, torch.float32)
        self.low = torch.from_numpy(reference - tolerance[:, None]).to(device, torch.float32)
        self.above = np.zeros(relevant.shape, dtype=np.int64)
        self.tied = np.zeros(relevant.shape, dtype=np.int64)
        self.top_scores = torch.full((len(relevant), top), -torch.inf, device=device)
        self.top_rows = torch.full((len(relevant), top), -1, dtype=torch.int64, device=device)
        self.buffer = torch.empty(0, device=device)

    def _exact_relevant_scores(self) -> np.ndarray:
        """Scores of the relevant tiles in float64, -inf where there is none or it is outside the prior."""
        query, column = np.nonzero(self.relevant >= 0)
        rows = self.relevant[query, column]
        scores = np.full(self.relevant.shape, -np.inf)
        scores[query, column] = _exact_scores(self.raw_queries, self.gallery, query, rows)
        if self.near is not None:
            far = ~self.near.pairs(query, rows)
            scores[query[far], column[far]] = -np.inf
        return scores

    def compare(self, first: int, last: int) -> None:
        """Compare the block with gallery rows `first` to `last - 1` and update counts and best tiles."""
        scores = self._multiply(first, last)
        if self.near is not None:
            far = torch.from_numpy(~self.near.block(first, last)).to(self.device)
            scores[:, : last - first].masked_fill_(far, -torch.inf)
        chunks = scores.view(len(scores), -1, CHUNK)
        highest = chunks.amax(dim=2)
        self._keep_best(chunks, highest, first)
        query, which = np.nonzero((self.relevant >= first) & (self.relevant < last))
        inside = torch.from_numpy(self.relevant[query, which] - first).to(self.device)
        scores[torch.from_numpy(query).to(self.device), inside] = -torch.inf  # count only tiles outside the set
        for column in range(self.relevant.shape[1]):
            self._count(chunks, highest, column, first)

    def _multiply(self, first: int, last: int) -> torch.Tensor:
        """Scores (block, width), padded to whole chunks with minus infinity; the buffer is reused."""
        tiles = to_device(self.gallery[first:last], self.device)
        if missing := -(last - first) % CHUNK:
            tiles = torch.cat([tiles, tiles.new_zeros(missing, tiles.shape[1])])
        if self.buffer.shape != (len(self.queries), len(tiles)):
            self.buffer = torch.empty(len(self.queries), len(tiles), device=self.device)
        scores = torch.mm(self.queries, tiles.T, out=self.buffer)
        scores[:, last - first :] = -torch.inf
        return scores

    def _keep_best(self, chunks: torch.Tensor, highest: torch.Tensor, first: int) -> None:
        """Merge this block's best tiles into the running best: they lie in the k chunks with the highest scores."""
        k = self.top_rows.shape[1]
        better = (highest.amax(dim=1) > self.top_scores[:, -1]).nonzero()[:, 0]
        if not len(better):
            return
        picked = highest[better].topk(min(k, highest.shape[1]), dim=1).indices
        columns = picked[:, :, None] * CHUNK + torch.arange(CHUNK, device=self.device)
        values = torch.cat([self.top_scores[better], chunks[better[:, None], picked].flatten(1)], dim=1)
        rows = torch.cat([self.top_rows[better], columns.flatten(1) + first], dim=1)
        values, order = values.topk(k, dim=1)
        self.top_scores[better] = values
        self.top_rows[better] = rows.gather(1, order).masked_fill(values == -torch.inf, -1)

    def _count(self, chunks: torch.Tensor, highest: torch.Tensor, column: int, first: int) -> None:
        """Count scores above the reference; those within the tolerance are compared in float64."""
        hot = (highest > self.low[:, column, None]).nonzero()
        if not len(hot):
            return
        if len(hot) <= _FEW * highest.numel():
            above, query, tile = self._count_few(chunks, hot, column)
        else:
            above, query, tile = self._count_all(chunks, column)
        self.above[:, column] += above
        if len(query) > _MOST_RECHECKS:
            self.tied[:, column] += np.bincount(query, minlength=len(chunks))
            return
        exact = _exact_scores(self.raw_queries, self.gallery, query, tile + first)
        difference = exact - self.scores[query, column]
        np.add.at(self.above[:, column], query[difference > 0], 1)
        np.add.at(self.tied[:, column], query[difference == 0], 1)

    def _count_few(
        self, chunks: torch.Tensor, hot: torch.Tensor, column: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compare the scores of the chunks in `hot`, rows of (query, chunk).

        Returns:
            Counts above the reference (block,), and query and tile of each score within the tolerance. For a block of
            2048 x 8192 the chunks hold at most 65,536 x 32 scores: 8 MB.
        """
        query, chunk = hot.T
        values = chunks[query, chunk]
        high, low = self.high[query, column, None], self.low[query, column, None]
        counts = (values > high).sum(dim=1).cpu().numpy()
        above = np.bincount(query.cpu().numpy(), counts, minlength=len(chunks)).astype(np.int64)
        pair, column_in_chunk = ((values > low) & (values <= high)).nonzero().T
        return above, query[pair].cpu().numpy(), (chunk[pair] * CHUNK + column_in_chunk).cpu().numpy()

    def _count_all(self, chunks: torch.Tensor, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `_count_few`, from all scores. Queries without this relevant tile are skipped."""
        scores = chunks.flatten(1)
        present = np.nonzero(np.isfinite(self.scores[:, column]))[0]
        if len(present) < len(scores):
            scores = scores[torch.from_numpy(present).to(self.device)]
        rows = torch.from_numpy(present).to(self.device)
        high, low = self.high[rows, column, None], self.low[rows, column, None]
        above = np.zeros(len(chunks), dtype=np.int64)
        above[present] = _count_above(scores, high)
        doubtful = np.nonzero(_count_above(scores, low) - above[present])[0]
        where = torch.from_numpy(doubtful).to(self.device)
        part = scores[where]
        pairs = ((part > low[where]) & (part <= high[where])).nonzero().cpu().numpy()
        return above, present[doubtful[pairs[:, 0]]], pairs[:, 1]

    def finish(self) -> tuple[np.ndarray, ...]:
        """Return the results of the block.

        Returns:
            Scores of the relevant tiles, counts above and counts tied, each (q, M); rows and scores of the best tiles,
            each (q, k), for the q queries of the block.
        """
        return self.scores, self.above, self.tied, self.top_rows.cpu().numpy(), self.top_scores.cpu().numpy()


def _count_above(scores: torch.Tensor, limit: torch.Tensor) -> np.ndarray:
    """How many scores of each row are above the row's limit.

    torch and numpy widen each boolean before they add it. Adding eight at a time, as the bytes of one integer, is
    10 times faster than numpy and 100 times faster than torch on a CPU.
    """
    if scores.device.type != "cpu":
        return (scores > limit).sum(dim=1).cpu().numpy()
    higher = scores.numpy() > limit.numpy()
    whole = higher.shape[1] // (8 * _LANES) * (8 * _LANES)
    count = higher[:, whole:].sum(axis=1)
    if whole:
        words = np.ascontiguousarray(higher[:, :whole]).view(np.uint64).reshape(len(higher), -1, _LANES)
        count += words.sum(axis=2).view(np.uint8).reshape(len(higher), -1).sum(axis=1, dtype=np.int64)
    return np.asarray(count)


def _exact_scores(queries: Descriptors, gallery: Descriptors, query: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """float64 dot products of single pairs, summed row by row: equal rows give equal sums on every machine."""
    scores = np.empty(len(query))
    for start in range(0, len(query), _RECHECK_ROWS):
        part = slice(start, start + _RECHECK_ROWS)
        scores[part] = (_pick(queries, query[part]) * _pick(gallery, tile[part])).sum(axis=1)
    return scores


def _pick(descriptors: Descriptors, rows: np.ndarray) -> np.ndarray:
    """Rows as float64 numpy arrays, rounded to float32 first, as blocks are."""
    if isinstance(descriptors, torch.Tensor):
        return descriptors[torch.from_numpy(rows).to(descriptors.device)].float().double().cpu().numpy()
    return np.asarray(descriptors[rows], dtype=np.float32).astype(np.float64)


def to_device(part: Descriptors, device: torch.device) -> torch.Tensor:
    """Move a block to the device as float32.

    Args:
        part: (rows, dim) array or tensor.
        device: Target device.

    Returns:
        float32 (rows, dim).
    """
    if isinstance(part, torch.Tensor):
        return part.detach().to(device, torch.float32)
    part = np.asarray(part, dtype=np.float32)
    return torch.from_numpy(part if part.flags.writeable else part.copy()).to(device)
