"""Runs all benchmarks and writes one report with ratios to the alternatives.

    make bench                                             # under 20 minutes on two quiet cores
    python benchmarks/run.py --quick                       # every section at small sizes, as a test
    python benchmarks/run.py --only extraction startup     # some sections; others keep the last results

Writes benchmarks/results/bench.json and bench.md: values with their goals, met or missed, and facts about the machine.
Compared methods run in turns in one process; times are medians, and ratios are of CPU time, which other load affects
less. Most sections measure three sizes and report the exponent of growth (1 is linear). GPU sections run if there is a
GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import Figure, machine

from gengeo_hf.common.files import write_json, write_text

if TYPE_CHECKING:
    from sections import Sizes

RESULTS = Path(__file__).resolve().parent / "results"


def as_markdown(found: dict[str, Any]) -> str:
    """Format the report in Markdown."""
    facts, minutes = found["machine"], sum(found["seconds"].values()) / 60
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    lines = [
        "# Measured",
        "",
        f"`python benchmarks/run.py{' --quick' if found['quick'] else ''}`, {found['date']}, {minutes:.0f} "
        f"minutes in all, on {facts['cpu']} ({facts['architecture']}; {', '.join(facts['flags']) or 'no flags'}), "
        f"{facts['cores']} cores, {facts['threads']} threads, {facts['memory_gb']} GB, load {facts['load']} at the "
        f"start, GPU: {facts['gpu'] or 'none'}; {facts['system']}, Python {facts['python']}, {versions}.",
        "",
        "Ratios are of CPU time of methods that ran in turns; compare ratios, because times depend on the machine.",
        *(["", "**Small sizes (`--quick`): these values only test the command.**"] if found["quick"] else []),
    ]
    for section, rows in found["sections"].items():
        lines += [
            "",
            f"## {section}",
            "",
            "| what | figure | clock s | CPU s | goal | |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [_row(row) for row in rows]
    return "\n".join([*lines, ""])


def _row(row: dict[str, Any]) -> str:
    verdict = {True: "met", False: "**missed**", None: ""}[row["met"]]
    clock, cpu = (f"{row[key]:.3g}" if row[key] is not None else "" for key in ("clock_s", "cpu_s"))
    note = f"; {row['note']}" if row["note"] and verdict else row["note"]
    return f"| {row['what']} | {row['value']:.4g} {row['unit']} | {clock} | {cpu} | {row['goal']} | {verdict}{note} |"


def run_section(name: str, section: Callable[[Sizes], list[Figure]], sizes: Sizes) -> tuple[list[Figure], float]:
    """Run a section and print its values; returns them with its clock seconds. A failure becomes a value."""
    started = time.perf_counter()
    try:
        rows = section(sizes)
    except Exception as error:  # a failed section must not stop the others
        rows = [Figure(name, "failed", 0.0, "", note=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")]
    for row in rows:
        print(_row(row.plain()), flush=True)
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return rows, seconds


def main() -> None:
    # Here because processes that a section starts import this file, and would import torch as well.
    from sections import GPU_SECTIONS, SECTIONS, Sizes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = {**SECTIONS, **GPU_SECTIONS}
    parser.add_argument(
        "--only", nargs="+", choices=[*everything], help="sections to run; results of the others are kept"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of bench.json and bench.md")
    given = parser.parse_args()
    facts = machine()
    asked = given.only or [*SECTIONS, *(GPU_SECTIONS if facts["gpu"] else [])]
    if not facts["gpu"] and not given.only:
        print("no GPU: its sections are skipped", file=sys.stderr)
    sizes = Sizes.quick() if given.quick else Sizes()
    stored, kept, seconds = given.out / "bench.json", {}, {}
    if given.only and stored.is_file():
        old = json.loads(stored.read_text(encoding="utf-8"))
        if old["machine"]["cpu"] == facts["cpu"] and old["quick"] == given.quick:  # otherwise they are not comparable
            kept, seconds = old["sections"], old["seconds"]
    for name in asked:
        rows, seconds[name] = run_section(name, everything[name], sizes)
        kept[name] = [row.plain() for row in rows]
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "quick": given.quick,
        "seconds": seconds,
        "machine": facts,
        "sections": {name: kept[name] for name in everything if name in kept},
    }
    write_json(stored, found)
    write_text(given.out / "bench.md", as_markdown(found))
    missed = [row["what"] for rows in found["sections"].values() for row in rows if row["met"] is False]
    failed = [name for name, rows in found["sections"].items() if any(row["what"] == "failed" for row in rows)]
    print(f"{len(missed)} goals missed" + (f": {'; '.join(missed)}" if missed else ""))
    if failed:
        sys.exit(f"sections that failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
