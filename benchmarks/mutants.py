"""Mutation testing: change single points of the core, one at a time, and run the tests of the changed module.

    make mutants                                     # 150 changes, seed 0
    python benchmarks/mutants.py --count 150 --seed 7 --jobs 2 --out mutants

Mutants are sampled with a seed from the modules of `PACKAGES`: comparisons, signs, constants, conditions, minima and
maxima. For each, the test files that name its module are run in a copy of the tree until the first failure or the limit
of CPU time; both count as killed. Results are appended to `mutants.jsonl` in `--out`, so an interrupted run can be
resumed while the changed files stay the same. Equivalent mutants, which do not change behaviour, are listed in
`mutants_equivalent.json`, each with its reason, and are not counted. The exit status is 1 below `--goal`.
"""

import argparse
import ast
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import math
import os
import queue
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "learning", "training", "evaluation", "index", "localization")
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.json")
SWAPPED = {  # operators and their replacements
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.And: "or",
    ast.Or: "and",
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}


@dataclass(frozen=True)
class Mutant:
    """One changed point of the source.

    Args:
        file: Path inside the repository.
        line, start, end: One-based line and columns in bytes of the replaced text.
        before, after: Original and replaced source text.
    """

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """Name in reports and in the list of equivalents, without the line number, which may change."""
        text = source_lines(self.file)[self.line - 1].strip()
        return f"{self.file}: {text} [{self.before} -> {self.after}]"

    def applied(self) -> str:
        """Return the text of the changed file."""
        lines = source_lines(self.file)
        line = lines[self.line - 1].encode()
        lines[self.line - 1] = (line[: self.start] + self.after.encode() + line[self.end :]).decode()
        return "".join(lines)


def source_lines(file: str) -> list[str]:
    """Return the lines of a file of the repository, with line ends."""
    return (ROOT / file).read_text(encoding="utf-8").splitlines(keepends=True)


class Points(ast.NodeVisitor):
    """Collect the mutants of one file; strings, annotations and error messages are skipped."""

    def __init__(self, file: str) -> None:
        self.file, self.lines, self.found = file, source_lines(file), []

    def add(self, line: int, start: int, end: int, after: str) -> None:
        """Add a mutant on one line."""
        before = self.lines[line - 1].encode()[start:end].decode()
        self.found.append(Mutant(self.file, line, start, end, before, after))

    def between(self, left: ast.expr, right: ast.expr, operator: ast.AST) -> None:
        """Add a mutant of the operator between two operands on the same line."""
        if type(operator) not in SWAPPED or left.end_lineno != right.lineno:
            return
        start, end = left.end_col_offset or 0, right.col_offset
        gap = self.lines[right.lineno - 1].encode()[start:end].decode()
        text = gap.strip().strip("()").strip()
        if text and gap.count(text) == 1:
            first = start + len(gap[: gap.index(text)].encode())
            self.add(right.lineno, first, first + len(text.encode()), SWAPPED[type(operator)])

    def visit_Compare(self, node: ast.Compare) -> None:  # ast requires this name
        """`<` becomes `<=`, `==` becomes `!=`."""
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self.between(left, right, operator)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:  # as above
        """`+` becomes `-`, `*` becomes `/`."""
        if not isinstance(node.left, ast.Constant) or not isinstance(node.left.value, str):
            self.between(node.left, node.right, node.op)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:  # as above
        """`and` becomes `or`."""
        self.between(node.values[0], node.values[1], node.op)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:  # as above
        """`not x` becomes `x`, `-x` becomes `+x`."""
        if isinstance(node.op, ast.Not | ast.USub):
            word, after = ("not", "") if isinstance(node.op, ast.Not) else ("-", "+")
            self.add(node.lineno, node.col_offset, node.col_offset + len(word), after)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:  # as above
        """Numbers increase by one, booleans are inverted."""
        if node.lineno == node.end_lineno and isinstance(node.value, bool | int | float):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            self.add(node.lineno, node.col_offset, node.end_col_offset or 0, repr(value))

    def visit_Call(self, node: ast.Call) -> None:  # as above
        """`min` becomes `max`, `any` becomes `all`."""
        function = node.func
        name = (
            function.id
            if isinstance(function, ast.Name)
            else function.attr
            if isinstance(function, ast.Attribute)
            else ""
        )
        if name in NAMES and function.lineno == function.end_lineno:
            end = function.end_col_offset or 0
            self.add(function.lineno, end - len(name), end, NAMES[name])
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Leave `strict=True` of `zip` alone: it only guards against errors elsewhere."""
        if node.arg != "strict":
            self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> None:
        """Visit default values, but not annotations."""
        for value in [*node.defaults, *node.kw_defaults]:
            if value is not None:
                self.visit(value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:  # as above
        """Visit the value, but not the annotation."""
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # as above
        """Visit default values and body."""
        for part in [node.args, *node.body]:
            self.visit(part)

    def visit_Raise(self, node: ast.Raise) -> None:  # as above
        """Skip error messages."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:  # as above
        """Skip formatted strings."""

    def visit_If(self, node: ast.If) -> None:  # as above
        """Skip imports for type checkers."""
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)


