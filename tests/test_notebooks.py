"""The notebooks: small, executed as a whole or not at all, without traces of a machine; and, slowly, that they run."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
import run as runner  # noqa: E402  # notebooks/run.py; the folder is no package

NOTEBOOKS = [pytest.param(path, id=path.stem) for path in runner.notebooks()]


def test_the_table_is_that_of_the_notebooks():
    assert (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8") == runner.table(), (
        "run: python notebooks/run.py --table"
    )
    assert [path.values[0].name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_is_small_whole_and_tells_nothing_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) <= runner.LARGEST
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    clean = not any(counts) and not any(cell.outputs for cell in code)
    assert clean or counts == list(range(1, len(code) + 1)), "neither whole nor clean: python notebooks/run.py"
    for cell in code:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        told = "".join(output.get("text", "") for output in cell.outputs)
        told += "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
        assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users|var)/", cell.source + told)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_notebook_runs_from_nothing_and_writes_nothing_here(monkeypatch, capfd):
    for name, value in (("GENGEO_NOTEBOOKS", "unused"), ("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "2")):
        monkeypatch.setenv(name, value)  # the check sets them: they are put back after the test
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "notebooks").iterdir()}
    runner.check(runner.notebooks())
    told = capfd.readouterr().out
    assert [line.split(":")[0] for line in told.splitlines() if ".ipynb:" in line] == [
        p.name for p in runner.notebooks()
    ]
    assert before == {path: path.stat().st_mtime_ns for path in (ROOT / "notebooks").iterdir()}
