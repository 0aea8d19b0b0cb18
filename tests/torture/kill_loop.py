"""Kill a job repeatedly with SIGKILL at random times: `python -m tests.torture.kill_loop JOB DIRECTORY KILLS SEED`.

The process imports all modules once and runs the job in forks of itself. After each SIGKILL all acknowledged results
must still be complete. Finally the job runs to its end, and its result must equal that of an uninterrupted run. Prints
one line of JSON with the numbers of kills, runs, lost and wrong results and leftover files.

A job class has these methods:

    run(directory)      Run the command in a directory; called in a fork.
    state(directory)    Result of the command, compared with that of an uninterrupted run.
    has_lost(directory) Whether acknowledged results are missing or incomplete.
    reset(directory)    Create the directory with the files from which the command starts.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from gengeo_hf.common.errors import GenGeoError


class World:
    """Build of two regions of the synthetic world; a finished region is acknowledged."""

    def __init__(self, folder):
        self.folder, self.seen = folder, {}

    def run(self, directory):
        from gengeo_hf.world import build_world

        build_world("urban", "test", 300, ground_size=(8, 32), aerial_size=(8, 8), cache_dir=directory, workers=1)

    def state(self, directory):
        files = [path for path in directory.rglob("*") if path.is_file() and ".region" not in str(path)]
        return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def has_lost(self, directory):
        now = self.state(directory)
        has_lost = any(now.get(name) != value for name, value in self.seen.items())
        self.seen = now
        return has_lost

    def reset(self, directory):
        self.seen = {}
        directory.mkdir()


def index_content(index):
    """Descriptor, thumbnail and table row of each tile of an index, by tile ID."""
    rows, names = index.tiles.to_pylist(), index.tiles["tile_id"].to_pylist()
    thumbnails = index.thumbnails(names)
    return {
        name: (index.descriptors[row].tobytes(), thumbnails.get(name), str(rows[row])) for row, name in enumerate(names)
    }


def run_gengeo(*arguments):
    from gengeo_hf.cli import main

    sys.argv = ["gengeo", *map(str, arguments)]
    main()


class Index:
    """`gengeo index` of map tiles with a small model; an existing index is acknowledged."""

    tiles, initial_index = "a", None

    def __init__(self, folder):
        self.folder = folder
        self.before = index_content(self.open(folder / "start.gengeo")) if self.initial_index else None

    def open(self, path):
        from gengeo_hf.index import GeoIndex

        return GeoIndex.load(path)

    def run(self, directory):
        options = ["--out", directory / "out.gengeo", "--model", self.folder / "model"]
        options += ["--add"] if self.initial_index else []
        run_gengeo("index", self.folder / self.tiles, *options)

    def state(self, directory):
        return index_content(self.open(directory / "out.gengeo"))

    def has_lost(self, directory):
        """Whether an index is incomplete, or lacks a tile of the initial index."""
        if self.before is None:
            if (directory / "out.gengeo").exists():
                self.open(directory / "out.gengeo").verify()
            return False
        try:
            now = self.state(directory)
        except GenGeoError as error:
            print(error, file=sys.stderr)
            return True
        return not self.before.items() <= now.items()

    def reset(self, directory):
        directory.mkdir()
        if self.initial_index:
            shutil.copytree(self.folder / self.initial_index, directory / "out.gengeo")


class Add(Index):
    """`gengeo index --add`: the tiles of the initial index are acknowledged."""

    tiles, initial_index = "b", "start.gengeo"


class Edit(Index):
    """Base class of edits of an index of five segments with tombstones: the index is always the old or the new one."""

    initial_index = "start.gengeo"

    def run(self, directory):
        raise NotImplementedError

    def has_lost(self, directory):
        """Whether the index cannot be read, or its content is neither the old nor the new one."""
        try:
            index = self.open(directory / "out.gengeo")
            index.verify()
            now = index_content(index)
        except GenGeoError as error:
            print(error, file=sys.stderr)
            return True
        return now not in (self.before, self.expected())

    def expected(self):
        """Content of the index after the edit."""
        return self.before


class Remove(Edit):
    """`gengeo remove`."""

    removed_tiles = ("first-3", "added2-1", "added3-0", "added3-1")

    def run(self, directory):
        options = [argument for name in self.removed_tiles for argument in ("--tile-id", name)]
        run_gengeo("remove", directory / "out.gengeo", *options)

    def expected(self):
        return {name: value for name, value in self.before.items() if name not in self.removed_tiles}


class Compact(Edit):
    """`gengeo compact`."""

    def run(self, directory):
        run_gengeo("compact", directory / "out.gengeo")


class Merge(Edit):
    """`gengeo merge` into a new index, which is complete or does not exist; the merged indexes are not changed."""

    def run(self, directory):
        options = ["--out", directory / "merged.gengeo", "--overwrite"]
        run_gengeo("merge", directory / "out.gengeo", self.folder / "other.gengeo", *options)

    def has_lost(self, directory):
        if super().has_lost(directory):
            return True
        return (directory / "merged.gengeo").exists() and self.state(directory) is None

    def state(self, directory):
        index = self.open(directory / "merged.gengeo")
        index.verify()
        return index_content(index)


class Push:
    """`gengeo push` of a new index over an old one: the repository on the Hub is always one of the two, complete."""

    def __init__(self, folder):
        self.folder = folder
        self.old, self.new = (self.files(folder / name) for name in ("old.gengeo", "new.gengeo"))

    def files(self, path):
        from gengeo_hf.index.manifest import read_manifest

        return {name: (path / name).read_bytes() for name in ("manifest.json", *read_manifest(path).checked_files())}

    def run(self, directory):
        run_gengeo("push", self.folder / "new.gengeo", f"someone/{directory.name}")

    def pull_files(self, directory):
        from gengeo_hf.hub.repository import pull

        out = directory / "pulled"
        shutil.rmtree(out, ignore_errors=True)
        pull(f"someone/{directory.name}", out)
        return self.files(out)

    def state(self, directory):
        return self.pull_files(directory)

    def has_lost(self, directory):
        return self.pull_files(directory) not in (self.old, self.new)

    def reset(self, directory):
        from gengeo_hf.hub.repository import push

        directory.mkdir()
        push(self.folder / "old.gengeo", f"someone/{directory.name}")


JOBS = {
    "world": World,
    "index": Index,
    "add": Add,
    "remove": Remove,
    "compact": Compact,
    "merge": Merge,
    "push": Push,
}


def start(job, directory):
    """Run a job in a fork; returns its process ID."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = 1
        try:
            job.run(directory)
            code = 0
        except SystemExit as error:
            code = error.code or 0
        finally:
            os._exit(code)
    return pid


