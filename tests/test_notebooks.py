"""Test the notebooks: their size, that all or no cells are executed, no local paths, and (slow) that they run."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
import run as runner  # noqa: E402  # notebooks/run.py; the directory is not a package

NOTEBOOKS = [pytest.param(path, id=path.stem) for path in runner.notebooks()]


def test_notebooks_table_in_the_readme_is_current():
    assert (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8") == runner.table(), (
        "run: python notebooks/run.py --table"
    )
    assert [path.values[0].name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_is_small_fully_executed_or_not_at_all_and_has_no_local_paths(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) <= runner.LARGEST
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    is_unexecuted = not any(counts) and not any(cell.outputs for cell in code)
    assert is_unexecuted or counts == list(range(1, len(code) + 1)), (
        "cells were not all executed in order: run notebooks/run.py"
    )
    for cell in code:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        printed = "".join(output.get("text", "") for output in cell.outputs)
        printed += "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
        assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users|var)/", cell.source + printed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_notebooks_in_an_empty_directory_run_and_change_no_file_of_the_repository(monkeypatch, capfd):
    for name, value in (("GENGEO_NOTEBOOKS", "unused"), ("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "2")):
        monkeypatch.setenv(name, value)  # the check sets them; monkeypatch restores them after the test
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "notebooks").iterdir()}
    runner.check(runner.notebooks())
    printed = capfd.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines() if ".ipynb:" in line] == [
        p.name for p in runner.notebooks()
    ]
    assert before == {path: path.stat().st_mtime_ns for path in (ROOT / "notebooks").iterdir()}
