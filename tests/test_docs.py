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


def public(tree):
    """Functions and classes of a module, and the methods of its public classes, that a user may call."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
                yield from (child for child in methods if not child.name.startswith("_"))


def test_every_public_name_has_a_docstring_and_types():
    missing = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(ROOT)
        if not ast.get_docstring(tree) and tree.body:
            missing.append(f"{where}: the module")
        for node in public(tree):
            if not ast.get_docstring(node) and not _inherits_its_docstring(node):
                missing.append(f"{where}:{node.lineno} {node.name}")
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
                if untyped or node.returns is None:
                    missing.append(f"{where}:{node.lineno} {node.name}: types of {untyped or 'what it returns'}")
    assert not missing, "\n".join(missing)
    assert (PACKAGE / "py.typed").is_file()


def _inherits_its_docstring(node):
    """`@overload`s say nothing of their own."""
    return any("overload" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", []))


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
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("generated"))
    done = subprocess.run([*command, str(tmp_path / "docs"), str(tmp_path / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    serious = ("failed to import", "xref", "not found", "toctree", "unknown document", "include")
    assert not [line for line in done.stderr.splitlines() if any(word in line.lower() for word in serious)]
    page = (tmp_path / "html" / "generated" / "gengeo_hf.explain.links.html").read_text(encoding="utf-8")
    assert "explain_match" in page and "what each pair of patches adds" in page.lower()
