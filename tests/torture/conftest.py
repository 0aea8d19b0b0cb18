"""Counts of what was tried and what broke, printed at the end; and small things to break.

`TORTURE_ROUNDS=4` multiplies the trials of every test; the default takes about a quarter of an hour on two cores.
`TORTURE_REPORT=counts.json` writes the counts.
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
    """`counts(kind, trials=.., lost=..)` adds to the report; `details` are further numbers worth knowing."""

    def add(kind, trials, lost=0, wrong=0, unclear=0, crashes=0, **details):
        found = COUNTS.setdefault(kind, Counter())
        found.update(dict(zip(COLUMNS, (trials, lost, wrong, unclear, crashes), strict=True)) | details)

    return add


def pytest_terminal_summary(terminalreporter):
    if not COUNTS:
        return
    terminalreporter.section("what was tried, and what broke")
    for kind, found in COUNTS.items():
        further = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found.items() if name not in COLUMNS)
        words = ", ".join(f"{found[name]} {name}" for name in COLUMNS)
        terminalreporter.write_line(f"{kind}: {words}" + (f" ({further})" if further else ""))
    if "TORTURE_REPORT" in os.environ:
        Path(os.environ["TORTURE_REPORT"]).write_text(json.dumps(COUNTS, indent=2) + "\n")
