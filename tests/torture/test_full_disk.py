"""On a full disk commands fail with an error of one line and the earlier files stay complete.

The disk is a small tmpfs file system, which only root can mount.
"""

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


class SmallFileSystem:
    """A tmpfs file system whose size can be changed."""

    def __init__(self, path):
        self.path = path
        path.mkdir()

    def mount(self, *options):
        """Run `mount` with these options; returns whether it succeeded."""
        return subprocess.run(["mount", *options, str(self.path)], capture_output=True, check=False).returncode == 0

    def resize(self, size):
        assert self.mount("-o", f"remount,size={size}")

    def set_read_only(self, flag):
        assert self.mount("-o", f"remount,{'ro' if flag else 'rw'}")


@pytest.fixture
def disk(tmp_path):
    file_system = SmallFileSystem(tmp_path / "disk")
    if os.geteuid() != 0 or not file_system.mount("-t", "tmpfs", "-o", "size=400k", "tmpfs"):
        pytest.skip("only root can mount a small file system here")
    yield file_system
    subprocess.run(["umount", "-l", str(file_system.path)], check=True)


def assert_disk_full(action):
    """Assert that a function raises a GenGeoError about the full disk."""
    with pytest.raises(GenGeoError) as caught:
        action()
    message = str(caught.value)
    assert "No space left" in message or "space" in message.lower(), message


def test_index_build_on_a_full_disk_raises_an_error_and_later_completes(disk, counts):
    out = disk.path / "idx"
    assert_disk_full(lambda: build_index(StubEncoder(), ListSource(2000), out))
    assert not out.exists()
    disk.resize("32m")
    encoder = StubEncoder()
    build_index(encoder, ListSource(2000), out)
    assert len(GeoIndex.load(out)) == 2000 and "all match" in GeoIndex.load(out).verify()
    assert [path.name for path in disk.path.iterdir()] == ["idx"]
    counts("full disk: index", 1)


def test_index_add_on_a_full_disk_keeps_the_index(disk, counts):
    disk.resize("32m")
    index = GeoIndex.build(StubEncoder(), ListSource(300), disk.path / "idx")

    def content():
        return {path.name: path.read_bytes() for path in index.path.rglob("*") if path.is_file()}

    before = content()
    used = sum(map(len, before.values())) // 1024
    more, trials = ListSource(300, name="more", lat=61.0), 0
    for free in range(60, 2 * used, 60):  # the disk is full at the shards, at the copy or at the manifest
        disk.resize(f"{used + free}k")
        try:
            index.add(StubEncoder(), more)
            break
        except GenGeoError as error:
            assert len(str(error).splitlines()) == 1
            trials += 1
            assert content() == before
    assert trials > 2
    disk.resize("32m")
    if len(GeoIndex.load(index.path)) == 300:
        index.add(StubEncoder(), more)
    assert len(GeoIndex.load(index.path)) == 600 and "all match" in GeoIndex.load(index.path).verify()
    leftovers = [path.name for path in disk.path.rglob("*") if path.is_dir() and path.name.startswith(".")]
    assert not leftovers
    counts("full disk: add", trials)


def test_result_save_on_a_full_disk_keeps_the_earlier_files(disk, counts):
    from tests.evaluation.test_tables import result

    disk.resize("1m")
    evaluation, path = result(disk.path)
    before = {file.name: file.read_bytes() for file in disk.path.iterdir()}
    (disk.path / "ballast").write_bytes(b"x" * 100)
    free = os.statvfs(disk.path).f_bavail * 4
    (disk.path / "ballast").write_bytes(b"x" * ((free - 4) * 1024))
    assert_disk_full(lambda: evaluation.save(path))
    (disk.path / "ballast").unlink()
    assert {file.name: file.read_bytes() for file in disk.path.iterdir()} == before
    counts("full disk: result", 1)


def test_checkpoint_save_on_a_full_disk_keeps_the_earlier_checkpoint(disk, counts, capsys, monkeypatch):
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
    printed = capsys.readouterr().out
    assert "could not be written" in printed and "a restart would resume from" in printed
    progress, _ = checkpoint.resume(disk.path, accelerator, model, optimizer, settings, ids)
    assert progress.epoch == max(int(path.name[-5:]) for path in disk.path.glob("checkpoint-*"))
    assert not [path for path in disk.path.iterdir() if path.name.startswith(".")]
    counts("full disk: checkpoint", printed.count("could not be written"))


def test_world_build_on_a_full_disk_raises_an_error_and_later_completes(disk, counts):
    pytest.importorskip("embreex", reason="rendering the world needs embreex")
    from gengeo_hf.world import build_world

    def build():
        return build_world(
            "urban", "test", 60, ground_size=(42, 168), aerial_size=(70, 70), cache_dir=disk.path, workers=1
        )

    assert_disk_full(build)
    disk.resize("32m")
    assert len(build().queries) == 60
    assert not list(disk.path.rglob(".*"))
    counts("full disk: world", 1)


def test_export_on_a_full_disk_prints_one_line_and_leaves_no_files(disk, tmp_path, counts):
    """`gengeo export` of a model that is larger than the disk."""
    from tests.torture import inputs

    inputs.write_model(tmp_path / "model")
    disk.resize("64k")
    result = run_gengeo(["export", tmp_path / "model", disk.path / "out"])
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr[-2000:]
    assert "No space left" in result.stderr.splitlines()[-1] and not list(disk.path.iterdir())
    counts("full disk: export", 1)


def run_gengeo(arguments):
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gengeo_hf.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=settings, cwd=ROOT, check=False)


def test_index_on_a_read_only_file_system_can_be_searched_but_not_changed(disk, counts):
    disk.resize("32m")
    index = GeoIndex.build(StubEncoder(), ListSource(20), disk.path / "idx")
    disk.set_read_only(True)
    try:
        loaded = GeoIndex.load(index.path)
        assert loaded.search(np.asarray(loaded.descriptors[3:4], np.float32), 1)[0][0].tile_id == "noise-3"
        actions = [
            lambda: loaded.remove(tile_ids=["noise-1"]),
            lambda: loaded.add(StubEncoder(), ListSource(5, name="more")),
            lambda: build_index(StubEncoder(), ListSource(5), disk.path / "new"),
            lambda: build_index(StubEncoder(), ListSource(5), disk.path / "idx", overwrite=True),
        ]
        for action in actions:
            with pytest.raises(GenGeoError, match="Read-only"):
                action()
    finally:
        disk.set_read_only(False)
    assert len(GeoIndex.load(index.path)) == 20
    counts("read-only directory", len(actions))
