"""Test the mutation testing of benchmarks/mutants.py: which points are changed, which tests run, what is counted."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SOURCE = '''LIMIT = 3  # not "== 4"


def share(rows: int = 0, *, strict: bool = True) -> float:
    """Text."""
    if not rows and strict:
        raise ValueError(f"{rows + 1} rows")
    return max(
        rows - 1,
        LIMIT,
    ) / 2
'''


@pytest.fixture
def points(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mutation_points

    return mutation_points


@pytest.fixture
def coverage(points):
    import mutation_coverage

    return mutation_coverage


@pytest.fixture
def tree(points, tmp_path, monkeypatch):
    """A package of one module, its quick test, and a slower test of another package."""
    files = {
        "gengeo_hf/index/shares.py": SOURCE,
        "tests/index/test_shares.py": "from gengeo_hf.index.shares import share\n\n\n"
        "def test_share_of_ten():\n    assert share(10) == 4.5\n\n\n"
        "def test_imports_only():\n    assert share\n",
        "tests/cli/test_other.py": "from gengeo_hf.index.shares import share\n\n\n"
        "def test_share_of_zero():\n    assert share(0, strict=False) == 1.5\n",
    }
    for name, text in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "tree" / "training").mkdir()
    for module in ("mutation_points", "mutants"):
        __import__(module)
        monkeypatch.setattr(sys.modules[module], "ROOT", tmp_path / "tree")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path / "tree", check=True)
    return tmp_path / "tree"


def test_points_are_operators_constants_and_conditions_outside_of_messages(points, tree):
    visitor = points.Points("gengeo_hf/index/shares.py")
    visitor.visit(ast.parse(SOURCE))
    found = [(m.first, m.line, m.before, m.after) for m in visitor.found]
    assert sorted(found) == [
        (1, 1, "3", "4"),
        (4, 4, "0", "1"),
        (4, 4, "True", "False"),
        (6, 6, "and", "or"),
        (6, 6, "not", ""),
        (8, 8, "max", "min"),
        (8, 9, "-", "+"),
        (8, 9, "1", "2"),
        (8, 11, "/", "*"),
        (8, 11, "2", "3"),
    ]
    changed = next(m for m in visitor.found if m.after == "min")
    assert changed.applied() == SOURCE.replace("max(", "min(")


def test_sampled_is_reproducible_and_limited_to_modules(points, tree):
    first, again, other = (points.sampled(5, seed, ["index/shares"]) for seed in (1, 1, 2))
    assert first == again != other and len(first) == len(set(first)) == 5


@pytest.mark.parametrize("name", ["serving", "index/none", "index/stores/qdrant", "indx"])
def test_main_with_an_unknown_module_is_a_usage_error(points, monkeypatch, capsys, name):
    import mutants

    monkeypatch.setattr(sys, "argv", ["mutants.py", "--only", name])
    with pytest.raises(SystemExit, match="2"):
        mutants.main()
    assert f"--only {name}: expected one of model, " in capsys.readouterr().err


@pytest.mark.slow
def test_run_counts_killed_and_equivalent_mutants(tree, tmp_path, monkeypatch, capsys):
    import mutants

    name = "gengeo_hf/index/shares.py: def share(rows: int = 0, *, strict: bool = True) -> float: [0 -> 1]"
    (tmp_path / "equivalents.json").write_text(f'{{"{name}": "no caller leaves it out"}}')
    monkeypatch.setattr(mutants, "EQUIVALENT", tmp_path / "equivalents.json")
    options = ["--only", "index", "--count", "10", "--jobs", "1", "--goal", "0.5", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["mutants.py", *options])
    mutants.main()
    report = capsys.readouterr().out
    assert "8 killed" in report and f"equivalent: {name}: no caller leaves it out" in report
    assert "survived: line 4" in report and "88.9% of 9 mutants were killed; 1 equivalents excluded" in report
    mutants.main()  # results are kept
    assert "88.9% of 9" in capsys.readouterr().out


@pytest.mark.slow
def test_coverage_after_a_changed_test_measures_only_its_file(coverage, tree, tmp_path, capsys):
    import mutants

    before = mutants.measured_coverage(tree, tmp_path, 1)
    assert before.lines["gengeo_hf/index/shares.py"][8] == [
        "tests/cli/test_other.py::test_share_of_zero",
        "tests/index/test_shares.py::test_share_of_ten",
    ]
    (tree / "tests/cli/test_other.py").write_text("def test_nothing():\n    pass\n")
    assert before.changed(tree) == ["tests/cli/test_other.py"]
    after = mutants.measured_coverage(tree, tmp_path, 1)
    assert "Changed tests" in capsys.readouterr().out
    assert after.lines["gengeo_hf/index/shares.py"][8] == ["tests/index/test_shares.py::test_share_of_ten"]
    assert set(after.seconds) == {"tests/index/test_shares.py::test_share_of_ten"}  # no other test runs a line
    (tree / "tests/cli/test_other.py").unlink()
    assert set(mutants.measured_coverage(tree, tmp_path, 1).seconds) == {
        "tests/index/test_shares.py::test_share_of_ten"
    }
    (tree / "tests/index/test_shares.py").unlink()
    assert not mutants.measured_coverage(tree, tmp_path, 1).seconds  # no test is named that does not exist
    (tree / "gengeo_hf/index/shares.py").write_text(SOURCE + "\n")
    assert after.changed(tree) is None


def test_equivalent_mutants_are_points_of_the_present_source(points):
    """An entry whose line has changed must be judged again."""
    found = set()
    for package in points.PACKAGES:
        for path in (points.ROOT / "gengeo_hf" / package).glob("*.py"):
            visitor = points.Points(path.relative_to(points.ROOT).as_posix())
            visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
            found |= {mutant.name for mutant in visitor.found}
    entries = json.loads((BENCHMARKS / "mutants_equivalent.json").read_text(encoding="utf-8"))
    assert entries.keys() <= found and all(reason.endswith(".") for reason in entries.values())


def test_tests_of_own_module_come_first_up_to_the_limit(coverage, points):
    tests = {"tests/cli/test_a.py::x": 0.1, "tests/index/test_b.py::y": 0.2, "tests/index/test_shares.py::z": 3.0}
    lines = {"gengeo_hf/index/shares.py": {8: list(tests), 1: []}}
    data = coverage.Coverage(lines, tests, "", {})
    mutant = points.Mutant("gengeo_hf/index/shares.py", 8, 9, 0, 1, "1", "2")
    ordered = ["tests/index/test_shares.py::z", "tests/index/test_b.py::y", "tests/cli/test_a.py::x"]
    assert data.tests_of(mutant, 4.0) == ordered and data.tests_of(mutant, 3.25) == ordered[:2]
    constant = points.Mutant("gengeo_hf/index/shares.py", 1, 1, 0, 1, "3", "4")
    assert data.tests_of(constant, 4.0) == ordered  # run by the import alone
