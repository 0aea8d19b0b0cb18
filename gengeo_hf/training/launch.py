"""Start a training as a process of its own, which ends when its starter is ended."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

GRACE_SECONDS = 20.0  # for a training to end by itself before it is killed
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def run_training(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a command and everything that it starts; a signal to this process ends all of them.

    Launchers start processes of their own, which a signal to the launcher alone leaves running. The command therefore
    gets a process group, and Ctrl-C, SIGTERM or SIGHUP end the group.

    Args:
        command: Program and arguments.
        env: Environment; None for this process's own.

    Returns:
        The exit code.

    Raises:
        KeyboardInterrupt: This process was interrupted or told to end; the training has ended.
    """
    with _signals_interrupt(), subprocess.Popen(command, env=env, start_new_session=True) as child:
        try:
            return child.wait()
        except BaseException:
            _end(child)
            raise


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Interrupt the group, and kill what is left of it after a while."""
    _signal_group(child, signal.SIGINT if sys.platform != "win32" else signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    _signal_group(child, getattr(signal, "SIGKILL", signal.SIGTERM))


def _signal_group(child: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            child.terminate()
        else:
            os.killpg(child.pid, number)  # the group has the number of its first process


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Turn signals that would end this process at once into KeyboardInterrupt, so that it can end its child."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, interrupt) for number in _ENDING}
    except ValueError:  # not the main thread: signals do not come here
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
