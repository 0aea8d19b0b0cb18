"""Test double of Mapillary's API, and synthetic imagery without a network."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.acquire.mapillary import Mapillary
from gengeo_hf.common.geo import bounds_around, offset
from gengeo_hf.imagery.cells import cell_grids
from gengeo_hf.imagery.options import ClientOptions
from gengeo_hf.imagery.tiles import tile_table
from tests.acquire.mapillary_server import TOKEN

ROOT = Path(__file__).resolve().parents[2]
QUICK = ClientOptions(allow_private=True, rate=0, pause_s=0.001, connections=8, attempts=3, give_up_after=10)
LAT, LON = 48.8166, 2.3160


def entity(number, east_m=0.0, north_m=0.0, *, lat=LAT, lon=LON, **changes):
    """Record of a valid panorama at metres from (lat, lon); `changes` replace keys, and None removes a key."""
    at_lat, at_lon = (float(value) for value in offset(lat, lon, east_m, north_m))
    found = {
        "id": str(number),
        "geometry": {"type": "Point", "coordinates": [at_lon + 1e-5, at_lat]},
        "computed_geometry": {"type": "Point", "coordinates": [at_lon, at_lat]},
        "compass_angle": 91.0,
        "computed_compass_angle": 90.0 + int(number) % 7,
        "captured_at": 1_625_000_000_000,  # 2021-06-29
        "camera_type": "spherical",
        "is_pano": True,
        "width": 5760,
        "height": 2880,
        "sequence": f"s{number}",
        "creator": {"username": "ann", "id": "7"},
        "quality_score": 0.8,
    }
    return {key: value for key, value in (found | changes).items() if value is not None}


class Service:
    """A running server process of `mapillary_server`."""

    def __init__(self, port, folder):
        self.address, self.folder = f"http://127.0.0.1:{port}", folder

    def hold(self, photos, **faults):
        """Serve other photos, set faults, and clear the log."""
        (self.folder / "photos.json").write_text(json.dumps(photos))
        request = urllib.request.Request(f"{self.address}/faults", json.dumps(faults).encode(), method="POST")
        urllib.request.urlopen(request).close()

    @property
    def log(self):
        with urllib.request.urlopen(f"{self.address}/log") as answer:
            return json.load(answer)["log"]

    @property
    def searches(self):
        return [entry["path"] for entry in self.log if entry["path"].startswith("/images")]

    def client(self, token=TOKEN):
        return Mapillary(token, QUICK, self.address)


@pytest.fixture(scope="session")
def _service_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapillary")
    command = [sys.executable, "-m", "tests.acquire.mapillary_server", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield Service(int(process.stdout.readline()), folder)
    process.stdin.close()
    process.wait(10)


@pytest.fixture
def service(_service_process):
    _service_process.hold([])
    return _service_process


class GridTiles:
    """Synthetic imagery over an area, whose tiles have a colour that follows from their row."""

    name, rendering = "grid", "grid"

    def __init__(self, area, tile_m=60.0, without=()):
        lat, lon = cell_grids(area.boxes, tile_m, tile_m / 2)
        ids = [f"t{row:04d}" for row in range(len(lat))]
        bounds = [bounds_around(float(a), float(b), tile_m, tile_m) for a, b in zip(lat, lon, strict=True)]
        self.table = tile_table(ids, lat, lon, bounds, source=self.name)
        self.without, self.reads = set(without), []

    def read(self, row):
        self.reads.append(row)
        if row in self.without:
            return None
        return Image.fromarray(np.full((32, 32, 3), 40 + row % 150, np.uint8))
