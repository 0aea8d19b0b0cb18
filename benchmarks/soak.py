"""Soak test of `gengeo serve` with valid and invalid requests: failures, memory growth and latencies.

    python benchmarks/soak.py --minutes 10 --out soak

A service runs in a separate process on the loopback interface, with a random model and index (see service_load.py).
Several clients send photos one after the other, which must receive the same tiles as a single request, and invalid
requests: no photo, truncated photos, wrong options, bodies over the limit, unknown paths, dropped connections. Each
kind has a set of allowed statuses; any other status, or none, counts as lost. The memory of the service is read every
second. Written: `soak.json` and `soak.md`. The exit status is 1 if a request was lost or wrong, or memory grew.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from service_load import Service, made_up_photos, random_index, random_model

GROWTH_MB = 40.0  # from the first to the last third of the run; caches and pools are full after the first
KINDS = {  # kind of request: allowed statuses
    "photo": {200},
    "photo as form": {200},
    "descriptor": {200},
    "health": {200},
    "empty": {400},
    "no photo": {422},
    "cut photo": {422},
    "wrong option": {422},
    "too large": {413},
    "unknown path": {404},
    "dropped": {None},
}
SHARES = [8, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]


def request(kind: str, photo: bytes, draw: random.Random) -> bytes:
    """Return the bytes of one request."""

    def post(path: str, body: bytes, more: str = "") -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
        )
        return head.encode() + body

    form = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + photo + b"\r\n--b--\r\n"
    return {
        "photo": lambda: post("/locate?top=3", photo),
        "photo as form": lambda: post("/locate?top=3", form, "Content-Type: multipart/form-data; boundary=b\r\n"),
        "descriptor": lambda: post("/encode", photo),
        "health": lambda: b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "empty": lambda: post("/locate", b""),
        "no photo": lambda: post("/locate", draw.randbytes(5000)),
        "cut photo": lambda: post("/locate", photo[: draw.randrange(40, len(photo) // 2)]),
        "wrong option": lambda: post("/locate?near=1,2", photo),
        "too large": lambda: post("/locate", bytes(1_100_000)),
        "unknown path": lambda: post("/nowhere", photo),
        "dropped": lambda: post("/locate", photo)[: draw.randrange(60, 1000)],
    }[kind]()


async def ask(port: int, kind: str, photo: bytes, draw: random.Random) -> tuple[int | None, bytes]:
    """Send a request; return status and body, or none for a dropped connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(kind, photo, draw))
        await writer.drain()
        if kind == "dropped":
            return None, b""
        head, _, body = (await asyncio.wait_for(reader.read(), 120)).partition(b"\r\n\r\n")
        return int(head.split()[1]), body
    finally:
        writer.close()


def tiles_of(body: bytes) -> list[str]:
    """Return the tile ids of an answer."""
    return [place["tile_id"] for place in json.loads(body)["places"]]


class Soak:
    """Counts, failures, latencies and memory of a run."""

    def __init__(self, service: Service, photos: list[bytes]) -> None:
        self.service, self.photos = service, photos
        self.sent = dict.fromkeys(KINDS, 0)
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.seconds: list[float] = []  # of valid photos
        self.memory: list[tuple[float, float]] = []  # seconds since the start, MB
        self.truth: list[list[str]] = []

    async def client(self, number: int, until: float) -> None:
        """Send one request after the other."""
        draw = random.Random(number)
        while time.monotonic() < until:
            kind, which = draw.choices(list(KINDS), SHARES)[0], draw.randrange(len(self.photos))
            self.sent[kind] += 1
            started = time.perf_counter()
            try:
                status, body = await ask(self.service.port, kind, self.photos[which], draw)
            except (OSError, ValueError, IndexError, TimeoutError) as error:
                self.lost.append(f"{kind}: {type(error).__name__} {error}")
                continue
            if status not in KINDS[kind]:
                self.lost.append(f"{kind}: status {status} {body[:200]!r}")
            elif kind.startswith("photo"):
                self.seconds.append(time.perf_counter() - started)
                if tiles_of(body) != self.truth[which]:
                    self.wrong.append(f"{kind} {which}: {tiles_of(body)}")

    async def watch(self, started: float, until: float) -> None:
        """Read the resident memory of the service every second."""
        while time.monotonic() < until:
            await asyncio.sleep(1)
            status = Path(f"/proc/{self.service.process.pid}/status").read_text()
            self.memory.append((time.monotonic() - started, int(status.split("VmRSS:")[1].split()[0]) / 1024))

    async def run(self, seconds: float, clients: int) -> None:
        """Run all clients for the given number of seconds."""
        draw = random.Random(0)
        self.truth = [tiles_of((await ask(self.service.port, "photo", photo, draw))[1]) for photo in self.photos]
        started = time.monotonic()
        until = started + seconds
        await asyncio.gather(self.watch(started, until), *(self.client(number, until) for number in range(clients)))

    def report(self) -> dict:
        """Return the figures of the run."""
        megabytes = np.array([value for _, value in self.memory])
        third = max(1, len(megabytes) // 3)
        first, last = float(np.median(megabytes[:third])), float(np.median(megabytes[-third:]))
        quantiles = np.percentile(self.seconds, [50, 99]) if self.seconds else [float("nan")] * 2
        return {
            "requests": sum(self.sent.values()),
            "sent": self.sent,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "p50_s": float(quantiles[0]),
            "p99_s": float(quantiles[1]),
            "photos": len(self.seconds),
            "memory_first_third_MB": first,
            "memory_last_third_MB": last,
            "memory_growth_MB": last - first,
            "problems": [*self.lost[:10], *self.wrong[:10]],
            "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        }


def markdown(found: dict, minutes: float, clients: int) -> str:
    """Return the figures as a Markdown table."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found["sent"].items())
    rows = {
        "requests": f"{found['requests']:,}",
        "lost": found["lost"],
        "wrong": found["wrong"],
        "p50 of a photo": f"{found['p50_s'] * 1000:.0f} ms",
        "p99 of a photo": f"{found['p99_s'] * 1000:.0f} ms",
        "memory, first third": f"{found['memory_first_third_MB']:.0f} MB",
        "memory, last third": f"{found['memory_last_third_MB']:.0f} MB",
    }
    lines = [f"# {minutes:g} minutes of `gengeo serve`, {clients} clients", "", "| | |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items()), "", f"Sent: {kinds}.", ""])


def main() -> None:
    """Run the test and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tiles", type=int, default=5000, help="number of tiles of the random index")
    parser.add_argument("--width", type=int, default=400, help="width of the generated photos in pixels")
    parser.add_argument("--out", type=Path, default=Path("soak"), help="directory of soak.json and soak.md")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as name:
        model = random_model(Path(name) / "model", 64, 2)
        index = random_index(model, Path(name) / "soak.gengeo", given.tiles)
        service = Service(model, index, 8, "--max-megabytes", 1)
        try:
            service.wait()
            soak = Soak(service, made_up_photos(6, given.width))
            asyncio.run(soak.run(given.minutes * 60, given.clients))
        finally:
            service.process.terminate()
            service.process.wait()
    found = soak.report()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "soak.json").write_text(json.dumps(found, indent=2) + "\n")
    (given.out / "soak.md").write_text(markdown(found, given.minutes, given.clients))
    print(markdown(found, given.minutes, given.clients))
    if found["lost"] or found["wrong"] or found["memory_growth_MB"] > GROWTH_MB:
        sys.exit(f"memory grew, or requests were lost or wrong: {json.dumps(found['problems'][:5])}")


if __name__ == "__main__":
    main()
