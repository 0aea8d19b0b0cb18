"""Coverage-guided fuzzing of parsers with atheris: `python -m tests.torture.fuzz_parsers TARGET --seconds 30`.

Each target takes any bytes and must either return a valid value or raise GenGeoError with a message of one line. An
input that fails is written to `crash-*` in the directory `--out`; run it again with `--input`.
"""

import argparse
import json
import math
import sqlite3
import struct
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gengeo_hf"], enable_loader_override=False):
    from gengeo_hf.common import units
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.common.images import read_metadata
    from gengeo_hf.data.benchmarks import cvusa, vigor
    from gengeo_hf.data.benchmarks.layout import read_lines
    from gengeo_hf.imagery.xyz import MbTiles, XyzTiles
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.training.settings import load_settings

from tests.stubs import ListSource, StubEncoder
from tests.torture.intake_worker import image_bytes

DIRECTORY = Path(tempfile.mkdtemp(prefix="gengeo-fuzz-"))  # not removed at the end, because libFuzzer ends the process


def decode(content):
    return content.decode("utf-8", "surrogateescape")


def write_file(name, content):
    """Write a file in the temporary directory; returns its path."""
    path = DIRECTORY / name
    path.write_bytes(content)
    return path


def fuzz_lengths(content):
    """Lengths (100m), shares (50%), ranges (0,3000) and bounds (west,south,east,north)."""
    text = decode(content)
    for parse in (units.parse_metres, units.parse_share, units.parse_range, units.parse_bounds):
        try:
            value = parse(text)
        except GenGeoError as error:
            assert_one_line(error)
            continue
        values = value if isinstance(value, tuple) else (value,)
        assert all(not math.isnan(number) for number in values), (text, value)
        if parse is not units.parse_range:
            assert all(map(math.isfinite, values)), (text, value)


def fuzz_near(content):
    """Position and radius (60.17,24.94,2km)."""
    area = units.parse_near(decode(content))
    assert abs(area.lat) <= 90 and abs(area.lon) <= 180 and 0 < area.radius_m < math.inf


def fuzz_settings(content):
    """Overrides key=value of a configuration."""
    config = write_file("config.yaml", b"output: x\n")
    load_settings(config, decode(content).split("\n")[:3])


def fuzz_configurations(content):
    """Content of a YAML configuration file."""
    load_settings(write_file("config.yaml", content), ["output=x"])


def fuzz_map_tiles(content):
    """Names of files and directories of map tiles z/x/y."""
    for old in sorted(DIRECTORY.glob("xyz/**/*"), reverse=True):
        old.rmdir() if old.is_dir() else old.unlink()
    for line in decode(content.replace(b"\0", b"")).split("\n")[:4]:
        parts = [part for part in line.split("/") if part not in ("", ".", "..")][:3]
        if len(parts) == 3 and all(len(part.encode("utf-8", "surrogateescape")) < 200 for part in parts):
            try:
                (DIRECTORY / "xyz" / parts[0] / parts[1]).mkdir(parents=True, exist_ok=True)
                (DIRECTORY / "xyz" / Path(*parts)).touch()
            except OSError:
                return
    (DIRECTORY / "xyz").mkdir(exist_ok=True)
    for row in XyzTiles(DIRECTORY / "xyz").table.to_pylist():
        assert abs(row["lat"]) <= 86 and abs(row["lon"]) <= 180


def fuzz_mbtiles_cells(content):
    """Values in the cells of an MBTiles file."""
    data = atheris.FuzzedDataProvider(content)
    cells = [
        lambda: data.ConsumeInt(8),
        lambda: data.ConsumeIntInRange(0, 40),
        data.ConsumeFloat,
        lambda: None,
        lambda: data.ConsumeBytes(8),
        lambda: data.ConsumeUnicodeNoSurrogates(8),
    ]
    path = DIRECTORY / "m.mbtiles"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE metadata (name, value)")
        file.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        for _ in range(data.ConsumeIntInRange(0, 4)):
            row = [cells[data.ConsumeIntInRange(0, 5)]() for _ in range(4)]
            file.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", row)
    file.close()
    source = MbTiles(path)
    for row in range(source.table.num_rows):
        source.read(row)


def fuzz_mbtiles_files(content):
    """Content of an MBTiles file."""
    source = MbTiles(write_file("b.mbtiles", content))
    for row in range(min(3, source.table.num_rows)):
        source.read(row)


def fuzz_manifest_values(content):
    """Index manifest with some values or keys replaced."""
    data = atheris.FuzzedDataProvider(content)
    changed = json.loads(MANIFEST)
    replacements = [
        None,
        True,
        -1,
        2**70,
        1e308,
        "",
        "..",
        "/etc/passwd",
        [],
        {},
        [[]],
        {"bytes": "1"},
        float(data.ConsumeInt(2)),
    ]
    for _ in range(data.ConsumeIntInRange(1, 3)):
        inside, key = changed, None
        for _ in range(data.ConsumeIntInRange(1, 3)):
            if not isinstance(inside, dict) or not inside:
                break
            outer, key = inside, sorted(inside)[data.ConsumeIntInRange(0, len(inside) - 1)]
            inside = inside[key]
        if data.ConsumeBool():
            outer[key] = json.loads(json.dumps(replacements[data.ConsumeIntInRange(0, len(replacements) - 1)]))
        else:
            outer[data.ConsumeUnicodeNoSurrogates(6)] = outer.pop(key)
    (INDEX.path / "manifest.json").write_text(json.dumps(changed))
    index = GeoIndex.load(INDEX.path, verify=False)
    index.report()
    assert not len(index) or index.search(INDEX.descriptors[:1].astype("float32"), 1)[0][0].tile_id == "noise-0"


