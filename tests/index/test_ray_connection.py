"""Connections to Ray, with a module in its place that records how it was started."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index.ray_connection import connect_ray

MODULE = """
started, stops = [], []
def init(**options):
    started.append(options)
def shutdown():
    stops.append(1)
"""
VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_worker_niceness", "RAY_USAGE_STATS_ENABLED")


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A module named `ray` that is not imported yet."""
    (tmp_path / "ray.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    for name in (*VARIABLES, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    yield
    sys.modules.pop("ray", None)


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def tried(monkeypatch):
    """Result of the process that connects first, and the options of its calls."""
    found = SimpleNamespace(returncode=0, stderr="", calls=[])

    def run(command, **options):
        found.calls.append((command, options))
        return found

    monkeypatch.setattr(subprocess, "run", run)
    return found


@pytest.mark.parametrize(("cpus", "workers", "expected"), [(2, 5, 5), (8, 5, 8), (None, 1, 1)])
def test_connect_ray_without_an_address_starts_an_instance_for_the_workers(monkeypatch, cpus, workers, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    with connect_ray(None, workers) as ray:
        (options,) = ray.started
        assert not ray.stops
    assert options.pop("logging_level") >= 40 and len(ray.stops) == 1
    assert options == {
        "address": "local",
        "log_to_driver": False,
        "num_cpus": expected,
        "include_dashboard": False,
        "object_store_memory": 104_857_600,
    }
    assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert {"RAY_worker_niceness": "0"}.items() <= os.environ.items()


def test_connect_ray_needs_one_cpu_by_default(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    with connect_ray(None) as ray:
        assert ray.started[0]["num_cpus"] == 1


def test_connect_ray_that_was_imported_sets_no_token():
    import ray

    with connect_ray(None) as found:
        assert found is ray
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys()


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_connect_ray_to_an_address_tries_it_in_another_process(address, tried, prefix):
    with connect_ray(prefix + address) as ray:
        assert ray.started[0]["address"] == prefix + address and "num_cpus" not in ray.started[0]
    ((command, options),) = tried.calls
    assert command[:2] == [sys.executable, "-c"] and f"ray.init({prefix + address!r}" in command[2]
    assert options["timeout"] == 60
    assert not set(VARIABLES[:3]) & os.environ.keys()


def test_connect_ray_to_the_instance_of_this_machine_needs_no_port(tried):
    with connect_ray("auto") as ray:
        assert ray.started[0]["address"] == "auto" and len(tried.calls) == 1


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (1, "a\n\nRuntimeError: version 2.9\n \n", "RuntimeError: version 2.9$"),
        (1, "", "no reason given$"),
        (1, "x\nInvalidAuthToken: y\nz", "requires a token: set RAY_AUTH_MODE=token"),
    ],
)
def test_connect_ray_to_another_version_raises_its_last_line(address, tried, code, stderr, message):
    tried.returncode, tried.stderr = code, stderr
    with pytest.raises(GenGeoError, match=message), connect_ray(address):
        pass


def test_connect_ray_that_refuses_raises_the_first_line(address, tried, monkeypatch):
    import ray

    def refuse(**options):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(GenGeoError, match=f"Ray at {address}: first line$"), connect_ray(address):
        pass


@pytest.mark.parametrize("address", ["somewhere", ":6379", "host:", "host:port", "host:63.79"])
def test_connect_ray_to_an_address_without_host_or_port_raises_an_error(address):
    with pytest.raises(GenGeoError, match="expected host:port, ray://host:port or auto"), connect_ray(address):
        pass
