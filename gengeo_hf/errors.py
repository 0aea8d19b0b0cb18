"""The errors that a user can mend: one line that says what was found, what was expected, what to do."""

import contextlib
import sys
from collections.abc import Iterator


class GenGeoError(ValueError):
    """Bad input or a broken precondition. The command line prints its message alone, without a traceback."""


class MissingExtraError(GenGeoError):
    """An optional package is needed for what was asked.

    Args:
        package: the import name that is missing.
        extra: the extra of `gengeo_hf` that brings it.
        purpose: what it is needed for, as the end of "... is needed to".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{package} is needed to {purpose}: pip install "gengeo_hf[{extra}]"')


@contextlib.contextmanager
def told_in_one_line(stopped: str = "stopped") -> Iterator[None]:
    """For a script's main part: an error that the user can mend, or Ctrl-C, ends it with one line and status 1.

    Args:
        stopped: what Ctrl-C leaves, for example "stopped; the same command goes on".
    """
    try:
        yield
    except GenGeoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(stopped)
