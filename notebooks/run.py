"""Execute the notebooks in place and write the table in README.md.

    python notebooks/run.py            # all
    python notebooks/run.py 01 05      # some
    python notebooks/run.py --table    # only the table
    python notebooks/run.py --check    # from nothing, in a temporary directory, two at a time; changes nothing here

Notebooks run in the order of their names, without internet, and share one small model (see small_world.py).
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from gengeo_hf.common.files import write_text

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


def check(paths: Sequence[Path]) -> None:
    """Execute notebooks as in a fresh clone: nothing that an earlier run or the demo made is used or changed.

    What they share is made first. Then two run at a time, with one thread each.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        SystemExit: the small model could not be trained, or a notebook has become too large.
    """
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"GENGEO_NOTEBOOKS": home, "HF_HUB_OFFLINE": "1"}
        started = time.perf_counter()
        prepare = "import small_world; small_world.trained_model(); small_world.places()"
        if subprocess.run([sys.executable, "-c", prepare], cwd=HERE, check=False).returncode:
            raise SystemExit("what the notebooks share could not be made")
        print(f"a small model for all: {time.perf_counter() - started:.0f} s", flush=True)
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            for path, (seconds, size) in zip(paths, pool.map(measured, paths), strict=True):
                print(f"{path.name}: {seconds:.0f} s, {size / 1000:.0f} kB", flush=True)
                if size > LARGEST:
                    raise SystemExit(f"{path.name} is {size:,} bytes with its outputs: keep it below {LARGEST:,}")
        print(f"all: {time.perf_counter() - started:.0f} s")


def measured(path: Path) -> tuple[float, int]:
    """Run one notebook: seconds, and its size in bytes with fresh outputs."""
    started = time.perf_counter()
    size = len(nbformat.writes(execute(path)))
    return time.perf_counter() - started, size


def table() -> str:
    """README.md: one row for each notebook, from its heading and first sentence."""
    rows = []
    for path in notebooks():
        heading, paragraph = nbformat.read(path, as_version=4).cells[0].source.split("\n\n")[:2]
        rows.append(f"| [{path.name}]({path.name}) | {heading.lstrip('# ')} | {' '.join(paragraph.split())} |")
    told = (
        "They run on the synthetic world, without internet: `python notebooks/run.py`. Where `make demo` has not run, "
        "a small model is trained once for all of them. `python notebooks/run.py --check` runs them from nothing and "
        "changes nothing here."
    )
    head = ["# Notebooks", "", told, ""]
    return "\n".join(
        [
            *head,
            "| notebook | what | |",
            "| --- | --- | --- |",
            *rows,
            "",
            "This table is written by `python notebooks/run.py --table`.",
            "",
        ]
    )


def cpu_seconds() -> float:
    """CPU time of this process and of the kernels that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="first digits of names; default: all")
    parser.add_argument("--table", action="store_true", help="only write README.md")
    parser.add_argument("--check", action="store_true", help="execute from nothing and write nothing here")
    given = parser.parse_args()
    chosen = [path for path in notebooks() if not given.numbers or path.name[:2] in given.numbers]
    if given.check:
        check(chosen)
        return
    for path in [] if given.table else chosen:
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