def is_python(text: str) -> bool:
    """Whether a changed file is valid Python; others are not run."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def drawn(count: int, seed: int, packages: list[str]) -> list[Mutant]:
    """Sample mutants, from each package in proportion to the square root of its number of points."""
    rng = random.Random(seed)
    points: dict[str, list[Mutant]] = {}
    for package in packages:
        found = []
        for path in sorted((ROOT / "gengeo_hf" / package).glob("*.py")):
            visitor = Points(str(path.relative_to(ROOT)))
            visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
            found += visitor.found
        points[package] = found
    total = sum(len(found) ** 0.5 for found in points.values())
    chosen = []
    for found in points.values():
        wanted = round(count * len(found) ** 0.5 / total)
        valid = (mutant for mutant in rng.sample(found, len(found)) if is_python(mutant.applied()))
        chosen += itertools.islice(valid, wanted)
    rng.shuffle(chosen)
    return chosen


def tests_of(file: str) -> list[str]:
    """Return test files that name a module, its own package first; all of that package if none does."""
    _, package, name = Path(file).with_suffix("").parts
    dotted = f"gengeo_hf.{package}" + ("" if name == "__init__" else f".{name}")
    folder = ROOT / "tests" / package
    own = sorted(folder.glob("test_*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in own}
    direct = [path for path in own if dotted in texts[path] or f"gengeo_hf.{package} import" in texts[path]]
    named = [path for path in direct if path.stem == f"test_{name}"]
    others = [
        path
        for path in sorted((ROOT / "tests").glob("*/test_*.py"))
        if path.parent != folder
        and path.parent.name not in ("torture", "serving", "cli")
        and dotted in path.read_text(encoding="utf-8")
    ]
    ordered = dict.fromkeys([*named, *(direct or own), *others])
    return [str(path.relative_to(ROOT)) for path in ordered]


def run_tests(folder: Path, tests: list[str], seconds: float) -> tuple[str, str]:
    """Return `passed`, `failed` or `late`, and the name of the failed test."""
    settings = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-rfE", "-p", "no:cacheprovider", "--durations=0", *tests]
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=settings | {"TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20 * seconds,  # wall clock; generous, because the machine may be busy
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds),) * 2),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "late", ""
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):  # sent at the CPU time limit
        return "late", ""
    if done.returncode in (0, 5):  # 5: no test ran
        return "passed", ""
    named = (line.split(" ", 1)[1].split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED "))
    return "failed", next(named, "")


@contextlib.contextmanager
def copies(count: int) -> Iterator[queue.Queue[Path]]:
    """Provide copies of the tracked tree, each used by one mutant at a time."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as name:
        free: queue.Queue[Path] = queue.Queue()
        for number in range(count):
            folder = Path(name) / f"copy{number}" / "tree"
            for file in filter(None, tracked.stdout.split("\0")):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / file).exists():
                    shutil.copy(ROOT / file, folder / file)
            if (ROOT.parent / "shared").is_dir():  # sample data that tests read from next to the checkout
                (folder.parent / "shared").symlink_to(ROOT.parent / "shared")
            free.put(folder)
        yield free


