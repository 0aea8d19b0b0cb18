"""Atomic outputs: complete or unchanged after kills and with concurrent writers; leftovers are removed."""

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


def write_in_killed_process(path):
    """Run a process that is ended by SIGKILL inside `atomic_folder`."""
    program = f"""
        import os, sys
        sys.path.insert(0, {str(ROOT)!r})
        from gengeo_hf.common.files import atomic_folder
        with atomic_folder({str(path)!r}) as folder:
            (folder / "a").write_text("half")
            os.kill(os.getpid(), 9)
        """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False).returncode == -9


def test_atomic_folder_removes_leftovers_of_killed_processes(tmp_path):
    fill(tmp_path / "out", "old")
    for _ in range(2):
        write_in_killed_process(tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": "old", "b": "old"} and len(hidden(tmp_path)) == 2  # directory and lock
    fill(tmp_path / "out", "new")
    assert contents(tmp_path / "out") == {"a": "new", "b": "new"} and not hidden(tmp_path)


def test_sweep_all_removes_leftovers_of_killed_processes(tmp_path):
    fill(tmp_path / "first", "old")
    write_in_killed_process(tmp_path / "first")
    write_in_killed_process(tmp_path / "second")
    (tmp_path / ".third-gengeo-new-abc.lock").touch()  # killed after the directory was removed and before its lock was
    sweep_all(tmp_path)
    assert not hidden(tmp_path) and contents(tmp_path / "first") == {"a": "old", "b": "old"}


def test_new_output_has_permissions_of_umask(tmp_path, monkeypatch):
    before = os.umask(0o027)
    # The umask belongs to the process: changing it, even to read it, affects files of other threads.
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
            fill(tmp_path / "out", "new")
            files.write_text(tmp_path / "out.json", "{}")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out", "out/a", "out.json")]
    assert modes == [0o750, 0o640, 0o640]


def test_sweep_keeps_temporaries_in_use(tmp_path):
    with atomic_folder(tmp_path / "out") as folder, atomic_file(tmp_path / "out.json") as file:
        sweep(tmp_path / "out")
        sweep(tmp_path / "out.json")
        assert folder.is_dir() and file.is_file()


def test_sweep_keeps_other_hidden_files(tmp_path):
    for name in (".out-settings", ".out-old-20240101", ".other-gengeo-new-abc"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "out", "new")
    assert len(hidden(tmp_path)) == 3


@pytest.mark.parametrize("exchange", [True, False])
def test_atomic_folder_concurrent_writers_leave_one_complete_output(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    texts = [f"writer {number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            list(pool.map(lambda text: fill(tmp_path / "out", text), texts))
            found = contents(tmp_path / "out")
            assert found["a"] == found["b"] in texts and set(found) == {"a", "b"}
    assert not hidden(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 exists only on Linux")
def test_atomic_folder_output_exists_at_all_times(tmp_path, monkeypatch):
    """Where the system exchanges two directories in one step, the output exists after every call, even after a kill."""
    fill(tmp_path / "out", "old")
    (tmp_path / "one").mkdir()
    if not files._exchange(tmp_path / "one", tmp_path / "out"):
        pytest.skip("this file system cannot exchange two directories")
    files._exchange(tmp_path / "one", tmp_path / "out")
    seen = []
    for name in ("replace", "rename"):
        original = getattr(Path, name)

        def check_existence(self, *arguments, original=original):
            result = original(self, *arguments)
            seen.append((tmp_path / "out").exists())
            return result

        monkeypatch.setattr(Path, name, check_existence)
    monkeypatch.setattr(files, "_remove", lambda path, remove=files._remove: (seen.append(True), remove(path)))
    fill(tmp_path / "out", "new")
    assert seen and all(seen) and contents(tmp_path / "out")["a"] == "new"


def test_put_back_restores_output_after_kill_between_renames(tmp_path):
    fill(tmp_path / "out", "old")
    aside = tmp_path / f".out{files.OLD}x"
    aside.mkdir()
    (tmp_path / "out").rename(aside / "out")
    assert put_back(tmp_path / "out") and not put_back(tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": "old", "b": "old"}
    fill(tmp_path / "out", "new")
    assert not hidden(tmp_path)


def test_atomic_folder_failed_rename_restores_old_output(tmp_path, monkeypatch):
    """Without an exchange the old directory is moved aside first; the second rename then fails."""
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


def test_atomic_folder_finished_writer_does_not_restore_old_output(tmp_path, monkeypatch):
    """Without an exchange the next writer may already have moved the new directory aside."""
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


def test_put_back_does_not_replace_newer_output(tmp_path, monkeypatch):
    """Another writer creates the path between the check and the rename."""
    fill(tmp_path / "out", "new")
    fill(tmp_path / f".out{files.OLD}x" / "out", "old")
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: self != tmp_path / "out" and exists(self))
    assert not put_back(tmp_path / "out") and contents(tmp_path / "out")["a"] == "new"


def test_atomic_folder_replaces_file_and_failure_keeps_it(tmp_path):
    (tmp_path / "out").write_text("file")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out").read_text() == "file" and not hidden(tmp_path)
    fill(tmp_path / "out", "new")
    assert contents(tmp_path / "out")["a"] == "new" and not hidden(tmp_path)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_write_through_link_replaces_target_and_keeps_link(tmp_path):
    (tmp_path / "real").mkdir()
    fill(tmp_path / "real" / "out", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "real" / "new.txt")
    fill(tmp_path / "link", "new")
    files.write_text(tmp_path / "dangling.txt", "text")
    assert (tmp_path / "link").is_symlink() and contents(tmp_path / "real" / "out")["a"] == "new"
    assert (tmp_path / "dangling.txt").is_symlink() and (tmp_path / "real" / "new.txt").read_text() == "text"
    assert not hidden(tmp_path) and not hidden(tmp_path / "real")


def test_replaced_output_keeps_permissions(tmp_path):
    fill(tmp_path / "out", "old")
    files.write_text(tmp_path / "secret.json", "{}")
    (tmp_path / "out").chmod(0o700)
    (tmp_path / "secret.json").chmod(0o600)
    fill(tmp_path / "out", "new")
    files.write_text(tmp_path / "secret.json", "[]")
    assert [mode(tmp_path / name) for name in ("out", "out/a", "secret.json")] == [0o700, 0o600, 0o600]


def test_owner_only_file_of_library_gets_mode_of_umask(tmp_path):
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


def test_write_text_fifo_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe.json").read_text)
        files.write_text(tmp_path / "pipe.json", "through")
        assert read.result(10) == "through"
    assert stat.S_ISFIFO((tmp_path / "pipe.json").stat().st_mode)


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_write_text_stdout_is_written_into(tmp_path, name):
    program = f"from gengeo_hf.common.files import write_text; write_text({name!r}, 'content')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "content" and not (ROOT / "-").exists()
    assert name == "-" or Path("/dev/stdout").is_symlink()


def test_check_replaceable_accepts_only_same_kind_with_overwrite(tmp_path):
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
def test_check_replaceable_file_name_alone_is_not_accepted(tmp_path, marker):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / marker).write_text('{"name": "my web application"}')
    with pytest.raises(GenGeoError, match="holds something else"):
        files.check_replaceable(tmp_path / "mine", "export", overwrite=True)
