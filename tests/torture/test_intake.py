"""10,000 damaged photos and rasters through intake: opened or refused in one line; no process dies of one."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.conftest import ROUNDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # for one file


class Worker:
    """A process that is started again when it dies."""

    def __init__(self, kind):
        self.kind = kind
        self.start()

    def start(self):
        words = [sys.executable, "-m", "tests.torture.intake_worker", self.kind]
        settings = os.environ | {"OMP_NUM_THREADS": "1"}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}  # decoders warn
        self.process = subprocess.Popen(words, cwd=ROOT, env=settings, **streams)
        assert self.process.stdout.readline() == b"ready\n"

    def ask(self, seed):
        """`opened`, `refused` or what went wrong, and the peak memory in MB."""
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
def test_damaged_files(kind, files, counts):
    if kind == "raster":
        pytest.importorskip("rasterio", reason="rasters are read with rasterio")
    worker, found, strange, most = Worker(kind), {"opened": 0, "refused": 0}, [], 0
    for seed in range(files * ROUNDS):
        answer, peak = worker.ask(seed)
        most = max(most, peak)
        if answer in found:
            found[answer] += 1
        else:
            strange.append(f"seed {seed}: {answer}")
    worker.close()
    crashes = sum(": crash" in line for line in strange)
    counts(
        f"fuzzed files: {kind}", files * ROUNDS, unclear=len(strange) - crashes, crashes=crashes, peak_MB=most, **found
    )
    assert not strange, strange[:20]
    assert found["opened"] > files / 20 and found["refused"] > files / 20, found
    assert most < 2000, f"{most} MB"
