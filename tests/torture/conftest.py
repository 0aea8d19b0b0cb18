"""Numbers of trials and failures of the torture tests, printed at the end of the run.

`TORTURE_ROUNDS=4` multiplies the trials of every test by four; the default takes about 15 minutes on two cores.
`TORTURE_REPORT=counts.json` also writes the numbers to this file.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

ROUNDS = max(1, int(os.environ.get("TORTURE_ROUNDS", "1")))
COLUMNS = ("trials", "acknowledged lost", "wrong answers", "unclear errors", "crashes")
COUNTS: dict[str, Counter] = {}


@pytest.fixture(scope="session")
def counts():
    """Function that adds numbers to the report.

    Its arguments are the kind of test and the numbers of trials, lost acknowledged results, wrong answers, unclear
    error messages and crashes; other keyword arguments are printed as additional numbers.
    """

    def add(kind, trials, lost=0, wrong=0, unclear=0, crashes=0, **details):
        found = COUNTS.setdefault(kind, Counter())
        found.update(dict(zip(COLUMNS, (trials, lost, wrong, unclear, crashes), strict=True)) | details)

    return add


def pytest_terminal_summary(terminalreporter):
    if not COUNTS:
        return
    terminalreporter.section("torture tests: trials and failures")
    for kind, found in COUNTS.items():
        details = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found.items() if name not in COLUMNS)
        line = ", ".join(f"{found[name]} {name}" for name in COLUMNS)
        terminalreporter.write_line(f"{kind}: {line}" + (f" ({details})" if details else ""))
    if "TORTURE_REPORT" in os.environ:
        Path(os.environ["TORTURE_REPORT"]).write_text(json.dumps(COUNTS, indent=2) + "\n")
