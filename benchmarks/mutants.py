"""Mutation testing: change single points of the core, one at a time, and run the tests that run the changed line.

    make mutants                                     # 150 changes, seed 0
    python benchmarks/mutants.py --count 150 --seed 7 --jobs 2 --out mutants

Mutants are sampled with a seed from the modules of `PACKAGES`: comparisons, signs, constants, conditions, minima and
maxima. The default tests run once, and the lines that each of them runs are recorded in `--out` (longer than
`make test`; after a change of tests alone, only those are run again). For each mutant, the tests that run its line
are then run in a copy of the tree, those of its own module first, up to `--tests-s` seconds of tests. The first failure
ends them; so does the limit of CPU time, and both count as killed. Results are appended to `mutants.jsonl` in `--out`,
so an interrupted run can be resumed while the changed files stay the same. Equivalent mutants, which do not change
behaviour, are listed in `mutants_equivalent.json`, each with its reason, and are not counted. The exit status is 1
below `--goal`.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mutation_coverage import Coverage, digests
from mutation_points import PACKAGES, ROOT, Mutant, sampled, source_files

EQUIVALENT = Path(__file__).with_name("mutants_equivalent.json")
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def pytest_words(*words: str) -> list[str]:
    """Return a command line of pytest that leaves nothing behind in the tree."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfE", "--durations=0", *words]


