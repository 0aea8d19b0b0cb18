"""Outputs are whole or as before, whoever is killed and however many write; what the killed leave does not pile up."""

import os
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gengeo_hf.common import files
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file, atomic_folder, put_back, sweep, sweep_all

ROOT = Path(__file__).resolve().parents[2]


def fill(path, content):
    with atomic_folder(path) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(content)


def contents(path):
    return {child.name: child.read_text() for child in path.iterdir()}


def hidden(folder):
    return [child.name for child in folder.iterdir() if child.name.startswith(".")]


def killed_while_writing(path):
    """A process that is ended by SIGKILL inside `atomic_folder`."""
    program = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from gengeo_hf.common.files import atomic_folder
        with atomic_folder({str(path)!r}) as folder:
            (folder / "a").write_text("half")
            os.kill(os.getpid(), 9)
        """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False).returncode == -9


def test_what_a_killed_process_leaves_goes_with_the_next_write(tmp_path):
    fill(tmp_path / "out", "old")
    for _ in range(2):
        killed_while_writing(tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": "old", "b": "old"} and len(hidden(tmp_path)) == 2  # and its lock
    fill(tmp_path / "out", "new")
    assert contents(tmp_path / "out") == {"a": "new", "b": "new"} and not hidden(tmp_path)


def test_a_folder_is_swept_of_all_that_killed_processes_left_in_it(tmp_path):
    fill(tmp_path / "first", "old")
    killed_while_writing(tmp_path / "first")
    killed_while_writing(tmp_path / "second")
    (tmp_path / ".third-gengeo-new-abc.lock").touch()  # killed after the folder had gone and before its lock had
    sweep_all(tmp_path)
    assert not hidden(tmp_path) and contents(tmp_path / "first") == {"a": "old", "b": "old"}


def test_who_may_read_an_output_is_for_the_umask_to_say(tmp_path, monkeypatch):
    before = os.umask(0o027)
    # The umask is the process's: whoever changes it, even to look, changes it for files of other threads.
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was touched"))
            fill(tmp_path / "out", "new")
            files.write_text(tmp_path / "out.json", "{}")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out", "out/a", "out.json")]
    assert modes == [0o750, 0o640, 0o640]


def test_what_is_still_written_stays(tmp_path):
    with atomic_folder(tmp_path / "out") as folder, atomic_file(tmp_path / "out.json") as file:
        sweep(tmp_path / "out")
        sweep(tmp_path / "out.json")
        assert folder.is_dir() and file.is_file()


def test_only_what_is_ours_is_swept(tmp_path):
    for name in (".out-settings", ".out-old-20240101", ".other-gengeo-new-abc"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "out", "new")
    assert len(hidden(tmp_path)) == 3


@pytest.mark.parametrize("exchange", [True, False])
def test_many_writers_of_one_output_leave_one_whole_output(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    words = [f"writer {number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            list(pool.map(lambda word: fill(tmp_path / "out", word), words))
            found = contents(tmp_path / "out")
            assert found["a"] == found["b"] in words and set(found) == {"a", "b"}
    assert not hidden(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is a call of Linux")
def test_an_output_is_never_missing_while_it_is_replaced(tmp_path, monkeypatch):
    """Where two folders can change places no instant is without one; a kill can find no such instant either."""
    fill(tmp_path / "out", "old")
    (tmp_path / "one").mkdir()
    if not files._exchange(tmp_path / "one", tmp_path / "out"):
        pytest.skip("this file system cannot exchange two folders")
    files._exchange(tmp_path / "one", tmp_path / "out")
    seen = []
    for name in ("replace", "rename"):
        original = getattr(Path, name)

        def looked(self, *words, original=original):
            result = original(self, *words)
            seen.append((tmp_path / "out").exists())
            return result

        monkeypatch.setattr(Path, name, looked)
    monkeypatch.setattr(files, "_remove", lambda path, remove=files._remove: (seen.append(True), remove(path)))
    fill(tmp_path / "out", "new")
    assert seen and all(seen) and contents(tmp_path / "out")["a"] == "new"


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    fill(tmp_path / "out", "old")
    aside = tmp_path / f".out{files.OLD}x"
    aside.mkdir()
    (tmp_path / "out").rename(aside / "out")
    assert put_back(tmp_path / "out") and not put_back(tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": "old", "b": "old"}
    fill(tmp_path / "out", "new")
    assert not hidden(tmp_path)


def test_a_rename_that_fails_gives_the_old_its_place_back(tmp_path, monkeypatch):
    """Where folders cannot change places, the old one is moved aside first; then the second rename fails."""
    fill(tmp_path / "out", "old")
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    replace, calls = Path.replace, []

    def failing(self, target):
        if files.NEW in self.name and calls.append(self) is None and len(calls) == 2:
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        fill(tmp_path / "out", "new")
    assert contents(tmp_path / "out") == {"a": "old", "b": "old"} and not hidden(tmp_path)


def test_a_writer_that_is_done_does_not_bring_the_old_output_back(tmp_path, monkeypatch):
    """Where folders cannot change places, the next writer may have moved the new one aside already."""
    fill(tmp_path / "out", "old")
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    replace = Path.replace

    def with_a_next_writer(self, target):
        replace(self, target)
        if files.NEW in self.name:
            replace(target, tmp_path / "aside")

    monkeypatch.setattr(Path, "replace", with_a_next_writer)
    fill(tmp_path / "out", "new")
    assert contents(tmp_path / "aside")["a"] == "new" and not (tmp_path / "out").exists() and not hidden(tmp_path)


def test_what_was_moved_aside_does_not_push_a_newer_one_away(tmp_path, monkeypatch):
    """A writer takes the place between the look and the rename."""
    fill(tmp_path / "out", "new")
    fill(tmp_path / f".out{files.OLD}x" / "out", "old")
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: self != tmp_path / "out" and exists(self))
    assert not put_back(tmp_path / "out") and contents(tmp_path / "out")["a"] == "new"


def test_a_folder_replaces_a_file_and_a_failure_leaves_the_old(tmp_path):
    (tmp_path / "out").write_text("file")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out").read_text() == "file" and not hidden(tmp_path)
    fill(tmp_path / "out", "new")
    assert contents(tmp_path / "out")["a"] == "new" and not hidden(tmp_path)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    fill(tmp_path / "real" / "out", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "real" / "new.txt")
    fill(tmp_path / "link", "new")
    files.write_text(tmp_path / "dangling.txt", "text")
    assert (tmp_path / "link").is_symlink() and contents(tmp_path / "real" / "out")["a"] == "new"
    assert (tmp_path / "dangling.txt").is_symlink() and (tmp_path / "real" / "new.txt").read_text() == "text"
    assert not hidden(tmp_path) and not hidden(tmp_path / "real")


def test_permissions_of_what_is_replaced_are_kept(tmp_path):
    fill(tmp_path / "out", "old")
    files.write_text(tmp_path / "secret.json", "{}")
    (tmp_path / "out").chmod(0o700)
    (tmp_path / "secret.json").chmod(0o600)
    fill(tmp_path / "out", "new")
    files.write_text(tmp_path / "secret.json", "[]")
    assert [mode(tmp_path / name) for name in ("out", "out/a", "secret.json")] == [0o700, 0o600, 0o600]


def test_a_file_that_a_library_made_for_its_owner_alone_gets_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "weights").touch(mode=0o600)
        with atomic_file(tmp_path / "one.bin") as file:
            file.unlink()
            file.touch(mode=0o600)
    finally:
        os.umask(before)
    assert mode(tmp_path / "out" / "weights") == mode(tmp_path / "one.bin") == 0o644


def test_a_fifo_is_written_into_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe.json").read_text)
        files.write_text(tmp_path / "pipe.json", "through")
        assert read.result(10) == "through"
    assert stat.S_ISFIFO((tmp_path / "pipe.json").stat().st_mode)


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_stdout_is_written_into(tmp_path, name):
    program = f"from gengeo_hf.common.files import write_text; write_text({name!r}, 'said')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "said" and not (ROOT / "-").exists()
    assert name == "-" or Path("/dev/stdout").is_symlink()


def test_only_an_earlier_result_of_the_same_command_is_replaced_and_only_on_request(tmp_path):
    out = tmp_path / "out"
    for kind in ("export", "export"):
        files.check_replaceable(out, kind, overwrite=out.exists())
        with atomic_folder(out, kind) as folder:
            (folder / "weights").write_text(kind)
    with pytest.raises(GenGeoError, match="--overwrite"):
        files.check_replaceable(out, "export")
    with pytest.raises(GenGeoError, match="holds something else"):
        files.check_replaceable(out, "space", overwrite=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(GenGeoError, match=r"also holds notes\.txt"):
        files.check_replaceable(out, "export", overwrite=True)


@pytest.mark.parametrize("marker", ["manifest.json", "config.json", "gengeo_output.json"])
def test_a_folder_is_not_taken_for_ours_because_of_a_file_name(tmp_path, marker):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / marker).write_text('{"name": "my web application"}')
    with pytest.raises(GenGeoError, match="holds something else"):
        files.check_replaceable(tmp_path / "mine", "export", overwrite=True)
