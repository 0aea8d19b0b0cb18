"""One block of queries while the gallery passes by: the work behind `ranks.scan`.

It counts how many tiles score above each right tile, and keeps the best few.

A product of 2048 x 8192 scores is 64 MB, and every further pass over it costs time. So it is read once, to find the
highest score of each `CHUNK` columns; best tiles and tiles above a right one are then looked for only in the chunks
whose highest score makes them possible. For a model that is far from that good, all scores are compared.
"""

import numpy as np
import torch

from gengeo_hf.evaluation.positions import Near, Prior

Descriptors = np.ndarray | torch.Tensor
CHUNK = 32
_FEW = 1 / 8  # share of chunks up to which they are looked at one by one
_MOST_RECHECKS = 65_536  # pairs of one block compared in float64; more means a collapsed model, and all are ties
_RECHECK_ROWS = 4096  # pairs at a time: 3 * 4096 * 1024 float64 is 100 MB
_LANES = 128  # booleans that are added as bytes before a byte could overflow


class QueryBlock:
    """The running counts of some queries.

    Args:
        queries: (Q, D) of all queries.
        gallery: (N, D).
        relevant: (block, M) gallery rows of the right tiles of these queries, -1 for none.
        tolerance: (block,) scores nearer than this are compared again in float64.
        rows: Which queries these are.
        top: Number of best tiles to keep.
        prior: Which tiles each query may see; None is all.
        device: Where blocks are multiplied.
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
        reference = np.where(np.isfinite(self.scores), self.scores, np.inf)  # nothing stands above what is not there
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
        """Multiply with gallery rows first..last and add to the counts."""
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
        """Scores (block, width), filled up to whole chunks with minus infinity; the buffer is used again."""
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
        """Count scores surely above the reference, and settle those too near to tell in float64."""
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
        """From the chunks (query, number) in `hot`: counts (block,), and query and tile of each score too near to tell.

        A block of 2048 x 8192 has at most 65,536 of them: 8 MB.
        """
        query, number = hot.T
        values = chunks[query, number]
        high, low = self.high[query, column, None], self.low[query, column, None]
        counts = (values > high).sum(dim=1).cpu().numpy()
        above = np.bincount(query.cpu().numpy(), counts, minlength=len(chunks)).astype(np.int64)
        pair, place = ((values > low) & (values <= high)).nonzero().T
        return above, query[pair].cpu().numpy(), (number[pair] * CHUNK + place).cpu().numpy()

    def _count_all(self, chunks: torch.Tensor, column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same from all scores. Only queries that have this relevant tile are compared: few have a last one."""
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
        """Scores of the relevant tiles, counts above and tied, rows and scores of the best tiles.

        Returns:
            (q, M) scores, above and tied; (q, k) rows and scores, for the q queries of the block.
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
    """float64 dot products of single pairs; summed by numpy row by row, so that equal rows give equal sums anywhere."""
    scores = np.empty(len(query))
    for start in range(0, len(query), _RECHECK_ROWS):
        part = slice(start, start + _RECHECK_ROWS)
        scores[part] = (_pick(queries, query[part]) * _pick(gallery, tile[part])).sum(axis=1)
    return scores


def _pick(descriptors: Descriptors, rows: np.ndarray) -> np.ndarray:
    """Rows as float64 numpy, rounded to float32 first as the blocks are."""
    if isinstance(descriptors, torch.Tensor):
        return descriptors[torch.from_numpy(rows).to(descriptors.device)].float().double().cpu().numpy()
    return np.asarray(descriptors[rows], dtype=np.float32).astype(np.float64)


def to_device(part: Descriptors, device: torch.device) -> torch.Tensor:
    """A block as float32 on the device.

    Args:
        part: (rows, dim), an array or a tensor.
        device: Where it is wanted.

    Returns:
        float32 (rows, dim).
    """
    if isinstance(part, torch.Tensor):
        return part.detach().to(device, torch.float32)
    part = np.asarray(part, dtype=np.float32)
    return torch.from_numpy(part if part.flags.writeable else part.copy()).to(device)