def measured_coverage(folder: Path, out: Path, jobs: int) -> Coverage:
    """Return which lines each default test runs: kept data, after the tests that changed since were run once."""
    kept = out / "coverage.json"
    known = Coverage.load(kept) if kept.exists() else None
    changed = known.changed(folder) if known else None
    if known and changed == []:
        return known.updated(Coverage({}, {}, *digests(folder)))  # without test files that were deleted
    print(
        f"{'Changed' if changed else 'All default'} tests are run once to record the lines that each runs ...",
        flush=True,
    )
    rules, data = folder.parent / "coverage.rc", folder.parent / "coverage.data"
    rules.write_text(f"[run]\nsource = gengeo_hf\ndata_file = {data}\n", encoding="utf-8")
    coverage = ["--cov", f"--cov-config={rules}", "--cov-context=test", "--cov-report="]
    done = subprocess.run(
        pytest_words("-n", str(jobs), "-vv", *coverage, *(changed or [])),
        cwd=folder,
        env=os.environ | SETTINGS | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode not in (0, 1, 5) or not data.exists():  # 5: all tests of the changed files are slow ones
        sys.exit(f"the tests could not be run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    measured = Coverage.read(data, done.stdout, folder)
    measured = known.updated(measured) if known and changed else measured
    measured.save(kept)
    return measured


def run_tests(folder: Path, tests: list[str], seconds: float) -> tuple[str, str]:
    """Return `passed`, `failed` or `late`, and the name of the failed test."""
    try:
        done = subprocess.run(
            pytest_words("-x", "-n", "0", *tests),
            cwd=folder,
            env=os.environ | SETTINGS | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20 * seconds,  # wall clock; generous, because the machine may be busy
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds),) * 2),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "late", ""
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):  # sent at the CPU time limit
        return "late", ""
    if done.returncode == 0:
        return "passed", ""
    named = (line.split(" ", 1)[1].split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED "))
    return "failed", next(named, "")


@contextlib.contextmanager
def copies(count: int) -> Iterator[queue.Queue[Path]]:
    """Provide copies of the tracked tree, each used by one mutant at a time."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as name:
        free: queue.Queue[Path] = queue.Queue()
        for number in range(count):
            folder = Path(name) / f"copy{number}" / "tree"
            for file in filter(None, tracked.stdout.split("\0")):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / file).exists():
                    shutil.copy(ROOT / file, folder / file)
            if (ROOT.parent / "shared").is_dir():  # sample data that tests read from next to the checkout
                (folder.parent / "shared").symlink_to(ROOT.parent / "shared")
            free.put(folder)
        yield free


class Session:
    """One run with earlier results, and the tests that pass on unchanged code."""

    def __init__(self, out: Path, coverage: Coverage, tests_s: float, free: queue.Queue[Path]) -> None:
        self.path, self.coverage, self.tests_s, self.free = out / "mutants.jsonl", coverage, tests_s, free
        known = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.known = {row["key"]: row for row in map(json.loads, known)}
        self.sound: dict[str, bool] = {}

    def result(self, mutant: Mutant) -> dict:
        """Run one mutant, or return its earlier result."""
        tests = self.coverage.tests_of(mutant, self.tests_s)
        files = sorted({test.split("::")[0] for test in tests})
        texts = [(ROOT / file).read_bytes() for file in [mutant.file, *files]]
        key = hashlib.sha256(json.dumps(asdict(mutant)).encode() + b"\0".join(texts)).hexdigest()[:20]
        if key in self.known:
            return self.known[key]
        folder, started = self.free.get(), time.monotonic()
        try:
            outcome = self._outcome(folder, mutant, tests)
        finally:
            shutil.copy(ROOT / mutant.file, folder / mutant.file)
            self.free.put(folder)
        row = {"key": key, "name": mutant.name, "line": mutant.line, "outcome": outcome, "tests": len(tests)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{outcome:14} {time.monotonic() - started:5.0f} s  {mutant.name}", flush=True)
        return row

    def _outcome(self, folder: Path, mutant: Mutant, tests: list[str]) -> str:
        """Run the tests of a mutant in a copy of the tree; its file is left changed only if this raises."""
        if not tests:
            return "survived"
        limit_s = 60 + 10 * sum(self.coverage.seconds[test] for test in tests)
        (folder / mutant.file).write_text(mutant.applied(), encoding="utf-8")
        outcome, failed = run_tests(folder, tests, limit_s)
        shutil.copy(ROOT / mutant.file, folder / mutant.file)
        if outcome == "failed" and not self._is_sound(folder, [failed] if failed else [*tests, "--collect-only"]):
            return "tests fail without a change"
        return {"passed": "survived", "failed": "killed", "late": "killed (late)"}[outcome]

    def _is_sound(self, folder: Path, words: list[str]) -> bool:
        """Whether tests pass, or can be collected, on unchanged code; checked once."""
        key = " ".join(words)
        if key not in self.sound:
            self.sound[key] = run_tests(folder, words, 300)[0] == "passed"
        return self.sound[key]


def report(rows: list[dict], equivalents: dict[str, str]) -> float:
    """Print outcomes and surviving mutants; return the share that was killed."""
    survivors = [row for row in rows if row["outcome"] == "survived" and row["name"] not in equivalents]
    equal = [row for row in rows if row["outcome"] == "survived" and row["name"] in equivalents]
    killed = sum(row["outcome"].startswith("killed") for row in rows)
    for outcome, number in Counter(row["outcome"] for row in rows).most_common():
        print(f"{number:5} {outcome}")
    for row in sorted(survivors, key=lambda row: row["name"]):
        print(f"survived: line {row['line']} of {row['name']}")
    for row in equal:
        print(f"equivalent: {row['name']}: {equivalents[row['name']]}")
    share = killed / max(1, killed + len(survivors))
    print(f"{share:.1%} of {killed + len(survivors)} mutants were killed; {len(equal)} equivalents excluded")
    return share


def main() -> None:
    """Sample mutants, run and report them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    parser.add_argument("--jobs", type=int, default=2, help="number of mutants tested in parallel")
    parser.add_argument("--tests-s", type=float, default=60, help="seconds of tests that a mutant gets (default: 60)")
    parser.add_argument(
        "--only", nargs="+", default=PACKAGES, metavar="NAME", help="packages or modules to change (index index/export)"
    )
    parser.add_argument("--goal", type=float, default=0.85, help="required share of killed mutants")
    parser.add_argument("--out", type=Path, default=ROOT / "mutants", help="directory of mutants.jsonl")
    given = parser.parse_args()
    for name in given.only:
        if name.split("/")[0] not in PACKAGES or not source_files(name):
            parser.error(f"--only {name}: expected one of {', '.join(PACKAGES)}, or a module such as index/export")
    equivalents = json.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.exists() else {}
    given.out.mkdir(parents=True, exist_ok=True)
    mutants = sampled(given.count, given.seed, given.only)
    with copies(given.jobs) as free, concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
        coverage = measured_coverage(free.queue[0], given.out, given.jobs)
        rows = list(pool.map(Session(given.out, coverage, given.tests_s, free).result, mutants))
    if report(rows, equivalents) < given.goal:
        sys.exit(f"fewer than {given.goal:.0%} of the mutants were killed")


if __name__ == "__main__":
    main()
