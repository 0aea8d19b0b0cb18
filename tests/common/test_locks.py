"""Locks exclude threads and processes, with native locks and without, and leave no files behind."""

import errno
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from filelock import UnixFileLock

from gengeo_hf.common import locks
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.locks import exclusive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["native", errno.ENOLCK, errno.EOPNOTSUPP])
def kind(request, monkeypatch):
    """Native locks, and a file system that refuses them."""
    if request.param != "native":

        def refused(self):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(UnixFileLock, "_acquire", refused)
        monkeypatch.setattr(locks, "_warned", True)  # suppresses the warning
    return request.param


def test_exclusive_threads_hold_lock_one_at_a_time(tmp_path, kind):
    inside, most = [], []

    def work():
        for _ in range(5):
            with exclusive(tmp_path / "lock") as held:
                assert held
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 20 and max(most) == 1 and not list(tmp_path.iterdir())


def test_exclusive_without_waiting_yields_false_while_held(tmp_path, kind):
    with exclusive(tmp_path / "lock"), exclusive(tmp_path / "lock", wait=False) as second:
        assert second is False
    with exclusive(tmp_path / "lock", wait=False) as again:
        assert again is True
    assert not list(tmp_path.iterdir())


def test_exclusive_killed_process_frees_lock(tmp_path):
    program = (
        "import os\nfrom gengeo_hf.common.locks import exclusive\n"
        f"with exclusive({str(tmp_path / 'lock')!r}):\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    with exclusive(tmp_path / "lock", wait=False) as held:
        assert held
    assert not list(tmp_path.iterdir())


def test_exclusive_held_lock_blocks_other_threads(tmp_path):
    inside = []

    def second():
        with exclusive(tmp_path / "lock"):
            inside.append("second")

    with exclusive(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        assert not inside
    thread.join(10)
    assert inside == ["second"]


def test_exclusive_without_native_locks_warns_once(tmp_path, monkeypatch):
    def refused(self):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(UnixFileLock, "_acquire", refused)
    monkeypatch.setattr(locks, "_warned", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            with exclusive(tmp_path / "lock"):
                pass
    assert len(caught) == 1 and "has no locks" in str(caught[0].message)


def test_exclusive_unwritable_directory_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GenGeoError, match="cannot be written"), exclusive(tmp_path / "file" / "lock"):
        pass
