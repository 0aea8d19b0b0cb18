"""Builds an index with the workers of a Ray cluster: each part of a divided build is a task; parts are merged.

Ray does not store the progress of a driver. Each part is therefore an index in its own directory on storage that all
machines share. A finished part is not encoded again, even if processes are killed.

    city.gengeo.parts/<key>-<parts>/part-0003.gengeo    the same as `gengeo index ... --shard 3/<parts>` writes
"""

import contextlib
import math
import os
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import real_path
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tiles import TileSource
from gengeo_hf.index.build import BuildReport, build_index, finished_build
from gengeo_hf.index.edit import check_output
from gengeo_hf.index.manifest import Shard, has_manifest, read_manifest
from gengeo_hf.index.merge import merge_indexes
from gengeo_hf.index.ray_connection import connect_ray
from gengeo_hf.index.work import Work

PART_TILES = 8192  # tiles of one task: minutes of work, so that little is lost with a worker
MOST_PARTS = 64  # each part becomes a segment of the index
MOST_TRIES = 4  # attempts for one part, or to start a worker

Opener = Callable[[int], tuple[EncoderProtocol, TileSource, dict[str, Any]]]


@dataclass(frozen=True)
class WorkerReport:
    """Report of a worker after it has loaded the model and opened the imagery.

    Args:
        key: Key of the build, see `Work`; it differs between workers that do not have the same files.
        tiles: Number of tiles of the imagery.
        computed_by: Backend and precision.
        host: Name of the machine.
        process: Id of the process.
    """

    key: str
    tiles: int
    computed_by: str
    host: str
    process: int


class PartWorker:
    """Builds parts of an index in its own process, as a Ray actor."""

    def open(self, opener: Opener, workers: int, folder: str, path: str) -> WorkerReport:
        """Load the model and open the imagery.

        Args:
            opener: Function that returns encoder, imagery and options of `build_index`; called with `workers`.
            workers: Number of worker processes.
            folder: Working directory of the driver, to which paths are relative.
            path: Directory of the index.

        Raises:
            GenGeoError: Model or imagery cannot be opened, or the directory is not accessible from this machine.
        """
        if Path(folder).is_dir():
            os.chdir(folder)
        if not parts_root(Path(path)).is_dir():
            raise GenGeoError(
                f"the machine {socket.gethostname()} cannot access {parts_root(Path(path))}: give --out, model and "
                "imagery as paths on storage that all machines of the cluster share"
            )
        self.encoder, self.source, self.options = opener(workers)
        work = Work.of(Path(path), self.encoder, self.source, self.options.get("thumbnail_pixels", 128))
        return WorkerReport(work.key, work.tiles, self.encoder.computed_by, socket.gethostname(), os.getpid())

    def build(self, folder: str, number: int, count: int) -> int:
        """Build one part.

        Args:
            folder: Directory of the part.
            number: Zero-based index of the part.
            count: Number of parts.

        Returns:
            Number of tiles that were encoded in this call.
        """
        report = build_index(self.encoder, self.source, folder, shard=(number, count), **self.options)
        return round(report.tiles_per_second * report.seconds)


def parts_root(path: Path) -> Path:
    """Directory of the parts of an index."""
    return path.with_name(f"{path.name}.parts")


def part_count(tiles: int) -> int:
    """Number of parts of a build; it depends only on the imagery, so that a new run finds earlier parts."""
    return min(max(1, math.ceil(tiles / PART_TILES)), MOST_PARTS)


