"""Time of unpacking, rendering and checking Just Zoom In at full size, with synthetic files of the same layout.

    OMP_NUM_THREADS=1 python benchmarks/open_data.py
    OMP_NUM_THREADS=1 python benchmarks/open_data.py --part check

Tiles are noise with the file size of real tiles; the network and slow disks are not measured. Both clock and CPU
seconds are reported, because other load affects clock times.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import in_own_process, peak_mb
from PIL import Image

LAYOUT = """crs: epsg:26985
max_zoom: 0
min_zoom: -9
origin_crs: [600, 200]
path: '{zoom}/{x}/{y}.jpg'
tile_axes: [east, north]
tile_shape_crs: [20, 20]
tile_shape_px: [250, 250]
"""


def pictures(count: int, size: tuple[int, int], quality: int) -> list[bytes]:
    """JPEG files of noise with a grain of 2 pixels."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        small = rng.integers(0, 256, (size[1] // 2, size[0] // 2, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(small).resize(size).save(out, "JPEG", quality=quality)
        found.append(out.getvalue())
    return found


def write_archive(path: Path, side: int) -> int:
    """Write an archive of the tiles of zoom -2 below the first `side` x `side` cells; returns their number."""
    from gengeo_hf.data.benchmarks import justzoomin_grid as grid

    west, north = grid.WEST_M - grid.TILE_ORIGIN_M[0], grid.NORTH_M - grid.TILE_ORIGIN_M[1]
    reach = side * grid.CELL_M
    columns = range(int((west - 1) // 80), int((west + reach + 1) // 80) + 1)
    rows = range(int((north - reach - 1) // 80), int((north + 1) // 80) + 1)
    some, number = pictures(64, (250, 250), 88), 0
    with tarfile.open(path, "w") as archive:
        for x in columns:
            for y in rows:
                content = some[number % 64] + b"%d" % number  # no two tiles have equal bytes
                member = tarfile.TarInfo(f"satellite/-2/{x}/{y}.jpg")
                member.size, number = len(content), number + 1
                archive.addfile(member, io.BytesIO(content))
    return number


def unpack_and_render(folder: str, side: int, threads: int) -> dict[str, float]:
    """Unpack the archive and render the cells, in a separate process."""
    from gengeo_hf.acquire.justzoomin_cells import render_cells
    from gengeo_hf.acquire.unpack import unpack
    from gengeo_hf.data.benchmarks.justzoomin_grid import CELL_M, CELLS

    root, wanted = Path(folder), np.zeros((CELLS, CELLS), bool)
    wanted[:side, :side] = True
    before, clock, cpu = peak_mb(), time.perf_counter(), time.process_time()
    with (root / "tiles.tar").open("rb") as archive:
        unpack(archive, root, ["satellite"], "tiles.tar")
    unpacked = time.perf_counter() - clock, time.process_time() - cpu
    after_unpacking = peak_mb()
    cells = render_cells(root, -2, CELL_M, workers=threads, wanted=wanted)
    return {
        "cells": int(cells.is_covered.sum()),
        "clock_s": time.perf_counter() - clock,
        "cpu_s": time.process_time() - cpu,
        "unpack_clock_s": unpacked[0],
        "unpack_cpu_s": unpacked[1],
        "unpack_grown_mb": after_unpacking - before,
        "grown_mb": peak_mb() - before,
    }


def write_lists(root: Path, photos: int) -> None:
    """Write lists of both splits with random photos, and as many files (hard links to a few small photos)."""
    from gengeo_hf.data.benchmarks import justzoomin_grid as grid
    from gengeo_hf.data.benchmarks import justzoomin_lists as lists

    rng = np.random.default_rng(0)
    east, north = grid.WEST_M + rng.uniform(0, 9_999, photos), grid.NORTH_M - rng.uniform(0, 9_999, photos)
    lat, lon = grid.unproject(east, north)
    row, column = grid.cells_at(np.round(lat, 6), np.round(lon, 6)).clip(0, 255)
    for folder in ("metadata", "satellite", lists.PHOTOS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / lists.LAYOUT).write_text(LAYOUT)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    sources: list[Path] = []
    content = pictures(1, (64, 36), 80)[0]
    for index in range(photos):
        name = str(27_000_000_000_000_001 + 2 * index)
        steps = [int(row[index]) // s % 4 * 4 + int(column[index]) // s % 4 for s in (64, 16, 4, 1)]
        lines["test" if index % 10 == 0 else "train"].append(f'{name},{lat[index]:.6f},{lon[index]:.6f},"{steps}"')
        path = root / lists.PHOTOS / f"{name}{lists.SUFFIX}"
        if index % 20_000 == 0:
            path.write_bytes(content)
            sources.append(path)
        else:
            os.link(sources[-1], path)
    for part, name in lists.LISTS.items():
        (root / name).write_text("image_id,latitude,longitude,sequence\n" + "\n".join(lines[part]) + "\n")


def measure_check(folder: str, command: str) -> dict[str, float]:
    """Write the table, check the directory, or load a split, in a separate process."""
    from gengeo_hf.acquire.hub_files import HubFiles
    from gengeo_hf.acquire.justzoomin_cells import Cells
    from gengeo_hf.acquire.justzoomin_table import write_table
    from gengeo_hf.data import load_pairs
    from gengeo_hf.data.benchmarks.justzoomin_grid import CELL_M
    from gengeo_hf.data.check import check_data

    root = Path(folder)
    before, clock, cpu = peak_mb(), time.perf_counter(), time.process_time()
    if command == "write":
        cells = Cells("cells/39.0625m_z-2", np.ones((256, 256), bool), 0, {})
        write_table(root, HubFiles("pcvlab/justzoomin", "0" * 40, "", {}), cells, -2, CELL_M)
    elif command == "check":
        check_data("justzoomin", root)
    else:
        load_pairs("justzoomin", root, "train")
    return {
        "clock_s": time.perf_counter() - clock,
        "cpu_s": time.process_time() - cpu,
        "grown_mb": peak_mb() - before,
        "peak_mb": peak_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("render", "check", "both"), default="both")
    parser.add_argument("--side", type=int, default=100, help="number of cells along a side of the square")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--photos", type=int, default=310_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if given.part != "check":
            tiles = write_archive(root / "tiles.tar", given.side)
            size = (root / "tiles.tar").stat().st_size / 1e6
            found = in_own_process(unpack_and_render, folder, given.side, given.threads)
            print(
                f"unpack + render {found['cells']:,} cells from {tiles:,} tiles ({size:.0f} MB): "
                f"{found['cells'] / found['clock_s']:.0f} cells/s of wall-clock time on {given.threads} threads, "
                f"{found['cells'] / found['cpu_s']:.0f} cells per CPU second; unpacking alone "
                f"{found['unpack_cpu_s']:.1f} CPU-s and {found['unpack_grown_mb']:.0f} MB of memory, "
                f"{found['grown_mb']:.0f} MB at the end"
            )
        if given.part != "render":
            write_lists(root, given.photos)
            cells = root / "cells/39.0625m_z-2"
            cells.mkdir(parents=True, exist_ok=True)
            content = pictures(1, (122, 122), 80)[0]
            for number in range(256 * 256):
                path = cells / f"r{number // 256:03d}c{number % 256:03d}.jpg"
                if not path.exists():
                    path.write_bytes(content)
            for command in ("write", "check", "load"):
                found = in_own_process(measure_check, folder, command)
                print(
                    f"{command} {given.photos:,} photos: {found['cpu_s']:.1f} CPU-s, {found['clock_s']:.1f} s "
                    f"of wall-clock time, {found['grown_mb']:.0f} MB beyond the start, peak {found['peak_mb']:.0f} MB"
                )


if __name__ == "__main__":
    main()
