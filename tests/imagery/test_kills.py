"""A build by address that is killed ten times fetches nothing twice and equals an uninterrupted build."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.index import GeoIndex

ROOT = Path(__file__).resolve().parents[2]


def start(server, tmp_path, name):
    words = [server.template("slow"), str(tmp_path / name), str(tmp_path / f"{name}-cache")]
    command = [sys.executable, "-m", "tests.imagery.build_once", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)  # twelve starts of an interpreter, on a busy machine
def test_build_killed_ten_times_equals_an_unbroken_one(server, tmp_path):
    whole = start(server, tmp_path, "whole")
    assert whole.communicate(timeout=400)[0].split() == ["begin", "done"] and whole.returncode == 0
    wanted = len(server.paths)
    server.ask("/reset")
    for number in range(10):
        process = start(server, tmp_path, "killed")
        process.stdout.readline()
        time.sleep(0.15 + 0.05 * number)
        process.kill()
        process.wait()
    assert not (tmp_path / "killed").exists() or GeoIndex.load(tmp_path / "killed")
    last = start(server, tmp_path, "killed")
    assert last.wait(400) == 0
    # Requests in flight when the process was killed may be repeated; at most two are in flight.
    paths = server.paths
    assert len(set(paths)) == wanted and len(paths) <= wanted + 10 * 2
    one, other = GeoIndex.load(tmp_path / "whole"), GeoIndex.load(tmp_path / "killed")
    assert one.tiles.equals(other.tiles)
    query = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    found = [[[(hit.tile_id, hit.score) for hit in hits] for hits in index.search(query, 5)] for index in (one, other)]
    assert found[0] == found[1]
