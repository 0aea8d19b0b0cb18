"""Contact sheet of pairs as one PNG file, for inspection before training."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gengeo_hf.common.drawing import INK, PAPER
from gengeo_hf.common.files import atomic_file
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.loading import AerialImages, GroundImages

TILE = 160  # pixels; a photo has the same height and at most four times the width
GAP, LINE = 8, 14  # pixels


def write_sheet(data: CrossViewDataset, path: str | Path, pairs: int = 12) -> Path:
    """Draw pairs at regular intervals of the table, with their ids: the tile on the left, the photo on the right.

    Panoramas are drawn levelled and aligned with north, as the model receives them. A tick marks north: at the top
    of the tile, in the centre of a panorama, and in an ordinary photo at the column computed from its heading. A photo
    or tile that cannot be read is drawn grey.

    Args:
        data: Queries and gallery.
        path: PNG file to write.
        pairs: Maximum number of pairs.

    Returns:
        The path of the PNG file.
    """
    rows = np.unique(np.linspace(0, len(data.queries) - 1, pairs).astype(int)).tolist()
    tile_rows = data.positive_rows()
    grounds, aerials = GroundImages(data, replace_broken=True), AerialImages(data, replace_broken=True)
    ids = data.queries.select_columns(["query_id", "positive"])
    cameras = data.cameras()
    sheet = Image.new("RGB", (3 * GAP + 5 * TILE, GAP + len(rows) * (TILE + LINE + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = GAP + number * (TILE + LINE + GAP)
        pair = ids[row]
        pen.text((GAP, top), f"{pair['query_id']}  ->  {pair['positive']}"[:110], INK)
        sheet.paste(aerials[int(tile_rows[row])].resize((TILE, TILE)), (GAP, top + LINE))
        pen.line([(GAP + TILE // 2, top + LINE), (GAP + TILE // 2, top + LINE + 10)], (255, 0, 0), 3)
        photo = grounds[row]
        width = max(1, min(4 * TILE, round(photo.width * TILE / photo.height)))
        left = 2 * GAP + TILE
        sheet.paste(photo.resize((width, TILE)), (left, top + LINE))
        camera = cameras[row]
        heading = 0.0 if camera.is_panorama else camera.bearing  # panoramas are drawn aligned with north
        if heading is not None and camera.fov is not None:
            column = (0.5 + (-heading + 180) % 360 / camera.fov - 180 / camera.fov) * width
            if 0 <= column <= width:
                pen.line([(left + column, top + LINE), (left + column, top + LINE + 10)], (255, 0, 0), 3)
    with atomic_file(Path(path)) as temporary:
        sheet.save(temporary, "PNG")
    return Path(path)
