"""The errors that a user can mend: one line that says what was found, what was expected, what to do."""

import contextlib
import errno
import sys
from collections.abc import Iterator

from gengeo_hf.common.text import printable


class GenGeoError(ValueError):
    """Bad input or a broken precondition. The command line prints its message alone, without a traceback.

    Args:
        message: what was found, what was expected, what to do. A file's name or a library's words in it may hold line
            breaks, or the codes by which a terminal is told to do things: it becomes one line of printable characters.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message))


class SourceStoppedError(GenGeoError):
    """Nothing more can be read, whichever row is asked for: the server is down, the disk is full."""


class UsageError(GenGeoError):
    """The command line is wrong: scripts and commands end with status 2."""


class MissingExtraError(GenGeoError):
    """An optional package is needed for what was asked.

    Args:
        package: the import name that is missing.
        extra: the extra of `gengeo_hf` that brings it.
        purpose: what it is needed for, as the end of "... is needed to".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{package} is needed to {purpose}: pip install "gengeo_hf[{extra}]"')


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def disk_problem(error: BaseException) -> str | None:
    """What a full disk, a missing right or a read-only folder is called in one line; None for any other error."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return str(GenGeoError(f"{error.filename or 'the output'} cannot be read or written: {error.strerror}"))
    # How safetensors, which writes in Rust, says it.
    return "the output cannot be written: No space left on device" if "(os error 28)" in str(error) else None


@contextlib.contextmanager
def exit_on_error(stopped: str = "stopped") -> Iterator[None]:
    """For a script's main part: an error that the user can mend, or Ctrl-C, ends it with one line.

    The status is 2 for a wrong command line, 1 for anything else.

    Args:
        stopped: what Ctrl-C leaves, for example "stopped; the same command goes on".
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
