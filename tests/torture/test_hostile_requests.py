"""Hostile requests to `gengeo serve`: with costly images and slow connections other requests are still answered.

A service runs in a separate process with a random model and index. Its CPU time and memory include those of its
decoding processes. The latency of normal requests is measured with and without each attack in the same run, so that
other load affects both.
"""

import http.client
import io
import os
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CPU_SECONDS = 2.0  # of decoding one image, as in DecodingLimits
OTHER_CPU_SECONDS = 0.5  # of the rest of a request
MAX_MEMORY_MB = 1500
MAX_SLOWDOWN = 3.0  # of normal requests during an attack
CONNECTIONS = 1200
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory and CPU time from /proc"),
]


def process_tree(pid):
    """Process IDs of a process and its descendants."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has ended
            continue
    found = [pid]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def cpu_seconds(pid):
    """CPU time of a process and its descendants, those that have ended included."""
    ticks = 0
    for process in process_tree(pid):
        try:
            ticks += sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid):
    """Memory of a process and its descendants in MB; shared pages count once (proportional set size)."""
    total = 0
    for process in process_tree(pid):
        try:
            total += int(Path(f"/proc/{process}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
        except (OSError, IndexError):  # the process has ended
            continue
    return total * 1024 / 1e6


class PeakMemory(threading.Thread):
    """Context manager that measures the peak memory of a process and its descendants in MB."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self._ended = pid, 0.0, threading.Event()

    def run(self):
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, memory_mb(self.pid))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()


def post_photo(port, body, timeout=120):
    """Send a photo to the service; returns the status and the time in seconds."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/locate?top=1", body)
        response = connection.getresponse()
        response.read()
        return response.status, time.perf_counter() - started
    finally:
        connection.close()


def image_bytes(kind, size, **options):
    """Bytes of a file of one colour, of a size (width, height), in a format of Pillow."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 60)).save(buffer, kind, **options)
    return buffer.getvalue()


def progressive_jpeg(size, scans):
    """Progressive JPEG whose last scan is repeated; the decoder needs a pass over all blocks for each scan."""
    plain = image_bytes("JPEG", size, progressive=True, quality=30)
    start = plain.rindex(b"\xff\xda")
    header = plain[start : start + 2 + struct.unpack(">H", plain[start + 2 : start + 4])[0]]
    return plain[:-2] + header * scans + b"\xff\xd9"


COSTLY_IMAGES = {
    "progressive JPEG of 10,000 scans": lambda: progressive_jpeg((4000, 4000), 10_000),
    "progressive JPEG of 480 scans": lambda: progressive_jpeg((4000, 4000), 480),  # fewer than the limit of scans
    "WebP of 7000 x 7000": lambda: image_bytes("WEBP", (7000, 7000)),
    "JPEG 2000 of 7000 x 7000": lambda: image_bytes("JPEG2000", (7000, 7000)),
}


