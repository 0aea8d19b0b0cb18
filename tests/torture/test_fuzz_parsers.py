"""Coverage-guided fuzzing of every target of `fuzz_parsers.py`, which can also be run separately for a longer time."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.conftest import ROUNDS

pytest.importorskip("atheris", reason="coverage-guided fuzzing needs atheris, which has wheels for Linux and macOS")
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 15
NAMES = re.findall(r'^    "([a-z ]+)": \(', (ROOT / "tests/torture/fuzz_parsers.py").read_text(encoding="utf-8"), re.M)


@pytest.mark.slow
@pytest.mark.timeout(600 * ROUNDS)
@pytest.mark.parametrize("target", NAMES)
def test_parser_with_fuzzed_input_returns_a_value_or_raises_a_gengeo_error(target, tmp_path, counts):
    command = [sys.executable, "-m", "tests.torture.fuzz_parsers", target, "--seconds", str(SECONDS * ROUNDS)]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    command += ["--out", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", result.stderr)
    failed = result.returncode != 0
    counts(f"fuzzed parser: {target}", int(runs[1]) if runs else 0, unclear=int(failed))
    assert not failed, result.stderr[-3000:]
    assert runs and int(runs[1]) > 100, result.stderr[-2000:]
