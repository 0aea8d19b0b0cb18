"""Fixtures of the tile server with faults, for the tests of imagery by address."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A running server process of `tile_server`."""

    def __init__(self, port):
        self.port, self.address = port, f"http://127.0.0.1:{port}"

    def template(self, mode, kind="png"):
        return f"{self.address}/{mode}/{{z}}/{{x}}/{{y}}.{kind}"

    def ask(self, path):
        with urllib.request.urlopen(f"{self.address}{path}") as answer:
            return json.load(answer)

    @property
    def paths(self):
        return [entry["path"] for entry in self.ask("/log")["log"]]


@pytest.fixture(scope="session")
def _server_process():
    command = [sys.executable, "-m", "tests.imagery.tile_server"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield Server(int(process.stdout.readline()))
    process.stdin.close()
    process.wait(10)


@pytest.fixture
def server(_server_process):
    _server_process.ask("/reset")
    return _server_process
