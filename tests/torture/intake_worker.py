"""Fuzzed images and rasters through intake, in a process that may die: `python -m tests.torture.intake_worker KIND`.

Reads numbers from its input, one a line; each is the seed of one damaged file. Answers each with one line: `opened`,
`refused`, or what went wrong. Who asked sees a crash as an answer that never comes.
"""

import io
import random
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from tests.torture import making

MEMORY = 4 * 2**30  # of the process; a file that asks for more is met by an error, not by the system's killer


def saved(kind, size, mode="RGB", **options):
    image = making.picture(np.random.default_rng(size), size).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo_seeds():
    """Small files of every kind that is opened."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (60.0, 10.0, 11.0), 3: "E", 4: (24.0, 56.0, 1.0), 17: 90.0})
    seeds = [saved("JPEG", 40, exif=exif), saved("JPEG", 32, progressive=True), saved("PNG", 24, exif=exif)]
    seeds += [saved("PNG", 24, mode) for mode in ("P", "LA", "I;16", "1")] + [saved("GIF", 24, "P"), saved("BMP", 16)]
    seeds += [saved("TIFF", 24, compression=c) for c in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    seeds += [saved("WEBP", 32, exif=exif), saved("WEBP", 32, lossless=True), saved("PPM", 16), saved("JPEG2000", 32)]
    return seeds


def raster_seeds(folder):
    """Small GeoTIFFs: strips and tiles, compressed or not, 8 and 16 bits, several projections."""
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    rasters = [
        making.geotiff(folder / "a.tif"),
        making.geotiff(folder / "b.tif", compress="deflate", **blocks),
        making.geotiff(folder / "c.tif", count=1, dtype="uint16", compress="lzw"),
        making.geotiff(folder / "d.tif", crs="EPSG:3857", nodata=0),
        making.geotiff(folder / "e.tif", crs="EPSG:3067"),
    ]
    return [path.read_bytes() for path in rasters]


def mutated(content, draw, header):
    """A few bytes changed, cut, doubled or put in; more often near the start, where the headers are."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        place = draw.randrange(min(header, len(content)) if draw.random() < 0.6 else len(content))
        kind = draw.randrange(6)
        if kind == 0:
            content[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[place] = draw.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            content[place : place + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
        elif kind == 3:
            content[place:place] = content[place : place + draw.randrange(1, 32)]
        elif kind == 4:
            del content[place : place + draw.randrange(1, 32)]
        else:
            del content[max(1, place) :]
        if not content:
            return b""
    return bytes(content)


def photo(content, _):
    from gengeo_hf.common.images import open_image, read_metadata

    read_metadata(content)
    image = open_image(content)
    assert image.mode == "RGB" and min(image.size) >= 8, "an image that is none"


def raster(content, folder):
    from gengeo_hf.imagery import TilingOptions, open_imagery

    path = folder / "fuzzed.tif"
    path.write_bytes(content)
    source = open_imagery(path, TilingOptions(tile_m=60.0))
    if source.table.num_rows > 100_000:
        return
    opened = False
    for row in range(0, source.table.num_rows, max(1, source.table.num_rows // 3)):
        try:
            source.read(row)
            opened = True
        except GenGeoError:
            continue
    if not opened:
        raise GenGeoError("no tile could be read")


def main():
    kind = sys.argv[1]
    warnings.simplefilter("ignore")
    if kind == "raster":
        import rasterio  # its own threads and libraries count as memory too

        rasterio.Env().__enter__()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = raster_seeds(folder) if kind == "raster" else photo_seeds()
        act, header = (raster, 600) if kind == "raster" else (photo, 120)
        print("ready", flush=True)
        for line in sys.stdin:
            draw = random.Random(int(line))
            content = mutated(draw.choice(seeds), draw, header)
            try:
                act(content, folder)
                answer = "opened"
            except GenGeoError as error:
                answer = "refused" if len(str(error).splitlines()) == 1 else f"many lines: {str(error)!r}"
            except BaseException as error:
                answer = f"{type(error).__name__}: {str(error)[:200]!r}"
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{answer}\t{peak}", flush=True)


if __name__ == "__main__":
    main()
