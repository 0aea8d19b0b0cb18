"""One job, killed again and again at random moments: `python -m tests.torture.kill_loop JOB FOLDER KILLS SEED`.

A process of its own that imports everything once; each run of the job is a fork of it. After each SIGKILL what was
acknowledged before must still be there; at last the job runs to its end, and the result must be that of a run which
nobody disturbed. Prints one line of JSON with counts.
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
    """Two regions of the synthetic world; a region that is finished is acknowledged."""

    def __init__(self, folder):
        self.folder, self.seen = folder, {}

    def act(self, place):
        from gengeo_hf.world import build_world

        build_world("urban", "test", 300, ground_size=(8, 32), aerial_size=(8, 8), cache_dir=place, workers=1)

    def state(self, place):
        files = [path for path in place.rglob("*") if path.is_file() and ".region" not in str(path)]
        return {path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def lost(self, place):
        now = self.state(place)
        lost = any(now.get(name) != value for name, value in self.seen.items())
        self.seen = now
        return lost

    def reset(self, place):
        self.seen = {}
        place.mkdir()


def content(index):
    """What an index says of each tile, whatever the order of the rows."""
    rows, names = index.tiles.to_pylist(), index.tiles["tile_id"].to_pylist()
    pictures = index.thumbnails(names)
    return {
        name: (index.descriptors[row].tobytes(), pictures.get(name), str(rows[row])) for row, name in enumerate(names)
    }


def gengeo(*words):
    from gengeo_hf.cli import main

    sys.argv = ["gengeo", *map(str, words)]
    main()


class Index:
    """`gengeo index` of map tiles by a small model; an index that is there is acknowledged."""

    tiles, start = "a", None

    def __init__(self, folder):
        self.folder = folder
        self.before = content(self.open(folder / "start.gengeo")) if self.start else None

    def open(self, path):
        from gengeo_hf.index import GeoIndex

        return GeoIndex.load(path)

    def act(self, place):
        more = ["--add"] if self.start else []
        gengeo(
            "index", self.folder / self.tiles, "--out", place / "out.gengeo", "--model", self.folder / "model", *more
        )

    def state(self, place):
        return content(self.open(place / "out.gengeo"))

    def lost(self, place):
        """What was there stays, whole, until the new one is whole."""
        if self.before is None:
            if (place / "out.gengeo").exists():
                self.open(place / "out.gengeo").verify()
            return False
        try:
            now = self.state(place)
        except GenGeoError as error:
            print(error, file=sys.stderr)
            return True
        return not self.before.items() <= now.items()

    def reset(self, place):
        place.mkdir()
        if self.start:
            shutil.copytree(self.folder / "start.gengeo", place / "out.gengeo")


class Add(Index):
    """`gengeo index --add`: the tiles that were there are acknowledged."""

    tiles, start = "b", "start.gengeo"


class Edit(Index):
    """Edits of an index of five segments with tombstones: always whole, as it was or as it shall be."""

    start = "start.gengeo"

    def act(self, place):
        raise NotImplementedError

    def lost(self, place):
        """Whether the index cannot be read, or holds neither what it held nor what it shall hold."""
        try:
            index = self.open(place / "out.gengeo")
            index.verify()
            now = content(index)
        except GenGeoError as error:
            print(error, file=sys.stderr)
            return True
        return now not in (self.before, self.wanted())

    def wanted(self):
        return self.before


class Remove(Edit):
    """`gengeo remove`."""

    gone = ("first-3", "added2-1", "added3-0", "added3-1")

    def act(self, place):
        gengeo("remove", place / "out.gengeo", *[word for name in self.gone for word in ("--tile-id", name)])

    def wanted(self):
        return {name: value for name, value in self.before.items() if name not in self.gone}


class Compact(Edit):
    """`gengeo compact`."""

    def act(self, place):
        gengeo("compact", place / "out.gengeo")


class Merge(Edit):
    """`gengeo merge` into a new index: it is whole or not there, and the parts stay."""

    def act(self, place):
        gengeo(
            "merge", place / "out.gengeo", self.folder / "other.gengeo", "--out", place / "merged.gengeo", "--overwrite"
        )

    def lost(self, place):
        if super().lost(place):
            return True
        return (place / "merged.gengeo").exists() and self.state(place) is None

    def state(self, place):
        index = self.open(place / "merged.gengeo")
        index.verify()
        return content(index)


class Push:
    """`gengeo push` of a new index over an old one: what the Hub has is one of the two, whole."""

    def __init__(self, folder):
        self.folder = folder
        self.old, self.new = (self.files(folder / name) for name in ("old.gengeo", "new.gengeo"))

    def files(self, path):
        from gengeo_hf.index.manifest import read_manifest

        return {name: (path / name).read_bytes() for name in ("manifest.json", *read_manifest(path).checked_files())}

    def act(self, place):
        gengeo("push", self.folder / "new.gengeo", f"someone/{place.name}")

    def pulled(self, place):
        from gengeo_hf.hub.repository import pull

        out = place / "pulled"
        shutil.rmtree(out, ignore_errors=True)
        pull(f"someone/{place.name}", out)
        return self.files(out)

    def state(self, place):
        return self.pulled(place)

    def lost(self, place):
        return self.pulled(place) not in (self.old, self.new)

    def reset(self, place):
        from gengeo_hf.hub.repository import push

        place.mkdir()
        push(self.folder / "old.gengeo", f"someone/{place.name}")


JOBS = {
    "world": World,
    "index": Index,
    "add": Add,
    "remove": Remove,
    "compact": Compact,
    "merge": Merge,
    "push": Push,
}


def start(job, place):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = 1
        try:
            job.act(place)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            os._exit(code)
    return pid


def ended(pid, seconds):
    """Whether the job ended by itself within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the job ended with status {status}"
            return True
        time.sleep(0.0005)
    return False


def left(place):
    """Hidden files and folders: what an undisturbed run leaves, and no more, may stay."""
    return sorted(path.name for path in place.rglob(".*") if not path.name.endswith(".lock") and path.name != ".cache")


def main():
    name, folder, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    import torch

    import gengeo_hf.encoding.encoder  # shared by all forks
    import gengeo_hf.hub.repository  # noqa: F401  (shared by all forks)

    torch.set_num_threads(1)
    job, draw = JOBS[name](folder), random.Random(seed)
    whole = folder / f"whole-{name}"
    job.reset(whole)
    began = time.monotonic()
    assert ended(start(job, whole), 600), "the undisturbed run took too long"
    seconds = time.monotonic() - began
    expected, counts = job.state(whole), {"kills": 0, "lost": 0, "wrong": 0, "left": 0, "runs": 0}
    while counts["kills"] < kills:
        place = folder / f"{name}-{counts['runs']}"
        job.reset(place)
        fresh = True
        while True:
            enough = counts["kills"] >= kills
            began = time.monotonic()
            pid = start(job, place)
            if ended(pid, 600 if enough else draw.uniform(0, 1) * seconds):
                if fresh:  # the machine has become quicker: aim anew
                    seconds = 0.95 * (time.monotonic() - began)
                break
            fresh = False
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            counts["kills"] += 1
            counts["lost"] += bool(job.lost(place))
        counts["runs"] += 1
        counts["wrong"] += job.state(place) != expected
        if extra := [path for path in left(place) if path not in left(whole)]:
            print("left behind:", extra, file=sys.stderr)
            counts["left"] += len(extra)
    print(json.dumps(counts | {"seconds_undisturbed": round(seconds, 2)}))


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