def wait_for_exit(pid, seconds):
    """Whether the job ends without a kill within this time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the job ended with status {status}"
            return True
        time.sleep(0.0005)
    return False


def hidden_files(directory):
    """Names of hidden files and directories, without locks and caches."""
    return sorted(
        path.name for path in directory.rglob(".*") if not path.name.endswith(".lock") and path.name != ".cache"
    )


def main():
    name, folder, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    import torch

    import gengeo_hf.encoding.encoder  # imported once for all forks
    import gengeo_hf.hub.repository  # noqa: F401  (imported once for all forks)

    torch.set_num_threads(1)
    job, rng = JOBS[name](folder), random.Random(seed)
    uninterrupted = folder / f"whole-{name}"
    job.reset(uninterrupted)
    began = time.monotonic()
    assert wait_for_exit(start(job, uninterrupted), 600), "the uninterrupted run took more than 600 s"
    seconds = time.monotonic() - began
    expected, counts = job.state(uninterrupted), {"kills": 0, "lost": 0, "wrong": 0, "leftover": 0, "runs": 0}
    while counts["kills"] < kills:
        directory = folder / f"{name}-{counts['runs']}"
        job.reset(directory)
        is_first_start = True
        while True:
            is_last_start = counts["kills"] >= kills
            began = time.monotonic()
            pid = start(job, directory)
            if wait_for_exit(pid, 600 if is_last_start else rng.uniform(0, 1) * seconds):
                if is_first_start:  # the job ended before the kill: expect a shorter time from now on
                    seconds = 0.95 * (time.monotonic() - began)
                break
            is_first_start = False
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            counts["kills"] += 1
            counts["lost"] += bool(job.has_lost(directory))
        counts["runs"] += 1
        counts["wrong"] += job.state(directory) != expected
        if leftovers := [path for path in hidden_files(directory) if path not in hidden_files(uninterrupted)]:
            print("leftover files:", leftovers, file=sys.stderr)
            counts["leftover"] += len(leftovers)
    print(json.dumps(counts | {"seconds_uninterrupted": round(seconds, 2)}))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
