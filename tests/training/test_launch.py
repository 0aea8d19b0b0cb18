"""A signal to the parent process of a training ends the training and its child processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gengeo_hf.training.launch import run_training

CHILD = """
import subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
open(sys.argv[1], "w").write(str(inner.pid))
time.sleep(120)
"""
STARTER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored,
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or nohup with this one
from gengeo_hf.training.launch import run_training
run_training([sys.executable, "-c", sys.argv[1], sys.argv[2]])
"""

IMPORT = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            sys.stdout.flush()
            os._exit(0)
sys.meta_path.insert(0, Watch())
sys.path.insert(0, os.path.dirname(sys.argv[1]))
runpy.run_path(sys.argv[1], run_name="imported")
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"  # a zombie has ended


def test_run_training_returns_exit_code():
    assert run_training([sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_run_training_signal_ends_all_child_processes(tmp_path, number):
    pid_file = tmp_path / "pid"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, CHILD, str(pid_file)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (not pid_file.exists() or not pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    inner = int(pid_file.read_text())
    assert is_running(inner)
    starter.send_signal(number)
    assert starter.wait(60) != 0
    while is_running(inner) and time.monotonic() < deadline + 30:
        time.sleep(0.05)
    assert not is_running(inner)


@pytest.mark.parametrize("script", ["train", "ablate", "pretrain"])
def test_scripts_set_passive_thread_waiting_before_torch(script):
    """OpenMP reads the variable when torch is imported. On busy cores, spinning threads made a step 12 times slower."""
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, "-c", IMPORT, str(root / "training" / f"{script}.py")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "PASSIVE", found.stderr


@pytest.fixture
def restored_interrupt():
    """Restore the handler of SIGINT after a test that changes it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


STUBBORN = """
import signal, subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(40)"])
try:
    with open(sys.argv[1], "w") as file:  # an interrupt while the file is closed is not lost, unlike in a destructor
        file.write(str(inner.pid))
    time.sleep(40)
except KeyboardInterrupt:
    open(sys.argv[2], "w").write("interrupted")
"""


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_run_training_sigterm_interrupts_the_whole_group(tmp_path, restored_interrupt, interrupt):
    """The signal arrives in this process while it waits; afterwards the handlers are those of before.

    A shell without job control starts its background jobs with SIGINT ignored.
    """
    signal.signal(signal.SIGINT, interrupt)
    pid_file, end_file = tmp_path / "pid", tmp_path / "end"
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]

    def terminate():
        deadline = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if signal.getsignal(signal.SIGTERM) != before[0]:  # else the signal would end the tests
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_training([sys.executable, "-c", STUBBORN, str(pid_file), str(end_file)])
    thread.join()
    assert end_file.read_text() == "interrupted"  # SIGINT first, so that the training can end by itself
    inner, deadline = int(pid_file.read_text()), time.monotonic() + 20
    while is_running(inner) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(inner)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.getsignal(signal.SIGINT) == interrupt


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_training_signal_while_the_command_starts_ends_it(monkeypatch, restored_interrupt, number):
    """The child runs already, but `Popen` has not returned it."""
    started = []

    class SlowPopen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", SlowPopen)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        run_training([sys.executable, "-c", "import time; time.sleep(40)"])
    assert started and not is_running(started[0])


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_run_training_under_nohup_ignores_the_end_of_the_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_training([sys.executable, "-c", "import os, signal; os.kill(os.getppid(), signal.SIGHUP)"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
