"""The command line: each command parses its options, calls one function of the package and prints the result.

Each command is a module of the same name. Heavy imports are inside the commands, so that help is printed quickly.
Results go to stdout, progress and notes to stderr. Exit codes are in `exit_codes`.
"""

import sys
from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.exit_codes import FAILURE, INTERRUPTED, USAGE
from gengeo_hf.cli.registry import PANELS, gengeo, import_commands

__all__ = ["gengeo", "main"]


def _print_version(is_given: bool) -> None:
    if is_given:
        from gengeo_hf import __version__

        typer.echo(f"gengeo {__version__}")
        raise typer.Exit


@gengeo.callback()
def about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Module or .py file that adds commands, data sets, ...; repeatable."),
    ] = None,
) -> None:
    """Find where a photo was taken by matching it with aerial imagery.

    **Examples**

        gengeo index orthophoto.tif --out city.gengeo --model ./gengeo-cvusa --tile 100m --overlap 50%

        gengeo locate photo.jpg --index city.gengeo --model ./gengeo-cvusa --map places.html
    """


def _position_of(panel: Any) -> int:
    """Position of a panel in the list of commands; panels of plugins are last."""
    return PANELS.index(panel) if panel in PANELS else len(PANELS)


def main() -> None:
    """Run the command line; print errors that the user can correct as one line on stderr, with exit code 1 or 2."""
    from gengeo_hf.common.errors import GenGeoError, disk_problem
    from gengeo_hf.common.registry import load_plugins

    try:
        load_plugins(_plugins(sys.argv[1:]))
        code = gengeo(standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # `gengeo ... | head`
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if console.is_verbose():
            raise
        if hasattr(error, "format_message"):  # errors of typer about arguments and options
            context = getattr(error, "ctx", None)
            help_of = f"; see {context.command_path} --help" if context is not None else ""
            if message := error.format_message().rstrip("."):  # empty if no command was given and help was printed
                console.error(f"{message}{help_of}")
            sys.exit(getattr(error, "exit_code", USAGE))
        problem = str(error) if isinstance(error, GenGeoError) else disk_problem(error)
        if problem is None:
            raise
        console.error(problem)
        sys.exit(USAGE if isinstance(error, console.UsageError) else FAILURE)
    if code == INTERRUPTED:
        print("\nstopped", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _plugins(arguments: list[str]) -> list[str]:
    """Modules given by --plugin before the command, which are imported before the command is looked up."""
    found, rest = [], iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            break
        name, equals, value = argument.partition("=")
        if name == "--plugin":
            found.append(value if equals else next(rest, ""))
    return found


import_commands(__name__, __path__)
gengeo.registered_commands.sort(key=lambda command: _position_of(command.rich_help_panel))
gengeo.registered_groups.sort(key=lambda group: _position_of(group.rich_help_panel))
