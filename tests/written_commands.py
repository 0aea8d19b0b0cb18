"""Commands and code in Markdown pages: found, checked against the real command lines, run where that is cheap.

A fenced or indented block is run, with stand-ins for its files, unless a comment stands on the line before it:

    <!-- not executed: why -->   its commands are only parsed: options, keys and files must exist
    <!-- not checked: why -->    it is skipped: for output and foreign programs

Of a block, `gengeo ...` lines and Python are run; `make`, `accelerate` and `python x.py` lines are always only parsed.
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
MARK = re.compile(r"<!--\s*not (executed|checked): (.+?)\s*-->")
OURS = ("gengeo", "make", "accelerate", "python")


@dataclass(frozen=True)
class Block:
    """A block of a page: its language ("sh" where none is said), its text, and "", "executed" or "checked"."""

    language: str
    text: str
    mark: str
    line: int

    @property
    def commands(self) -> list[list[str]]:
        """The words of each of its shell lines that begin with a program of ours."""
        joined = self.text.replace("\\\n", " ").splitlines()
        lines = [words_of(line.removeprefix("$ ")) for line in joined if line.strip()]
        return [words for words in lines if words and words[0] in OURS]


def words_of(line: str) -> list[str]:
    """Words of a shell line: a comment begins at a # that begins a word, not inside of an address."""
    words = shlex.split(line)
    return words[: next((number for number, word in enumerate(words) if word.startswith("#")), len(words))]


def pages() -> list[Path]:
    """Every page whose commands are promised to work."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if "generated" not in path.parts]


def blocks(text: str) -> list[Block]:
    """Fenced and indented blocks with the mark before them."""
    found, lines, number, mark = [], text.splitlines(), 0, ""
    while number < len(lines):
        line = lines[number]
        fence = re.match(r"\s*(```+|~~~+)\s*([^\s`]*)", line)
        if fence:
            end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == fence[1])
            found.append(Block(fence[2] or "sh", "\n".join(lines[number + 1 : end]), mark, number + 1))
            number, mark = end, ""
        elif line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text_of = "\n".join(part[4:] for part in lines[number:end])
            found.append(Block("sh", text_of, mark, number + 1))
            number, mark = end - 1, ""
        elif line.strip():
            told = MARK.match(line.strip())
            mark = told[1] if told else ""
        number += 1
    return found


def mentions(text: str) -> list[list[str]]:
    """Commands of ours in running text and tables, as words."""
    bare = re.sub(r"(?ms)^\s*(```+|~~~+).*?^\s*\1\s*$", "", text)
    found = [code for code in re.findall(r"`([^`\n]+)`", bare) if code.split()[:1] and code.split()[0] in OURS]
    return [shlex.split(code) for code in found]


def parse(words: list[str], whole: bool = True) -> None:
    """Check a command against the real one without running it.

    Args:
        words: of the command.
        whole: everything that it requires must be there; a mention in a sentence may leave things out.

    Raises:
        AssertionError: a command, option, key or file does not exist.
    """
    if words[0] == "gengeo":
        parse_gengeo(words[1:], whole)
    elif words[0] == "make":
        targets = re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
        assert set(words[1:]) <= set(targets), f"{' '.join(words)}: the Makefile has {targets}"
    else:
        script = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        if script is not None:
            assert (ROOT / words[script]).is_file(), f"{words[script]} does not exist"
            if "--help" not in words and (whole or len(words) > script + 1):
                parse_script(ROOT / words[script], words[script + 1 :])


def parse_gengeo(words: list[str], whole: bool) -> None:
    """Check the words after `gengeo`."""
    import typer

    from gengeo_hf import cli

    command, names = typer.main.get_command(cli.gengeo), ["gengeo"]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{' '.join(names)} has no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
        names.append(command.name)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{' '.join(names)} has no option {word}"
    if whole and "--help" not in words:
        try:
            command.make_context(names[-1], list(words))
        except Exception as error:
            raise AssertionError(f"{' '.join(names)} {' '.join(words)}: {error}") from error


class Parsed(BaseException):
    """Raised in a script once its words were understood."""


def parse_script(script: Path, words: list[str]) -> None:
    """Let a script of the project understand its words, and stop it there."""
    if script.name == "train.py":
        from gengeo_hf.training.settings import load_settings

        config = words[words.index("--config") + 1]
        load_settings(config, [word for word in words if "=" in word and not word.startswith("-")])
        return
    words_before, sys.argv = sys.argv, [str(script), *words]
    sys.path.insert(0, str(script.parent))
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("parse_args", "parse_intermixed_args"):
                patch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
            patch.setattr(subprocess, "run", refused)  # a script that reads its words in another way must not go on
            runpy.run_path(str(script), run_name="__main__")
    except Parsed:
        return
    except SystemExit as leave:
        assert leave.code in (0, None), f"{script.name} {' '.join(words)}: not understood"
    finally:
        sys.argv = words_before


def stopping(understand):
    """A method that understands its words and then stops the script."""

    def stop(self, *arguments, **options):
        understand(self, *arguments, **options)
        raise Parsed

    return stop


def refused(*_, **__):
    raise AssertionError("a script began to work: its command line was to be read only")
