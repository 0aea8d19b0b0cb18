"""Builds of an index: interruptions, several processes, a full disk."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex, work
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder


def test_build_leaves_out_and_counts_broken_and_empty_tiles(encoder, tmp_path):
    report = build_index(encoder, ListSource(broken=[3], empty=[5, 6]), tmp_path / "idx")
    assert (report.tiles, report.no_data, report.broken_count) == (9, 2, 1) and "tile 3 is damaged" in str(report)
    ids = GeoIndex.load(tmp_path / "idx").tiles["tile_id"].to_pylist()
    assert "noise-3" not in ids and "noise-4" in ids
    assert encoder.encoded == 9


def test_build_without_a_readable_tile_raises_an_error_and_leaves_nothing(encoder, tmp_path):
    with pytest.raises(GenGeoError, match="none of the 12 tiles"):
        build_index(encoder, ListSource(broken=range(12)), tmp_path / "idx")
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


def test_build_after_an_interruption_resumes(tmp_path, encoder):
    source = ListSource(count=600)

    class Dies(StubEncoder):
        def encode(self, images, view, progress=False):
            if self.encoded > 300:
                raise KeyboardInterrupt
            return super().encode(images, view)

    with pytest.raises(KeyboardInterrupt):
        build_index(Dies(), source, tmp_path / "idx")
    assert not (tmp_path / "idx").exists() and (tmp_path / "idx.partial").is_dir()
    build_index(encoder, source, tmp_path / "idx")
    assert encoder.encoded == 600 - 256  # one shard was finished
    assert not (tmp_path / "idx.partial").exists()
    whole = GeoIndex.build(StubEncoder(), source, tmp_path / "whole")
    assert np.array_equal(whole.descriptors, GeoIndex.load(tmp_path / "idx").descriptors)


def test_build_ignores_work_of_another_model(tmp_path, encoder):
    class Dies(StubEncoder):
        def encode(self, images, view, progress=False):
            if self.encoded >= 256:
                raise KeyboardInterrupt
            return super().encode(images, view)

    source = ListSource(count=300)
    with pytest.raises(KeyboardInterrupt):
        build_index(Dies("other"), source, tmp_path / "idx")
    build_index(encoder, source, tmp_path / "idx")
    assert encoder.encoded == 300


def test_build_ignores_work_of_another_tile_size(tmp_path, encoder, monkeypatch):
    """The same positions and ids with other pixels: an index must not hold both."""
    monkeypatch.setattr(work, "SHARD", 6)

    class Dies(StubEncoder):
        def encode(self, images, view, progress=False):
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode(images, view)

    dark, bright = ListSource(seed=1), ListSource(seed=2)
    dark.rendering, bright.rendering = "0 to 100", "0 to 200"
    with pytest.raises(KeyboardInterrupt):
        build_index(Dies(), dark, tmp_path / "idx")
    assert len(list((tmp_path / "idx.partial").glob("*/shard-*.parquet"))) == 1
    index = GeoIndex.build(encoder, bright, tmp_path / "idx")
    assert encoder.encoded == 12
    assert np.array_equal(index.descriptors, GeoIndex.build(encoder, bright, tmp_path / "whole").descriptors)


def stopped_after(shards):
    class Dies(StubEncoder):
        def encode(self, images, view, progress=False):
            if self.encoded >= shards * 256:
                raise KeyboardInterrupt
            return super().encode(images, view)

    return Dies()


def test_build_keeps_and_names_work_of_another_command(tmp_path, encoder):
    with pytest.raises(KeyboardInterrupt):
        build_index(stopped_after(1), ListSource(600, "old"), tmp_path / "idx")
    report = build_index(encoder, ListSource(12, "new", seed=3), tmp_path / "idx")
    assert "unfinished work of another command is kept in" in str(report) and len(report.kept_work) == 1
    ids = GeoIndex.load(tmp_path / "idx").tiles["tile_id"].to_pylist()
    assert ids == [f"new-{n}" for n in range(12)]
    late = StubEncoder()
    build_index(late, ListSource(600, "old"), tmp_path / "idx", overwrite=True)
    assert late.encoded == 600 - 256 and not (tmp_path / "idx.partial").exists()


def test_build_that_finds_another_index_at_the_end_keeps_its_work(tmp_path):
    begun, taken, errors = threading.Event(), threading.Event(), []

    class Slow(StubEncoder):
        def encode(self, images, view, progress=False):
            begun.set()
            taken.wait(30)
            return super().encode(images, view)

    def build_first():
        try:
            build_index(Slow(), ListSource(12, "old"), tmp_path / "idx")
        except GenGeoError as error:
            errors.append(str(error))

    first = threading.Thread(target=build_first)
    first.start()
    assert begun.wait(30)
    build_index(StubEncoder(), ListSource(12, "new", seed=3), tmp_path / "idx")
    taken.set()
    first.join()
    assert len(errors) == 1 and "another process has created an index" in errors[0]
    assert GeoIndex.load(tmp_path / "idx").tiles["source"][0].as_py() == "new"
    again = StubEncoder()
    build_index(again, ListSource(12, "old"), tmp_path / "idx", add=True)
    assert again.encoded == 0 and len(GeoIndex.load(tmp_path / "idx")) == 24


def test_build_again_has_nothing_to_do(encoder, source, tmp_path):
    index = GeoIndex.build(encoder, source, tmp_path / "idx")
    report = build_index(encoder, source, tmp_path / "idx")
    assert report.was_complete and report.no_data == 0 and "nothing to do" in str(report) and encoder.encoded == 12
    build_index(encoder, source, tmp_path / "idx", overwrite=True)
    assert encoder.encoded == 24
    index.reload().remove(["noise-0"])
    with pytest.raises(GenGeoError, match="--overwrite"):  # it would bring the removed tile back
        build_index(encoder, source, tmp_path / "idx")


def test_build_of_other_imagery_or_another_model_needs_overwrite_or_add(tmp_path):
    build_index(StubEncoder(), ListSource(3), tmp_path / "idx")
    with pytest.raises(GenGeoError, match="--add to add to it, --overwrite"):
        build_index(StubEncoder(), ListSource(4, "other"), tmp_path / "idx")
    assert build_index(StubEncoder(), ListSource(4, "other"), tmp_path / "idx", add=True).tiles == 7
    with pytest.raises(GenGeoError, match="another model"):
        build_index(StubEncoder("other"), ListSource(2, "x"), tmp_path / "idx", add=True)
    assert build_index(StubEncoder("other"), ListSource(2, "x"), tmp_path / "idx", overwrite=True).tiles == 2


def test_edit_through_a_link_changes_the_index_and_keeps_its_modes(encoder, source, tmp_path):
    index = GeoIndex.build(encoder, source, tmp_path / "real.gengeo")
    index.path.chmod(0o700)
    (index.path / "manifest.json").chmod(0o600)
    (tmp_path / "link.gengeo").symlink_to(index.path)
    GeoIndex.load(tmp_path / "link.gengeo").remove(["noise-0"])
    GeoIndex.load(tmp_path / "link.gengeo").add(encoder, ListSource(3, "more", seed=2))
    assert (tmp_path / "link.gengeo").is_symlink() and len(GeoIndex.load(index.path)) == 14
    assert index.path.stat().st_mode & 0o777 == 0o700
    new = index.path / GeoIndex.load(index.path).manifest.segments[1].name
    assert {file.stat().st_mode & 0o77 for file in [new, *new.iterdir(), index.path / "manifest.json"]} == {0}


def test_build_stores_no_local_paths(encoder, tmp_path):
    source = ListSource(broken=[3])
    names = [str(tmp_path / "private" / f"{n % 2}" / "image.tif") for n in range(12)]
    source.table = source.table.set_column(8, source.table.schema.field("source"), [names])
    build_index(encoder, source, tmp_path / "idx", model_name=str(tmp_path))
    content = b"".join(file.read_bytes() for file in (tmp_path / "idx").rglob("*") if file.is_file())
    assert b"private" not in content and str(tmp_path).encode() not in content
    assert {s.name for s in GeoIndex.load(tmp_path / "idx").manifest.sources} == {"0/image.tif", "1/image.tif"}


def test_two_builds_at_once_divide_the_work(tmp_path):
    source = ListSource(count=1100)
    builders = [StubEncoder(), StubEncoder()]
    threads = [threading.Thread(target=build_index, args=(b, source, tmp_path / "idx")) for b in builders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(builder.encoded for builder in builders) == 1100
    assert len(GeoIndex.load(tmp_path / "idx")) == 1100


def test_build_does_not_overwrite_a_directory_that_is_not_an_index(encoder, source, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(GenGeoError, match="holds something else"):
        build_index(encoder, source, tmp_path / "photos")
    (tmp_path / "photos" / "manifest.json").write_text("{}")  # as web applications and ONNX exports have one
    with pytest.raises(GenGeoError, match="holds something else"):
        build_index(encoder, source, tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"precious"


def test_work_end_ignores_a_lock_file_that_appears_during_removal(encoder, source, tmp_path, monkeypatch):
    real = os.rmdir

    def late(path, **options):  # another process that shares the work opens a shard's lock between listing and removal
        if "shard" not in str(path) and (folder := next(tmp_path.glob("idx.partial/*/"), None)):
            (folder / "shard-000000000.lock").touch()
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", late)
    build_index(encoder, source, tmp_path / "idx")
    assert len(GeoIndex.load(tmp_path / "idx")) == 12 and not list(tmp_path.glob("idx.partial/*/plan.json"))


PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from tests.stubs import ListSource, StubEncoder
from gengeo_hf.index.build import build_index

class Slow(StubEncoder):
    def encode(self, images, view, progress=False):
        time.sleep({pause})
        return super().encode(images, view)

encoder = Slow()
{before}
build_index(encoder, ListSource(count={count}), {out!r})
print(encoder.encoded)
"""


