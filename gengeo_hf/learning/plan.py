"""Plan one epoch of hard-negative batches, as a pure function of neighbour tables, rules and a generator.

InfoNCE only learns from negatives in the same batch, and random negatives are too easy: of 35,000 tiles, two random
ones often differ in the colour of the soil. A batch is therefore built from *anchors*, each followed by the pairs that
are most easily confused with it (Sample4Geo, section 3; GenGeo, section 3.4.2). `HardNegativeBatchSampler` passes the
batches to the data loader.

A pair is a ground photo (`query`, a row index) and its true tile (a row index of the gallery). Two photos may share a
tile, and a tile may also cover the position of another photo (a semi-positive, as in VIGOR).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from gengeo_hf.common.geo import arc_m, to_unit_vectors

MAX_REJECTS = 1024  # Sample4Geo ends an epoch after this number of consecutive rejected anchors
BRIDGES = 32  # neighbours whose own neighbours are used when the row of an anchor is exhausted


@dataclass(frozen=True)
class Pairs:
    """The pairs of a data set, with the tiles that must not be their negatives.

    Args:
        tile_of_query: Gallery row of the true tile of each query, int (queries,).
        semi_positives: Gallery rows of further tiles that cover the position of each query, int (queries, any width),
            -1 for none.
        lat_lon: Position of each query in degrees, shape (queries, 2); only needed for `min_negative_distance_m`.

    Raises:
        ValueError: The arrays are empty or do not have the same number of rows.
    """

    tile_of_query: np.ndarray
    semi_positives: np.ndarray | None = None
    lat_lon: np.ndarray | None = None
    queries_of_tile: list[list[int]] = field(init=False, repr=False)
    covered: list[tuple[int, ...]] = field(init=False, repr=False)  # the true tile first

    def __post_init__(self) -> None:
        tiles = np.asarray(self.tile_of_query)
        if tiles.ndim != 1 or not len(tiles) or tiles.min() < 0:
            raise ValueError("tile_of_query must be a non-empty vector of gallery rows")
        queries_of_tile: list[list[int]] = [[] for _ in range(int(tiles.max()) + 1)]
        for query, tile in enumerate(tiles.tolist()):
            queries_of_tile[tile].append(query)
        if self.semi_positives is None:
            covered = [(tile,) for tile in tiles.tolist()]
        else:
            semi = np.asarray(self.semi_positives)
            if len(semi) != len(tiles):
                raise ValueError(f"semi_positives has {len(semi)} rows for {len(tiles)} queries")
            covered = [
                (tile, *(other for other in row if other >= 0))
                for tile, row in zip(tiles.tolist(), semi.tolist(), strict=True)
            ]
        object.__setattr__(self, "queries_of_tile", queries_of_tile)
        object.__setattr__(self, "covered", covered)

    def __len__(self) -> int:
        return len(self.tile_of_query)


@dataclass(frozen=True)
class Rules:
    """Rules by which batches are built. The defaults are those of the paper, with false negatives excluded.

    Args:
        batch_size: Pairs in a batch, over all processes.
        neighbours: Number k of neighbours that follow an anchor: half the nearest, half drawn from the rest of the row
            of the table (K columns).
        random_share: Fraction of each batch, 0 to 1, that is filled with random pairs.
        backfill: Whether a neighbour that is used already or not allowed is replaced by the next one of the row, and by
            neighbours of neighbours at its end. Otherwise batches become easier towards the end of an epoch.
        ban_semi_positives: Whether tiles that cover the position of another member are kept out of a batch.
        min_negative_distance_m: Minimum distance between two members of a batch in metres.
        stop_after_rejects: Number of consecutive rejected anchors after which the epoch ends; None for no limit.
        requeue: Whether an anchor that is not allowed in the open batch moves to the end of the queue instead of to the
            next batch. Requires `stop_after_rejects`, since the last anchors could be rejected forever.

    Raises:
        ValueError: A value is out of range, or `requeue` is set without `stop_after_rejects`.
    """

    batch_size: int
    neighbours: int = 64
    random_share: float = 0.0
    backfill: bool = True
    ban_semi_positives: bool = True
    min_negative_distance_m: float = 0.0
    stop_after_rejects: int | None = None
    requeue: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (a pair alone has no negatives), found {self.batch_size}")
        if self.neighbours < 0 or not 0 <= self.random_share <= 1 or self.min_negative_distance_m < 0:
            raise ValueError(
                "neighbours and min_negative_distance_m must not be negative, and random_share must lie in 0..1; "
                f"found {self.neighbours}, {self.min_negative_distance_m} and {self.random_share}"
            )
        if self.requeue and self.stop_after_rejects is None:
            raise ValueError("requeue needs stop_after_rejects: without it the last anchors can be rejected forever")

    @classmethod
    def sample4geo(cls, batch_size: int, neighbours: int = 64) -> "Rules":
        """Return the published rules, for comparison: semi-positives are negatives, and no neighbour is replaced.

        Args:
            batch_size: Pairs in a batch, over all processes.
            neighbours: Number k of neighbours that follow an anchor.
        """
        return cls(
            batch_size,
            neighbours,
            backfill=False,
            ban_semi_positives=False,
            stop_after_rejects=MAX_REJECTS,
            requeue=True,
        )


@dataclass(frozen=True)
class Plan:
    """The batches of one epoch.

    Args:
        batches: Query rows, int64 (batches, batch_size).
        anchors: Number of anchors.
        taken: Number of pairs from each neighbour table.
        dropped: Number of pairs that are not in any batch; each epoch drops others.
    """

    batches: np.ndarray
    anchors: int
    taken: tuple[int, ...]
    dropped: int


def plan_epoch(
    pairs: Pairs,
    tables: list[np.ndarray],
    rules: Rules,
    generator: np.random.Generator,
    shares: list[float] | None = None,
) -> Plan:
    """Plan one epoch.

    Args:
        pairs: Pairs of the data set.
        tables: Neighbour tables, each int (queries, K): gallery rows, hardest first, -1 for none. An empty list gives
            random batches.
        rules: Rules of the batches.
        generator: Only source of random numbers; equal generators give equal plans.
        shares: Fraction of the neighbours of an anchor from each table, for example [0.25, 0.75]; None for equal ones.

    Returns:
        A plan in which each query occurs at most once, no batch contains a tile twice, and all batches are complete.

    Raises:
        ValueError: A table or the shares do not match the pairs, or there are fewer pairs than `batch_size`.
    """
    if len(pairs) < rules.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs are fewer than one batch of {rules.batch_size}: use a smaller batch or more data"
        )
    known = np.append(pairs.tile_of_query, -1)
    for table in tables:
        if table.ndim != 2 or len(table) != len(pairs):
            raise ValueError(f"a neighbour table of shape {table.shape} does not fit {len(pairs)} queries")
        if not np.isin(table, known).all():
            raise ValueError("a neighbour table contains tiles that are not the true tile of a training query")
    return _Planner(pairs, tables, rules, generator, _quotas(rules.neighbours, len(tables), shares)).run()


def _quotas(neighbours: int, tables: int, shares: list[float] | None) -> list[int]:
    """Return the number of neighbours of an anchor from each table; their sum is k."""
    shares = [1.0] * tables if shares is None else shares
    if len(shares) != tables or any(share < 0 for share in shares) or (tables and sum(shares) <= 0):
        raise ValueError(f"{tables} neighbour tables need as many shares, none negative and not all zero; got {shares}")
    ends = np.round(neighbours * np.cumsum(shares) / sum(shares)).astype(int)
    quotas: list[int] = np.diff(ends, prepend=0).tolist()
    return quotas


class _Planner:
    """State of the planning of one epoch: used pairs, the queue of anchors, and the open batch."""

    def __init__(
        self,
        pairs: Pairs,
        tables: list[np.ndarray],
        rules: Rules,
        generator: np.random.Generator,
        quotas: list[int],
    ) -> None:
        self.pairs, self.tables, self.rules, self.generator = pairs, tables, rules, generator
        self.quotas = quotas
        self.used = bytearray(len(pairs))
        self.unused_of_tile = np.array([len(queries) for queries in pairs.queries_of_tile])
        self.first_query_of_tile = np.array([queries[0] if queries else -1 for queries in pairs.queries_of_tile])
        self.queue = deque(generator.permutation(len(pairs)).tolist())
        self.batches: list[list[int]] = []
        self.anchors, self.taken = 0, [0] * len(tables)
        self.taken_by_tile: dict[int, set[int]] = {}  # published rules: neighbours taken by other photos of the tile
        self.xyz: np.ndarray | None = None
        if rules.min_negative_distance_m:
            if pairs.lat_lon is None:
                raise ValueError("min_negative_distance_m needs the position of every query")
            self.xyz = to_unit_vectors(*np.transpose(pairs.lat_lon))
        self._open_batch()

    def run(self) -> Plan:
        """Build batches until the queue of anchors is empty."""
        size, rejects = self.rules.batch_size, 0
        random_from = size - round(size * self.rules.random_share)  # from this row on, pairs have no neighbours
        while self.queue:
            anchor = self.queue.popleft()
            if self.used[anchor] or not self._admits(anchor):
                if not self.used[anchor]:
                    (self.queue if self.rules.requeue else self.deferred).append(anchor)
                rejects += 1
                if self.rules.stop_after_rejects is not None and rejects >= self.rules.stop_after_rejects:
                    break
                continue
            rejects = 0
            self._add(anchor)
            self.anchors += 1
            for number, (table, quota) in enumerate(zip(self.tables, self.quotas, strict=True)):
                room = min(quota, random_from - len(self.batch))
                if room > 0:
                    self.taken[number] += self._add_neighbours(anchor, table, quota, room)
            if len(self.batch) == size:
                self.batches.append(self.batch)
                self.queue.extendleft(reversed(self.deferred))
                self._open_batch()
        batches = np.array(self.batches, dtype=np.int64).reshape(-1, size)
        return Plan(batches, self.anchors, tuple(self.taken), dropped=len(self.pairs) - batches.size)

    def _open_batch(self) -> None:
        self.batch: list[int] = []
        self.batch_tiles: set[int] = set()
        self.banned_tiles: set[int] = set()
        self.deferred: list[int] = []  # anchors that are not allowed in the open batch; they come first in the next one
        self.batch_xyz = np.empty((self.rules.batch_size, 3))

    def _add(self, query: int) -> None:
        tile = self.pairs.covered[query][0]
        if self.xyz is not None:
            self.batch_xyz[len(self.batch)] = self.xyz[query]
        self.batch.append(query)
        self.used[query] = True
        self.unused_of_tile[tile] -= 1
        self.batch_tiles.add(tile)
        self.banned_tiles.update(self.pairs.covered[query] if self.rules.ban_semi_positives else (tile,))

    def _admits(self, query: int) -> bool:
        """Whether `query` and the members of the open batch are not false negatives of each other."""
        covered = self.pairs.covered[query]
        if covered[0] in self.banned_tiles:
            return False
        if self.rules.ban_semi_positives and not self.batch_tiles.isdisjoint(covered):
            return False
        if self.xyz is None or not self.batch:
            return True
        chord = np.linalg.norm(self.batch_xyz[: len(self.batch)] - self.xyz[query], axis=1).min()
        return bool(arc_m(chord) >= self.rules.min_negative_distance_m)

    def _add_one_of(self, tile: int) -> bool:
        """Add one random unused photo of a tile, if the open batch admits one."""
        queries = self.pairs.queries_of_tile[tile]
        if len(queries) > 1:
            queries = [queries[i] for i in self.generator.permutation(len(queries))]
        for query in queries:
            if not self.used[query] and self._admits(query):
                self._add(query)
                return True
        return False

    def _add_neighbours(self, anchor: int, table: np.ndarray, k: int, room: int) -> int:
        """Add up to `room` of the k neighbours of an anchor, half the nearest, half drawn; return their number."""
        row = table[anchor]
        row = row[row >= 0]
        if not self.rules.backfill:
            return self._add_neighbours_as_published(anchor, row, k, room)
        row = row[self.unused_of_tile[row] > 0]
        near = min(room, (k + 1) // 2)
        added, tried = self._add_first(row.tolist(), near)
        rest = row[tried:]
        added += self._add_first(rest[self.generator.permutation(len(rest))].tolist(), room - added)[0]
        if added < room:
            added += self._add_first(self._neighbours_of_neighbours(table, anchor), room - added)[0]
        return added

    def _add_first(self, tiles: list[int], most: int) -> tuple[int, int]:
        """Add photos of the tiles, in order, until `most` are added; return the numbers of added and of tried tiles."""
        added = tried = 0
        while added < most and tried < len(tiles):
            added += self._add_one_of(tiles[tried])
            tried += 1
        return added, tried

    def _neighbours_of_neighbours(self, table: np.ndarray, anchor: int) -> list[int]:
        """Return the unused tiles in the rows of the nearest neighbours of an anchor, nearest column first."""
        row = table[anchor, :BRIDGES]
        tiles = table[self.first_query_of_tile[row[row >= 0]]].T.ravel()
        tiles = tiles[tiles >= 0]
        tiles = tiles[self.unused_of_tile[tiles] > 0]
        found, first = np.unique(tiles, return_index=True)
        ordered: list[int] = found[np.argsort(first)].tolist()
        return ordered

    def _add_neighbours_as_published(self, anchor: int, row: np.ndarray, k: int, room: int) -> int:
        """Add the first k/2 of the row and k/2 drawn from the rest, as Sample4Geo: used ones are not replaced."""
        tile = self.pairs.covered[anchor][0]
        several = len(self.pairs.queries_of_tile[tile]) > 1
        if several and tile in self.taken_by_tile:  # the published code removes them from one list for all its photos
            row = row[~np.isin(row, list(self.taken_by_tile[tile]))]
        near, rest = row[: k // 2], row[k // 2 :]
        drawn = rest[self.generator.permutation(len(rest))[: k - k // 2]]
        added = 0
        for other in (*near.tolist(), *drawn.tolist()):
            if added == room:
                break
            if self.unused_of_tile[other] and self._add_one_of(other):
                added += 1
                if several:
                    self.taken_by_tile.setdefault(tile, set()).add(other)
        return added
