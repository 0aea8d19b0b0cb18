"""SIGKILL at random moments of every job that writes: nothing acknowledged is lost, and the job ends as undisturbed.

Training has its own twenty kills in tests/training/test_kill.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.hub_server import TOKEN, HubServer
from tests.torture import making
from tests.torture.conftest import ROUNDS

ROOT = Path(__file__).resolve().parents[2]


def kill(job, folder, kills, counts, **environment):
    words = [sys.executable, "-m", "tests.torture.kill_loop", job, str(folder), str(kills * ROUNDS), "0"]
    settings = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        words, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=580 * ROUNDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    counts(
        f"SIGKILL: {job}", found["kills"], found["lost"], found["wrong"], runs=found["runs"], left_behind=found["left"]
    )
    assert found["lost"] == found["wrong"] == found["left"] == 0, (found, done.stderr[-2000:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("kills")
    making.model(made / "model")
    for name, first in (("a", 0), ("b", 100)):
        making.map_tiles(made / name, 20, 30, first)
    return made


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_building_the_world(tmp_path, counts):
    pytest.importorskip("embreex", reason="the world is drawn with embreex")
    kill("world", tmp_path, 8, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_indexing(folder, counts):
    kill("index", folder, 12, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_adding_to_an_index(folder, counts):
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.imagery import open_imagery
    from gengeo_hf.index import GeoIndex

    encoder = Encoder.from_pretrained(folder / "model", device="cpu")
    GeoIndex.build(encoder, open_imagery(folder / "a"), folder / "start.gengeo")
    kill("add", folder, 12, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
@pytest.mark.parametrize("job", ["remove", "compact", "merge"])
def test_editing_an_index_of_segments(tmp_path, counts, job):
    from gengeo_hf.index import GeoIndex
    from tests.stubs import ListSource, StubEncoder

    index = GeoIndex.build(StubEncoder(), ListSource(600, "first"), tmp_path / "start.gengeo")
    for number in range(4):
        index.add(StubEncoder(), ListSource(40, f"added{number}", seed=number + 1, broken=[7]))
    index.remove([f"first-{number}" for number in range(100, 160)])
    GeoIndex.build(StubEncoder(), ListSource(300, "first", seed=9), tmp_path / "other.gengeo")
    kill(job, tmp_path, 25, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_pushing(tmp_path, counts):
    from gengeo_hf.index import GeoIndex
    from tests.stubs import ListSource, StubEncoder

    for name, count in (("old", 300), ("new", 900)):
        GeoIndex.build(StubEncoder(), ListSource(count, seed=count), tmp_path / f"{name}.gengeo")
    hub = HubServer()
    try:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf"),
        }
        kill("push", tmp_path, 15, counts, **settings)
    finally:
        hub.close()
