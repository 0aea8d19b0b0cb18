"""A sheet of pairs as one picture, to look at before training."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gengeo_hf.common.drawing import INK, PAPER
from gengeo_hf.common.files import atomic_file
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.loading import AerialImages, GroundImages

TILE = 160  # pixels; a photo is as high and at most four times as wide
GAP, LINE = 8, 14


def write_sheet(data: CrossViewDataset, path: str | Path, pairs: int = 12) -> Path:
    """Draw some pairs, evenly from the whole table, each with its ids: the tile left, the photo right.

    Panoramas are shown as the model sees them, levelled and aligned by their heading. A tick marks north: the top of
    the tile, the middle of a panorama, and in an ordinary photo the column that follows from its heading. A photo or
    tile that cannot be read is shown grey.

    Args:
        data: queries and gallery.
        path: PNG file to write.
        pairs: how many at most.
    """
    rows = np.unique(np.linspace(0, len(data.queries) - 1, pairs).astype(int)).tolist()
    tile_rows = data.positive_rows()
    grounds, aerials = GroundImages(data, replace_broken=True), AerialImages(data, replace_broken=True)
    facts = data.queries.select_columns(["query_id", "positive"])
    cameras = data.cameras()
    sheet = Image.new("RGB", (3 * GAP + 5 * TILE, GAP + len(rows) * (TILE + LINE + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = GAP + number * (TILE + LINE + GAP)
        fact = facts[row]
        pen.text((GAP, top), f"{fact['query_id']}  ->  {fact['positive']}"[:110], INK)
        sheet.paste(aerials[int(tile_rows[row])].resize((TILE, TILE)), (GAP, top + LINE))
        pen.line([(GAP + TILE // 2, top + LINE), (GAP + TILE // 2, top + LINE + 10)], (255, 0, 0), 3)
        photo = grounds[row]
        width = max(1, min(4 * TILE, round(photo.width * TILE / photo.height)))
        left = 2 * GAP + TILE
        sheet.paste(photo.resize((width, TILE)), (left, top + LINE))
        camera = cameras[row]
        heading = 0.0 if camera.is_panorama else camera.bearing  # panoramas are shown aligned, as the model sees them
        if heading is not None and camera.fov is not None:
            column = (0.5 + (-heading + 180) % 360 / camera.fov - 180 / camera.fov) * width
            if 0 <= column <= width:
                pen.line([(left + column, top + LINE), (left + column, top + LINE + 10)], (255, 0, 0), 3)
    with atomic_file(Path(path)) as temporary:
        sheet.save(temporary, "PNG")
    return Path(path)
