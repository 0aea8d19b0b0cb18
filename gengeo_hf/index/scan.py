"""The compressed structure of a large segment: built, stored, and measured against exact search."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index.search import BLOCK, MOST_DEPTH, QUERIES, Part, Searcher

FACTORY = "RR,RaBitQfs"
SCAN_ROWS = 2_097_152  # of one file; several are scanned by several threads
SEGMENT_DEPTH = 32  # of a segment, at least
WANTED_RECALL = 0.997  # of the ten best, on made-up queries; with a quarter more depth than that needs
MIXED = 1024  # tiles whose mixtures stand for what differs between two views
SAMPLE_COSINE = 0.65  # between a test query and its tile: as far apart as two views of a place are


def build_scan(descriptors: np.ndarray) -> list[Any]:
    """Compressed structures of all rows: 1/8 byte for each dimension of a tile.

    Args:
        descriptors: float16 (tiles, dim).
    """
    trained = faiss.index_factory(descriptors.shape[1], FACTORY, faiss.METRIC_INNER_PRODUCT)
    step = max(1, len(descriptors) // 50_000)
    trained.train(np.ascontiguousarray(descriptors[::step], dtype=np.float32))
    empty = faiss.serialize_index(trained)  # this kind cannot be cloned
    made = []
    for first in range(0, len(descriptors), SCAN_ROWS):
        index = faiss.deserialize_index(empty)
        for start in range(first, min(first + SCAN_ROWS, len(descriptors)), BLOCK):
            rows = slice(start, min(start + BLOCK, first + SCAN_ROWS))
            index.add(np.ascontiguousarray(descriptors[rows], dtype=np.float32))
        made.append(index)
    return made


def read_scan(file: str | Path, dim: int) -> Any:
    """Read a stored structure. FAISS checks little, so type and sizes are compared here; the bytes are the manifest's.

    Raises:
        GenGeoError: It cannot be read or belongs to other descriptors.
    """
    try:
        index = faiss.read_index(str(file))
    except (RuntimeError, MemoryError) as error:
        raise GenGeoError(f"{file} cannot be read; copy the index again or make it again") from error
    if (index.d, index.metric_type) != (dim, faiss.METRIC_INNER_PRODUCT) or not isinstance(
        index, faiss.IndexPreTransform
    ):
        raise GenGeoError(f"{file} holds vectors of {index.d} dimensions, expected {dim}; make the index again")
    return index


def measure_depth(descriptors: np.ndarray, scan: Sequence[Any], samples: int = 200) -> dict[str, Any]:
    """How deep the second look must go, and what is then lost against exact search.

    The queries are tiles with noise, at cosine 0.65 to their tile (see `sample_queries`). Real photos may lose more or
    less.

    Args:
        descriptors: float16 (tiles, dim).
        scan: Structures over them.
        samples: Test queries.

    Returns:
        `depth`, `samples`, `recall_at_1` and `recall_at_10`.
    """
    queries = sample_queries(descriptors, samples)
    searcher = Searcher([Part(descriptors, scan=scan)])
    _, exact = searcher.search_runs(queries, [(0, len(descriptors), None)], 10)
    ranks = np.full(exact.shape, len(descriptors), np.int64)
    for start in range(0, len(queries), QUERIES):
        ranked = searcher.ranked_candidates(queries[start : start + QUERIES], MOST_DEPTH)
        for number, line in enumerate(ranked, start):
            rank, column = np.nonzero(line[:, None] == exact[number])
            ranks[number, column] = rank
    needed = np.sort(ranks, axis=None)[math.ceil(WANTED_RECALL * ranks.size) - 1] + 1
    depth = int(min(max(SEGMENT_DEPTH, math.ceil(1.25 * needed)), MOST_DEPTH))
    return {
        "depth": depth,
        "samples": len(queries),
        "recall_at_1": float((ranks[:, 0] < depth).mean()),
        "recall_at_10": float((ranks < depth).mean()),
    }


def sample_queries(descriptors: np.ndarray, samples: int, cosine: float = SAMPLE_COSINE, seed: int = 0) -> np.ndarray:
    """Other views of some tiles, made up: float32 (samples, dim), unit length, at the given cosine to their tile.

    What is added varies as the gallery does (random mixtures of its tiles). Noise that is alike in all directions would
    hardly touch the few directions in which tiles differ, and every approximate search would look perfect.

    Args:
        descriptors: (tiles, dim).
        samples: At most as many as there are tiles.
        cosine: 0 to 1.
        seed: Of what is drawn.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(descriptors), min(samples, len(descriptors)), replace=False))
    tiles = descriptors[rows].astype(np.float32)
    tiles /= np.linalg.norm(tiles, axis=1, keepdims=True)
    others = np.sort(rng.choice(len(descriptors), min(MIXED, len(descriptors)), replace=False))
    spread = descriptors[others].astype(np.float32)
    spread -= spread.mean(axis=0)
    noise = rng.standard_normal((len(tiles), len(spread)), dtype=np.float32) @ spread
    noise += 1e-3 * rng.standard_normal(tiles.shape, dtype=np.float32)  # a gallery of one tile has no spread
    noise -= (noise * tiles).sum(axis=1, keepdims=True) * tiles
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return cosine * tiles + np.sqrt(1 - cosine**2, dtype=np.float32) * noise
