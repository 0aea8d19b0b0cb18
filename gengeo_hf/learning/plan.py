"""One epoch of hard-negative batches, as a pure function of its inputs.

From a table of neighbours (on the map, or by similarity) to the lists of pairs that `HardNegativeBatchSampler` gives to
the data loader.

Why batches are the heart of this field: InfoNCE only learns from the negatives that share a batch, and among 35,000
places two random ones are told apart by the colour of the soil. So a batch is grown from a few *anchors*, each of
which brings along the places that are easily taken for it (Sample4Geo, section 3; GenGeo, section 3.4.2).

A pair is a ground photo (`query`, a row number) and its true tile (a row number of the gallery). Two photos may share
a tile, and a tile may also cover the place of another photo (a semi-positive, as in VIGOR).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from gengeo_hf.common.geo import arc_m, to_unit_vectors

MAX_REJECTS = 1024  # Sample4Geo ends an epoch after so many useless anchors in a row
BRIDGES = 32  # neighbours whose own neighbours are looked at when an anchor's row is used up


@dataclass(frozen=True)
class Pairs:
    """What may be batched, and what excludes what. Built once for a dataset.

    Args:
        tile_of_query: gallery row of each query's true tile, int (queries,).
        semi_positives: further tiles that cover a query's place, int (queries, any width), -1 where there is none.
        lat_lon: position of each query in degrees, (queries, 2); needed for `min_negative_distance_m` only.
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
    """How an epoch is laid out; the defaults are the paper's, made safe where its code is not.

    Args:
        batch_size: pairs in a batch, over all processes.
        neighbours: k, how many neighbours an anchor brings along: half the nearest, half drawn from the rest of
            the table (K columns).
        random_share: share of each batch, 0 to 1, that is filled with places drawn at random.
        backfill: when a neighbour has been used in this epoch or must not enter the batch, take the next one, and
            when the row is used up, the neighbours' neighbours. Without it the batches grow easier towards the end
            of an epoch.
        ban_semi_positives: no tile enters a batch that covers the place of another member.
        min_negative_distance_m: no two members of a batch stand nearer than this, in metres.
        stop_after_rejects: end the epoch after so many anchors in a row that could not be used (None: never).
        requeue: an anchor that clashes with the open batch goes to the end of the queue, not into the next batch.
            Needs `stop_after_rejects`, or the last few would be tried for ever.
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
            raise ValueError("requeue needs stop_after_rejects: without it the last anchors are tried for ever")

    @classmethod
    def sample4geo(cls, batch_size: int, neighbours: int = 64) -> "Rules":
        """The published rules, for comparison: semi-positives are negatives, and hardness fades in an epoch."""
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
        batches: query rows, int64 (batches, batch_size).
        anchors: how many pairs started a neighbourhood of their own.
        taken: how many pairs came along from each table.
        dropped: pairs that are in no batch of this epoch (another epoch takes others).
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
    """Lay out one epoch.

    Args:
        pairs: what may be batched.
        tables: neighbour tables, each int (queries, K): gallery rows, hardest first, -1 where there is none. No
            table: batches are drawn at random.
        rules: the layout.
        generator: the only source of random numbers; an equal generator gives an equal plan.
        shares: how much of an anchor's neighbours each table gives, for example [0.25, 0.75]; None for equal shares.

    Returns:
        A plan in which each query occurs at most once, no batch holds one tile twice, and incomplete batches are
        left out.

    Raises:
        ValueError: a table or the shares do not fit, or there are fewer pairs than a batch holds.
    """
    if len(pairs) < rules.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs do not fill one batch of {rules.batch_size}: use a smaller batch or more data"
        )
    last = len(pairs.queries_of_tile) - 1
    known = np.zeros(last + 2, dtype=bool)  # tiles that can be batched, and in the last place -1
    known[pairs.tile_of_query], known[-1] = True, True
    for table in tables:
        if table.ndim != 2 or len(table) != len(pairs):
            raise ValueError(f"a neighbour table of shape {table.shape} does not fit {len(pairs)} queries")
        if table.size and (table.min() < -1 or table.max() > last or not known[table].all()):
            raise ValueError("a neighbour table names tiles that are no training query's true tile")
    return _Planner(pairs, tables, rules, generator, _quotas(rules.neighbours, len(tables), shares)).run()


def _quotas(neighbours: int, tables: int, shares: list[float] | None) -> list[int]:
    """Neighbours that an anchor takes from each table; they add up to k."""
    shares = [1.0] * tables if shares is None else shares
    if len(shares) != tables or min(shares, default=1) < 0 or (tables and sum(shares) <= 0):
        raise ValueError(f"{tables} neighbour tables need as many shares, none negative and not all zero; got {shares}")
    ends = np.round(neighbours * np.cumsum(shares) / max(sum(shares), 1e-9)).astype(int)
    quotas: list[int] = np.diff(ends, prepend=0).tolist()
    return quotas


class _Planner:
    """The state of one epoch's layout: what is used, and what the open batch excludes."""

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
        self.a_query_of_tile = np.array([queries[0] if queries else -1 for queries in pairs.queries_of_tile])
        self.queue = deque(generator.permutation(len(pairs)).tolist())
        self.batches: list[list[int]] = []
        self.anchors, self.taken = 0, [0] * len(tables)
        self.gone: dict[int, set[int]] = {}  # published rules: neighbours that a tile's first photo took
        if rules.min_negative_distance_m and pairs.lat_lon is None:
            raise ValueError("min_negative_distance_m needs the position of every query")
        self.xyz = (
            to_unit_vectors(*np.transpose(pairs.lat_lon))
            if rules.min_negative_distance_m and pairs.lat_lon is not None
            else None
        )
        self._open_batch()

    def run(self) -> Plan:
        """Grow batch after batch until no anchor is left."""
        size, rejects = self.rules.batch_size, 0
        random_from = size - round(size * self.rules.random_share)  # places after this one come alone
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
                    self.taken[number] += self._bring_along(anchor, table, quota, room)
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
        self.deferred: list[int] = []  # anchors that clash with the open batch: they start the next one
        self.batch_xyz = np.empty((self.rules.batch_size, 3))

    def _add(self, query: int) -> None:
        tile = self.pairs.covered[query][0]
        if self.xyz is not None:
            self.batch_xyz[len(self.batch)] = self.xyz[query]
        self.batch.append(query)
        self.used[query] = 1
        self.unused_of_tile[tile] -= 1
        self.batch_tiles.add(tile)
        self.banned_tiles.update(self.pairs.covered[query] if self.rules.ban_semi_positives else (tile,))

    def _admits(self, query: int) -> bool:
        """Whether no member of the open batch would be a false negative of `query`, nor the other way round."""
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
        """Add one unused photo of a tile, drawn at random, if the open batch admits one."""
        queries = self.pairs.queries_of_tile[tile]
        if len(queries) > 1:
            queries = [queries[i] for i in self.generator.permutation(len(queries))]
        for query in queries:
            if not self.used[query] and self._admits(query):
                self._add(query)
                return True
        return False

    def _bring_along(self, anchor: int, table: np.ndarray, k: int, room: int) -> int:
        """Add up to `room` of the anchor's k neighbours: half the nearest, half drawn; gives how many were added."""
        row = table[anchor]
        row = row[row >= 0]
        if not self.rules.backfill:
            return self._bring_as_published(anchor, row, k, room)
        row = row[self.unused_of_tile[row] > 0]
        near = min(room, (k + 1) // 2)
        added, tried = self._add_first(row.tolist(), near)
        rest = row[tried:]
        added += self._add_first(rest[self.generator.permutation(len(rest))].tolist(), room - added)[0]
        if added < room:
            added += self._add_first(self._further(table, anchor), room - added)[0]
        return added

    def _add_first(self, tiles: list[int], most: int) -> tuple[int, int]:
        """Add photos of the tiles, in order, until `most` are in; gives how many were added and how many tried."""
        added = tried = 0
        while added < most and tried < len(tiles):
            added += self._add_one_of(tiles[tried])
            tried += 1
        return added, tried

    def _further(self, table: np.ndarray, anchor: int) -> list[int]:
        """Unused tiles in the rows of the anchor's nearest neighbours, used or not, nearest column first."""
        row = table[anchor, :BRIDGES]
        tiles = table[self.a_query_of_tile[row[row >= 0]]].T.ravel()
        tiles = tiles[tiles >= 0]
        tiles = tiles[self.unused_of_tile[tiles] > 0]
        found, first = np.unique(tiles, return_index=True)
        ordered: list[int] = found[np.argsort(first)].tolist()
        return ordered

    def _bring_as_published(self, anchor: int, row: np.ndarray, k: int, room: int) -> int:
        """Sample4Geo: the first k/2 of the row, k/2 drawn from the rest; what is used is skipped and not replaced."""
        tile = self.pairs.covered[anchor][0]
        several = len(self.pairs.queries_of_tile[tile]) > 1
        if several and tile in self.gone:  # its list is one for all photos of a tile, and what was taken has left it
            row = row[~np.isin(row, list(self.gone[tile]))]
        near, rest = row[: k // 2], row[k // 2 :]
        drawn = rest[self.generator.permutation(len(rest))[: k - k // 2]]
        added = 0
        for other in (*near.tolist(), *drawn.tolist()):
            if added == room:
                break
            if self.unused_of_tile[other] and self._add_one_of(other):
                added += 1
                if several:
                    self.gone.setdefault(tile, set()).add(other)
        return added
