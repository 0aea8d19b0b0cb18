"""Errors that a user can correct. Each message is one line: what was found, what was expected, what to do."""

import contextlib
import errno
import sys
from collections.abc import Iterator

from gengeo_hf.common.text import printable


class GenGeoError(ValueError):
    """Invalid input or an unmet precondition. The command line prints the message without a traceback.

    Args:
        message: What was found, what was expected, what to do. Line breaks and control characters, which file names
            and messages of libraries may contain, are replaced by spaces.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class SourceStoppedError(GenGeoError):
    """No further row of a source can be read, for example because the server is down or the disk is full."""


class UsageError(GenGeoError):
    """The command line is invalid: scripts and commands end with exit status 2."""


class MissingExtraError(GenGeoError):
    """An optional package that the operation needs is not installed.

    Args:
        package: Import name of the missing package.
        extra: Extra of `gengeo_hf` that installs the package.
        purpose: Purpose of the package, as the end of the phrase "... is needed to".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{package} is needed to {purpose}: pip install "gengeo_hf[{extra}]"')


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def disk_problem(error: BaseException) -> str | None:
    """Return a one-line message for a full disk, missing permissions or a read-only disk; None for other errors."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return str(GenGeoError(f"{error.filename or 'the output'} cannot be read or written: {error.strerror}"))
    # safetensors writes in Rust and raises its own error for ENOSPC (28).
    return "the output cannot be written: No space left on device" if "(os error 28)" in str(error) else None


@contextlib.contextmanager
def exit_on_error(stopped: str = "stopped") -> Iterator[None]:
    """End a script with a one-line message on `GenGeoError`, on a disk error, and on Ctrl-C.

    The exit status is 2 for an invalid command line and 1 for every other error.

    Args:
        stopped: Message after Ctrl-C, for example "stopped; the same command continues".
    """
    try:
        yield
    except GenGeoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit(stopped)
    except Exception as error:
        if (problem := disk_problem(error)) is None:
            raise
        sys.exit(f"error: {problem}")
