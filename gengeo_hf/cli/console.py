"""Output of commands: results on stdout, progress and notes on stderr, and files that may be streams.

Text of an index, a photo's name or a library's message may hold control codes of terminals; every text that is printed
here becomes one line of printable characters. Colours and bars need a terminal and respect `NO_COLOR` (rich reads it).
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
        quiet: no notes and no progress on stderr; results, warnings and errors remain.
        verbose: log messages of libraries, and tracebacks of errors.

    Raises:
        UsageError: both at once.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude one another")
    _verbosity.update(quiet=quiet, verbose=verbose)
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not shows_progress():
        # Read when the libraries are imported, which commands do after this.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    if not verbose:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def shows_progress() -> bool:
    """True where bars are wanted: stderr is a terminal, and --quiet was not given."""
    return sys.stderr.isatty() and not _verbosity["quiet"]


def is_verbose() -> bool:
    """True with --verbose."""
    return _verbosity["verbose"]


def result(text: object = "") -> None:
    """Print lines of a result on stdout. Line breaks are kept: clean what is not ours with `printable` before."""
    for line in str(text).split("\n"):
        typer.echo(printable(line))


def json_line(value: Any) -> None:
    """Print one JSON object as one line on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f"))


def note(text: object) -> None:
    """Print what helps a person, not a program, on stderr; --quiet leaves it out."""
    if not _verbosity["quiet"]:
        typer.echo("\n".join(printable(line) for line in str(text).split("\n")), err=True)


def warning(text: object) -> None:
    """Print what a user must know before believing a result, on stderr, also with --quiet."""
    typer.echo(f"caution: {printable(text)}", err=True)


def error(text: object) -> None:
    """Print an error as one line on stderr."""
    typer.echo(f"error: {printable(text)}", err=True)


def is_stream(path: str | Path | None) -> bool:
    """True where a file's name means stdout."""
    return str(path) in STREAMS


def check_writable(*paths: str | Path | None) -> None:
    """Make sure, before the work, that files can be written at its end.

    Args:
        paths: files that will be written; None is one that was not asked for, `-` is stdout.

    Raises:
        UsageError: several of them are stdout.
        GenGeoError: a path is a folder, or its folder cannot be made or written to.
    """
    if sum(is_stream(path) for path in paths) > 1:
        raise UsageError("only one output can go to stdout: give a file name for the others")
    for path in (Path(path) for path in paths if path is not None and not is_stream(path)):
        if path.is_dir():
            raise GenGeoError(f"{path} is a folder: give the name of a file in it")
        parent = path.absolute().parent
        while not parent.exists():  # folders are made on the way
            parent = parent.parent
        try:
            with tempfile.TemporaryFile(dir=parent):  # the rights alone do not show a read-only disk
                pass
        except OSError as error:
            raise GenGeoError(f"{path} cannot be written: {parent}: {error.strerror or error}") from error


def confirm(question: str, yes: bool) -> None:
    """Ask once before something large begins; anything but y or yes stops the command with exit code 1.

    Args:
        question: What is going to happen.
        yes: Whether --yes was given: nothing is asked.

    Raises:
        UsageError: Nobody can be asked, since stdin is not a terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} needs your consent, and there is no terminal to ask: add --yes")
    if not typer.confirm(f"{question}?", err=True):
        raise GenGeoError("stopped: nothing was fetched or written")


def check_not_there(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file or a folder unless --overwrite was given.

    Raises:
        GenGeoError: it exists.
    """
    if path.exists() and not overwrite and not is_stream(path):
        raise GenGeoError(f"{path} exists already: choose another name, or give --overwrite to replace it")


def write_output(path: Path, text: str) -> None:
    """Write text to a file, aside and renamed, or to stdout where the name is `-` or `/dev/stdout`."""
    from gengeo_hf.common.files import write_text

    if is_stream(path):
        typer.echo(text, nl=False)
    else:
        write_text(path, text)


def progress(items: Iterable[Item], total: int | None, unit: str) -> Iterator[Item]:
    """Iterate with a bar on stderr, where stderr is a terminal; lines printed meanwhile stay above the bar.

    Args:
        items: what is iterated.
        total: how many there are, None where it is not known.
        unit: plural noun beside the count, for example `photos`.
    """
    if not shows_progress() or (total is not None and total < 2):
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Without the redirection of stdout a result that goes to a file or a pipe would be drawn on stderr.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
    with bar:
        task = bar.add_task(unit, total=total)
        for item in items:
            yield item
            bar.advance(task)
