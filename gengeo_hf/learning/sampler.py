"""Batch sampler of hard negatives: geographic neighbours in the first epochs, visual neighbours later.

Neighbour tables come from `learning.neighbours` (by distance) and `learning.mining` (by similarity). The sampler is
passed to a PyTorch `DataLoader(batch_sampler=...)` and is the same in every process.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from gengeo_hf.common.geo import arc_m, to_unit_vectors
from gengeo_hf.learning.plan import Pairs, Plan, Rules, plan_epoch


class HardNegativeBatchSampler(Sampler[list[int]]):
    """Yields global batches of query rows; a pure function of (seed, epoch, tables).

    Every process iterates over the same sampler; Accelerate with `split_batches=True` gives each process its slice, so
    that the content of a batch does not depend on the number of processes.

    Args:
        pairs: Pairs of the data set.
        rules: Rules of the batches.
        seed: Seed of the random generator, together with the epoch.

    Example:
        >>> sampler = HardNegativeBatchSampler(Pairs(tile_of_query), Rules(batch_size=256))
        >>> sampler.set_tables(neighbour_rows)  # geographic neighbours, for the first epochs
        >>> sampler.set_epoch(1)
        >>> loader = DataLoader(dataset, batch_sampler=sampler)
    """

    drop_last = True  # read by Accelerate, which would pad a short batch with pairs of another one

    def __init__(self, pairs: Pairs, rules: Rules, seed: int = 0) -> None:
        self.pairs, self.rules, self.seed, self.epoch = pairs, rules, seed, 0
        self.tables: dict[str, np.ndarray] = {}
        self.shares: list[float] | None = None
        self.skip = 0
        self._plan: Plan | None = None

    @property
    def batch_size(self) -> int:
        """Number of pairs in a batch, over all processes."""
        return self.rules.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch; iteration starts at its first batch.

        Selecting the current epoch again has no effect, because data loaders do so when they start to iterate, and
        batches that `skip_batches` skipped must stay skipped.

        Args:
            epoch: Zero-based epoch.
        """
        if epoch != self.epoch:
            self.epoch, self.skip, self._plan = epoch, 0, None

    def set_tables(self, *tables: np.ndarray, shares: list[float] | None = None, **named: np.ndarray) -> None:
        """Replace the neighbour tables; without tables, batches are random.

        Args:
            tables: Neighbour tables, each int (queries, K): gallery rows, hardest first, -1 for none.
            shares: Fraction of the neighbours of an anchor from each table; None for equal ones.
            named: Tables with names for `report`, as in `set_tables(geographic=..., visual=...)`.
        """
        self.tables = {f"table_{number}": table for number, table in enumerate(tables)} | named
        self.shares, self._plan = shares, None

    def skip_batches(self, number: int) -> None:
        """Skip the first batches of the current epoch, to resume inside it.

        Args:
            number: Number of batches to skip.
        """
        self.skip = number

    def plan(self) -> Plan:
        """Return the plan of the current epoch, computed once."""
        if self._plan is None:
            generator = np.random.default_rng([self.seed, self.epoch])
            self._plan = plan_epoch(self.pairs, list(self.tables.values()), self.rules, generator, self.shares)
        return self._plan

    def __len__(self) -> int:
        return max(0, len(self.plan().batches) - self.skip)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.plan().batches[self.skip :].tolist()

    def report(
        self,
        ground: np.ndarray | None = None,
        aerial: np.ndarray | None = None,
        own: np.ndarray | None = None,
        max_batches: int = 48,
    ) -> dict[str, float]:
        """Summarise the batches of the current epoch and the hardness of their negatives.

        Args:
            ground: Descriptors of the queries, shape (queries, dim), for the similarity of the hardest negatives.
            aerial: Descriptors of tiles, shape (tiles, dim).
            own: Row of the true tile of each query in `aerial`, int (queries,); None if `aerial` is the whole gallery.
            max_batches: Maximum number of batches, spread over the epoch, from which distances and similarities are
                computed.

        Returns:
            `batches`, `anchors_per_batch`, `dropped_pairs`, and for each table `share_<name>`, the fraction of the
            pairs that come from it. With positions also `nearest_negative_m`, the median distance from a photo to the
            nearest other photo of its batch, and `within_1km`, the mean number of other photos within 1 km. With
            descriptors also `hardest_negative`, the mean cosine of a photo to the most similar wrong tile of its batch,
            for the epoch and for its first and last quarter: a large difference means that hardness fades.
        """
        plan = self.plan()
        count = len(plan.batches)
        out = {
            "batches": float(count),
            "anchors_per_batch": plan.anchors / max(1, count),
            "dropped_pairs": float(plan.dropped),
        }
        out |= {f"share_{name}": taken / len(self.pairs) for name, taken in zip(self.tables, plan.taken, strict=True)}
        if not count:
            return out
        batches = plan.batches[np.unique(np.linspace(0, count - 1, min(max_batches, count)).astype(int))]
        if self.pairs.lat_lon is not None:
            metres = [_metres_between(self.pairs.lat_lon[rows]) for rows in batches]
            out["nearest_negative_m"] = float(np.median([between.min(axis=1) for between in metres]))
            out["within_1km"] = float(np.mean([(between <= 1000).sum(axis=1) for between in metres]))
        if ground is not None and aerial is not None:
            own = self.pairs.tile_of_query if own is None else own
            hardest = [_hardest(ground[rows], aerial[own[rows]]) for rows in batches]
            quarter = max(1, len(hardest) // 4)
            out["hardest_negative"] = float(np.mean(hardest))
            out["hardest_negative_first_quarter"] = float(np.mean(hardest[:quarter]))
            out["hardest_negative_last_quarter"] = float(np.mean(hardest[-quarter:]))
        return out


def _hardest(ground: np.ndarray, aerial: np.ndarray) -> float:
    """Mean cosine of the photos of a batch to the most similar wrong tile in it."""
    scores = ground @ aerial.T
    np.fill_diagonal(scores, -np.inf)
    return float(scores.max(axis=1).mean())


def _metres_between(lat_lon: np.ndarray) -> np.ndarray:
    """Great-circle distances in metres between the members of a batch, shape (n, n), infinite on the diagonal."""
    xyz = to_unit_vectors(*np.transpose(lat_lon))
    chord = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    metres = arc_m(chord)
    np.fill_diagonal(metres, np.inf)
    return metres
