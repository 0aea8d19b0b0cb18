"""SIGKILL at random times of every command that writes: no acknowledged result is lost, and the final result is equal
to that of an uninterrupted run.

Training is tested in tests/training/test_kill.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.hub_server import TOKEN, HubServer
from tests.torture import inputs
from tests.torture.conftest import ROUNDS

ROOT = Path(__file__).resolve().parents[2]


def kill_job(job, folder, kills, counts, **environment):
    """Run kill_loop.py and assert that no result is lost or wrong and that no files are left over."""
    command = [sys.executable, "-m", "tests.torture.kill_loop", job, str(folder), str(kills * ROUNDS), "0"]
    settings = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    result = subprocess.run(
        command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=580 * ROUNDS, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    counts(
        f"SIGKILL: {job}", found["kills"], found["lost"], found["wrong"], runs=found["runs"], leftover=found["leftover"]
    )
    assert found["lost"] == found["wrong"] == found["leftover"] == 0, (found, result.stderr[-2000:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Directory with a model and two sets of map tiles."""
    path = tmp_path_factory.mktemp("kills")
    inputs.write_model(path / "model")
    for name, first in (("a", 0), ("b", 100)):
        inputs.write_map_tiles(path / name, 20, 30, first)
    return path


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_world_build_when_killed_keeps_finished_regions(tmp_path, counts):
    pytest.importorskip("embreex", reason="rendering the world needs embreex")
    kill_job("world", tmp_path, 8, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_index_when_killed_is_complete_or_absent(folder, counts):
    kill_job("index", folder, 12, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_index_add_when_killed_keeps_the_earlier_tiles(folder, counts):
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.imagery import open_imagery
    from gengeo_hf.index import GeoIndex

    encoder = Encoder.from_pretrained(folder / "model", device="cpu")
    GeoIndex.build(encoder, open_imagery(folder / "a"), folder / "start.gengeo")
    kill_job("add", folder, 12, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
@pytest.mark.parametrize("job", ["remove", "compact", "merge"])
def test_index_edit_when_killed_leaves_the_old_or_the_new_index(tmp_path, counts, job):
    from gengeo_hf.index import GeoIndex
    from tests.stubs import ListSource, StubEncoder

    index = GeoIndex.build(StubEncoder(), ListSource(600, "first"), tmp_path / "start.gengeo")
    for number in range(4):
        index.add(StubEncoder(), ListSource(40, f"added{number}", seed=number + 1, broken=[7]))
    index.remove([f"first-{number}" for number in range(100, 160)])
    GeoIndex.build(StubEncoder(), ListSource(300, "first", seed=9), tmp_path / "other.gengeo")
    kill_job(job, tmp_path, 25, counts)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
def test_push_when_killed_leaves_the_old_or_the_new_index_on_the_hub(tmp_path, counts):
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
        kill_job("push", tmp_path, 15, counts, **settings)
    finally:
        hub.close()
