"""Points of the source that mutation testing changes: comparisons, signs, constants, conditions, minima, maxima."""

import ast
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "learning", "training", "evaluation", "index", "localization")
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
        first: One-based line on which its statement begins.
        line, start, end: One-based line and columns in bytes of the replaced text.
        before, after: Original and replaced source text.
    """

    file: str
    first: int
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
        self.first = 1  # line on which the visited statement begins

    def visit(self, node: ast.AST) -> None:
        """Visit a node and remember where its statement begins."""
        outer, self.first = self.first, node.lineno if isinstance(node, ast.stmt) else self.first
        super().visit(node)
        self.first = outer

    def add(self, line: int, start: int, end: int, after: str) -> None:
        """Add a mutant on one line."""
        before = self.lines[line - 1].encode()[start:end].decode()
        self.found.append(Mutant(self.file, self.first, line, start, end, before, after))

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


def source_files(name: str) -> list[Path]:
    """Return the files of a package (`index`) or of a module (`index/export`), without nested packages; may be none."""
    package, _, module = name.partition("/")
    return sorted(path for path in (ROOT / "gengeo_hf" / package).glob("*.py") if module in ("", path.stem))


def is_python(text: str) -> bool:
    """Whether a changed file is valid Python; others are not run."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def sampled(count: int, seed: int, names: Sequence[str] = PACKAGES) -> list[Mutant]:
    """Sample mutants, from each package in proportion to the square root of its number of points.

    Args:
        count: Number of mutants.
        seed: Seed of the sampling.
        names: Packages (`index`) or modules (`index/export`).
    """
    rng = random.Random(seed)
    points: dict[str, list[Mutant]] = {}
    for name in names:
        found = []
        for file in source_files(name):
            visitor = Points(str(file.relative_to(ROOT)))
            visitor.visit(ast.parse(file.read_text(encoding="utf-8")))
            found += visitor.found
        points[name] = found
    total = sum(len(found) ** 0.5 for found in points.values())
    chosen = []
    for found in points.values():
        wanted = round(count * len(found) ** 0.5 / total)
        valid = (mutant for mutant in rng.sample(found, len(found)) if is_python(mutant.applied()))
        chosen += itertools.islice(valid, wanted)
    rng.shuffle(chosen)
    return chosen