def start(out, count, pause=0.0, before=""):
    root = str(Path(__file__).resolve().parents[2])
    program = PROGRAM.format(root=root, pause=pause, count=count, out=str(out), before=before)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_build_after_sigkill_resumes(tmp_path, encoder):
    process = start(tmp_path / "idx", 1000, pause=0.02)
    for _ in range(3000):
        if (done := list(tmp_path.glob("idx.partial/*/shard-000000000.parquet"))) or process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert done and not (tmp_path / "idx").exists()
    build_index(encoder, ListSource(count=1000), tmp_path / "idx")
    assert encoder.encoded <= 1000 - 256
    assert len(GeoIndex.load(tmp_path / "idx")) == 1000 and "all match" in GeoIndex.load(tmp_path / "idx").verify()
    assert not (tmp_path / "idx.partial").exists()


@pytest.mark.slow
def test_three_processes_divide_the_work_of_a_build(tmp_path):
    processes = [start(tmp_path / "idx", 4000, pause=0.005) for _ in range(3)]
    encoded = [int(process.communicate()[0]) for process in processes]
    assert sum(encoded) == 4000 and len(GeoIndex.load(tmp_path / "idx")) == 4000


def test_build_on_a_full_disk_raises_one_line_and_resumes_later(tmp_path, encoder):
    """The limit of the system on file sizes simulates a full disk: writes fail in the middle."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    process = start(tmp_path / "idx", 300, before=limit)
    errors = process.communicate()[1]
    last = errors.strip().splitlines()[-1]
    assert process.returncode == 1 and "GenGeoError: the work could not be written to" in last
    assert not (tmp_path / "idx").exists() and not list((tmp_path / "idx.partial").glob("*/*.parquet"))
    build_index(encoder, ListSource(count=300), tmp_path / "idx")
    assert len(GeoIndex.load(tmp_path / "idx")) == 300


def test_left_out_tiles_are_counted_once_by_parts_and_repeated_additions(encoder, tmp_path, monkeypatch):
    from gengeo_hf.index import work
    from gengeo_hf.index.merge import merge_indexes

    monkeypatch.setattr(work, "SHARD", 6)
    source = ListSource(18, broken=[2], empty=[7, 14])
    source.left_out = {"rows without a position": 5}
    expected = {"no data": 2, "unreadable": 1, "rows without a position": 5}
    build_index(encoder, source, tmp_path / "whole")
    again = build_index(encoder, source, tmp_path / "whole")
    assert (again.was_complete, again.no_data, again.broken_count) == (True, 2, 1)
    for number in range(3):
        build_index(encoder, source, tmp_path / f"part{number}", shard=(number, 3))
    merge_indexes([tmp_path / f"part{number}" for number in range(3)], tmp_path / "merged")
    index = GeoIndex.load(tmp_path / "whole")
    index.add(encoder, source)
    for path in (tmp_path / "whole", tmp_path / "merged"):
        assert GeoIndex.load(path).manifest.left_out.reasons == expected
    index.add(encoder, ListSource(6, "more", empty=[1]))
    assert index.manifest.left_out.reasons == expected | {"no data": 3}
    build_index(encoder, source, tmp_path / "whole", overwrite=True)
    assert GeoIndex.load(tmp_path / "whole").manifest.left_out.reasons == expected
