"""How long a user waits before anything happens: `gengeo --help` and `import gengeo_hf`, beside a bare Python.

python benchmarks/startup.py --rounds 9
"""

import argparse
import resource
import subprocess
import sys
import time

from measuring import Figure

PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "gengeo --help": ["-m", "gengeo_hf.cli", "--help"],
    "import gengeo_hf": ["-c", "import gengeo_hf"],
    "import gengeo_hf, GenGeoModel": ["-c", "from gengeo_hf import GenGeoModel"],
}
GOALS = {"gengeo --help": "<= 0.5"}


def once(words: list[str]) -> tuple[float, float]:
    """Clock and CPU seconds of one fresh process."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figures(rounds: int) -> list[Figure]:
    """The least seconds of each program: a start has a floor, and everything above it is other work on the machine."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for turn in range(rounds + 1):
        for name, words in PROGRAMS.items():
            found = once(words)
            if turn:  # the first one reads files that the others find in memory
                taken[name].append(found)
    rows = []
    for name, times in taken.items():
        wall, cpu = (min(values) for values in zip(*times, strict=True))
        rows.append(Figure("start", name, cpu, "CPU s", wall, cpu, GOALS.get(name, "")))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    for row in figures(parser.parse_args().rounds):
        print(f"{row.what}: {row.clock_s:.2f} s, {row.cpu_s:.2f} CPU-s {row.goal}")


if __name__ == "__main__":
    main()
