"""The command line: parses, calls one function of a room, prints. One module for each group of commands.

Before: a terminal. After: the rooms do the work. Heavy imports stand inside the commands, so that help comes at once.
"""

import sys

from gengeo_hf.cli import data, evaluate, imagery, photos, results, web, weights, why
from gengeo_hf.cli.base import app

__all__ = ["app", "data", "evaluate", "imagery", "main", "photos", "results", "web", "weights", "why"]

INTERRUPTED = 130  # what typer, like a shell, gives after Ctrl-C


def main() -> None:
    """Run the command line; an error that the user can mend is one line and exit code 2."""
    from gengeo_hf.common.errors import GenGeoError, disk_problem

    try:
        code = app(standalone_mode=False)
    except GenGeoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if (problem := disk_problem(error)) is not None:
            print(f"error: {problem}", file=sys.stderr)
            sys.exit(2)
        if not hasattr(error, "show"):  # typer's own errors about wrong words and options can show themselves
            raise
        error.show()
        sys.exit(getattr(error, "exit_code", 2))
    if code == INTERRUPTED:
        print("\nstopped; finished work is kept: run the same command again to go on", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)
