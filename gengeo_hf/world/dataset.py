"""The synthetic world as a dataset: draw what is missing, keep it on disk, give the one schema.

Before: a domain, a split, a number of pairs. After: training, evaluation, indexing, exactly as CVUSA would.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.errors import GenGeoError
from gengeo_hf.world.domains import DOMAINS, domain_named
from gengeo_hf.world.geography import MAX_REGIONS, SPLITS
from gengeo_hf.world.places import Region
from gengeo_hf.world.shards import TABLES, Job, check_shard, draw_shard

if TYPE_CHECKING:
    from gengeo_hf.data.schema import CrossViewDataset

WORLD_VERSION = 3  # raise it whenever a picture changes: old caches must not be taken for new ones
_MINIMUM_SIDE = 8  # pixels


def build_world(
    domain: str,
    split: str,
    num_pairs: int,
    *,
    seed: int = 0,
    ground_size: tuple[int, int] = (42, 168),
    aerial_size: tuple[int, int] = (70, 70),
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> "CrossViewDataset":
    """Build a synthetic world or read it from the cache.

    A pure function of its arguments (not of `cache_dir`, `workers`, `progress`): equal arguments give equal bytes. The
    first n places of a larger world are those of the smaller one. Regions are stored one by one: a build that was
    stopped goes on where it was.

    Args:
        domain: `urban` (like CVACT), `rural` (like CVUSA) or `offcenter` (like VIGOR).
        split: `train`, `validation` or `test`; they lie in disjoint regions, hundreds of kilometres apart.
        num_pairs: number of ground pictures. Urban and rural have as many tiles, off-centre more.
        seed: another seed is another world.
        ground_size, aerial_size: (height, width) in pixels. A panorama covers 360 by 70 degrees, a tile 65 m.
        cache_dir: where worlds are kept; default `~/.cache/gengeo_hf/world`.
        workers: processes that draw; None takes one for each core, 1 draws in this process.
        progress: show a progress bar.

    Returns:
        The dataset `world/<domain>/<split>`.

    Raises:
        GenGeoError: unknown domain or split, a size or number out of range, a damaged cache, a full disk.
        MissingExtraError: embreex is not installed and something must be drawn.
    """
    _check(domain, split, num_pairs, seed, ground_size, aerial_size, workers)
    parameters = {
        "version": WORLD_VERSION, "domain": domain, "split": split, "seed": seed,
        "ground_size": list(ground_size), "aerial_size": list(aerial_size),
    }  # fmt: skip
    mark = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    base = Path(cache_dir) if cache_dir is not None else Path.home() / ".cache" / "gengeo_hf" / "world"
    home = base / f"{domain}-{split}-seed{seed}-v{WORLD_VERSION}-{mark}"
    jobs = _jobs(home, domain, split, num_pairs, seed, ground_size, aerial_size)
    missing = [job for job in jobs if not job.folder.exists()]
    if missing:
        try:
            _draw(missing, workers if workers is not None else os.cpu_count() or 1, progress, f"world/{domain}/{split}")
        except OSError as error:
            raise GenGeoError(f"the world could not be stored in {home}: {error.strerror or error}") from error
    return _load(f"world/{domain}/{split}", jobs)


def _check(domain: str, split: str, num_pairs: int, seed: int, ground_size: tuple[int, int],
           aerial_size: tuple[int, int], workers: int | None) -> None:  # fmt: skip
    """Refuse arguments that make no world."""
    most = domain_named(domain).pairs_per_region * MAX_REGIONS
    if split not in SPLITS:
        raise GenGeoError(f"unknown split {split!r}; the world has {', '.join(SPLITS)}")
    if not 1 <= num_pairs <= most:
        raise GenGeoError(f"num_pairs must lie in 1..{most}, found {num_pairs}")
    if seed < 0:
        raise GenGeoError(f"seed must be 0 or more, found {seed}")
    if workers is not None and workers < 1:
        raise GenGeoError(f"workers must be 1 or more, found {workers}")
    for name, size in (("ground_size", ground_size), ("aerial_size", aerial_size)):
        if len(size) != 2 or not all(isinstance(side, int) and side >= _MINIMUM_SIDE for side in size):
            raise GenGeoError(f"{name} must be (height, width), whole pixels from {_MINIMUM_SIDE} up, found {size}")


def _jobs(home: Path, domain: str, split: str, num_pairs: int, seed: int, ground_size: tuple[int, int],
          aerial_size: tuple[int, int]) -> list[Job]:  # fmt: skip
    """The regions of a world; all are full but the last."""
    from gengeo_hf.data.schema import GALLERY_FEATURES, QUERY_FEATURES  # not at the top: workers need no `datasets`

    schemas = {"queries": QUERY_FEATURES.arrow_schema, "gallery": GALLERY_FEATURES.arrow_schema}
    full, jobs = DOMAINS[domain].pairs_per_region, []
    for number in range(-(-num_pairs // full)):
        count = min(full, num_pairs - number * full)
        folder = home / f"region-{number:04d}-{count}"
        region = Region(domain, split, seed, number)
        jobs.append(
            Job(
                region,
                count,
                (ground_size[0], ground_size[1]),
                (aerial_size[0], aerial_size[1]),
                folder,
                schemas,
            )
        )
    return jobs


_counter: Any = None  # set in worker processes: pairs drawn by all of them


def _start_worker(counter: Any) -> None:
    """Runs once in each worker: keep the counter, and end when the process that asked is gone (a kill tells nobody)."""
    global _counter
    _counter = counter
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_in_worker(job: Job) -> None:
    def tell(share: float) -> None:
        with _counter.get_lock():
            _counter.value += share

    draw_shard(job, tell)


def _draw(jobs: list[Job], workers: int, progress: bool, name: str) -> None:
    """Draw regions, in this process or in several."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pairs"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(f"drawing {name}", total=sum(job.count for job in jobs))
        if min(workers, len(jobs)) == 1:
            for job in jobs:
                draw_shard(job, lambda share: bar.advance(task, share))
            return
        context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads can hang
        counter = context.Value("d", 0.0)
        with ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (counter,)) as pool:
            waiting = {pool.submit(_draw_in_worker, job) for job in jobs}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
                    bar.update(task, completed=round(counter.value))
                    for future in done:
                        future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _load(name: str, jobs: list[Job]) -> "CrossViewDataset":
    """Join stored regions; the tables stay memory-mapped."""
    import datasets

    from gengeo_hf.data.schema import CrossViewDataset

    tables: dict[str, list[Any]] = {table: [] for table in TABLES}
    for job in jobs:
        check_shard(job.folder)
        for table in TABLES:
            tables[table].append(datasets.Dataset.from_file(str(job.folder / f"{table}.arrow")))
    return CrossViewDataset(name, *(datasets.concatenate_datasets(tables[table]) for table in TABLES)).validate()
