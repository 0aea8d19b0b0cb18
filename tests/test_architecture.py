"""Test the directions of imports between packages, the lengths of files, and that no file edits `sys.path`."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gengeo_hf"
MAY_IMPORT = {
    "model": "",
    "common": "",
    "encoding": "model common",
    "world": "common",
    "data": "world model common",  # model: checkpoints contain the view transforms
    "learning": "common",
    "imagery": "data common",
    "acquire": "imagery data common",
    "index": "encoding imagery common",
    "pose": "model encoding data common",
    "localization": "index imagery pose encoding data common",
    "evaluation": "localization pose index imagery encoding data common",
    "training": "evaluation pose learning encoding data model common",
    "explain": "model encoding data common",
    "hub": "model encoding index data evaluation common",
    "serving": "localization explain index encoding common",
}
# Imports that violate the table today. Remove an entry when it is fixed; do not add entries.
KNOWN_VIOLATIONS: set[tuple[str, str]] = set()
KNOWN_LONG_FILES: set[str] = set()  # files of more than MAX_LINES lines today
MAX_LINES = 400


def source_files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "assets" not in path.parts]


def imported_names(path: Path) -> set[str]:
    """Absolute dotted names that a file imports, also inside functions and under TYPE_CHECKING."""
    names = set()
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names if module == "gengeo_hf"}
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(str(node.args[0].value))
    return names


def package_imports() -> dict[tuple[str, str], str]:
    """First file with each import between packages, by (package, imported package)."""
    found: dict[tuple[str, str], str] = {}
    for path in source_files():
        package = path.relative_to(PACKAGE).parts[0]
        if package not in MAY_IMPORT:  # cli and the top level may import all packages
            continue
        for name in imported_names(path):
            parts = name.split(".")
            if parts[0] == "gengeo_hf" and len(parts) > 1 and parts[1] != package and (PACKAGE / parts[1]).is_dir():
                found.setdefault((package, parts[1]), str(path.relative_to(ROOT)))
    return found


def test_import_table_has_a_row_for_every_package():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - {"cli"} <= set(MAY_IMPORT)


def test_imports_between_packages_follow_the_table():
    violations = {pair: file for pair, file in package_imports().items() if pair[1] not in MAY_IMPORT[pair[0]].split()}
    assert {pair: file for pair, file in violations.items() if pair not in KNOWN_VIOLATIONS} == {}
    assert set(violations) >= KNOWN_VIOLATIONS, "fixed: remove it from KNOWN_VIOLATIONS"


def test_import_table_has_no_cycle():
    remaining = {package: set(imports.split()) for package, imports in MAY_IMPORT.items()}
    while independent := [package for package, imports in remaining.items() if not imports]:
        for package in independent:
            del remaining[package]
        remaining = {package: imports - set(independent) for package, imports in remaining.items()}
    assert not remaining


def test_model_files_copied_to_checkpoints_import_the_package_only_relatively():
    for path in (PACKAGE / "model").glob("*.py"):
        absolute = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").startswith("gengeo_hf"))
            or (isinstance(node, ast.Import) and any(alias.name.startswith("gengeo_hf") for alias in node.names))
        ]
        assert not absolute, f"{path.name}:{absolute[0].lineno}"


def test_source_files_have_at_most_400_lines():
    code = [path for folder in ("gengeo_hf", "training", ".ci") for path in (ROOT / folder).rglob("*.py")]
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in code}
    long_files = {name for name, lines in sizes.items() if lines > MAX_LINES}
    assert long_files - KNOWN_LONG_FILES == set()
    assert long_files >= KNOWN_LONG_FILES, "shorter now: remove it from KNOWN_LONG_FILES"


@pytest.mark.parametrize("folder", ["gengeo_hf", "training", "benchmarks", "notebooks"])
def test_source_files_do_not_edit_sys_path(folder):
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not any(f"sys.path.{method}" in text for method in ("insert", "append", "extend")), path


@pytest.mark.parametrize("folder", ["training", "benchmarks", "notebooks", "tests"])
def test_scripts_do_not_have_the_name_of_a_library(folder):
    """Python searches the directory of a script before the installed libraries."""
    import importlib.metadata

    libraries = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    names = {path.stem for path in (ROOT / folder).glob("*") if path.suffix == ".py" or path.is_dir()}
    assert not (names & libraries) - {"__pycache__", "tests"}
