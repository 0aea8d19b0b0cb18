"""Builds on Ray equal those of one process, also if processes are killed."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex, cluster, work
from gengeo_hf.index.cluster import build_on_ray, part_count
from gengeo_hf.index.ray_connection import connect_ray
from tests.index.cluster_stub import Opener
from tests.index.test_merge import rows
from tests.stubs import ListSource, StubEncoder

ROOT = Path(__file__).resolve().parents[2]
TILES = 120

DRIVER = """
import sys
from gengeo_hf.index import cluster, work
from tests.index.cluster_stub import Opener
cluster.PART_TILES, work.SHARD = 12, 6
opener = Opener(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
print(cluster.build_on_ray(opener, sys.argv[1], "noise", workers=2, note=lambda text: print(text, flush=True)))
"""


@pytest.fixture
def small(monkeypatch):
    """Parts of twelve tiles, units of six."""
    if importlib.util.find_spec("ray") is None:  # not imported here, because Ray must read its environment first
        pytest.skip("needs ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    monkeypatch.setattr(cluster, "PART_TILES", 12)
    monkeypatch.setattr(work, "SHARD", 6)


@pytest.fixture
def one_ray(small, monkeypatch):
    """One Ray instance for several builds, because starting it takes longer than they do."""
    with connect_ray(None, 2) as ray:
        monkeypatch.setattr(cluster, "connect_ray", lambda address, workers: contextlib.nullcontext(ray))
        yield


def encoded(log):
    """(process, images) of each batch."""
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(condition, seconds=240):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.05)


def whole(tmp_path):
    source = ListSource(TILES, broken=[3], empty=[20])
    return GeoIndex.build(StubEncoder(), source, tmp_path / "whole.gengeo")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_build_on_ray_with_a_killed_worker_equals_one_process(one_ray, tmp_path):
    out, log, notes = tmp_path / "out.gengeo", tmp_path / "log", []

    def kill_one():
        wait_for(lambda: len({process for process, _ in encoded(log)}) == 2)
        os.kill(encoded(log)[-1][0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    report = build_on_ray(Opener(str(log), TILES, 0.02), out, "noise", workers=2, note=notes.append)
    thread.join()
    alone = whole(tmp_path)
    index = GeoIndex.load(out)
    assert rows(index) == rows(alone)
    assert index.manifest.left_out.reasons == alone.manifest.left_out.reasons
    assert "all match the manifest" in index.verify()
    assert any("was lost" in note and "assigned to another worker" in note for note in notes), notes
    assert report.tiles == TILES - 2 and not report.was_complete and "left out: unreadable" in str(report)
    # What the killed worker had not finished is encoded twice: at most one unit of six.
    assert TILES - 2 <= sum(images for _, images in encoded(log)) <= TILES - 2 + 6
    assert not list(tmp_path.glob("*.parts*")) + list(tmp_path.glob("*.partial"))
    before = encoded(log)
    assert build_on_ray(Opener(str(log), TILES), out, "noise", workers=1).was_complete
    assert encoded(log) == before
    with pytest.raises(GenGeoError, match="--overwrite"):
        build_on_ray(Opener(str(log), 60, name="else"), out, "else", workers=1)
    with pytest.raises(GenGeoError, match="the model is broken"):
        build_on_ray(Opener(str(log), 60, breaks=True), tmp_path / "none.gengeo", "noise", workers=1)
    assert not list(tmp_path.glob("*.parts*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_build_on_ray_after_a_killed_driver_resumes(small, tmp_path):
    out, log = tmp_path / "out.gengeo", tmp_path / "log"
    command = [sys.executable, "-c", DRIVER, str(out), str(log), str(TILES), "0.05"]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    finished = tmp_path / "out.gengeo.parts"
    wait_for(lambda: len(list(finished.glob("*/part-*.gengeo/manifest.json"))) >= 3)
    driver.kill()
    driver.wait()
    workers = {process for process, _ in encoded(log)}
    wait_for(lambda: not any(is_running(process) for process in workers))
    assert not out.exists()
    parts = {path.parent.name for path in finished.glob("*/part-*.gengeo/manifest.json")}
    units = len(list(finished.glob("*/*.partial/*/shard-*.parquet")))
    before = sum(images for _, images in encoded(log))
    command[-1] = "0"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{len(parts)} of {part_count(TILES)} parts are already finished" in done.stdout
    alone = whole(tmp_path)
    assert rows(GeoIndex.load(out)) == rows(alone)
    now = sum(images for _, images in encoded(log)) - before
    assert now <= TILES - 12 * len(parts) - 6 * units
    assert not list(tmp_path.glob("*.parts*"))


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    return True


def test_part_count_does_not_depend_on_the_number_of_workers():
    assert [part_count(tiles) for tiles in (1, 8192, 8193, 10_000_000)] == [1, 1, 2, 64]


def test_connect_ray_to_an_address_without_response_raises_one_line(tmp_path):
    with socket.socket() as bound:  # a port that nobody listens on
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        for given in (address, f"ray://{address}"):
            with (
                pytest.raises(GenGeoError, match=f"no response at the Ray address {given}"),
                connect_ray(given),
            ):
                pass
    with pytest.raises(GenGeoError, match="expected host:port"), connect_ray("somewhere"):
        pass
    with pytest.raises(GenGeoError, match="no response"):
        build_on_ray(Opener("", 4), tmp_path / "x.gengeo", "noise", address=address)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_connect_ray_to_another_kind_of_server_raises_one_line(monkeypatch):
    if importlib.util.find_spec("ray") is None:  # not imported here, because Ray must read its environment first
        pytest.skip("needs ray")
    monkeypatch.setattr("gengeo_hf.index.ray_connection.CONNECT_S", 5.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(GenGeoError, match=r"no response of Ray at .* within 5 s"),
        connect_ray(f"127.0.0.1:{server.getsockname()[1]}"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_command_with_ray_equals_command_without(small, tmp_path):
    from tests.torture.inputs import write_map_tiles, write_model

    write_model(tmp_path / "model")
    write_map_tiles(tmp_path / "tiles", 6, 6)
    base = [sys.executable, "-m", "gengeo_hf.cli", "index", "tiles", "--model", "model", "--centering", "gallery"]
    for out, more in (("ray.gengeo", ["--engine", "ray", "--workers", "2"]), ("one.gengeo", [])):
        done = subprocess.run([*base, "--out", out, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    found, expected = (GeoIndex.load(tmp_path / name) for name in ("ray.gengeo", "one.gengeo"))
    assert rows(found) == rows(expected)
    assert found.manifest.model == expected.manifest.model and found.manifest.means == expected.manifest.means
    refused = subprocess.run(
        [*base, "--out", "x.gengeo", "--engine", "ray", "--shard", "0/2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2 and "Ray divides the work itself" in refused.stderr
