"""The application that commands register with, and the groups of options that they share.

A command is one module that defines a function under `@gengeo.command()`. Modules of this package are found by
themselves; a user's own module joins through `GENGEO_PLUGINS` or an entry point (see `gengeo_hf.common.registry`).
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

ENVIRONMENT = "GENGEO_"  # prefix of the variables that stand for options of long-running commands

Command = Callable[..., Any]


class CommandGroup(typer.Typer):
    """A `typer.Typer` whose commands may take dataclasses of options and all know `--quiet` and `--verbose`."""

    def command(  # type: ignore[override]  # `panel` is the short name of `rich_help_panel`
        self, name: str | None = None, *, panel: str | None = None, environment: bool = False, **settings: Any
    ) -> Callable[[Command], Command]:
        """Register a function as a command.

        Args:
            name: the word on the command line; default: the function's name with hyphens.
            panel: heading of `gengeo --help` under which the command is listed, usually one of `PANELS`; default:
                Other, and none in a group.
            environment: every option may also be set by a variable, GENGEO_MAX_MEGABYTES for `--max-megabytes`. The
                command line goes before the variable, the variable before the default.
            settings: passed to `typer.Typer.command`.
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
    """A group of commands, such as `gengeo data`, to register commands with.

    Args:
        name: the group's word on the command line.
        summary: one sentence for `gengeo --help`.
        panel: heading under which the group is listed.
    """
    names = {"help_option_names": ["--help", "-h"]}
    group = CommandGroup(no_args_is_help=True, rich_markup_mode="markdown", help=summary, context_settings=names)
    gengeo.add_typer(group, name=name, rich_help_panel=panel)
    return group


def import_commands(package: str, path: Iterable[str]) -> None:
    """Import every module of a package of commands; each registers its own."""
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


def _split_examples(text: str) -> tuple[str, str | None]:
    """A docstring without its examples, and these as the list that ends the help.

    Examples are indented commands under `**Example**` or `**Examples**`, a blank line between two.
    """
    text, mark, rest = text.partition("**Example")
    if not mark:
        return text, None
    heading, _, commands = rest.partition("**")
    listed = [" ".join(command.split()) for command in commands.replace("\\\n", " ").split("\n\n") if command.strip()]
    return text.rstrip(), "\n\n".join([f"**Example{heading}**", *(f"- `{command}`" for command in listed)])


def expand_options(function: Command) -> Command:
    """A function in whose signature each parameter of a dataclass type is replaced by the fields of that dataclass.

    A field's `Annotated[..., typer.Option(...)]` says how it is written on the command line; the fields of one group
    must not have the names of other parameters.
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
    def call(**given: Any) -> Any:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
        return function(**given)

    return _with_signature(call, parameters)


Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results and errors only.", rich_help_panel="Output on the terminal")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Log what the libraries do; errors with traceback.",
        rich_help_panel="Output on the terminal",
    ),
]


def _with_verbosity(function: Command) -> Command:
    """The same function with the options --quiet and --verbose, which are the same for every command."""

    @functools.wraps(function)
    def call(quiet: bool, verbose: bool, **given: Any) -> Any:
        console.configure(quiet=quiet, verbose=verbose)
        return function(**given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter("quiet", keyword, default=False, annotation=Quiet),
        inspect.Parameter("verbose", keyword, default=False, annotation=Verbose),
    ]
    return _with_signature(call, [*inspect.signature(function).parameters.values(), *extra])


METAVARS = {bool: "", Path: "PATH", str: "TEXT", int: "NUMBER", float: "NUMBER"}  # how helps show a type of value


def _with_metavars(function: Command) -> Command:
    """The same function, each of whose options has a metavar in the help; flags have none."""

    def named(name: str, kind: Any, option: OptionInfo) -> None:
        types = [part for part in (kind, *get_args(kind)) if part in METAVARS]
        if option.metavar is None and types:
            option.metavar = METAVARS[types[0]]

    return _with_changed_options(function, named)


def _with_environment(function: Command) -> Command:
    """The same function, each of whose options is also read from the variable of its name."""

    def read_variable(name: str, kind: Any, option: OptionInfo) -> None:
        option.envvar = ENVIRONMENT + name.upper()

    return _with_changed_options(function, read_variable)


def _with_changed_options(function: Command, change: Callable[[str, Any, OptionInfo], None]) -> Command:
    """The same function with copies of its options that `change` (name, type, option) has modified."""

    @functools.wraps(function)
    def call(**given: Any) -> Any:
        return function(**given)

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
    function.__dict__.pop("__wrapped__", None)  # functools.wraps set it; typer must not look through it
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect.signature reads
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function
