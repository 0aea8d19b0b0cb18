"""The pages build, nothing in them leads nowhere, and every public name is documented and typed."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gengeo_hf"
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if "assets" not in path.parts]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SHAPE = re.compile(r"\([^()]*,[^()]*\)|\bshapes?\b", re.IGNORECASE)  # "(n, m)", "(queries,)", "of any shape"
TELLS_ELSEWHERE = re.compile(r"(like|as|see) `|see the class", re.IGNORECASE)


def public(tree):
    """Functions and classes of a module, and the methods of its public classes, that a user may call: with names."""
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                methods = [child for child in node.body if isinstance(child, FUNCTIONS)]
                yield from ((f"{node.name}.{m.name}", m) for m in methods if not m.name.startswith("_"))


def what_is_missing(source, commands=False):
    """Lines "name: what a reader misses" of a module's text; docstrings of commands are help and tell no errors."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module: a docstring"]
    for name, node in public(tree):
        told = ast.get_docstring(node) or ""
        if any("overload" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue  # it says nothing of its own
        if not told:
            missing.append(f"{name}: a docstring")
        elif isinstance(node, FUNCTIONS) and not commands:
            missing += [f"{name}: {what}" for what in missing_words(node, told)]
        if isinstance(node, FUNCTIONS) and (untyped := missing_types(node)):
            missing.append(f"{name}: types of {', '.join(untyped)}")
    return missing


def missing_types(function):
    """Arguments, and "what it returns", that have no annotation."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
    return untyped + ([] if function.returns is not None else ["what it returns"])


def missing_words(function, told):
    """What the docstring of a function should say and does not: errors that it raises, shapes of arrays."""
    given = function.args
    raised = [n.exc for n in ast.walk(function) if isinstance(n, ast.Raise) and n.exc is not None]
    names = {ast.unparse(exc.func if isinstance(exc, ast.Call) else exc) for exc in raised}
    told_elsewhere = bool(TELLS_ELSEWHERE.search(told))
    if names & {"GenGeoError", "ValueError", "TypeError"} and not (told_elsewhere or "\nRaises:\n" in told):
        yield "a section Raises"
    annotations = [a.annotation for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)] + [function.returns]
    arrays = [a for a in annotations if a is not None and re.search(r"\b(ndarray|Tensor)\b", ast.unparse(a))]
    if arrays and not (told_elsewhere or SHAPE.search(told)):
        yield "the shapes of its arrays"


def test_every_public_name_has_a_docstring_and_types():
    found = [(path, what_is_missing(path.read_text(encoding="utf-8"), "cli" in path.parts)) for path in SOURCES]
    missing = [f"{path.relative_to(ROOT)}: {line}" for path, lines in found for line in lines]
    assert not missing, "\n".join(missing)
    assert (PACKAGE / "py.typed").is_file()


def test_the_check_of_docstrings_notices_what_is_wrong():
    good = (ROOT / "gengeo_hf" / "places" / "geodesy.py").read_text(encoding="utf-8")
    assert what_is_missing(good) == []
    assert what_is_missing(re.sub(r'"""[^"]*""\"\n', "", good, count=1)) == ["the module: a docstring"]
    for wrong, message in (
        ("def f(x: int) -> int:\n    return x", "f: a docstring"),
        ("def f(x) -> int:\n    'One.'", "f: types of x"),
        ("def f(*x: int, **y):\n    'One.'", "f: types of y, what it returns"),
        ("async def f(x: int):\n    'One.'", "f: types of what it returns"),
        ("class C:\n    'One.'\n    def f(self) -> None:\n        pass", "C.f: a docstring"),
        ("def f(x: int) -> None:\n    'One.'\n    raise GenGeoError('no')", "f: a section Raises"),
        ("def f(x: np.ndarray) -> None:\n    'Rows.'", "f: the shapes of its arrays"),
    ):
        assert what_is_missing(f"'Module.'\n{wrong}\n") == [message]
    told = "'Rows (n, 2).\\n\\nRaises:\\n    GenGeoError: no.'"
    fine = f"def f(x: np.ndarray) -> None:\n    {told}\n    raise GenGeoError('')"
    assert what_is_missing(f"'Module.'\n{fine}\ndef _private(x):\n    pass\n") == []


def test_every_docs_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    inside = "".join(re.findall(r"(?ms)^:::\{toctree\}.*?^:::$", index))
    listed = {line.strip() for line in inside.splitlines() if line.strip() and line[0] != ":"}
    found = {str(p.relative_to(ROOT / "docs").with_suffix("")) for p in (ROOT / "docs").rglob("*.md")}
    included = {"sensitivity_table", "asymmetry_table"}
    assert {name for name in found - included if not name.startswith("generated/")} == listed | {"index"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_build_and_no_link_leads_nowhere(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "--keep-going", "-b", "html"]
    command += ["-d", str(tmp_path / "trees")]
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("generated"))
    done = subprocess.run([*command, str(tmp_path / "docs"), str(tmp_path / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "html" / "generated" / "gengeo_hf.explain.links.html").read_text(encoding="utf-8")
    assert "explain_match" in page and "what each pair of patches adds" in page.lower()
