"""The application in which commands are registered, and the expansion of option groups that commands share.

A command is a module with a function under `@gengeo.command()`. Modules of this package are imported automatically; a
user's module is imported by `GENGEO_PLUGINS` or an entry point (see `gengeo_hf.common.registry`).
"""

import copy
import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from gengeo_hf.cli import console

LOCATE, INDEX, DATA, EVALUATE, EXPLAIN, SHARING, OTHER = (
    "Locate photos",
    "Make and keep an index",
    "Data",
    "Evaluate",
    "Explain",
    "Share models and data",
    "Other",
)
PANELS = (LOCATE, INDEX, DATA, EVALUATE, EXPLAIN, SHARING, OTHER)  # in the order of `gengeo --help`

ENVIRONMENT = "GENGEO_"  # prefix of the environment variables for options of long-running commands

Command = Callable[..., Any]


class CommandGroup(typer.Typer):
    """A `typer.Typer` whose commands accept dataclasses of options, and all have `--quiet` and `--verbose`."""

    def command(  # type: ignore[override]  # `panel` instead of `rich_help_panel`
        self, name: str | None = None, *, panel: str | None = None, environment: bool = False, **settings: Any
    ) -> Callable[[Command], Command]:
        """Register a function as a command.

        Args:
            name: Name of the command; None takes the name of the function with hyphens.
            panel: Heading of `gengeo --help` under which the command is listed, usually one of `PANELS`; None means
                "Other", or no heading in a group.
            environment: Whether every option can also be set by an environment variable, for example
                GENGEO_MAX_MEGABYTES for `--max-megabytes`. The command line overrides the variable, the variable the
                default.
            settings: Further arguments of `typer.Typer.command`.

        Returns:
            A decorator that registers a function and returns it unchanged.
        """
        heading = panel or (OTHER if self is gengeo else None)

        def decorate(function: Command) -> Command:
            text, examples = _split_examples(inspect.getdoc(function) or "")
            register = super(CommandGroup, self).command(
                name, rich_help_panel=heading, help=text, epilog=examples, **settings
            )
            expanded = _with_metavars(_with_verbosity(expand_options(function)))
            register(_with_environment(expanded) if environment else expanded)
            return function

        return decorate


gengeo = CommandGroup(
    name="gengeo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def add_group(name: str, summary: str, panel: str = OTHER) -> CommandGroup:
    """Add a group of commands, such as `gengeo data`.

    Args:
        name: Name of the group on the command line.
        summary: One sentence for `gengeo --help`.
        panel: Heading of `gengeo --help` under which the group is listed.

    Returns:
        The group, in which commands are registered.
    """
    names = {"help_option_names": ["--help", "-h"]}
    group = CommandGroup(no_args_is_help=True, rich_markup_mode="markdown", help=summary, context_settings=names)
    gengeo.add_typer(group, name=name, rich_help_panel=panel)
    return group


def import_commands(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that its commands are registered.

    Args:
        package: Dotted name of the package.
        path: Value of `__path__` of the package.
    """
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


def _split_examples(text: str) -> tuple[str, str | None]:
    """Split a docstring into the text and its examples, formatted as a list for the end of the help.

    Examples are indented commands under `**Example**` or `**Examples**`, separated by blank lines.
    """
    text, heading_start, rest = text.partition("**Example")
    if not heading_start:
        return text, None
    heading, _, commands = rest.partition("**")
    examples = [" ".join(command.split()) for command in commands.replace("\\\n", " ").split("\n\n") if command.strip()]
    return text.rstrip(), "\n\n".join([f"**Example{heading}**", *(f"- `{command}`" for command in examples)])


def expand_options(function: Command) -> Command:
    """Replace each parameter of a dataclass type in the signature of a function by the fields of that dataclass.

    Args:
        function: The command. The `Annotated[..., typer.Option(...)]` of a field defines its option; names of fields
            must differ from those of other parameters.

    Returns:
        A function with the expanded signature.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            annotated = parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            parameters.append(annotated)
            continue
        groups[parameter.name] = kind
        fields = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
                annotation=fields[field.name],
            )
            for field in dataclasses.fields(kind)
        ]

    @functools.wraps(function)
    def call(**options: Any) -> Any:
        for name, kind in groups.items():
            options[name] = kind(**{field.name: options.pop(field.name) for field in dataclasses.fields(kind)})
        return function(**options)

    return _with_signature(call, parameters)


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results and errors only.", rich_help_panel="Output on the terminal")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Log messages of libraries, and print errors with traceback.",
        rich_help_panel="Output on the terminal",
    ),
]


def _with_verbosity(function: Command) -> Command:
    """Add the options --quiet and --verbose to a function."""

    @functools.wraps(function)
    def call(quiet: bool, verbose: bool, **options: Any) -> Any:
        console.configure(quiet=quiet, verbose=verbose)
        return function(**options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter("quiet", keyword, default=False, annotation=Quiet),
        inspect.Parameter("verbose", keyword, default=False, annotation=Verbose),
    ]
    return _with_signature(call, [*inspect.signature(function).parameters.values(), *extra])


METAVARS = {bool: "", Path: "PATH", str: "TEXT", int: "NUMBER", float: "NUMBER"}  # metavars of types in help texts


def _with_metavars(function: Command) -> Command:
    """Set a metavar for each option of a function; flags have none."""

    def set_metavar(name: str, kind: Any, option: OptionInfo) -> None:
        types = [part for part in (kind, *get_args(kind)) if part in METAVARS]
        if option.metavar is None and types:
            option.metavar = METAVARS[types[0]]

    return _with_changed_options(function, set_metavar)


def _with_environment(function: Command) -> Command:
    """Let each option of a function also be set by the environment variable of its name."""

    def read_variable(name: str, kind: Any, option: OptionInfo) -> None:
        option.envvar = ENVIRONMENT + name.upper()

    return _with_changed_options(function, read_variable)


def _with_changed_options(function: Command, change: Callable[[str, Any, OptionInfo], None]) -> Command:
    """Copy the options of a function and modify the copies by `change(name, type, option)`."""

    @functools.wraps(function)
    def call(**options: Any) -> Any:
        return function(**options)

    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        kind, *notes = get_args(parameter.annotation) or (parameter.annotation,)
        option = next((note for note in notes if isinstance(note, OptionInfo)), None)
        if option is not None:
            option = copy.copy(option)
            change(parameter.name, kind, option)
            parameter = parameter.replace(annotation=Annotated[kind, option])
        parameters.append(parameter)
    return _with_signature(call, parameters)


def _with_signature(function: Command, parameters: list[inspect.Parameter]) -> Command:
    """Give a wrapper the signature and annotations that typer reads."""
    function.__dict__.pop("__wrapped__", None)  # set by functools.wraps; typer would read the wrapped function
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function
