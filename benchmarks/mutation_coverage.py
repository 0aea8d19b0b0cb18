"""Which tests run which lines, so that a changed line is tested by the tests that run it and by no others."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coverage import CoverageData
from mutation_points import Mutant

DURATION = re.compile(r"^([0-9.]+)s (?:call|setup) +(\S.*)$")


@dataclass
class Coverage:
    """Tests of each line, and the duration of each test.

    Args:
        lines: For each file of the package, the tests that ran each line. Where a test ran it in a fixture, all tests
            of its file are listed, since they may share the fixture.
        seconds: Duration of each test that passed.
        package: Digest of everything but the test files.
        tests: Digest of each test file.
    """

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]
    package: str
    tests: dict[str, str]

    @classmethod
    def read(cls, data: Path, log: str, tree: Path) -> "Coverage":
        """Read the data of coverage.py with one context for each test, and the log of pytest with all durations."""
        stored = CoverageData(str(data))
        stored.read()
        seconds: dict[str, float] = {}
        for line in log.splitlines():
            if found := DURATION.match(line):
                seconds[found[2]] = seconds.get(found[2], 0.0) + float(found[1])
        failed = {line.split(" ", 1)[1].split(" - ")[0] for line in log.splitlines() if line.startswith("FAILED ")}
        contexts = {name.rsplit("|", 1)[0] for name in stored.measured_contexts() if name} - failed
        by_file: dict[str, list[str]] = {}
        for test in sorted(contexts):
            by_file.setdefault(test.split("::")[0], []).append(test)
        lines = {}
        for name in stored.measured_files():
            found = stored.contexts_by_lineno(name)
            file = Path(name).relative_to(tree).as_posix()
            lines[file] = {line: _tests(names, by_file, failed) for line, names in found.items()}
        return cls(lines, {test: round(seconds.get(test, 0.0), 2) for test in sorted(contexts)}, *digests(tree))

    def changed(self, tree: Path) -> list[str] | None:
        """Return the test files that differ from those measured; None if anything else differs."""
        package, tests = digests(tree)
        return [file for file in tests if self.tests.get(file) != tests[file]] if package == self.package else None

    def updated(self, new: "Coverage") -> "Coverage":
        """Return these data with the test files that another measurement has run replaced by it."""
        replaced = {file for file, digest in new.tests.items() if self.tests.get(file) != digest}

        def kept(test: str) -> bool:
            file = test.split("::")[0]
            return file not in replaced and file in new.tests

        lines: dict[str, dict[int, list[str]]] = {}
        for source, old in ((new.lines, False), (self.lines, True)):
            for file, found in source.items():
                for line, tests in found.items():
                    lines.setdefault(file, {}).setdefault(line, []).extend(t for t in tests if not old or kept(t))
        seconds = {test: value for test, value in self.seconds.items() if kept(test)} | new.seconds
        return Coverage(lines, seconds, new.package, new.tests)

    def tests_of(self, mutant: Mutant, limit_s: float) -> list[str]:
        """Return the tests that run a mutant up to a total duration: those of its module first, then the quick ones.

        A line that no test runs, such as a constant, is tested by all tests that run another line of its file.
        """
        lines = self.lines.get(mutant.file, {})
        tests = {test for line in range(mutant.first, mutant.line + 1) for test in lines.get(line, ())}
        tests = tests or {test for found in lines.values() for test in found}
        _, package, name = Path(mutant.file).with_suffix("").parts

        def order(test: str) -> tuple[bool, bool, float, str]:
            file = Path(test.split("::")[0])
            own = file.parent.name == package
            return not (own and file.stem == f"test_{name}"), not own, self.seconds[test], test

        chosen, total = [], 0.0
        for test in sorted(tests, key=order):
            total += self.seconds[test]
            if total <= limit_s:
                chosen.append(test)
        return chosen

    def save(self, path: Path) -> None:
        """Write as JSON, with tests by number."""
        numbers = {test: number for number, test in enumerate(self.seconds)}
        lines = {
            file: {line: [numbers[test] for test in tests] for line, tests in found.items()}
            for file, found in self.lines.items()
        }
        row = {"seconds": self.seconds, "lines": lines, "package": self.package, "tests": self.tests}
        path.write_text(json.dumps(row), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Coverage":
        """Read what `save` wrote."""
        row = json.loads(path.read_text(encoding="utf-8"))
        names = list(row["seconds"])
        lines = {
            file: {int(line): [names[number] for number in numbers] for line, numbers in found.items()}
            for file, found in row["lines"].items()
        }
        return cls(lines, row["seconds"], row["package"], row["tests"])


def digests(tree: Path) -> tuple[str, dict[str, str]]:
    """Return a digest of the package, the scripts and what tests share, and one of each test file."""
    files = sorted(path for part in ("gengeo_hf", "training", "tests") for path in (tree / part).rglob("*.py"))
    tests = {path for path in files if path.name.startswith("test_")}
    package = hashlib.sha256(b"\0".join(path.read_bytes() for path in files if path not in tests)).hexdigest()
    return package, {p.relative_to(tree).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(tests)}


def _tests(contexts: Iterable[str], by_file: dict[str, list[str]], failed: set[str]) -> list[str]:
    """Return the tests behind contexts such as `tests/a/test_b.py::test_c|run`; a fixture stands for its whole file."""
    tests: set[str] = set()
    for context in filter(None, contexts):
        test, phase = context.rsplit("|", 1)
        tests.update(by_file[test.split("::")[0]] if phase == "setup" and "::" in test else [test])
    return sorted(tests - failed)
