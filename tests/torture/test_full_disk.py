"""A disk that is really full (a small tmpfs, which only root can mount): one line, and the earlier state is whole."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]


class Disk:
    """A file system of a few hundred kB that can be given more room."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def mount(self, *words):
        return subprocess.run(["mount", *words, str(self.path)], capture_output=True, check=False).returncode == 0

    def size(self, size):
        assert self.mount("-o", f"remount,size={size}")

    def read_only(self, flag):
        assert self.mount("-o", f"remount,{'ro' if flag else 'rw'}")


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    if os.geteuid() != 0 or not made.mount("-t", "tmpfs", "-o", "size=400k", "tmpfs"):
        pytest.skip("only root can mount a small file system here")
    yield made
    subprocess.run(["umount", "-l", str(made.path)], check=True)


def said(action):
    """What is said of a full disk, which must be one line of ours."""
    with pytest.raises(GenGeoError) as caught:
        action()
    line = str(caught.value)
    assert "No space left" in line or "space" in line.lower(), line
    return line


def test_building_an_index(disk, counts):
    out = disk.path / "idx"
    said(lambda: build_index(StubEncoder(), ListSource(2000), out))
    assert not out.exists()
    disk.size("32m")
    encoder = StubEncoder()
    build_index(encoder, ListSource(2000), out)
    assert len(GeoIndex.load(out)) == 2000 and "all match" in GeoIndex.load(out).verify()
    assert [path.name for path in disk.path.iterdir()] == ["idx"]
    counts("full disk: index", 1)


def test_adding_to_an_index(disk, counts):
    disk.size("32m")
    index = GeoIndex.build(StubEncoder(), ListSource(300), disk.path / "idx")

    def content():
        return {path.name: path.read_bytes() for path in index.path.rglob("*") if path.is_file()}

    before = content()
    used = sum(map(len, before.values())) // 1024
    more, trials = ListSource(300, name="more", lat=61.0), 0
    for room in range(60, 2 * used, 60):  # full in the work, in the copy, in the manifest
        disk.size(f"{used + room}k")
        try:
            index.add(StubEncoder(), more)
            break
        except GenGeoError as error:
            assert len(str(error).splitlines()) == 1
            trials += 1
            assert content() == before
    assert trials > 2
    disk.size("32m")
    if len(GeoIndex.load(index.path)) == 300:
        index.add(StubEncoder(), more)
    assert len(GeoIndex.load(index.path)) == 600 and "all match" in GeoIndex.load(index.path).verify()
    left = [path.name for path in disk.path.rglob("*") if path.is_dir() and path.name.startswith(".")]
    assert not left
    counts("full disk: add", trials)


def test_writing_a_result(disk, counts):
    from tests.evaluation.test_tables import result

    disk.size("1m")
    found, path = result(disk.path)
    before = {file.name: file.read_bytes() for file in disk.path.iterdir()}
    (disk.path / "ballast").write_bytes(b"x" * 100)
    free = os.statvfs(disk.path).f_bavail * 4
    (disk.path / "ballast").write_bytes(b"x" * ((free - 4) * 1024))
    said(lambda: found.save(path))
    (disk.path / "ballast").unlink()
    assert {file.name: file.read_bytes() for file in disk.path.iterdir()} == before
    counts("full disk: result", 1)


def test_writing_a_checkpoint(disk, counts, capsys, monkeypatch):
    import torch
    from accelerate import Accelerator

    monkeypatch.syspath_prepend(ROOT / "training")
    from gengeo_hf.training import checkpoint
    from gengeo_hf.training.settings import Settings, as_dict

    settings = as_dict(Settings(output="unused"))
    accelerator, model = Accelerator(cpu=True), torch.nn.Linear(200, 200)
    optimizer = torch.optim.AdamW(model.parameters())
    tables, ids = {"geographic": np.zeros((1, 1), np.int32)}, (["q"], ["t"])
    for epoch in range(1, 7):
        progress = checkpoint.Progress(epoch=epoch)
        checkpoint.save(disk.path, accelerator, model, optimizer, progress, settings, tables, ids)
    told = capsys.readouterr().out
    assert "could not be written" in told and "a restart would resume from" in told
    progress, _ = checkpoint.resume(disk.path, accelerator, model, optimizer, settings, ids)
    assert progress.epoch == max(int(path.name[-5:]) for path in disk.path.glob("checkpoint-*"))
    assert not [path for path in disk.path.iterdir() if path.name.startswith(".")]
    counts("full disk: checkpoint", told.count("could not be written"))


def test_building_the_world(disk, counts):
    pytest.importorskip("embreex", reason="the world is drawn with embreex")
    from gengeo_hf.world import build_world

    def build():
        return build_world(
            "urban", "test", 60, ground_size=(42, 168), aerial_size=(70, 70), cache_dir=disk.path, workers=1
        )

    said(build)
    disk.size("32m")
    assert len(build().queries) == 60
    assert not list(disk.path.rglob(".*"))
    counts("full disk: world", 1)


def test_commands_that_write_folders_say_it_in_one_line(disk, tmp_path, counts):
    """`gengeo export` of a model that does not fit."""
    from tests.torture import making

    making.model(tmp_path / "model")
    disk.size("64k")
    words = ["gengeo_hf.cli", "export", tmp_path / "model", disk.path / "out"]
    done = gengeo(words)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "No space left" in done.stderr.splitlines()[-1] and not list(disk.path.iterdir())
    counts("full disk: export", 1)


def gengeo(words):
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, env=settings, cwd=ROOT, check=False)


def test_a_read_only_index_answers_and_says_no_to_changes(disk, counts):
    disk.size("32m")
    index = GeoIndex.build(StubEncoder(), ListSource(20), disk.path / "idx")
    disk.read_only(True)
    try:
        opened = GeoIndex.load(index.path)
        assert opened.search(np.asarray(opened.descriptors[3:4], np.float32), 1)[0][0].tile_id == "noise-3"
        actions = [
            lambda: opened.remove(tile_ids=["noise-1"]),
            lambda: opened.add(StubEncoder(), ListSource(5, name="more")),
            lambda: build_index(StubEncoder(), ListSource(5), disk.path / "new"),
            lambda: build_index(StubEncoder(), ListSource(5), disk.path / "idx", overwrite=True),
        ]
        for action in actions:
            with pytest.raises(GenGeoError, match="Read-only"):
                action()
    finally:
        disk.read_only(False)
    assert len(GeoIndex.load(index.path)) == 20
    counts("read-only folder", len(actions))
