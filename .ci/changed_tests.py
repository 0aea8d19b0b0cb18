"""Run the slow tests of the packages that changed since the last landed commit.

    python .ci/changed_tests.py [--list]

The commit is $CHANGED_SINCE if that is set, else the merge base of HEAD and origin/main, else the parent of HEAD. A
change in gengeo_hf/<package>, tests/<package> or training/ runs tests/<package> or tests/training; a changed page of
the documentation runs its commands. Packages are run one after another for at most $CHANGED_MINUTES (default 30);
those that were not run are printed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"tests/torture"}  # has a separate command: make torture


def main() -> int:
    """Run the tests; return 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only print the tests that would be run")
    given = parser.parse_args()
    base = base_commit()
    wanted = tests_of(changed_files(base)) if base else []
    print(f"slow tests of changes since {base or 'no commit (there is no earlier one)'}: {' '.join(wanted)}")
    if given.list:
        return 0
    end = time.monotonic() + 60 * float(os.environ.get("CHANGED_MINUTES", "30"))
    failed = []
    for number, target in enumerate(wanted):
        if (seconds := end - time.monotonic()) <= 0:
            print(f"no time left for {' '.join(wanted[number:])}: run `make test-slow`")
            break
        command = [sys.executable, "-m", "pytest", "-m", "slow and not gpu and not network", "-n", "2", target]
        try:
            code = subprocess.run(command, cwd=ROOT, check=False, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            print(f"{target} exceeded the time limit; not run: {' '.join(wanted[number + 1 :])}; run `make test-slow`")
            break
        if code not in (0, 5):  # 5: no slow tests
            failed.append(target)
    if failed:
        print(f"failed: {' '.join(failed)}")
    return 1 if failed else 0


def git(*arguments: str) -> str:
    """Return the output of git, or an empty string if it fails."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def base_commit() -> str:
    """Return the commit with which HEAD is compared, or an empty string if there is none."""
    if given := os.environ.get("CHANGED_SINCE"):
        return git("rev-parse", given) or sys.exit(f"CHANGED_SINCE={given} is not a commit")
    shared = git("merge-base", "HEAD", "origin/main")
    return (
        shared if shared and shared != git("rev-parse", "HEAD") else git("rev-parse", "--verify", "--quiet", "HEAD~1")
    )


def changed_files(base: str) -> list[str]:
    """Return the files that differ between a commit and the working tree."""
    return git("diff", "--name-only", base).splitlines()


def tests_of(files: list[str]) -> list[str]:
    """Return test directories and files for changed files, relative to the checkout."""
    found = set()
    for name in files:
        parts = Path(name).parts
        if parts[0] == "training" or parts[:2] == ("gengeo_hf", "training"):
            found.add("tests/training")
        elif parts[0] in ("gengeo_hf", "tests") and len(parts) > 2:
            found |= {f"tests/{parts[1]}"} - LEFT_OUT
        elif parts[0] == "tests" and name.endswith(".py") and Path(name).name.startswith("test_"):
            found.add(name)
        elif name.endswith(".md") and (len(parts) == 1 or parts[0] == "docs"):
            found.add("tests/test_readme.py")
        elif parts[0] == "benchmarks":
            found.add("tests/test_benchmarks.py")
    return sorted(target for target in found if (ROOT / target).exists())


if __name__ == "__main__":
    sys.exit(main())