class Session:
    """One run with earlier results, and the tests that pass on unchanged code."""

    def __init__(self, out: Path, seconds: float, free: queue.Queue[Path]) -> None:
        self.path, self.seconds, self.free = out / "mutants.jsonl", seconds, free
        out.mkdir(parents=True, exist_ok=True)
        known = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.known = {row["key"]: row for row in map(json.loads, known)}
        self.sound: dict[str, bool] = {}

    def result(self, mutant: Mutant) -> dict:
        """Run one mutant, or return its earlier result."""
        tests = tests_of(mutant.file)
        texts = [(ROOT / file).read_bytes() for file in [mutant.file, *tests]]
        key = hashlib.sha256(json.dumps(asdict(mutant)).encode() + b"\0".join(texts)).hexdigest()[:20]
        if key in self.known:
            return self.known[key]
        folder, started = self.free.get(), time.monotonic()
        try:
            (folder / mutant.file).write_text(mutant.applied(), encoding="utf-8")
            outcome, failed = run_tests(folder, tests, self.seconds) if tests else ("passed", "")
            shutil.copy(ROOT / mutant.file, folder / mutant.file)
            if failed and not self._is_sound(folder, failed):
                outcome = "tests fail without a change"
        finally:
            shutil.copy(ROOT / mutant.file, folder / mutant.file)
            self.free.put(folder)
        outcome = {"passed": "survived", "failed": "killed", "late": "killed (late)"}.get(outcome, outcome)
        row = {"key": key, "name": mutant.name, "line": mutant.line, "outcome": outcome, "tests": tests}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{outcome:14} {time.monotonic() - started:5.0f} s  {mutant.name}", flush=True)
        return row

    def _is_sound(self, folder: Path, test: str) -> bool:
        """Whether a test passes on unchanged code; checked once for each test."""
        if test not in self.sound:
            self.sound[test] = run_tests(folder, [test], self.seconds)[0] == "passed"
        return self.sound[test]


def report(rows: list[dict], equivalents: dict[str, str]) -> float:
    """Print outcomes and surviving mutants; return the share that was killed."""
    survivors = [row for row in rows if row["outcome"] == "survived" and row["name"] not in equivalents]
    equal = [row for row in rows if row["outcome"] == "survived" and row["name"] in equivalents]
    killed = sum(row["outcome"].startswith("killed") for row in rows)
    for outcome, number in Counter(row["outcome"] for row in rows).most_common():
        print(f"{number:5} {outcome}")
    for row in sorted(survivors, key=lambda row: row["name"]):
        print(f"survived: line {row['line']} of {row['name']}")
    for row in equal:
        print(f"equivalent: {row['name']}: {equivalents[row['name']]}")
    share = killed / max(1, killed + len(survivors))
    print(f"{share:.1%} of {killed + len(survivors)} mutants were killed; {len(equal)} equivalents excluded")
    return share


def main() -> None:
    """Sample mutants, run and report them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    parser.add_argument("--jobs", type=int, default=2, help="number of mutants tested in parallel")
    parser.add_argument("--seconds", type=float, default=300, help="limit of CPU time for the tests of one mutant")
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="packages to change")
    parser.add_argument("--goal", type=float, default=0.85, help="required share of killed mutants")
    parser.add_argument("--out", type=Path, default=ROOT / "mutants", help="directory of mutants.jsonl")
    given = parser.parse_args()
    equivalents = json.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.exists() else {}
    mutants = drawn(given.count, given.seed, given.only)
    with copies(given.jobs) as free, concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        rows = list(pool.map(Session(given.out, given.seconds, free).result, mutants))
    if report(rows, equivalents) < given.goal:
        sys.exit(f"fewer than {given.goal:.0%} of the mutants were killed")


if __name__ == "__main__":
    main()
