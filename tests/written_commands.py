"""Parser of commands and code in Markdown pages, which checks commands against the real command lines.

A fenced or indented block is run, with placeholders for its files, unless the line before it is one of these comments:

    <!-- not executed: why -->   its commands are only parsed: options, keys and files must exist
    <!-- not checked: why -->    it is skipped: for output and programs of other projects

`gengeo ...` lines and Python blocks are run; `make`, `accelerate` and `python x.py` lines are only parsed.
Commands in running text, like `gengeo locate --near`, must name commands and options that exist.
"""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARKER = re.compile(r"<!--\s*not (executed|checked): (.+?)\s*-->")
PROGRAMS = ("gengeo", "make", "accelerate", "python")


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Args:
        language: Language after the fence; "sh" if there is none.
        text: Content of the block.
        marker: "executed" for a block marked as not executed, "checked" for one marked as not checked, else "".
        line: One-based line number of the fence, or of the first line of an indented block.
    """

    language: str
    text: str
    marker: str
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """Arguments of each shell line that starts with one of `PROGRAMS`, the program included."""
        joined = self.text.replace("\\\n", " ").splitlines()
        lines = [split_command(line.removeprefix("$ ")) for line in joined if line.strip()]
        return [arguments for arguments in lines if arguments and arguments[0] in PROGRAMS]


def split_command(line: str) -> list[str]:
    """Split a shell line into arguments; # begins a comment only at the start of an argument, so not in a URL."""
    arguments = shlex.split(line)
    end = next((index for index, argument in enumerate(arguments) if argument.startswith("#")), len(arguments))
    return arguments[:end]


def list_pages() -> list[Path]:
    """Paths of all pages whose commands must work."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in paths if "generated" not in path.parts]


def find_blocks(text: str) -> list[Block]:
    """Fenced and indented blocks of a page, each with the marker on the line before it."""
    found, lines, number, marker = [], text.splitlines(), 0, ""
    while number < len(lines):
        line = lines[number]
        fence = re.match(r"\s*(```+|~~~+)\s*([^\s`]*)", line)
        if fence:
            end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == fence[1])
            found.append(Block(fence[2] or "sh", "\n".join(lines[number + 1 : end]), marker, number + 1))
            number, marker = end, ""
        elif line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            content = "\n".join(part[4:] for part in lines[number:end])
            found.append(Block("sh", content, marker, number + 1))
            number, marker = end - 1, ""
        elif line.strip():
            comment = MARKER.match(line.strip())
            marker = comment[1] if comment else ""
        number += 1
    return found


def find_inline_commands(text: str) -> list[list[str]]:
    """Arguments of the commands of `PROGRAMS` in running text and tables."""
    without_blocks = re.sub(r"(?ms)^\s*(```+|~~~+).*?^\s*\1\s*$", "", text)
    found = re.findall(r"`([^`\n]+)`", without_blocks)
    return [shlex.split(code) for code in found if code.split()[:1] and code.split()[0] in PROGRAMS]


def check_command(arguments: list[str], is_complete: bool = True) -> None:
    """Check a command against the real command line without running it.

    Args:
        arguments: Arguments of the command, the program included.
        is_complete: Whether all required arguments must be present; a command in a sentence may omit some.

    Raises:
        AssertionError: A command, option, key or file does not exist.
    """
    if arguments[0] == "gengeo":
        check_gengeo_command(arguments[1:], is_complete)
    elif arguments[0] == "make":
        targets = re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
        assert set(arguments[1:]) <= set(targets), f"{' '.join(arguments)}: the Makefile has {targets}"
    else:
        script = next((i for i, argument in enumerate(arguments) if argument.endswith(".py")), None)
        if script is not None:
            assert (ROOT / arguments[script]).is_file(), f"{arguments[script]} does not exist"
            if "--help" not in arguments and (is_complete or len(arguments) > script + 1):
                check_script_command(ROOT / arguments[script], arguments[script + 1 :])


def check_gengeo_command(arguments: list[str], is_complete: bool) -> None:
    """Check the arguments after `gengeo`."""
    import typer

    from gengeo_hf import cli

    command, names = typer.main.get_command(cli.gengeo), ["gengeo"]
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"{' '.join(names)} has no command {arguments[0]!r}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
        names.append(command.name)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    for argument in arguments:
        if argument.startswith("--"):
            assert argument.split("=")[0] in known, f"{' '.join(names)} has no option {argument}"
    if is_complete and "--help" not in arguments:
        try:
            command.make_context(names[-1], list(arguments))
        except Exception as error:
            raise AssertionError(f"{' '.join(names)} {' '.join(arguments)}: {error}") from error


class ArgumentsParsed(BaseException):
    """Raised in a script after its arguments are parsed."""


def check_script_command(script: Path, arguments: list[str]) -> None:
    """Run a script of the project until its arguments are parsed."""
    if script.name == "train.py":
        from gengeo_hf.training.settings import parse

        try:
            parse(arguments)
        except SystemExit as error:
            raise AssertionError(f"train.py {' '.join(arguments)}: invalid arguments") from error
        return
    previous, sys.argv = sys.argv, [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("parse_args", "parse_intermixed_args"):
                patch.setattr(argparse.ArgumentParser, name, stop_after(getattr(argparse.ArgumentParser, name)))
            patch.setattr(subprocess, "run", fail_if_called)  # for a script that parses its arguments in another way
            runpy.run_path(str(script), run_name="__main__")
    except ArgumentsParsed:
        return
    except SystemExit as error:
        assert error.code in (0, None), f"{script.name} {' '.join(arguments)}: invalid arguments"
    finally:
        sys.argv = previous


def stop_after(parse):
    """A method that calls the parser method `parse` and then stops the script."""

    def parse_and_stop(self, *arguments, **options):
        parse(self, *arguments, **options)
        raise ArgumentsParsed

    return parse_and_stop


def fail_if_called(*_, **__):
    raise AssertionError("the script started a process, but only its arguments should be parsed")
