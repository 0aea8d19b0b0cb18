"""Search an index of ten million tiles on one machine, and edit one of a million: `make bench-10m`.

    python benchmarks/search_ten_million.py --out benchmarks/results/bench_10m.json

Descriptors are synthetic: 3,000 regions in a random basis with a power-law spectrum at 1024 dimensions, groups of eight
overlapping siblings, truncated to 256 dimensions. Queries have cosine 0.65 to their tile, with noise of the covariance
of the tiles; they are sampled here, independently of `gengeo_hf.index`. Tiles lie on a grid of 32.5 m. Ten million
tiles need 8 GB on disk, 4 GB of memory and 20 minutes on two idle cores. Both wall time and CPU time are written,
because other processes increase wall time.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from measuring import peak_mb
from PIL import Image

from gengeo_hf.common.area import Area
from gengeo_hf.common.files import write_json
from gengeo_hf.common.geo import metres_per_degree
from gengeo_hf.common.units import check_near
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.manifest import Model
from gengeo_hf.index.segment import NewRows

DIM, WHOLE, SIBLINGS, REGIONS, COSINE = 256, 1024, 8, 3000, 0.65
SPACING_M, TILE_M = 32.5, 65.0
LAT, LON = 48.0, 11.0
BLOCK = 65_536
QUERIES = 200
PARTS = 19  # segments of the edited index; added tiles form one more
RADIUS_M = 5000.0


class Gallery:
    """Synthetic descriptors and positions of `count` tiles, determined by the seed."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.standard_normal((WHOLE, WHOLE)))[0] * (np.arange(1, WHOLE + 1) ** -0.5)[:, None]
        shortened = basis[:, :DIM]
        # A truncated Gaussian vector is Gaussian with this covariance, so 1024 values need not be sampled.
        self.spread = np.linalg.cholesky(shortened.T @ shortened).T.astype(np.float32)
        self.regions = rng.standard_normal((REGIONS, DIM), dtype=np.float32)

    def descriptors(self) -> Iterator[np.ndarray]:
        """Yield float16 arrays of shape (at most `BLOCK`, DIM)."""
        for start in range(0, self.count, BLOCK):
            rng = np.random.default_rng((self.seed, 1, start))
            size = min(BLOCK, self.count - start)
            sites = rng.standard_normal((size // SIBLINGS + 1, DIM), dtype=np.float32)
            sites += self.regions[rng.integers(0, REGIONS, len(sites))]
            block = np.repeat(sites, SIBLINGS, axis=0)[:size]
            block += 0.6 * rng.standard_normal(block.shape, dtype=np.float32)
            block = block @ self.spread
            yield (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16)

    def tiles(self) -> pa.Table:
        """Return a table of `TILE_SCHEMA`: a square grid with siblings next to each other."""
        side = int(np.ceil(np.sqrt(self.count)))
        row, column = np.divmod(np.arange(self.count), side)
        per_lat, per_lon = (float(v) for v in metres_per_degree(LAT))
        lat, lon = LAT + row * SPACING_M / per_lat, LON + column * SPACING_M / per_lon
        high, wide = TILE_M / 2 / per_lat, TILE_M / 2 / per_lon
        columns = [
            pa.array(np.arange(self.count)).cast(pa.string()),
            pa.array(lat),
            pa.array(lon),
            pa.array(lon - wide),
            pa.array(lat - high),
            pa.array(lon + wide),
            pa.array(lat + high),
            pa.repeat("made up", self.count),
            pa.repeat("made up", self.count),
        ]
        return pa.table(columns, schema=TILE_SCHEMA)

    def queries(self, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return synthetic views of some tiles: float32 (queries, DIM)."""
        rng = np.random.default_rng((self.seed, 2))
        tiles = vectors[rows].astype(np.float32)
        tiles /= np.linalg.norm(tiles, axis=1, keepdims=True)
        noise = rng.standard_normal(tiles.shape, dtype=np.float32) @ self.spread
        noise -= (noise * tiles).sum(axis=1, keepdims=True) * tiles
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        return (COSINE * tiles + np.sqrt(1 - COSINE**2) * noise).astype(np.float32)


def exact_ids(index: GeoIndex, queries: np.ndarray, k: int) -> list[set[str]]:
    """Return the ids of the k best live tiles by exhaustive comparison in NumPy."""
    best: list[list[tuple[float, Any, int]]] = [[] for _ in queries]
    for segment in index.segments:
        rows = segment.live_rows()
        for start in range(0, len(rows), 16_384):
            some = rows[start : start + 16_384]
            scores = queries @ segment.descriptors[some].astype(np.float32).T
            found = np.argpartition(-scores, min(k, len(some) - 1), axis=1)[:, :k]
            for number, line in enumerate(found):
                best[number] += [(float(scores[number, column]), segment, int(some[column])) for column in line]
                best[number] = sorted(best[number], key=lambda item: -item[0])[:k]
    return [{segment.tiles["tile_id"][row].as_py() for _, segment, row in line} for line in best]


def recall(index: GeoIndex, queries: np.ndarray, exact: list[set[str]]) -> float:
    """Return the share of the exact ten best tiles that the index finds."""
    found = index.search(queries, 10)
    shares = [len({hit.tile_id for hit in line} & best) / len(best) for line, best in zip(found, exact, strict=True)]
    return float(np.mean(shares))


def timed(call: Any, queries: np.ndarray, times: int) -> dict[str, float]:
    """Return median and least wall milliseconds and mean CPU milliseconds of calls with one query."""
    call(queries[:1])
    walls, cpu = [], time.process_time()
    for number in range(times):
        started = time.perf_counter()
        call(queries[number % len(queries)][None])
        walls.append((time.perf_counter() - started) * 1000)
    return {
        "median_ms": statistics.median(walls),
        "best_ms": min(walls),
        "cpu_ms": (time.process_time() - cpu) / times * 1000,
    }


def forget_pages(index: GeoIndex) -> None:
    """Remove the files of the index from the page cache, if the system supports that."""
    if hasattr(os, "posix_fadvise"):
        for file in index.files().values():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


OPENED = """
import json, sys, time
import numpy as np
from gengeo_hf.index import GeoIndex

def took(call):
    started, cpu = time.perf_counter(), time.process_time()
    made = call()
    return made, time.perf_counter() - started, time.process_time() - cpu

index, opened, opened_cpu = took(lambda: GeoIndex.load(sys.argv[1], verify=False))
queries = np.load(sys.argv[2])
_, first, first_cpu = took(lambda: index.search(queries[:1], 10))
for query in queries[:50]:
    index.search(query, 10)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
resident = int(status["RssAnon"].split()[0]) / 1024
found = {"open_s": opened, "open_cpu_s": opened_cpu, "resident_mb": resident}
print(json.dumps(found | {"first_query_ms": first * 1000, "first_query_cpu_ms": first_cpu * 1000}))
"""


def opened_alone(index: GeoIndex, queries: np.ndarray, folder: Path, cold: bool) -> dict[str, float]:
    """Measure opening the index, the first query and resident memory without page cache in a new process."""
    np.save(folder / "queries.npy", queries)
    if cold:
        forget_pages(index)
    words = [sys.executable, "-c", OPENED, str(index.path), str(folder / "queries.npy")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


class Noise:
    """A source of `count` tiles for `add`; encoding is not measured here."""

    rendering = ""

    def __init__(self, count: int, first: int) -> None:
        self.name = "added"
        gallery = Gallery(count)
        ids = pa.array(np.arange(first, first + count)).cast(pa.string())
        self.table = gallery.tiles().set_column(0, TILE_SCHEMA.field(0), ids)

    def read(self, row: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(row).integers(0, 255, (8, 8, 3), np.uint8))


class RandomEncoder:
    """Return random unit vectors, to exclude the cost of encoding."""

    dim, fingerprint, batch_size = DIM, "0" * 64, 32
    truncate_dim, computed_by, preprocessing = DIM, "", {}

    def encode(self, images: Any, view: str) -> np.ndarray:
        vectors = np.random.default_rng(len(images)).standard_normal((len(images), DIM)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cost(index: GeoIndex, action: Any) -> dict[str, float]:
    """Measure the seconds and the megabytes written by an edit."""
    before = {path: path.stat().st_mtime_ns for path in index.path.rglob("*") if path.is_file()}
    started, cpu = time.perf_counter(), time.process_time()
    action()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    written = [path for path in index.path.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns]
    return {"s": seconds, "cpu_s": cpu_seconds, "written_mb": sum(path.stat().st_size for path in written) / 1e6}


def build(count: int, path: Path) -> dict[str, float]:
    """Write an index of synthetic tiles and measure it."""
    gallery = Gallery(count)
    started, cpu = time.perf_counter(), time.process_time()
    write_index(path, NewRows(gallery.tiles(), gallery.descriptors()), DIM, Model("0" * 64, "made up"))
    return {
        "build_s": time.perf_counter() - started,
        "build_cpu_s": time.process_time() - cpu,
        "peak_mb": peak_mb(),
    }


def drawn_queries(index: GeoIndex) -> np.ndarray:
    segment = max(index.segments, key=lambda one: one.record.tiles)
    rows = np.sort(np.random.default_rng(3).choice(segment.live_rows(), QUERIES, replace=False))
    return Gallery(8).queries(segment.descriptors, rows)


def build_parts(count: int, folder: Path) -> GeoIndex:
    """Build an index of nineteen segments, each written as a separate index and then added."""
    path, part = folder / "edits.gengeo", count // PARTS
    gallery, vectors = Gallery(count), Gallery(count).descriptors()
    tiles, waiting = gallery.tiles(), np.empty((0, DIM), np.float16)
    for number in range(PARTS):
        while len(waiting) < part:
            waiting = np.concatenate([waiting, next(vectors)])
        rows = NewRows(tiles.slice(number * part, part), [waiting[:part]])
        waiting = waiting[part:]
        one = folder / f"part-{number}.gengeo"
        write_index(one, rows, DIM, Model("0" * 64))
        if number == 0:
            one.rename(path)
        else:
            GeoIndex.load(path, verify=False).add(RandomEncoder(), GeoIndex.load(one, verify=False))
    return GeoIndex.load(path, verify=False)


def edits(count: int, folder: Path, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure edits, and the effect of segments and deleted rows on search; yield the figures so far after each step.

    The index and the figures of an interrupted run are reused.
    """
    path = folder / "edits.gengeo"
    if path.exists() and GeoIndex.load(path, verify=False).manifest.deleted >= count // 10:
        index, result = GeoIndex.load(path, verify=False), dict(known)
    else:
        index = build_parts(count, folder)
        result = {"tiles": len(index), "segments": len(index.manifest.segments)}
        result["remove_one"] = cost(index, lambda: index.remove(["77"]))
        more = Noise(32, count)
        result["add_32"] = cost(index, lambda: index.add(RandomEncoder(), more))
        dead = np.random.default_rng(1).choice(count, count // 10, replace=False).astype(str).tolist()
        result["remove_tenth"] = cost(index, lambda: index.remove(dead))
        yield result
    queries = drawn_queries(index)
    exact = exact_ids(index, queries, 10)
    many, whole = index, folder / "whole.gengeo"
    many.save_pretrained(whole, overwrite=True)
    one = GeoIndex.load(whole, verify=False)
    result["compact"] = cost(one, one.compact)
    for name, opened in (("many", many), ("one", one)):
        result[name] = {
            "segments": len(opened.manifest.segments),
            "deleted": opened.manifest.deleted,
            "recall_at_10": recall(opened, queries, exact),
        }
        yield result
    # Alternate, so that other processes affect both equally.
    turns = [(timed_of(many, queries), timed_of(one, queries)) for _ in range(5)]
    for name, times in (("many", [a for a, _ in turns]), ("one", [b for _, b in turns])):
        result[name] |= {key: statistics.median(time[key] for time in times) for key in times[0]}
    result["ratio_cpu"] = statistics.median(a["cpu_ms"] / b["cpu_ms"] for a, b in turns)
    result["ratio_wall"] = statistics.median(a["median_ms"] / b["median_ms"] for a, b in turns)
    yield result


def timed_of(index: GeoIndex, queries: np.ndarray) -> dict[str, float]:
    """Measure twenty searches for ten tiles."""
    return timed(lambda query: index.search(query, 10), queries, 20)


def large(count: int, folder: Path, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure a large index; yield the figures so far after each step. An existing index is reused."""
    path = folder / "large.gengeo"
    result: dict[str, Any] = {"tiles": count, "dim": DIM} | known
    if not path.exists():
        result |= build(count, path)
        yield result
    index = GeoIndex.load(path, verify=False)
    result["disk_mb"] = sum(file.stat().st_size for file in index.files().values()) / 1e6
    scan = index.manifest.segments[0].scan
    if scan:
        result["measured_at_build"] = {
            "depth": scan.depth,
            "recall_at_1": scan.recall_at_1,
            "recall_at_10": scan.recall_at_10,
            "samples": scan.samples,
        }
    queries = drawn_queries(index)
    result["cold"] = opened_alone(index, queries, folder, cold=True)
    result["warm"] = opened_alone(index, queries, folder, cold=False)
    yield result
    result["search_k10"] = timed(lambda query: index.search(query, 10), queries, 50)
    side = int(np.ceil(np.sqrt(count))) // 2
    per_lat, per_lon = (float(v) for v in metres_per_degree(LAT))
    near = (LAT + side * SPACING_M / per_lat, LON + side * SPACING_M / per_lon, RADIUS_M)
    result["near_5km"] = timed(lambda query: index.search(query, 10, near), queries, 20)
    runs = index.segments[0].runs_in(Area.from_near(check_near(near)))
    result["near_5km"] |= {"tiles": int(sum(inside.sum() for _, _, inside in runs)), "runs": len(runs)}
    yield result
    result["recall_at_10"] = recall(index, queries, exact_ids(index, queries, 10))
    result["queries"] = QUERIES
    yield result
    result["remove_one"] = cost(index, lambda: index.remove(["77"]))
    more = Noise(32, count)
    result["add_32"] = cost(index, lambda: index.add(RandomEncoder(), more))
    yield result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=10_000_000)
    parser.add_argument("--edits", type=int, default=1_000_000, help="number of tiles of the edited index; 0 to skip")
    parser.add_argument("--folder", type=Path, help="directory of the indexes; default: a temporary one")
    parser.add_argument("--out", type=Path, help="JSON file, written after each step")
    given = parser.parse_args()
    figures: dict[str, Any] = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}

    def keep(name: str, value: dict[str, Any]) -> None:
        value = value | {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
        figures[name] = json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 4))
        print(name, json.dumps(figures[name]), flush=True)
        if given.out:
            write_json(given.out, figures)

    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True, parents=True)
        if given.edits:
            name = f"edits at {given.edits:,}"
            for step in edits(given.edits, folder, figures.get(name, {})):
                keep(name, step)
        name = f"{given.tiles:,} tiles"
        for step in large(given.tiles, folder, figures.get(name, {})) if given.tiles else ():
            keep(name, step)


if __name__ == "__main__":
    main()
