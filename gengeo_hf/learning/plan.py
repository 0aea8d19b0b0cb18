"""One epoch of hard-negative batches, as a pure function of its inputs.

Before: a table of neighbours (on the map, or by similarity). After: lists of pairs that `HardNegativeBatchSampler`
gives to the data loader.

Why batches are the heart of this field: InfoNCE only learns from the negatives that share a batch, and among 35,000
places two random ones are told apart by the colour of the soil. So a batch is grown from a few *anchors*, each of
which brings along the places that are easily taken for it (Sample4Geo, section 3; GenGeo, section 3.5).

A pair is a ground photo (`query`, a row number) and its true tile (a row number of the gallery). Two photos may share
a tile, and a tile may also cover the place of another photo (a semi-positive, as in VIGOR).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

EARTH_RADIUS_M = 6_371_008.8  # mean radius of the IUGG
MAX_REJECTS = 1024  # Sample4Geo ends an epoch after so many useless anchors in a row


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
    covered: list[tuple[int, ...]] = field(init=False, repr=False)

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
        backfill: when near neighbours have been used in this epoch, take the next ones instead. Without it the
            batches grow easier towards the end of an epoch.
        ban_semi_positives: no tile enters a batch that covers the place of another member.
        min_negative_distance_m: no two members of a batch stand nearer than this, in metres.
        stop_after_rejects: end the epoch after so many anchors in a row that could not be used (None: never).
    """

    batch_size: int
    neighbours: int = 64
    random_share: float = 0.0
    backfill: bool = True
    ban_semi_positives: bool = True
    min_negative_distance_m: float = 0.0
    stop_after_rejects: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (a pair alone has no negatives), found {self.batch_size}")
        if self.neighbours < 0 or not 0 <= self.random_share <= 1 or self.min_negative_distance_m < 0:
            raise ValueError(
                "neighbours and min_negative_distance_m must not be negative, and random_share must lie in 0..1; "
                f"found {self.neighbours}, {self.min_negative_distance_m} and {self.random_share}"
            )

    @classmethod
    def sample4geo(cls, batch_size: int, neighbours: int = 64) -> "Rules":
        """The published rules, for comparison: semi-positives are negatives, and hardness fades in an epoch."""
        return cls(batch_size, neighbours, backfill=False, ban_semi_positives=False, stop_after_rejects=MAX_REJECTS)


@dataclass(frozen=True)
class Plan:
    """The batches of one epoch.

    Args:
        batches: query rows, int64 (batches, batch_size).
        anchors: how many pairs started a neighbourhood of their own.
        dropped: pairs that are in no batch of this epoch (another epoch takes others).
    """

    batches: np.ndarray
    anchors: int
    dropped: int


def plan_epoch(pairs: Pairs, tables: list[np.ndarray], rules: Rules, generator: np.random.Generator) -> Plan:
    """Lay out one epoch.

    Args:
        pairs: what may be batched.
        tables: neighbour tables, each int (queries, K): gallery rows, hardest first, -1 where there is none. An
            anchor takes an equal share of its neighbours from each. No table: batches are drawn at random.
        rules: the layout.
        generator: the only source of chance; an equal generator gives an equal plan.

    Returns:
        A plan in which each query occurs at most once, no batch holds one tile twice, and incomplete batches are
        left out.

    Raises:
        ValueError: a table does not fit the pairs, or there are fewer pairs than a batch holds.
    """
    if len(pairs) < rules.batch_size:
        raise ValueError(
            f"{len(pairs)} pairs do not fill one batch of {rules.batch_size}: use a smaller batch or more data"
        )
    for table in tables:
        if table.ndim != 2 or len(table) != len(pairs):
            raise ValueError(f"a neighbour table of shape {table.shape} does not fit {len(pairs)} queries")
        if table.size and (table.min() < -1 or table.max() >= len(pairs.queries_of_tile)):
            # A tile that is nobody's positive cannot be batched: tables are made from the training tiles.
            raise ValueError("a neighbour table names tiles that are no training query's true tile")
    return _Planner(pairs, tables, rules, generator).run()


class _Planner:
    """The state of one epoch's layout: what is used, and what the open batch excludes."""

    def __init__(self, pairs: Pairs, tables: list[np.ndarray], rules: Rules, generator: np.random.Generator) -> None:
        self.pairs, self.tables, self.rules, self.generator = pairs, tables, rules, generator
        self.used = bytearray(len(pairs))
        self.unused_of_tile = np.array([len(queries) for queries in pairs.queries_of_tile])
        self.queue = deque(generator.permutation(len(pairs)).tolist())
        self.deferred: list[int] = []  # anchors that clash with the open batch: they start the next one
        self.batches: list[list[int]] = []
        self.anchors = 0
        self.xyz = _unit_vectors(pairs.lat_lon) if rules.min_negative_distance_m and pairs.lat_lon is not None else None
        if rules.min_negative_distance_m and pairs.lat_lon is None:
            raise ValueError("min_negative_distance_m needs the position of every query")
        self._open_batch()

    def run(self) -> Plan:
        """Grow batch after batch until no anchor is left."""
        size, rejects = self.rules.batch_size, 0
        random_from = size - round(size * self.rules.random_share)  # places after this one come alone
        while self.queue:
            anchor = self.queue.popleft()
            if self.used[anchor] or not self._admits(anchor):
                if not self.used[anchor]:
                    self.deferred.append(anchor)
                rejects += 1
                if self.rules.stop_after_rejects is not None and rejects >= self.rules.stop_after_rejects:
                    break
                continue
            rejects = 0
            self._add(anchor)
            self.anchors += 1
            if len(self.batch) < random_from:
                self._add_neighbours(anchor, random_from)
            if len(self.batch) == size:
                self.batches.append(self.batch)
                self.queue.extendleft(reversed(self.deferred))
                self._open_batch()
        batches = np.array(self.batches, dtype=np.int64).reshape(-1, size)
        return Plan(batches, self.anchors, dropped=len(self.pairs) - batches.size)

    def _open_batch(self) -> None:
        self.batch: list[int] = []
        self.batch_tiles: set[int] = set()
        self.banned_tiles: set[int] = set()
        self.deferred = []
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
        return bool(2 * EARTH_RADIUS_M * np.arcsin(min(chord / 2, 1.0)) >= self.rules.min_negative_distance_m)

    def _add_neighbours(self, anchor: int, limit: int) -> None:
        """Bring along k neighbours of the anchor, half the nearest and half drawn, while there is room."""
        for table in self.tables:
            for tile in self._candidates(table[anchor], self.rules.neighbours // len(self.tables)):
                if len(self.batch) >= limit:
                    return
                for query in self.pairs.queries_of_tile[tile]:
                    if not self.used[query] and self._admits(query):
                        self._add(query)
                        break

    def _candidates(self, row: np.ndarray, k: int) -> list[int]:
        """Tiles to try, in order: the k/2 nearest, then k/2 drawn without replacement from the rest of the row."""
        row = row[row >= 0]
        if self.rules.backfill:
            row = row[self.unused_of_tile[row] > 0]
        near, rest = row[: k // 2], row[k // 2 :]
        drawn = self.generator.permutation(len(rest))[: k - k // 2]
        return [*near.tolist(), *rest[drawn].tolist()]


def _unit_vectors(lat_lon: np.ndarray) -> np.ndarray:
    """Degrees to points on the unit sphere, float64 (n, 3)."""
    lat, lon = np.radians(np.asarray(lat_lon, dtype=np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
