"""The batch sampler: geographic neighbours first, visual look-alikes later.

Before: neighbour tables from `data.neighbours` (on the map) and `learning.mining` (by similarity). After: a PyTorch
`DataLoader(batch_sampler=...)`, the same on every process.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from gengeo_hf.learning.plan import Pairs, Plan, Rules, plan_epoch


class HardNegativeBatchSampler(Sampler[list[int]]):
    """Yields global batches of query rows; a pure function of (seed, epoch, tables).

    Every process iterates the same sampler; Accelerate with `split_batches=True` gives each its slice, so what a
    batch contains does not depend on the number of processes.

    Args:
        pairs: what may be batched, and what excludes what.
        rules: the layout of a batch.
        seed: start of the chance.

    Example:
        >>> sampler = HardNegativeBatchSampler(Pairs(tile_of_query), Rules(batch_size=256))
        >>> sampler.set_tables(neighbour_rows)        # geographic, for the first epochs
        >>> sampler.set_epoch(1)
        >>> loader = DataLoader(dataset, batch_sampler=sampler)
    """

    drop_last = True  # Accelerate reads it: a short batch would be padded with pairs of another one

    def __init__(self, pairs: Pairs, rules: Rules, seed: int = 0) -> None:
        self.pairs, self.rules, self.seed, self.epoch = pairs, rules, seed, 0
        self.tables: list[np.ndarray] = []
        self.skip = 0
        self._plan: Plan | None = None

    @property
    def batch_size(self) -> int:
        """Pairs in a batch over all processes."""
        return self.rules.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next, from its first batch on."""
        self.epoch, self.skip, self._plan = epoch, 0, None

    def set_tables(self, *tables: np.ndarray) -> None:
        """Replace the neighbour tables, each int (queries, K) with gallery rows; none means random batches."""
        self.tables, self._plan = list(tables), None

    def skip_batches(self, number: int) -> None:
        """Leave out the first batches of this epoch, after a resume in its middle."""
        self.skip = number

    def plan(self) -> Plan:
        """The whole epoch, worked out once."""
        if self._plan is None:
            generator = np.random.default_rng([self.seed, self.epoch])
            self._plan = plan_epoch(self.pairs, self.tables, self.rules, generator)
        return self._plan

    def __len__(self) -> int:
        return max(0, len(self.plan().batches) - self.skip)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.plan().batches[self.skip :].tolist()

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch and a hash of the tables: all that the batches depend on, in less than 200 bytes."""
        return {"seed": self.seed, "epoch": self.epoch, "tables": self._tables_hash()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the tables must have been set before.

        Raises:
            ValueError: the tables are others than then, so the batches would silently differ.
        """
        if state["tables"] != self._tables_hash():
            raise ValueError("the neighbour tables differ from those that the sampler's state was saved with")
        self.seed = int(state["seed"])
        self.set_epoch(int(state["epoch"]))

    def _tables_hash(self) -> str:
        digest = hashlib.sha256()
        for table in self.tables:
            digest.update(np.ascontiguousarray(table, dtype=np.int32).tobytes())
        return digest.hexdigest()

    def report(
        self, ground: np.ndarray | None = None, aerial: np.ndarray | None = None, first_batches: int = 50
    ) -> dict[str, float]:
        """What the batches of this epoch contain, so that a run can show that its negatives are hard.

        Args:
            ground: descriptors of the queries (queries, dim), for the similarity of the hardest negatives.
            aerial: descriptors of the tiles (tiles, dim).
            first_batches: how many batches, spread over the epoch, are looked at.

        Returns:
            `batches`, `anchors_per_batch`, `dropped_pairs`; with descriptors `hardest_negative` (mean cosine of each
            photo to the most similar wrong tile of its batch); with positions `nearest_negative_m` (median distance
            from each photo to the nearest other photo of its batch, in metres).
        """
        plan = self.plan()
        batches = plan.batches
        out = {
            "batches": float(len(batches)),
            "anchors_per_batch": plan.anchors / max(1, len(batches)),
            "dropped_pairs": float(plan.dropped),
        }
        shown = batches[np.linspace(0, len(batches) - 1, min(first_batches, len(batches))).astype(int)]
        if ground is not None and aerial is not None:
            out["hardest_negative"] = float(np.mean([_hardest(ground, aerial, self.pairs, rows) for rows in shown]))
        if self.pairs.lat_lon is not None:
            out["nearest_negative_m"] = float(np.median([_nearest_m(self.pairs.lat_lon[rows]) for rows in shown]))
        return out


def _hardest(ground: np.ndarray, aerial: np.ndarray, pairs: Pairs, rows: np.ndarray) -> float:
    """Mean over the photos of a batch of the cosine to the most similar wrong tile in it."""
    scores = ground[rows] @ aerial[pairs.tile_of_query[rows]].T
    np.fill_diagonal(scores, -np.inf)
    return float(scores.max(axis=1).mean())


def _nearest_m(lat_lon: np.ndarray) -> float:
    """Median over a batch of the great-circle distance to the nearest other member, in metres."""
    from gengeo_hf.learning.plan import EARTH_RADIUS_M, _unit_vectors

    xyz = _unit_vectors(lat_lon)
    chord = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)
    np.fill_diagonal(chord, 2.0)
    return float(np.median(2 * EARTH_RADIUS_M * np.arcsin(chord.min(axis=1) / 2)))