@pytest.fixture(scope="module")
def service_inputs(tmp_path_factory):
    """Module `service_load`, paths of a random model and index, and normal photos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import service_load
    folder = tmp_path_factory.mktemp("hostile")
    model = service_load.random_model(folder / "model", 64, 2)
    index = service_load.random_index(model, folder / "city.gengeo", 500)
    return service_load, model, index, service_load.made_up_photos(4, 800)


@pytest.fixture
def service(service_inputs):
    module, model, index, _ = service_inputs
    running = module.Service(model, index, 8)
    running.wait()
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()


def median_latency(service, photos, count=10):
    """Median time in seconds of normal requests, one after the other; asserts that each is answered."""
    found = [post_photo(service.port, photos[number % len(photos)]) for number in range(count)]
    assert [status for status, _ in found] == [200] * count
    return statistics.median(seconds for _, seconds in found)


@pytest.mark.parametrize("name", COSTLY_IMAGES)
def test_service_with_costly_images_limits_cpu_and_memory_and_answers_other_requests(
    service, service_inputs, counts, name
):
    image, photos, pid = COSTLY_IMAGES[name](), service_inputs[-1], service.process.pid
    median_latency(service, photos)  # starts the decoders and fills caches
    usual, before = median_latency(service, photos), cpu_seconds(pid)
    status, _ = post_photo(service.port, image)
    cost = cpu_seconds(pid) - before
    assert status in (200, 422)

    statuses, ended = [], threading.Event()

    def attack():
        while not ended.is_set():
            statuses.append(post_photo(service.port, image)[0])
            ended.wait(1)  # sixteen requests at a time; limiting the rate of requests is the task of a proxy

    attackers = [threading.Thread(target=attack, daemon=True) for _ in range(16)]
    with PeakMemory(pid) as memory:
        for attacker in attackers:
            attacker.start()
        time.sleep(0.3)
        during_attack = median_latency(service, photos)
        ended.set()
        for attacker in attackers:
            attacker.join()
    counts(
        f"{len(image):,} bytes, {name}",
        len(statuses) + 1,
        cpu_s=round(cost, 2),
        peak_MB=round(memory.peak),
        times_usual=round(during_attack / usual, 2),
    )
    assert set(statuses) <= {200, 422, 503, 504}
    assert cost <= CPU_SECONDS + OTHER_CPU_SECONDS
    assert memory.peak <= MAX_MEMORY_MB
    assert during_attack <= MAX_SLOWDOWN * usual
    assert median_latency(service, photos) <= MAX_SLOWDOWN * usual  # also after the attack


def test_service_with_slow_connections_closes_them_and_answers_other_requests(service, service_inputs, counts):
    photos = service_inputs[-1]
    median_latency(service, photos)
    usual, connections = median_latency(service, photos), []
    with PeakMemory(service.process.pid) as memory:
        for _ in range(CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
            connection.sendall(b"POST /locate HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            connections.append(connection)
        during_attack = median_latency(service, photos)
        started = time.monotonic()
        for connection in connections:
            connection.settimeout(max(0.1, 30 - (time.monotonic() - started)))
            try:
                assert not connection.recv(1)  # closed by the service
            except ConnectionResetError:
                pass
            finally:
                connection.close()
    counts("slow connections", CONNECTIONS, peak_MB=round(memory.peak), times_usual=round(during_attack / usual, 2))
    assert during_attack <= MAX_SLOWDOWN * usual
    assert memory.peak <= MAX_MEMORY_MB


def test_service_when_busy_ends_within_ten_seconds_of_sigterm(service, service_inputs, counts):
    image = COSTLY_IMAGES["progressive JPEG of 480 scans"]()
    median_latency(service, service_inputs[-1], 2)

    def attack():
        try:
            while service.process.poll() is None:
                post_photo(service.port, image)
        except (OSError, http.client.HTTPException):  # the service has ended
            pass

    attackers = [threading.Thread(target=attack, daemon=True) for _ in range(16)]
    slow = socket.create_connection(("127.0.0.1", service.port))
    slow.sendall(b"POST /locate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    for attacker in attackers:
        attacker.start()
    time.sleep(1)
    decoders = process_tree(service.process.pid)[1:]
    started = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    try:
        assert service.process.wait(10) in (0, -signal.SIGTERM)  # uvicorn ends with the signal that it received
    except subprocess.TimeoutExpired:
        pytest.fail("the service still runs 10 s after SIGTERM")
    finally:
        slow.close()
    took = time.monotonic() - started
    while any(Path(f"/proc/{pid}").exists() for pid in decoders) and time.monotonic() < started + 20:
        time.sleep(0.1)
    assert not [pid for pid in decoders if Path(f"/proc/{pid}").exists()], (
        "decoding processes still run after the end of the service"
    )
    for attacker in attackers:
        attacker.join(10)
    counts("SIGTERM while busy", 1, seconds=round(took, 1))
