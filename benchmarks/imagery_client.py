"""CPU time and memory of downloading imagery by address from a local server: download, decode, check, cache, crop.

    python benchmarks/imagery_client.py [--tiles 2000]

Prints one JSON object: source tiles, CPU milliseconds per source tile, growth of resident memory in megabytes, and the
number of repeated requests (including a second run over the same area).
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import psutil

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=2000, help="approximate number of source tiles")
    wanted = parser.parse_args().tiles
    command = [sys.executable, "-m", "tests.imagery.tile_server"]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdin is not None
    address = f"http://127.0.0.1:{int(server.stdout.readline())}"
    try:
        with tempfile.TemporaryDirectory() as cache:
            print(json.dumps(measure(address, wanted, cache), indent=2))
    finally:
        server.stdin.close()
        server.wait(10)


def measure(address: str, wanted: int, cache: str) -> dict[str, float]:
    """Read all tiles of an area twice."""
    process = psutil.Process()
    source = open_source(address, wanted, cache)
    source.read(0)
    memory, cpu, started = process.memory_info().rss, time.process_time(), time.monotonic()
    fetched = source.reader.fetched
    read_all(source)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - started
    fetched = source.reader.fetched - fetched
    growth = process.memory_info().rss - memory
    again = open_source(address, wanted, cache)
    read_all(again)
    with urlopen(f"{address}/log") as answer:
        paths = [entry["path"] for entry in json.load(answer)["log"]]
    return {
        "source_tiles": fetched,
        "tiles": source.table.num_rows,
        "cpu_ms_per_source_tile": round(1000 * cpu / fetched, 2),
        "seconds": round(seconds, 1),
        "memory_growth_mb": round(growth / 1e6, 1),
        "requested_twice": len(paths) - len(set(paths)),
    }


def open_source(address: str, wanted: int, cache: str):  # noqa: ANN201  # a ServiceTiles, imported inside
    from gengeo_hf.common.area import parse_area
    from gengeo_hf.imagery import TilingOptions, open_imagery
    from gengeo_hf.imagery.options import ClientOptions, NetOptions

    side = math.sqrt(wanted) * 38.1 / 55_660  # degrees of longitude; a tile has 38 m there
    area = parse_area(bounds=f"24.9,60.1,{24.9 + side},{60.1 + side / 2}")
    net = NetOptions(client=ClientOptions(allow_private=True, rate=0), cache=cache)
    return open_imagery(f"{address}/good/{{z}}/{{x}}/{{y}}.jpg", TilingOptions(tile_m=60.0, area=area, net=net))


def read_all(source) -> None:  # noqa: ANN001  # see open_source
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, source.table.num_rows, 1000):
            rows = range(start, min(start + 1000, source.table.num_rows))
            for _ in pool.map(source.read, rows):
                pass


if __name__ == "__main__":
    main()
