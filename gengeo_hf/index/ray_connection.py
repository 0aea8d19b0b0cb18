"""A connection to a Ray cluster that answers, or refuses in one line within seconds."""

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

ANSWER_S = 10.0  # for the machine of an address to take a connection
CONNECT_S = 60.0  # for Ray to answer there
STORE_BYTES = 100 * 2**20  # of a Ray of our own: no pixels pass through it


@contextlib.contextmanager
def connected(address: str | None, workers: int = 1) -> Iterator[Any]:
    """The module `ray`, connected to a cluster, or to a Ray of its own that ends with the block.

    Args:
        address: `host:port`, `auto` for the Ray of this machine, or `ray://host:port`; None starts a Ray of its own.
        workers: Processes for which a Ray of its own must have room.

    Raises:
        GenGeoError: Ray is not installed, nothing answers at the address, or Ray has another version there.
    """
    if address:
        _check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of its next version
    if not address:
        # It listens on all addresses of the machine: without the token anybody in the network could run code here.
        if "ray" not in sys.modules:  # which reads the mode when it is imported
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_worker_niceness", "0")  # as a process that encodes without Ray; Ray's own is 15
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
    except Exception as error:  # Ray raises what it likes, also bare Exception
        raise GenGeoError(
            f"Ray at {address or 'this machine'}: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address at which no machine takes a connection: Ray itself would try for minutes, then exit.

    Raises:
        GenGeoError: Nothing answers.
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
            f"nothing answers at the Ray address {address} ({error}): is Ray running there (`ray start --head`), and "
            "is the port that of its head (6379)?"
        ) from error


def _check_is_ray(address: str) -> None:
    """Connect in a process of its own first: where something else answers, Ray ends the process after minutes.

    Raises:
        GenGeoError: What answers is not Ray, or another version of it.
    """
    words = f"import ray; ray.init({address!r}, log_to_driver=False, logging_level='ERROR')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", words], capture_output=True, text=True, timeout=CONNECT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise GenGeoError(
            f"Ray does not answer at {address} within {CONNECT_S:g} s: is it the port of its head?"
        ) from None
    if "InvalidAuthToken" in done.stderr:
        raise GenGeoError(
            f"Ray at {address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "~/.ray/auth_token to the token of its head"
        )
    if done.returncode:
        last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"])[-1]
        raise GenGeoError(f"Ray at {address}: {last.strip()}")
