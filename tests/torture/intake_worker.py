"""Worker process that opens fuzzed photos or rasters: `python -m tests.torture.intake_worker KIND`.

KIND is `photo` or `raster`. Each line of standard input is the seed of a damaged file. The worker answers with one
line: `opened`, `refused` or a description of the failure, then a tab and the peak memory in MiB. If the worker crashes,
there is no answer.
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
from tests.torture import inputs

MEMORY = 4 * 2**30  # bytes of address space; above it reading raises an error, and the system does not end the process


def image_bytes(kind, size, mode="RGB", **options):
    """Bytes of a file with a random image of `size` x `size` pixels, in a format of Pillow."""
    image = inputs.random_image(np.random.default_rng(size), size).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo_seeds():
    """Small files of every photo format that can be opened."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (60.0, 10.0, 11.0), 3: "E", 4: (24.0, 56.0, 1.0), 17: 90.0})
    tiff_compressions = ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    return [
        image_bytes("JPEG", 40, exif=exif),
        image_bytes("JPEG", 32, progressive=True),
        image_bytes("PNG", 24, exif=exif),
        *(image_bytes("PNG", 24, mode) for mode in ("P", "LA", "I;16", "1")),
        image_bytes("GIF", 24, "P"),
        image_bytes("BMP", 16),
        *(image_bytes("TIFF", 24, compression=compression) for compression in tiff_compressions),
        image_bytes("WEBP", 32, exif=exif),
        image_bytes("WEBP", 32, lossless=True),
        image_bytes("PPM", 16),
        image_bytes("JPEG2000", 32),
    ]


def raster_seeds(folder):
    """Small GeoTIFF files: strips and tiles, compressed or not, 8 and 16 bits, several projections."""
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    rasters = [
        inputs.write_geotiff(folder / "a.tif"),
        inputs.write_geotiff(folder / "b.tif", compress="deflate", **blocks),
        inputs.write_geotiff(folder / "c.tif", count=1, dtype="uint16", compress="lzw"),
        inputs.write_geotiff(folder / "d.tif", crs="EPSG:3857", nodata=0),
        inputs.write_geotiff(folder / "e.tif", crs="EPSG:3067"),
    ]
    return [path.read_bytes() for path in rasters]


def mutate(content, rng, header):
    """Copy with a few bytes changed, removed or repeated, more often in the first `header` bytes."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        offset = rng.randrange(min(header, len(content)) if rng.random() < 0.6 else len(content))
        kind = rng.randrange(6)
        if kind == 0:
            content[offset] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[offset] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            content[offset : offset + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
        elif kind == 3:
            content[offset:offset] = content[offset : offset + rng.randrange(1, 32)]
        elif kind == 4:
            del content[offset : offset + rng.randrange(1, 32)]
        else:
            del content[max(1, offset) :]
        if not content:
            return b""
    return bytes(content)


def read_photo(content, _):
    """Read the metadata and the pixels of a photo."""
    from gengeo_hf.common.images import open_image, read_metadata

    read_metadata(content)
    image = open_image(content)
    assert image.mode == "RGB" and min(image.size) >= 8, "the image is not RGB or has a side of less than 8 pixels"


def read_raster(content, folder):
    """Read some tiles of a raster; raises GenGeoError if none can be read."""
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
        import rasterio  # its libraries and threads also use address space

        rasterio.Env().__enter__()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seeds = raster_seeds(folder) if kind == "raster" else photo_seeds()
        read, header = (read_raster, 600) if kind == "raster" else (read_photo, 120)
        print("ready", flush=True)
        for line in sys.stdin:
            rng = random.Random(int(line))
            content = mutate(rng.choice(seeds), rng, header)
            try:
                read(content, folder)
                answer = "opened"
            except GenGeoError as error:
                answer = "refused" if len(str(error).splitlines()) == 1 else f"many lines: {str(error)!r}"
            except BaseException as error:
                answer = f"{type(error).__name__}: {str(error)[:200]!r}"
            print(f"{answer}\t{peak_mb()}", flush=True)


def peak_mb():
    """Peak resident memory of this process in MB: ru_maxrss would start with that of the test process."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
