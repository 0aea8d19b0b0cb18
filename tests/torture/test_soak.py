"""A short run of benchmarks/soak.py loses no request and answers none wrongly; memory growth needs a longer run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.conftest import ROUNDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * ROUNDS)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_service_with_valid_and_invalid_requests_answers_all_correctly(tmp_path, counts):
    pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')
    command = [sys.executable, "benchmarks/soak.py", "--minutes", str(ROUNDS / 3), "--out", str(tmp_path)]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert (tmp_path / "soak.json").is_file(), result.stderr[-3000:]
    found = json.loads((tmp_path / "soak.json").read_text())
    counts("soak", found["requests"], lost=found["lost"], wrong=found["wrong"], p99_ms=round(1000 * found["p99_s"]))
    assert found["lost"] == found["wrong"] == 0, found["problems"]
    assert found["requests"] > 100
