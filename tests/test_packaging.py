"""What is required: bounds that `make test-oldest` can install, and pins that keep to them."""

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
