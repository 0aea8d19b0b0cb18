"""A small synthetic Just Zoom In in its published layout: lists, tile pyramid and photos, packed into archives."""

import io
import tarfile

import numpy as np
from PIL import Image

from gengeo_hf.data.benchmarks import justzoomin_grid as grid

LAYOUT = """crs: epsg:26985
max_zoom: 0
min_zoom: -9
origin_crs: [600, 200]
path: '{zoom}/{x}/{y}.jpg'
tile_axes: [east, north]
tile_shape_crs: [20, 20]
tile_shape_px: [250, 250]
"""
README = "---\nlicense: cc-by-sa-4.0\n---\n# Just Zoom In\n"
FIRST_ID = 27_000_000_000_000_001  # odd and above 2^53, so that float64 cannot represent it
ZOOM, METRES_A_PIXEL = -2, 0.32


def jpeg(image, quality=92):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def noise(seed, width, height):
    """Smooth noise that JPEG preserves and that is different for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def sequence_of(row, column):
    return str([row // step % 4 * 4 + column // step % 4 for step in (64, 16, 4, 1)])


class City:
    """A city of cells `rows` x `columns`.

    Args:
        rows, columns: Ranges of cells.
        picture: Function from row and column of a cell to its aerial image; None draws noise.
        photos: Tuples of row, column, metres to the east and to the north of the cell's centre, and image; None puts
            one photo into each cell.
        test_share: Share of the photos in the test list.
    """

    def __init__(self, rows=range(60, 64), columns=range(100, 104), picture=None, photos=None, test_share=0.5):
        self.rows, self.columns = rows, columns
        self.tiles = self._pyramid(picture or (lambda row, column: noise(row * 256 + column, 122, 122)))
        if photos is None:
            photos = [(r, c, 5.0, -7.0, noise(9000 + 100 * r + c, 64, 48)) for r in rows for c in columns]
        self.photos, self.lines = {}, {"train": [], "test": []}
        for index, (row, column, east, north, image) in enumerate(photos):
            name = str(FIRST_ID + 2 * index)
            x = grid.WEST_M + (column + 0.5) * grid.CELL_M + east
            y = grid.NORTH_M - (row + 0.5) * grid.CELL_M + north
            lat, lon = grid.unproject(x, y).ravel()
            part = "test" if index % round(1 / test_share) == 0 else "train"
            self.lines[part].append(f'{name},{lat:.6f},{lon:.6f},"{sequence_of(row, column)}"')
            self.photos[f"streetview/images/{name}_undistorted.jpg"] = jpeg(image)

    def _pyramid(self, picture):
        """Tiles of zoom -2 that cover the cells with a margin, north up."""
        side = grid.TILE_M * 2.0**-ZOOM
        west = grid.WEST_M + self.columns.start * grid.CELL_M
        east = grid.WEST_M + self.columns.stop * grid.CELL_M
        south = grid.NORTH_M - self.rows.stop * grid.CELL_M
        north = grid.NORTH_M - self.rows.start * grid.CELL_M
        (left, bottom), (right, top) = (
            (np.floor((np.array(corner) - grid.TILE_ORIGIN_M) / side)).astype(int).tolist()
            for corner in ((west - 5, south - 5), (east + 5, north + 5))
        )
        x0, y1 = grid.TILE_ORIGIN_M[0] + left * side, grid.TILE_ORIGIN_M[1] + (top + 1) * side
        canvas = noise(1, (right - left + 1) * 250, (top - bottom + 1) * 250)
        for row in self.rows:
            for column in self.columns:
                x = (grid.WEST_M + column * grid.CELL_M - x0) / METRES_A_PIXEL
                y = (y1 - grid.NORTH_M + row * grid.CELL_M) / METRES_A_PIXEL
                canvas.paste(picture(row, column).resize((122, 122)), (round(x), round(y)))
        return {
            f"satellite/{ZOOM}/{x}/{y}.jpg": jpeg(
                canvas.crop(((x - left) * 250, (top - y) * 250, (x - left + 1) * 250, (top - y + 1) * 250))
            )
            for x in range(left, right + 1)
            for y in range(bottom, top + 1)
        }

    def files(self, photo_archives=2):
        """Files of the Hub repository: content by path."""
        names = sorted(self.photos)
        parts = [names[index::photo_archives] for index in range(photo_archives)]
        header = "image_id,latitude,longitude,sequence\n"
        files = {
            "README.md": README.encode(),
            "metadata/large_area_train_map.csv": (header + "\n".join(self.lines["train"]) + "\n").encode(),
            "metadata/large_area_val_map.csv": (header + "\n".join(self.lines["test"]) + "\n").encode(),
            "satellite/layout.yaml": LAYOUT.encode(),
            "archives/satellite_level_m2_000.tar": tar(self.tiles),
        }
        for index, part in enumerate(parts):
            files[f"archives/streetview_images_{index:03d}.tar"] = tar({name: self.photos[name] for name in part})
        return files

    def unpack(self, root, photos=True):
        """Write the directory that `gengeo data get` makes, without archives."""
        content = self.files() | self.tiles | (self.photos if photos else {})
        for name, data in content.items():
            if not name.endswith(".tar"):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()
