"""The synthetic world as a data set: render missing regions, cache them on disk, return a `CrossViewDataset`."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import digest_of
from gengeo_hf.world.domains import DOMAINS, MARGIN_METRES, TILE_METRES, domain_named
from gengeo_hf.world.geography import MAX_REGIONS, SPLITS
from gengeo_hf.world.regions import Region
from gengeo_hf.world.shards import TABLES, VERTICAL_FOV, Job, check_shard, draw_shard

if TYPE_CHECKING:
    import pyarrow as pa

    from gengeo_hf.common.schema import CrossViewDataset

WORLD_VERSION = 3  # increase it whenever an image changes, so that cached regions of older versions are not used
_MINIMUM_SIDE = 8  # pixels
MOST_TILE_METRES = 2 * MARGIN_METRES  # larger tiles would show the edge of the world


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
    tile_shift_m: float = 0.0,
    tile_m: float = TILE_METRES,
) -> "CrossViewDataset":
    """Render a synthetic world or read it from the cache.

    A pure function of its arguments (except `cache_dir`, `workers`, `progress`): equal arguments give equal bytes. A
    larger world starts with the pairs of a smaller one. Regions are stored one by one, so that an interrupted build
    continues with the missing regions.

    Args:
        domain: Name of the domain: `urban` (like CVACT), `rural` (like CVUSA) or `offcenter` (like VIGOR).
        split: Split: `train`, `validation` or `test`. Splits are hundreds of kilometres apart.
        num_pairs: Number of ground images. `urban` and `rural` have as many tiles, `offcenter` has more.
        seed: Seed of the world, 0 or more.
        ground_size, aerial_size: Image sizes (height, width) in pixels. A panorama covers 360 by 70 degrees.
        cache_dir: Directory of cached worlds; None is `~/.cache/gengeo_hf/world`.
        workers: Number of rendering processes; None uses one for each core, 1 renders in this process. Worker
            processes import the main script, which must call this under `if __name__ == "__main__":`.
        progress: Whether to show a progress bar.
        tile_shift_m: Maximum offset in metres, east and north, between tile and camera in `urban` and `rural`, for
            training of pose (`gengeo_hf.pose`). 0 keeps the camera near the centre of its tile.
        tile_m: Side of a tile on the ground in metres. It does not change the names and centres of tiles.

    Returns:
        The data set `world/<domain>/<split>`.

    Raises:
        GenGeoError: The domain or split is unknown, a size or number is out of range, the cache is damaged, the disk is
            full, or a worker process ended early.
        MissingExtraError: A region must be rendered and embreex is not installed.
    """
    _check(domain, split, num_pairs, seed, ground_size, aerial_size, workers)
    if not 0 <= tile_shift_m <= TILE_METRES / 2 or (tile_shift_m and DOMAINS[domain].off_centre):
        raise GenGeoError(
            f"tile_shift_m must lie in 0..{TILE_METRES / 2:g} m, and be 0 for offcenter; found {tile_shift_m:g} for "
            f"{domain}"
        )
    parameters = {
        "version": WORLD_VERSION,
        "domain": domain,
        "split": split,
        "seed": seed,
        "ground_size": list(ground_size),
        "aerial_size": list(aerial_size),
    }
    if not 20 <= tile_m <= MOST_TILE_METRES:
        raise GenGeoError(f"tile_m must lie in 20..{MOST_TILE_METRES:g} m, found {tile_m:g}")
    changed = {"tile_shift_m": tile_shift_m} if tile_shift_m else {}
    changed |= {"tile_m": tile_m} if tile_m != TILE_METRES else {}
    parameters |= changed  # defaults are omitted, so that caches written before these options existed stay valid
    digest = digest_of(parameters)[:12]
    base = Path(cache_dir) if cache_dir is not None else Path.home() / ".cache" / "gengeo_hf" / "world"
    home = base / f"{domain}-{split}-seed{seed}-v{WORLD_VERSION}-{digest}"
    name = f"world/{domain}/{split}" + "".join(f"[{key}={value:g}]" for key, value in changed.items())
    region = Region(domain, split, seed, 0, tile_shift_m, tile_m)
    jobs = _jobs(home, region, num_pairs, ground_size, aerial_size)
    missing = [job for job in jobs if not job.folder.exists()]
    if missing:
        try:
            with _bar(progress, f"drawing {name}", sum(job.count for job in missing)) as report:
                _draw(missing, min(workers or os.cpu_count() or 1, len(missing)), report)
        except OSError as error:
            raise GenGeoError(f"the world could not be stored in {home}: {error.strerror or error}") from error
        except BrokenProcessPool as error:
            raise GenGeoError(
                f"a worker process that rendered {name} ended early; call build_world under "
                "`if __name__ == '__main__':`, and if memory is short pass workers=1"
            ) from error
    return _load(name, jobs)


def _check(
    domain: str,
    split: str,
    num_pairs: int,
    seed: int,
    ground_size: tuple[int, int],
    aerial_size: tuple[int, int],
    workers: int | None,
) -> None:
    """Refuse arguments out of range."""
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


def _jobs(
    home: Path, first: Region, num_pairs: int, ground_size: tuple[int, int], aerial_size: tuple[int, int]
) -> list[Job]:
    """List the regions of a world, starting with `first`; all but the last have the full number of pairs."""
    full, jobs = DOMAINS[first.domain].pairs_per_region, []
    for number in range(-(-num_pairs // full)):
        count = min(full, num_pairs - number * full)
        folder = home / f"region-{number:04d}-{count}"
        jobs.append(Job(replace(first, number=number), count, ground_size, aerial_size, folder))
    return jobs


@contextlib.contextmanager
def _bar(shown: bool, what: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show a progress bar, and yield a function that adds a number of rendered pairs, which may be a fraction."""
    if not shown:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("pairs"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task, drawn = bar.add_task(what, total=total), 0.0

        def report(pairs: float) -> None:
            nonlocal drawn
            drawn += pairs
            bar.update(task, completed=round(drawn))

        yield report


_counter: Any = None  # in worker processes: number of pairs rendered by all workers


def _start_worker(counter: Any) -> None:
    """Initialise a worker process: set the counter, and end the worker when the parent process ends."""
    global _counter
    _counter = counter
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the end of the parent process, then end this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_in_worker(job: Job, schemas: "dict[str, pa.Schema]") -> None:
    def report(pairs: float) -> None:
        with _counter.get_lock():
            _counter.value += pairs

    draw_shard(job, schemas, report)


def _draw(jobs: list[Job], workers: int, report: Callable[[float], None]) -> None:
    """Render regions in this process or in worker processes."""
    if workers == 1:
        schemas = _schemas()
        for job in jobs:
            draw_shard(job, schemas, report)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads can hang
    counter, reported = context.Value("d", 0.0), 0.0
    with ProcessPoolExecutor(workers, context, _start_worker, (counter,)) as pool:
        try:
            for _ in range(workers):
                pool.submit(os.getpid)  # starts the workers, so that they import while this process imports
            schemas = _schemas()
            waiting = {pool.submit(_draw_in_worker, job, schemas) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
                drawn = counter.value
                report(drawn - reported)
                reported = drawn
                for future in done:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _schemas() -> "dict[str, pa.Schema]":
    """Return the Arrow schemas of the two tables, with the metadata from which `datasets` restores its features."""
    # Imported here because worker processes do not need `datasets`.
    from gengeo_hf.common.schema import GALLERY_FEATURES, QUERY_FEATURES

    return {"queries": QUERY_FEATURES.arrow_schema, "gallery": GALLERY_FEATURES.arrow_schema}


def _load(name: str, jobs: list[Job]) -> "CrossViewDataset":
    """Concatenate stored regions; the tables stay memory-mapped."""
    import datasets

    from gengeo_hf.common.schema import CrossViewDataset

    tables: dict[str, list[Any]] = {table: [] for table in TABLES}
    for job in jobs:
        check_shard(job.folder)
        for table in TABLES:
            rows = datasets.Dataset.from_file(str(job.folder / f"{table}.arrow"))
            if table == "queries":
                extent = datasets.Value("float32")
                rows = rows.add_column("vertical_fov", [VERTICAL_FOV] * len(rows), feature=extent)
            tables[table].append(rows)
    return CrossViewDataset(name, *(datasets.concatenate_datasets(tables[table]) for table in TABLES)).validate()