def build_on_ray(
    opener: Opener,
    path: str | Path,
    name: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    use_gpus: bool = True,
    overwrite: bool = False,
    progress: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> BuildReport:
    """Build an index with the workers of a Ray cluster, or of a local Ray instance.

    Args:
        opener: Function that returns encoder, imagery and options of `build_index` on a worker. It is pickled, and
            called with the number of workers.
        path: Directory of the index, on storage that all machines share.
        name: Name of the imagery for the report.
        address: `host:port`, `auto` for the Ray of this machine, or `ray://host:port`; None takes the environment
            variable RAY_ADDRESS, and starts a local Ray instance if it is not set.
        workers: Number of processes that encode; None takes one for each GPU, or for each machine without GPUs.
        use_gpus: Give each worker a GPU if the cluster has GPUs.
        overwrite: Replace an existing index.
        progress: Show a bar of tiles.
        note: Function that is called with progress messages.

    Raises:
        GenGeoError: There is no response at the address, workers do not have the same files, a part was lost too often,
            or as `build_index`. Finished parts are kept, and the same call resumes from them.
    """
    path = real_path(path)
    check_output(path, overwrite=True)
    try:
        parts_root(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GenGeoError(f"{parts_root(path)} cannot be written: {error.strerror or error}") from error
    started = time.monotonic()
    try:
        with connect_ray(address or os.environ.get("RAY_ADDRESS"), workers or 1) as ray:
            pool = _Workers(ray, opener, path, workers, use_gpus, note)
            report = pool.first()
            if not overwrite and (present := finished_build(path, name, report.key)):
                shutil.rmtree(_folder(path, report), ignore_errors=True)
                return present
            check_output(path, overwrite, whole=True)
            encoded = pool.build(_folder(path, report), report, progress)
        built = _merge(path, name, report, overwrite)
    finally:
        with contextlib.suppress(OSError):  # keep finished parts
            parts_root(path).rmdir()
    seconds = time.monotonic() - started
    return replace(built, was_complete=False, seconds=seconds, tiles_per_second=encoded / max(seconds, 1e-9))


def _folder(path: Path, report: WorkerReport) -> Path:
    return parts_root(path) / f"{report.key[:16]}-{part_count(report.tiles)}"


def _merge(path: Path, name: str, report: WorkerReport, overwrite: bool) -> BuildReport:
    """Join the parts, then remove them."""
    folder = _folder(path, report)
    parts = [folder / part_name(number) for number in range(part_count(report.tiles))]
    if not any(read_manifest(part).tiles for part in parts):
        shutil.rmtree(folder)
        raise GenGeoError(f"none of the {report.tiles} tiles of {name} could be read or holds data")
    merge_indexes(parts, path, overwrite=overwrite)
    shutil.rmtree(folder, ignore_errors=True)
    done = finished_build(path, name, report.key)
    if done is None:
        raise GenGeoError(f"another process has replaced {path}")
    return done


def part_name(number: int) -> str:
    """Name of a part's directory."""
    return f"part-{number:04d}.gengeo"


@dataclass
class _Job:
    """Task of a worker: opening (part None), or building a part."""

    actor: Any
    part: int | None = None


@dataclass
class _Workers:
    """Workers of a cluster and their tasks. A lost worker is replaced, and its part is assigned to another worker."""

    ray: Any
    opener: Opener
    path: Path
    wanted: int | None
    use_gpus: bool
    note: Callable[[str], None]
    jobs: dict[Any, _Job] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    expected: WorkerReport | None = None
    failed_starts: int = 0

    def __post_init__(self) -> None:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise GenGeoError("the Ray cluster has no machine with CPUs")
        gpus = int(sum(node.get("GPU", 0) for node in nodes)) if self.use_gpus else 0
        self.workers = self.wanted or gpus or len(nodes)
        if gpus:
            share = min(node["CPU"] / node["GPU"] for node in nodes if node.get("GPU"))
        else:
            share = min(node["CPU"] for node in nodes) / math.ceil(self.workers / len(nodes))
        self.needs = {"num_cpus": max(1, int(share)), "num_gpus": 1 if gpus else 0}

    def first(self) -> WorkerReport:
        """Start the workers and wait for the first one."""
        for _ in range(self.workers):
            self._start()
        while self.expected is None:
            for _ in self._step():
                pass
        return self.expected

    def build(self, folder: Path, report: WorkerReport, progress: bool) -> int:
        """Build every missing part; returns the number of encoded tiles."""
        from tqdm.auto import tqdm

        count = part_count(report.tiles)
        sizes = [sum(map(len, Work(folder, report.key, report.tiles).units((n, count)))) for n in range(count)]
        done = {n for n in range(count) if _is_finished(folder / part_name(n), Shard(n, count, report.key))}
        waiting, tries, encoded = deque(n for n in range(count) if n not in done), [0] * count, 0
        if done:
            self.note(f"{len(done)} of {count} parts are already finished")
        with tqdm(total=report.tiles, unit="tile", disable=not progress) as bar:
            bar.update(sum(sizes[n] for n in done))
            while len(done) < count:
                for number in self._assign(waiting, folder, count):
                    tries[number] += 1
                for number, found in self._step():
                    if isinstance(found, int):
                        done.add(number)
                        encoded += found
                        bar.update(sizes[number])
                    elif tries[number] < MOST_TRIES:
                        self.note(f"part {number} of {count} was lost ({found}); it is assigned to another worker")
                        waiting.append(number)
                    else:
                        raise GenGeoError(
                            f"part {number} of {count} was lost {MOST_TRIES} times, last: {found}; finished parts "
                            "are kept: run the command again"
                        )
        return encoded

    def _assign(self, waiting: deque[int], folder: Path, count: int) -> list[int]:
        """Assign parts to idle workers, and stop idle workers if no part is left."""
        assigned = []
        while waiting and self.idle:
            number, actor = waiting.popleft(), self.idle.pop()
            self.jobs[actor.build.remote(str(folder / part_name(number)), number, count)] = _Job(actor, number)
            assigned.append(number)
        for actor in self.idle:
            self.ray.kill(actor)
        self.idle.clear()
        return assigned

    def _start(self) -> None:
        actor = self.ray.remote(PartWorker).options(scheduling_strategy="SPREAD", **self.needs).remote()
        self.jobs[actor.open.remote(self.opener, self.workers, str(Path.cwd()), str(self.path))] = _Job(actor)

    def _step(self) -> Iterator[tuple[int, int | str]]:
        """Wait for a worker; yields its part, and the number of encoded tiles or the reason for its loss."""
        if not self.jobs:
            self._start()
        ready, _ = self.ray.wait(list(self.jobs), timeout=30.0)
        if not ready and all(job.part is None for job in self.jobs.values()):
            self.note(
                f"waiting for Ray to start a worker with {self.needs['num_cpus']} CPUs and "
                f"{self.needs['num_gpus']} GPUs"
            )
        for reference in ready:
            job = self.jobs.pop(reference)
            try:
                value = self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                reason = self._reason(error)
                self.ray.kill(job.actor)
                self._start()
                if job.part is not None:
                    yield job.part, reason
                    continue
                self.failed_starts += 1
                if self.failed_starts >= MOST_TRIES * self.workers:
                    raise GenGeoError(f"no worker could be started on Ray, last: {reason}") from error
                continue
            self.idle.append(job.actor)
            if job.part is None:
                self._check(value)
            else:
                yield job.part, value

    def _reason(self, error: Exception) -> str:
        """Reason for the loss of a worker, in one line.

        Raises:
            GenGeoError: The worker raised it, and so would any other worker.
        """
        cause = getattr(error, "cause", None)
        if isinstance(cause, GenGeoError):
            raise cause from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(cause or error).__name__}: {cause or (lines[0] if lines else 'no reason given')}"

    def _check(self, report: WorkerReport) -> None:
        """Check that a worker has the same model and imagery as the others."""
        if self.expected is None:
            self.expected = report
            self.note(f"workers: {self.workers}, each computes with {report.computed_by or 'its own encoder'}")
        elif (report.key, report.tiles) != (self.expected.key, self.expected.tiles):
            raise GenGeoError(
                f"{report.host} and {self.expected.host} have different models or imagery ({report.tiles:,} and "
                f"{self.expected.tiles:,} tiles): paths must name the same files on all machines"
            )


def _is_finished(folder: Path, shard: Shard) -> bool:
    """Whether a part is complete and belongs to this build."""
    try:
        return has_manifest(folder) and read_manifest(folder).shard == shard
    except GenGeoError:  # the worker reports the error
        return False
