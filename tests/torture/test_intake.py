"""10,000 damaged photos and rasters are opened or refused with a message of one line; no process crashes."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.conftest import ROUNDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # time limit of one file


class Worker:
    """Worker process (see intake_worker.py) that is restarted after a crash."""

    def __init__(self, kind):
        self.kind = kind
        self.start()

    def start(self):
        command = [sys.executable, "-m", "tests.torture.intake_worker", self.kind]
        settings = os.environ | {"OMP_NUM_THREADS": "1"}
        streams = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.DEVNULL,
        }  # decoders print warnings
        self.process = subprocess.Popen(command, cwd=ROOT, env=settings, **streams)
        assert self.process.stdout.readline() == b"ready\n"

    def open_damaged(self, seed):
        """Open the damaged file of a seed; returns the answer of the worker and its peak memory in MB."""
        try:
            self.process.stdin.write(f"{seed}\n".encode())
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], SECONDS)[0]:
                self.process.kill()
                raise BrokenPipeError
            line = self.process.stdout.readline().decode()
            if not line:
                raise BrokenPipeError
        except BrokenPipeError:
            status = self.process.wait()
            self.start()
            return f"crash: status {status} (-9: no answer within {SECONDS} s)", 0
        answer, _, peak = line.strip().partition("\t")
        return answer, int(peak)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200 * ROUNDS)
@pytest.mark.parametrize(("kind", "files"), [("photo", 8000), ("raster", 2000)])
def test_damaged_images_are_opened_or_refused_without_a_crash(kind, files, counts):
    if kind == "raster":
        pytest.importorskip("rasterio", reason="rasters are read with rasterio")
    worker, outcomes, failures, peak_mb = Worker(kind), {"opened": 0, "refused": 0}, [], 0
    for seed in range(files * ROUNDS):
        answer, memory_mb = worker.open_damaged(seed)
        peak_mb = max(peak_mb, memory_mb)
        if answer in outcomes:
            outcomes[answer] += 1
        else:
            failures.append(f"seed {seed}: {answer}")
    worker.close()
    crashes = sum(": crash" in line for line in failures)
    counts(
        f"fuzzed files: {kind}",
        files * ROUNDS,
        unclear=len(failures) - crashes,
        crashes=crashes,
        peak_MB=peak_mb,
        **outcomes,
    )
    assert not failures, failures[:20]
    assert outcomes["opened"] > files / 20 and outcomes["refused"] > files / 20, outcomes
    assert peak_mb < 2000, f"{peak_mb} MB"
