"""Output of commands: results on stdout, progress and notes on stderr, and output files that can be stdout.

Texts of an index, names of photos and messages of libraries may contain control codes of terminals, so every text is
printed with printable characters only. Colours and progress bars need a terminal and respect `NO_COLOR` (read by rich).
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import typer

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.errors import UsageError as UsageError
from gengeo_hf.common.text import printable

Item = TypeVar("Item")

STREAMS = ("-", "/dev/stdout")  # names of stdout where a file is expected

_verbosity = {"quiet": False, "verbose": False}


def configure(*, quiet: bool = False, verbose: bool = False) -> None:
    """Set how much is printed; called before every command.

    Args:
        quiet: Whether to print no notes and no progress; results, warnings and errors are still printed.
        verbose: Whether to log messages of libraries, and to print tracebacks of errors.

    Raises:
        UsageError: Both are true.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude one another")
    _verbosity.update(quiet=quiet, verbose=verbose)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not shows_progress():
        # The libraries read these variables when commands import them, which is later.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    if not verbose:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def shows_progress() -> bool:
    """Whether to show progress bars: stderr is a terminal, and --quiet is not given."""
    return sys.stderr.isatty() and not _verbosity["quiet"]


def is_verbose() -> bool:
    """Whether --verbose is given."""
    return _verbosity["verbose"]


def result(text: object = "") -> None:
    """Print a result on stdout. Line breaks are kept, so pass untrusted texts through `printable` before."""
    for line in str(text).split("\n"):
        typer.echo(printable(line))


def json_line(value: Any) -> None:
    """Print one JSON object as one line on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f"))


def note(text: object) -> None:
    """Print information for people on stderr, unless --quiet is given."""
    if not _verbosity["quiet"]:
        typer.echo("\n".join(printable(line) for line in str(text).split("\n")), err=True)


def warning(text: object) -> None:
    """Print a warning about the results on stderr, also with --quiet."""
    typer.echo(f"caution: {printable(text)}", err=True)


def error(text: object) -> None:
    """Print an error as one line on stderr."""
    typer.echo(f"error: {printable(text)}", err=True)


def is_stream(path: str | Path | None) -> bool:
    """Whether the name of a file means stdout."""
    return str(path) in STREAMS


def check_writable(*paths: str | Path | None) -> None:
    """Check, before a long computation, that its output files can be written.

    Args:
        paths: Files to write; `-` is stdout, None is no file.

    Raises:
        UsageError: Several paths are stdout.
        GenGeoError: A path is a directory, or its directory cannot be created or written to.
    """
    if sum(is_stream(path) for path in paths) > 1:
        raise UsageError("only one output can go to stdout: give a file name for the others")
    for path in (Path(path) for path in paths if path is not None and not is_stream(path)):
        if path.is_dir():
            raise GenGeoError(f"{path} is a directory: give the name of a file in it")
        parent = path.absolute().parent
        while not parent.exists():  # missing directories are created when the file is written
            parent = parent.parent
        try:
            with tempfile.TemporaryFile(dir=parent):  # permissions do not show a read-only file system
                pass
        except OSError as error:
            raise GenGeoError(f"{path} cannot be written: {parent}: {error.strerror or error}") from error


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation before a large download.

    Args:
        question: Action to confirm, in the imperative and without a question mark.
        yes: Whether --yes is given; then there is no question.

    Raises:
        UsageError: stdin is not a terminal.
        GenGeoError: The answer is not y or yes.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} needs your consent, and there is no terminal to ask: add --yes")
    if not typer.confirm(f"{question}?", err=True):
        raise GenGeoError("stopped: nothing was downloaded or written")


def check_not_there(path: Path, overwrite: bool) -> None:
    """Check that a file or a directory does not exist, unless --overwrite is given.

    Raises:
        GenGeoError: The path exists and `overwrite` is False.
    """
    if path.exists() and not overwrite and not is_stream(path):
        raise GenGeoError(f"{path} exists already: choose another name, or give --overwrite to replace it")


def write_output(path: Path, text: str) -> None:
    """Write text to a file, completely or not at all, or to stdout if the name is `-` or `/dev/stdout`."""
    from gengeo_hf.common.files import write_text

    if is_stream(path):
        typer.echo(text, nl=False)
    else:
        write_text(path, text)


def progress(items: Iterable[Item], total: int | None, unit: str) -> Iterator[Item]:
    """Iterate with a progress bar, if stderr is a terminal; lines printed meanwhile are above the bar.

    Args:
        items: Items to iterate over.
        total: Number of items; None if it is unknown.
        unit: Plural noun beside the count, for example "photos".

    Yields:
        The items.
    """
    if not shows_progress() or (total is not None and total < 2):
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would print results on stderr; stdout is redirected only if it is a terminal.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
    with bar:
        task = bar.add_task(unit, total=total)
        for item in items:
            yield item
            bar.advance(task)
