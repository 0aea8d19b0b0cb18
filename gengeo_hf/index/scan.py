"""Compressed search structure of a large segment: building, reading, and measuring its recall.

A descriptor is encoded with half a byte for every four dimensions: a product quantiser (16 centroids for each group of
dimensions) after a rotation that gives every group the same product of variances (Ge et al., Optimized Product
Quantization, CVPR 2013, parametric solution). FAISS scans such codes in registers (fast scan).

Centroids are shorter than the vectors that they represent, by a factor that differs between tiles. RaBitQ (Gao and
Long, SIGMOD 2024) divides each estimate by that factor, in floating point. Here one more group of the code holds the
factor, and the query has a constant in this group, so the scan adds a correction that is exact for tiles near the tenth
rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index.search import BLOCK, MOST_DEPTH, QUERIES, SCAN_ROWS, THREADS, Part, Searcher

KIND = "rotation, PQ 4 dimensions x 4 bit with lengths, fast scan"
GROUP, CENTROIDS = 4, 16  # dimensions of a group, and its centroids
TRAINED = 50_000  # maximum number of tiles from which rotation and centroids are learned
SEGMENT_DEPTH = 32  # minimum depth of a segment
WANTED_RECALL = 0.993  # recall@10 on synthetic queries, lower bound of its 95 % interval; documentation states 0.99
SAMPLES = 512  # queries of that measurement
RANK = 10  # number of best tiles for which recall is measured
MIXED = 1024  # tiles whose mixtures model the difference between two views
SAMPLE_COSINE = 0.65  # cosine of a synthetic query and its tile, as between two views of a location


def build_scan(descriptors: np.ndarray, like: Any = None) -> list[Any]:
    """Build compressed structures of all rows, with about 1/8 byte for each dimension of a tile.

    Args:
        descriptors: float16 (tiles, dim), unit length.
        like: Structure whose quantiser is used, so that searches can scan both as one; None learns a new quantiser.
    """
    if like is None:
        step = max(1, len(descriptors) // TRAINED)
        quantizer = _Quantizer.fit(np.ascontiguousarray(descriptors[::step], dtype=np.float32))
        # Score of a tile at the tenth rank, for which the correction is exact.
        queries = sample_queries(descriptors, 32)
        scores, _ = Searcher([Part(descriptors)]).search_runs(queries, [(0, len(descriptors), None)], RANK)
        constant = float(scores[:, -1].mean()) / float(quantizer.levels[1:].mean())
    else:
        quantizer = _Quantizer.of(like)
        learned: Any = faiss.downcast_VectorTransform(like.chain.at(0))
        constant = float(faiss.vector_to_array(learned.b)[-GROUP])
    transform = quantizer.query_transform(constant)
    made = []
    for first in range(0, len(descriptors), SCAN_ROWS):
        index = quantizer.empty()
        for start in range(first, min(first + SCAN_ROWS, len(descriptors)), BLOCK):
            rows = slice(start, min(start + BLOCK, first + SCAN_ROWS))
            index.add(quantizer.extended(np.ascontiguousarray(descriptors[rows], dtype=np.float32)))
        made.append(faiss.IndexPreTransform(transform, index))
    return made


@dataclass
class _Quantizer:
    """Rotation, centroids and levels of the correction.

    Args:
        rotation: float32 (width, dim) with orthonormal columns; width is dim rounded up to whole groups.
        centroids: Product quantiser of FAISS for rotated vectors.
        levels: float32 (16,) factors in ascending order; no tile has the first.
    """

    rotation: np.ndarray
    centroids: Any
    levels: np.ndarray

    @classmethod
    def fit(cls, sample: np.ndarray) -> "_Quantizer":
        """Learn from a sample of tiles, float32 (tiles, dim)."""
        dim = sample.shape[1]
        width = -(-dim // GROUP) * GROUP
        centred = (sample - sample.mean(axis=0)).astype(np.float64)
        variances, axes = np.linalg.eigh(centred.T @ centred)  # only their ratios matter
        rotation = np.zeros((width, dim), np.float32)
        rotation[_balanced(variances, width // GROUP)] = axes.T
        centroids = faiss.ProductQuantizer(width, width // GROUP, 4)
        centroids.cp.min_points_per_centroid = 1  # otherwise FAISS warns about small galleries
        rotated = sample @ rotation.T
        faiss.omp_set_num_threads(1)  # thousands of small products: threads would mostly wait
        centroids.train(np.resize(rotated, (max(len(rotated), CENTROIDS), width)))
        faiss.omp_set_num_threads(THREADS)
        used = np.quantile(_factors(centroids, rotated), (np.arange(1, CENTROIDS) - 0.5) / (CENTROIDS - 1))
        # FAISS drops a row with the lowest value in every group (possible for equal tiles), so no row gets this level.
        lowest = used[0] - np.ptp(used) / 8 - 1e-6
        return cls(rotation, centroids, np.array([lowest, *used], dtype=np.float32))

    @classmethod
    def of(cls, index: Any) -> "_Quantizer":
        """Read the quantiser of a structure."""
        inner: Any = faiss.downcast_index(index.index)
        transform: Any = faiss.downcast_VectorTransform(index.chain.at(0))
        groups = inner.M - 1
        width = groups * GROUP
        values = faiss.vector_to_array(inner.pq.centroids).reshape(groups + 1, CENTROIDS, GROUP)
        centroids = faiss.ProductQuantizer(width, groups, 4)
        faiss.copy_array_to_vector(values[:groups].ravel(), centroids.centroids)
        rotation = faiss.vector_to_array(transform.A).reshape(width + GROUP, index.d)[:width]
        return cls(rotation, centroids, values[groups, :, 0])

    def extended(self, vectors: np.ndarray) -> np.ndarray:
        """Rotated vectors with one more group that holds their factor."""
        width = len(self.rotation)
        found = np.zeros((len(vectors), width + GROUP), np.float32)
        found[:, :width] = vectors @ self.rotation.T
        found[:, width] = np.maximum(_factors(self.centroids, found[:, :width]), self.levels[1])
        return found

    def empty(self) -> Any:
        """Structure without rows, for results of `extended`."""
        groups, width = self.centroids.M, len(self.rotation)
        found = faiss.IndexPQFastScan(width + GROUP, groups + 1, 4, faiss.METRIC_INNER_PRODUCT)
        values = np.zeros((groups + 1, CENTROIDS, GROUP), np.float32)
        values[:groups] = faiss.vector_to_array(self.centroids.centroids).reshape(groups, CENTROIDS, GROUP)
        values[groups, :, 0] = self.levels
        faiss.copy_array_to_vector(values.ravel(), found.pq.centroids)
        found.is_trained = True
        return found

    def query_transform(self, constant: float) -> Any:
        """Transform of queries: rotation, and a constant in the group of the factors.

        An estimate e of a tile with the factor f represents the cosine e * f. Near the cosine c, adding
        f * c / (mean factor) gives the same order of tiles as that product.

        Args:
            constant: The value c / (mean factor).
        """
        width, dim = self.rotation.shape
        matrix, bias = np.zeros((width + GROUP, dim), np.float32), np.zeros(width + GROUP, np.float32)
        matrix[:width], bias[width] = self.rotation, constant
        found = faiss.LinearTransform(dim, width + GROUP, True)
        faiss.copy_array_to_vector(matrix.ravel(), found.A)
        faiss.copy_array_to_vector(bias, found.b)
        found.is_trained = True
        return found


def _balanced(variances: np.ndarray, groups: int) -> np.ndarray:
    """Assign axes to dimensions so that the products of the variances of all groups are similar.

    The largest remaining variance is assigned to the group with the smallest product that is not full.
    """
    logs = np.log(np.maximum(variances, 1e-9 * max(float(variances.max()), 1e-30)))
    logs -= logs.min()
    filled, sums = np.zeros(groups, np.int64), np.zeros(groups)
    order = np.empty(len(variances), np.int64)
    for axis in np.argsort(-logs, kind="stable"):
        group = int(np.argmin(sums))
        order[axis] = group * GROUP + filled[group]
        filled[group] += 1
        sums[group] = np.inf if filled[group] == GROUP else sums[group] + logs[axis]
    return order


def _factors(centroids: Any, rotated: np.ndarray) -> np.ndarray:
    """Factors that scale the centroid of each vector so that its product with the vector is right."""
    rotated = np.ascontiguousarray(rotated)
    nearest = centroids.decode(centroids.compute_codes(rotated))
    return 1 / np.maximum(np.einsum("nd,nd->n", nearest, rotated), 0.25)


def read_scan(file: str | Path, dim: int) -> Any:
    """Read a stored structure and check its type and dimensions, which FAISS does not.

    Raises:
        GenGeoError: The file cannot be read or belongs to other descriptors.
    """
    try:
        index = faiss.read_index(str(file))
    except (RuntimeError, MemoryError) as error:
        raise GenGeoError(f"{file} cannot be read; copy the index again or make it again") from error
    if (index.d, index.metric_type) != (dim, faiss.METRIC_INNER_PRODUCT):
        raise GenGeoError(f"{file} holds vectors of {index.d} dimensions, expected {dim}; make the index again")
    chain: Any = index.chain if isinstance(index, faiss.IndexPreTransform) else None
    rotated = chain is not None and chain.size() == 1
    if not rotated or not isinstance(faiss.downcast_VectorTransform(chain.at(0)), faiss.LinearTransform):
        raise GenGeoError(f"{file} holds an unexpected kind of search structure; make the index again")
    return index


def measure_depth(descriptors: np.ndarray, scan: Sequence[Any], samples: int = SAMPLES) -> dict[str, Any]:
    """Measure how many candidates must be scored exactly, and the recall against exact search.

    The depth is the smallest one for which the lower bound of the 95 % interval of recall@10 (each query is one
    observation) reaches `WANTED_RECALL`. The queries are synthetic, with cosine 0.65 to a tile (see `sample_queries`);
    recall for real photos may differ.

    Args:
        descriptors: float16 (tiles, dim).
        scan: Structures of these rows.
        samples: Number of synthetic queries.

    Returns:
        `depth`, `samples`, `recall_at_1` and `recall_at_10`.
    """
    queries = sample_queries(descriptors, samples)
    searcher = Searcher([Part(descriptors, scan=scan)])
    _, exact = searcher.search_runs(queries, [(0, len(descriptors), None)], RANK)
    ranks = np.full(exact.shape, len(descriptors), np.int64)
    for start in range(0, len(queries), QUERIES):
        ranked = searcher.ranked_candidates(queries[start : start + QUERIES], MOST_DEPTH)
        for number, candidates in enumerate(ranked, start):
            rank, column = np.nonzero(candidates[:, None] == exact[number])
            ranks[number, column] = rank
    depth = _smallest_depth(ranks)
    while True:  # the order of equal estimates is arbitrary, so the depth is tested with real searches
        part = Part(descriptors, scan=scan, depth=depth)
        found = Searcher([part], least_depth=SEGMENT_DEPTH).search(queries, RANK)[1]
        hits = (found[:, :, None] == exact[:, None, :]).any(axis=1)  # (queries, 10)
        if _is_enough(hits) or depth >= MOST_DEPTH:
            break
        depth = min(math.ceil(1.05 * depth), MOST_DEPTH)
    return {
        "depth": depth,
        "samples": len(queries),
        "recall_at_1": float(hits[:, 0].mean()),
        "recall_at_10": float(hits.mean()),
    }


def _smallest_depth(ranks: np.ndarray) -> int:
    """Smallest depth with the wanted recall.

    Args:
        ranks: int (queries, 10), rank from 0 in the scan of each of the exact ten best.
    """
    low, high = SEGMENT_DEPTH, MOST_DEPTH
    while low < high:
        middle = (low + high) // 2
        if _is_enough(ranks < middle):
            high = middle
        else:
            low = middle + 1
    return low


def _is_enough(hits: np.ndarray) -> bool:
    """Whether the lower bound of recall is enough; `hits` is bool (queries, 10), which of the exact best were found."""
    recalls = hits.mean(axis=1)
    return bool(recalls.mean() - 1.96 * recalls.std() / np.sqrt(len(recalls)) >= WANTED_RECALL)


def sample_queries(descriptors: np.ndarray, samples: int, cosine: float = SAMPLE_COSINE, seed: int = 0) -> np.ndarray:
    """Synthetic queries: tiles with noise, float32 (samples, dim), unit length, at a given cosine to their tile.

    The noise has the covariance of the gallery (random mixtures of its tiles). Isotropic noise would hardly affect the
    few directions in which tiles differ, and every approximate search would seem perfect.

    Args:
        descriptors: (tiles, dim) descriptors of the gallery.
        samples: Number of queries, limited to the number of tiles.
        cosine: Cosine of a query and its tile, 0 to 1.
        seed: Seed of tiles and noise.
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