def fuzz_manifest_text(content):
    """Content of an index manifest."""
    (INDEX.path / "manifest.json").write_bytes(content)
    GeoIndex.load(INDEX.path, verify=False).report()


def fuzz_exif(content):
    """EXIF data of a JPEG file."""
    block = b"Exif\0\0" + content[:60_000]
    photo = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + JPEG[2:]
    position = read_metadata(photo).position
    if position is not None:
        assert abs(position.lat) <= 90 and abs(position.lon) <= 180
        assert position.heading is None or 0 <= position.heading < 360
        assert position.error_m is None or 0 <= position.error_m < math.inf


def fuzz_split_lists(content):
    """Split files of CVUSA and VIGOR, tables of positions, names of tiles."""
    path = write_file("list.txt", content)
    (DIRECTORY / "all.csv").write_bytes(content)
    for read in (cvusa.read_list, read_lines, lambda p: vigor.read_labels(p, "Seattle")):
        try:
            read(path)
        except GenGeoError as error:
            assert_one_line(error)
    name = decode(content)
    for parse in (vigor.position_of_tile, vigor.position_of_panorama):
        try:
            lat, lon = parse(name)[:2]
        except GenGeoError as error:
            assert_one_line(error)
        else:
            assert abs(lat) <= 90 and abs(lon) <= 180, (name, lat, lon)


TARGETS = {
    "lengths": (fuzz_lengths, [b"100m", b"1.5km", b"50%", b"0,3000", b"24.9,60.1,25.0,60.2", b"1e3ft"]),
    "near": (fuzz_near, [b"60.17,24.94,2km", b"-1,1e2,300ft"]),
    "settings": (
        fuzz_settings,
        [b"sampling.batch_size=64", b"data.ground_size=[1,2]", b"model.config={num_clusters: 4}"],
    ),
    "configurations": (fuzz_configurations, [b"output: x\nsampling: {batch_size: 16}\n", b"base: other.yaml\n"]),
    "map tiles": (fuzz_map_tiles, [b"17/74600/37900.png\n17/1/2.jpg", b"3/7/7.webp"]),
    "mbtiles cells": (fuzz_mbtiles_cells, [bytes(range(64)), bytes(64)]),
    "mbtiles files": (fuzz_mbtiles_files, []),
    "manifest values": (fuzz_manifest_values, [bytes(range(32)), bytes(8)]),
    "manifest text": (fuzz_manifest_text, []),
    "exif": (fuzz_exif, []),
    "split lists": (
        fuzz_split_lists,
        [
            b"bingmap/19/0000001.jpg,streetview/panos/0000001.jpg,streetview/annotations/0000001.png\n",
            b"a,47.6,-122.3,b.jpg satellite_47.6_-122.3.png 1 2 satellite_4_-1.png 3 4 s_1_2.png 5 6 s_1_3.png 7 8\n",
            b"satellite_47.6_-122.3.png",
            b"1,2,3,4,5\n6,7,8,9,10\n",
        ],
    ),
}
INDEX, MANIFEST, JPEG = None, "", b""


def prepare():
    """Create the index and the files that some targets change, and add their first inputs."""
    global INDEX, MANIFEST, JPEG
    INDEX = GeoIndex.build(StubEncoder(), ListSource(4), DIRECTORY / "idx")
    MANIFEST = (INDEX.path / "manifest.json").read_text()
    from PIL import Image

    tags = Image.Exif()
    tags.get_ifd(0x8825).update({1: "N", 2: (60.0, 10.0, 11.0), 3: "E", 4: (24.0, 56.0, 1.0), 16: "M", 17: 90.0})
    JPEG = image_bytes("JPEG", 16)
    TARGETS["exif"][1].append(tags.tobytes()[6:] if tags.tobytes().startswith(b"Exif") else tags.tobytes())
    TARGETS["manifest text"][1].append(MANIFEST.encode())
    with sqlite3.connect(DIRECTORY / "seed.mbtiles") as file:
        file.execute("PRAGMA page_size = 512")
        file.execute("CREATE TABLE metadata (name text, value text)")
        file.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
        file.execute("INSERT INTO tiles VALUES (3, 1, 2, ?)", (image_bytes("PNG", 8),))
    file.close()
    TARGETS["mbtiles files"][1].append((DIRECTORY / "seed.mbtiles").read_bytes())


def assert_one_line(error):
    """Assert that the message of an error has at most one line."""
    assert len(str(error).splitlines()) <= 1, f"the message has several lines: {error!s}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=30, help="Time of fuzzing in seconds (default: 30).")
    parser.add_argument("--out", type=Path, default=Path(), help="Directory for inputs that fail (default: here).")
    parser.add_argument("--input", type=Path, help="Run the target once, on this file.")
    given = parser.parse_args()
    prepare()
    target, seeds = TARGETS[given.target]

    def run_target(content):
        try:
            target(content)
        except GenGeoError as error:
            assert_one_line(error)

    if given.input:
        return run_target(given.input.read_bytes())
    corpus = DIRECTORY / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [
        f"-max_total_time={given.seconds}",
        "-print_final_stats=1",
        "-rss_limit_mb=4096",
        "-timeout=20",
        "-max_len=4096",
        f"-artifact_prefix={given.out}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run_target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
