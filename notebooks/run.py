"""Execute the notebooks in place and write the table in README.md.

    python notebooks/run.py            # all
    python notebooks/run.py 01 05      # some
    python notebooks/run.py --table    # only the table

Notebooks run in the order of their names, without internet, and share one small model (see small_world.py).
"""

import argparse
import resource
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from gengeo_hf.files import write_text

HERE = Path(__file__).resolve().parent
LARGEST = 400_000  # bytes of a notebook with its outputs


def notebooks() -> list[Path]:
    """All notebooks in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.ipynb"))


def execute(path: Path, timeout: int = 3600) -> nbformat.NotebookNode:
    """Run one notebook from an empty kernel; gives it with fresh outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": HERE}})
    executed: nbformat.NotebookNode = client.execute()
    for number, cell in enumerate(executed.cells):
        cell.metadata.pop("execution", None)  # times of this run: they would change the file every time
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]  # progress bars
    executed.metadata.pop("widgets", None)
    return executed


def table() -> str:
    """README.md: one row for each notebook, from its heading and first sentence."""
    rows = []
    for path in notebooks():
        heading, paragraph = nbformat.read(path, as_version=4).cells[0].source.split("\n\n")[:2]
        rows.append(f"| [{path.name}]({path.name}) | {heading.lstrip('# ')} | {' '.join(paragraph.split())} |")
    head = ["# Notebooks", "", "They run on the synthetic world, without internet: `python notebooks/run.py`.", ""]
    return "\n".join([*head, "| notebook | what | |", "| --- | --- | --- |", *rows, "",
                      "This table is written by `python notebooks/run.py --table`.", ""])  # fmt: skip


def cpu_seconds() -> float:
    """CPU time of this process and of the kernels that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="first digits of names; default: all")
    parser.add_argument("--table", action="store_true", help="only write README.md")
    given = parser.parse_args()
    for path in notebooks():
        if given.table or (given.numbers and path.name[:2] not in given.numbers):
            continue
        started, cpu = time.perf_counter(), cpu_seconds()
        text = nbformat.writes(execute(path)) + "\n"
        if len(text) > LARGEST:
            raise SystemExit(f"{path.name} is {len(text):,} bytes with its outputs: keep it below {LARGEST:,}")
        write_text(path, text)
        spent = f"{time.perf_counter() - started:.0f} s, {cpu_seconds() - cpu:.0f} s of CPU"
        print(f"{path.name}: {spent}, {len(text) / 1000:.0f} kB")
    write_text(HERE / "README.md", table())


if __name__ == "__main__":
    main()
