"""The batch sampler: geographic neighbours first, visual look-alikes later.

Neighbour tables come from `learning.neighbours` (on the map) and `learning.mining` (by similarity). The sampler is
that of a PyTorch `DataLoader(batch_sampler=...)`, the same on every process.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from gengeo_hf.common.geo import arc_m, to_unit_vectors
from gengeo_hf.learning.plan import Pairs, Plan, Rules, plan_epoch


class HardNegativeBatchSampler(Sampler[list[int]]):
    """Yields global batches of query rows; a pure function of (seed, epoch, tables).

    Every process iterates the same sampler; Accelerate with `split_batches=True` gives each its slice, so what a
    batch contains does not depend on the number of processes.

    Args:
        pairs: what may be batched, and what excludes what.
        rules: the layout of a batch.
        seed: of the random generator, together with the epoch.

    Example:
        >>> sampler = HardNegativeBatchSampler(Pairs(tile_of_query), Rules(batch_size=256))
        >>> sampler.set_tables(neighbour_rows)        # geographic, for the first epochs
        >>> sampler.set_epoch(1)
        >>> loader = DataLoader(dataset, batch_sampler=sampler)
    """

    drop_last = True  # Accelerate reads it: a short batch would be padded with pairs of another one

    def __init__(self, pairs: Pairs, rules: Rules, seed: int = 0) -> None:
        self.pairs, self.rules, self.seed, self.epoch = pairs, rules, seed, 0
        self.tables: dict[str, np.ndarray] = {}
        self.shares: list[float] | None = None
        self.skip = 0
        self._plan: Plan | None = None

    @property
    def batch_size(self) -> int:
        """Pairs in a batch over all processes."""
        return self.rules.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next, from its first batch on.

        The epoch that is chosen already is left as it is: data loaders say it again when they begin to iterate, and
        batches that `skip_batches` left out must stay out.
        """
        if epoch != self.epoch:
            self.epoch, self.skip, self._plan = epoch, 0, None

    def set_tables(self, *tables: np.ndarray, shares: list[float] | None = None, **named: np.ndarray) -> None:
        """Replace the neighbour tables; none means random batches.

        Args:
            tables: each int (queries, K) with gallery rows, hardest first, -1 where there is none.
            shares: how much of an anchor's neighbours each table gives; None for equal shares.
            named: tables with a name, which `report` then uses: `set_tables(geographic=..., visual=...)`.
        """
        self.tables = {f"table_{number}": table for number, table in enumerate(tables)} | named
        self.shares, self._plan = shares, None

    def skip_batches(self, number: int) -> None:
        """Leave out the first batches of this epoch, after a resume in its middle."""
        self.skip = number

    def plan(self) -> Plan:
        """The whole epoch, worked out once."""
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
        shown: int = 48,
    ) -> dict[str, float]:
        """What the batches of this epoch contain, so that a run can show that its negatives are hard.

        Args:
            ground: descriptors of the queries (queries, dim), for the similarity of the hardest negatives.
            aerial: descriptors of tiles (tiles, dim).
            own: the row of each query's true tile among them, int (queries,); None where they are the whole gallery.
            shown: how many batches, spread over the epoch, are looked at.

        Returns:
            `batches`, `anchors_per_batch`, `dropped_pairs`; for each table `share_<name>`, the share of the pairs that
            came along from it. With positions `nearest_negative_m`, the median distance from a photo to the nearest
            other of its batch, and `within_1km`, the mean number of others in that radius. With descriptors
            `hardest_negative`, the mean cosine of a photo to the most similar wrong tile of its batch, and the same for
            the first and the last quarter of the epoch: were they far apart, hardness would fade.
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
        batches = plan.batches[np.unique(np.linspace(0, count - 1, min(shown, count)).astype(int))]
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
    """Mean over the photos of a batch of the cosine to the most similar wrong tile in it."""
    scores = ground @ aerial.T
    np.fill_diagonal(scores, -np.inf)
    return float(scores.max(axis=1).mean())


def _metres_between(lat_lon: np.ndarray) -> np.ndarray:
    """Great-circle distances among the members of a batch, metres (n, n), infinite to themselves."""
    xyz = to_unit_vectors(*np.transpose(lat_lon))
    chord = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    metres = arc_m(chord)
    np.fill_diagonal(metres, np.inf)
    return metres
