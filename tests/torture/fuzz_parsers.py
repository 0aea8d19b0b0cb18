"""Coverage-guided fuzzing (atheris) of our own parsers: `python -m tests.torture.fuzz_parsers TARGET --seconds 30`.

Each target takes any bytes and must either give a sound value or raise GenGeoError with one line. What breaks one is
written to `crash-*` in the folder of `--out`; give such a file as `--input` to see it again.
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
from tests.torture.intake_worker import saved

FOLDER = Path(tempfile.mkdtemp(prefix="gengeo-fuzz-"))  # libFuzzer ends the process before anything could remove it


def text_of(content):
    return content.decode("utf-8", "surrogateescape")


def written(name, content):
    path = FOLDER / name
    path.write_bytes(content)
    return path


def lengths(content):
    """100m, 50%, 0,3000, west,south,east,north."""
    text = text_of(content)
    for parse in (units.parse_metres, units.parse_share, units.parse_range, units.parse_bounds):
        try:
            value = parse(text)
        except GenGeoError as error:
            one_line(error)
            continue
        values = value if isinstance(value, tuple) else (value,)
        assert all(not math.isnan(number) for number in values), (text, value)
        if parse is not units.parse_range:
            assert all(map(math.isfinite, values)), (text, value)


def near(content):
    """60.17,24.94,2km."""
    place = units.parse_near(text_of(content))
    assert abs(place.lat) <= 90 and abs(place.lon) <= 180 and 0 < place.radius_m < math.inf


def setting(content):
    """key=value pairs of a configuration."""
    config = written("config.yaml", b"output: x\n")
    load_settings(config, text_of(content).split("\n")[:3])


def configuration(content):
    """A whole YAML file."""
    load_settings(written("config.yaml", content), ["output=x"])


def map_tiles(content):
    """Names of a folder z/x/y."""
    for old in sorted(FOLDER.glob("xyz/**/*"), reverse=True):
        old.rmdir() if old.is_dir() else old.unlink()
    for line in text_of(content.replace(b"\0", b"")).split("\n")[:4]:
        parts = [part for part in line.split("/") if part not in ("", ".", "..")][:3]
        if len(parts) == 3 and all(len(part.encode("utf-8", "surrogateescape")) < 200 for part in parts):
            try:
                (FOLDER / "xyz" / parts[0] / parts[1]).mkdir(parents=True, exist_ok=True)
                (FOLDER / "xyz" / Path(*parts)).touch()
            except OSError:
                return
    (FOLDER / "xyz").mkdir(exist_ok=True)
    for row in XyzTiles(FOLDER / "xyz").table.to_pylist():
        assert abs(row["lat"]) <= 86 and abs(row["lon"]) <= 180


def database(content):
    """Whatever the cells of an MBTiles file hold."""
    data = atheris.FuzzedDataProvider(content)
    cells = [
        lambda: data.ConsumeInt(8),
        lambda: data.ConsumeIntInRange(0, 40),
        data.ConsumeFloat,
        lambda: None,
        lambda: data.ConsumeBytes(8),
        lambda: data.ConsumeUnicodeNoSurrogates(8),
    ]
    path = FOLDER / "m.mbtiles"
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


def database_file(content):
    """Any bytes as an MBTiles file."""
    source = MbTiles(written("b.mbtiles", content))
    for row in range(min(3, source.table.num_rows)):
        source.read(row)


def manifest(content):
    """A manifest in which some values were exchanged."""
    data = atheris.FuzzedDataProvider(content)
    changed = json.loads(MANIFEST)
    odd = [
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
            outer[key] = json.loads(json.dumps(odd[data.ConsumeIntInRange(0, len(odd) - 1)]))
        else:
            outer[data.ConsumeUnicodeNoSurrogates(6)] = outer.pop(key)
    (INDEX.path / "manifest.json").write_text(json.dumps(changed))
    opened = GeoIndex.load(INDEX.path, verify=False)
    opened.report()
    assert not len(opened) or opened.search(INDEX.descriptors[:1].astype("float32"), 1)[0][0].tile_id == "noise-0"


def manifest_text(content):
    """Any bytes as a manifest."""
    (INDEX.path / "manifest.json").write_bytes(content)
    GeoIndex.load(INDEX.path, verify=False).report()


def exif(content):
    """EXIF data of a JPEG."""
    block = b"Exif\0\0" + content[:60_000]
    photo = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + JPEG[2:]
    place = read_metadata(photo).position
    if place is not None:
        assert abs(place.lat) <= 90 and abs(place.lon) <= 180
        assert place.heading is None or 0 <= place.heading < 360
        assert place.error_m is None or 0 <= place.error_m < math.inf


def split_lists(content):
    """Lists of CVUSA and VIGOR, GPS tables, names of tiles."""
    path = written("list.txt", content)
    (FOLDER / "all.csv").write_bytes(content)
    for read in (cvusa.read_list, read_lines, lambda p: vigor.read_labels(p, "Seattle")):
        try:
            read(path)
        except GenGeoError as error:
            one_line(error)
    name = text_of(content)
    for position in (vigor.position_of_tile, vigor.position_of_panorama):
        try:
            lat, lon = position(name)[:2]
        except GenGeoError as error:
            one_line(error)
        else:
            assert abs(lat) <= 90 and abs(lon) <= 180, (name, lat, lon)


TARGETS = {
    "lengths": (lengths, [b"100m", b"1.5km", b"50%", b"0,3000", b"24.9,60.1,25.0,60.2", b"1e3ft"]),
    "near": (near, [b"60.17,24.94,2km", b"-1,1e2,300ft"]),
    "settings": (setting, [b"sampling.batch_size=64", b"data.ground_size=[1,2]", b"model.config={num_clusters: 4}"]),
    "configurations": (configuration, [b"output: x\nsampling: {batch_size: 16}\n", b"base: other.yaml\n"]),
    "map tiles": (map_tiles, [b"17/74600/37900.png\n17/1/2.jpg", b"3/7/7.webp"]),
    "mbtiles cells": (database, [bytes(range(64)), bytes(64)]),
    "mbtiles files": (database_file, []),
    "manifest values": (manifest, [bytes(range(32)), bytes(8)]),
    "manifest text": (manifest_text, []),
    "exif": (exif, []),
    "split lists": (
        split_lists,
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
    """What some targets start from."""
    global INDEX, MANIFEST, JPEG
    INDEX = GeoIndex.build(StubEncoder(), ListSource(4), FOLDER / "idx")
    MANIFEST = (INDEX.path / "manifest.json").read_text()
    from PIL import Image

    tags = Image.Exif()
    tags.get_ifd(0x8825).update({1: "N", 2: (60.0, 10.0, 11.0), 3: "E", 4: (24.0, 56.0, 1.0), 16: "M", 17: 90.0})
    JPEG = saved("JPEG", 16)
    TARGETS["exif"][1].append(tags.tobytes()[6:] if tags.tobytes().startswith(b"Exif") else tags.tobytes())
    TARGETS["manifest text"][1].append(MANIFEST.encode())
    with sqlite3.connect(FOLDER / "seed.mbtiles") as file:
        file.execute("PRAGMA page_size = 512")
        file.execute("CREATE TABLE metadata (name text, value text)")
        file.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
        file.execute("INSERT INTO tiles VALUES (3, 1, 2, ?)", (saved("PNG", 8),))
    file.close()
    TARGETS["mbtiles files"][1].append((FOLDER / "seed.mbtiles").read_bytes())


def one_line(error):
    """The promise about errors that a user can mend."""
    assert len(str(error).splitlines()) <= 1, f"many lines: {error!s}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--input", type=Path, help="try this file alone")
    given = parser.parse_args()
    prepare()
    act, seeds = TARGETS[given.target]

    def tried(content):
        try:
            act(content)
        except GenGeoError as error:
            one_line(error)

    if given.input:
        return tried(given.input.read_bytes())
    corpus = FOLDER / "corpus"
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
    atheris.Setup([sys.argv[0], *options, str(corpus)], tried)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
