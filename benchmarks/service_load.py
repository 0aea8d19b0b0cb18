"""Load test of `gengeo serve`: rounds of simultaneous requests, with and without micro-batches.

    python benchmarks/service_load.py
    python benchmarks/service_load.py --model ./my-model --index city.gengeo --photos photos/

For each value of `--batch` a service runs in a separate process; rounds alternate between them, so that other processes
affect both equally. Each request sends one of a few photos and must receive the same tiles as a single request with
this photo. Printed: number of correct answers, requests per second, latencies, and the resident memory of the service
after each round. Without `--model`, a DINOv2 of `--hidden` width and `--layers` blocks has random weights (small by
default, because the service is measured): its places are arbitrary, but must be the same each time.
"""

import argparse
import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HEAD = "POST /locate?top=3 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"


class Service:
    """One `gengeo serve` process."""

    def __init__(self, model: Path, index: Path, batch: int, *more: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "gengeo_hf.cli", "serve", "--index", index, "--model", model, "--port"]
        options = [self.port, "--batch", batch, "--time-limit", 3600, "--device", "cpu"]
        self.batch, self.rss, self.walls, self.latencies, self.wrong = batch, [], [], [], 0
        self.process = subprocess.Popen([str(word) for word in [*command, *options, *more]])

    def wait(self) -> None:
        """Wait until it listens."""
        while self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise SystemExit("the service exited before it listened")

    async def ask(self, photo: bytes) -> tuple[int, list[str], float]:
        """Send one request on a separate connection; return status, tiles and seconds."""
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(HEAD.format(len(photo)).encode() + photo)
        await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        status = int(head.split()[1])
        tiles = [place["tile_id"] for place in json.loads(body)["places"]] if status == 200 else []
        return status, tiles, time.perf_counter() - started

    async def round(self, photos: list[bytes], requests: int, truth: list[list[str]]) -> None:
        """Send all requests simultaneously."""
        started = time.perf_counter()
        found = await asyncio.gather(
            *(self.ask(photos[number % len(photos)]) for number in range(requests)), return_exceptions=True
        )
        self.walls.append(time.perf_counter() - started)
        for number, result in enumerate(found):
            if isinstance(result, BaseException) or result[:2] != (200, truth[number % len(truth)]):
                self.wrong += 1
                print(f"request {number}: {result!r}", file=sys.stderr)
            else:
                self.latencies.append(result[2])
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.rss.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)


def random_model(folder: Path, hidden: int, layers: int) -> Path:
    """Write a DINOv2 with a SALAD head and random weights."""
    import torch

    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    torch.manual_seed(0)
    backbone = {
        "model_type": "dinov2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
        "image_size": 392,
        "patch_size": 14,
    }
    GenGeoModel(GenGeoConfig(backbone_config=backbone, trainable_blocks=None)).save_pretrained(folder)
    sizes = {"ground": {"height": 112, "width": 224}, "aerial": {"height": 112, "width": 112}}
    GenGeoImageProcessor(view_sizes=sizes).save_pretrained(folder)
    return folder


def random_index(model: Path, folder: Path, tiles: int) -> Path:
    """Write an index of random descriptors for this model."""
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.imagery.tiles import tile_table
    from gengeo_hf.index.edit import write_index
    from gengeo_hf.index.manifest import Model
    from gengeo_hf.index.segment import NewRows

    encoder = Encoder.from_pretrained(model, device="cpu")
    vectors = np.random.default_rng(0).standard_normal((tiles, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lat, lon = 60 + np.arange(tiles) * 1e-3, np.full(tiles, 25.0)
    table = tile_table([f"t{n}" for n in range(tiles)], lat, lon, [None] * tiles)
    write_index(folder, NewRows(table, [vectors]), encoder.dim, Model(encoder.fingerprint, model.name))
    return folder


def made_up_photos(count: int, width: int) -> list[bytes]:
    """Return JPEG photos of smooth noise, twice as wide as high."""
    from PIL import Image

    photos = []
    for seed in range(count):
        small = np.random.default_rng(seed).integers(0, 255, (40, 80, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((width, width // 2), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        photos.append(buffer.getvalue())
    return photos


def report(service: Service, requests: int) -> str:
    """Return one row of the table."""
    p50, p95, p99 = np.percentile(service.latencies, [50, 95, 99]) if service.latencies else [float("nan")] * 3
    rounds = len(service.walls)
    memory = " ".join(f"{value:.0f}" for value in service.rss)
    return (
        f"| {service.batch} | {rounds * requests - service.wrong} of {rounds * requests} | "
        f"{requests / np.median(service.walls):.1f} | {p50:.2f} | {p95:.2f} | {p99:.2f} | {memory} |"
    )


def main() -> None:
    """Run the load test and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--photos", type=Path, help="directory of photos; default: noise")
    parser.add_argument("--width", type=int, default=800, help="width of the generated photos in pixels")
    parser.add_argument("--hidden", type=int, default=64, help="width of the random model; 384 is ViT-S")
    parser.add_argument("--layers", type=int, default=4, help="number of blocks of the random model; 12 is ViT-S")
    parser.add_argument("--tiles", type=int, default=5000, help="number of tiles of the random index")
    parser.add_argument("--requests", type=int, default=200, help="number of simultaneous requests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as name:
        model = given.model or random_model(Path(name) / "model", given.hidden, given.layers)
        index = given.index or random_index(model, Path(name) / "load.gengeo", given.tiles)
        photos = made_up_photos(8, given.width)
        if given.photos:
            photos = [path.read_bytes() for path in sorted(given.photos.glob("*.jp*g"))]
        services = [Service(model, index, batch) for batch in given.batch]
        try:
            for service in services:
                service.wait()
            truth = [asyncio.run(services[0].ask(photo))[1] for photo in photos]
            for _ in range(given.rounds):
                for service in services:
                    asyncio.run(service.round(photos, given.requests, truth))
        finally:
            for service in services:
                service.process.terminate()
                service.process.wait()
    print(f"{given.requests} simultaneous requests, {given.rounds} rounds, {os.cpu_count()} cores")
    print("| batch | correct answers | requests/s (median round) | p50 s | p95 s | p99 s | RSS MB after each round |")
    print("|---|---|---|---|---|---|---|")
    for service in services:
        print(report(service, given.requests))
    if len(services) == 2:
        ratio = np.median(np.array(services[0].walls) / np.array(services[1].walls))
        print(
            f"batch {services[1].batch} answers {ratio:.2f} times as fast as batch {services[0].batch} (paired rounds)"
        )
    if any(service.wrong for service in services):
        raise SystemExit("some requests failed or had wrong answers")


if __name__ == "__main__":
    main()
