"""Run a training in a child process that ends when its parent is interrupted or terminated."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

GRACE_SECONDS = 20.0  # time for a training to stop before it is killed
_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def run_training(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a command; a signal to this process ends the command and all processes that it started.

    Launchers start further processes, which a signal to the launcher alone would leave running. The command therefore
    runs in its own process group, which Ctrl-C, SIGTERM and SIGHUP end. Signals that this process ignores, as SIGHUP
    under `nohup`, stay ignored.

    Args:
        command: Program and arguments.
        env: Environment variables; None for those of this process.

    Returns:
        Exit code of the command.

    Raises:
        KeyboardInterrupt: This process was interrupted or terminated; the training has ended.
    """
    with _signals_interrupt() as interrupt, subprocess.Popen(command, env=env, start_new_session=True) as child:
        try:
            interrupt.arm()
            return child.wait()
        except BaseException:
            _end(child)
            raise


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Interrupt the process group, and kill it after `GRACE_SECONDS`."""
    _signal_group(child, signal.SIGINT if sys.platform != "win32" else signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
    _signal_group(child, getattr(signal, "SIGKILL", signal.SIGTERM))


def _signal_group(child: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            child.terminate()
        else:
            os.killpg(child.pid, number)  # the id of the group is that of its first process


class _Interrupt:
    """Signal handler that raises KeyboardInterrupt, but not before `arm`, when the child is known and can be ended."""

    def __init__(self) -> None:
        self._armed = self._received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        if self._armed:
            raise KeyboardInterrupt

    def arm(self) -> None:
        """Raise KeyboardInterrupt at signals from now on, and at once if there was one."""
        self._armed = True
        if self._received:
            raise KeyboardInterrupt


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Ignore a signal. Unlike SIG_IGN, handlers are not inherited by child processes."""


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[_Interrupt]:
    """Convert signals that would end this process to KeyboardInterrupt, so that it can end its child first."""
    interrupt = _Interrupt()
    handlers: dict[int, Callable[[int, FrameType | None], None]] = {}
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            handlers[number] = interrupt
        elif number == signal.SIGINT:  # ignored in jobs of a shell's background; the child must not inherit that
            handlers[number] = _do_nothing
    try:
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # not the main thread, which does not receive signals
        before = {}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
