"""Connects to a Ray cluster; fails with a one-line error within seconds if there is no response."""

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from gengeo_hf.common.errors import GenGeoError, MissingExtraError

ANSWER_S = 10.0  # timeout of the TCP connection
CONNECT_S = 60.0  # timeout of the connection to Ray
STORE_BYTES = 100 * 2**20  # object store of a local Ray instance: no pixels are transferred


@contextlib.contextmanager
def connect_ray(address: str | None, workers: int = 1) -> Iterator[Any]:
    """Connect to a cluster, or start a local Ray instance that is stopped when the context ends.

    Args:
        address: `host:port`, `auto` for the Ray of this machine, or `ray://host:port`; None starts a local instance.
        workers: Number of processes for which a local instance must have CPUs.

    Yields:
        The module `ray`.

    Raises:
        GenGeoError: Ray is not installed, there is no response at the address, or Ray has another version there.
    """
    if address:
        _check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray prints a deprecation warning
    if not address:
        # Ray listens on all addresses of the machine: without a token anyone in the network could run code here.
        if "ray" not in sys.modules:  # Ray reads the mode when it is imported
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_worker_niceness", "0")  # like a process without Ray; the default of Ray is 15
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "build an index on a cluster") from error
    cores = max(os.cpu_count() or 1, workers)
    own: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    if address:
        _check_is_ray(address)
    try:
        ray.init(
            address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **({} if address else own)
        )
    except Exception as error:  # Ray may raise any exception
        raise GenGeoError(
            f"Ray at {address or 'this machine'}: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Check that a machine accepts TCP connections at an address; Ray itself tries for minutes, then exits.

    Raises:
        GenGeoError: There is no response.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise GenGeoError(f"--ray-address {address}: expected host:port, ray://host:port or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise GenGeoError(
            f"no response at the Ray address {address} ({error}): start Ray there (`ray start --head`), and give the "
            "port of its head (6379)"
        ) from error


def _check_is_ray(address: str) -> None:
    """Connect in a separate process first: with another kind of server, Ray exits the process after minutes.

    Raises:
        GenGeoError: The server is not Ray, or another version of Ray.
    """
    code = f"import ray; ray.init({address!r}, log_to_driver=False, logging_level='ERROR')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=CONNECT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise GenGeoError(
            f"no response of Ray at {address} within {CONNECT_S:g} s: give the port of its head"
        ) from None
    if "InvalidAuthToken" in done.stderr:
        raise GenGeoError(
            f"Ray at {address} requires a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "~/.ray/auth_token to the token of its head"
        )
    if done.returncode:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
        raise GenGeoError(f"Ray at {address}: {last.strip()}")
