"""Images that calibrate and judge an int8 export: photos of a directory, or pairs of a data set."""

from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import VIEWS

MOST_CALIBRATING, MOST_JUDGING, MOST_PAIRS, LEAST = 64, 64, 500, 8
BATCH = 8


class CalibrationImages:
    """Pixel values of images of both views; those that judge did not calibrate.

    Args:
        notation: A directory of photos (they serve as both views), or a data set as `gengeo evaluate` takes it.
        processor: Prepares them.

    Raises:
        GenGeoError: Nothing is there, or fewer than 8 images.
    """

    def __init__(self, notation: str, processor: Any) -> None:
        self.processor: Any = processor
        self.positives: np.ndarray | None = None  # of each judging photo, the row of its tile
        found = self._photos(notation) if Path(notation).is_dir() else self._pairs(notation)
        self._calibrating, self._judging = found
        self.count = len(self._calibrating["ground"])

    def calibrating(self, views: list[str]) -> list[np.ndarray]:
        """Pixel values (1, 3, H, W) of the images that calibrate, of these views in turn."""
        return [pixels for pair in zip(*(self._calibrating[view] for view in views), strict=False) for pixels in pair]

    def judging(self, view: str) -> list[np.ndarray]:
        """Pixel values (B, 3, H, W) of the images that judge, of one view."""
        pixels = self._judging[view]
        return [np.concatenate(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]

    def _prepared(self, images: list[Any], view: str) -> list[np.ndarray]:
        return [self.processor([image], view=view, return_tensors="np")["pixel_values"] for image in images]

    def _photos(self, folder: str) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
        from gengeo_hf.common.images import find_images, open_image

        files = sorted(find_images(Path(folder)))
        _check_count(len(files), folder)
        chosen = [files[row] for row in np.random.default_rng(0).permutation(len(files))]
        images = [open_image(path) for path in chosen[: MOST_CALIBRATING + MOST_JUDGING]]
        half = min(MOST_CALIBRATING, len(images) // 2)
        self.description = f"{len(images)} photos of a directory, as both views"
        first, second = ({v: self._prepared(some, v) for v in VIEWS} for some in (images[:half], images[half:]))
        return first, second

    def _pairs(self, notation: str) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
        from gengeo_hf.data import load_notation
        from gengeo_hf.data.loading import AerialImages, GroundImages

        dataset = load_notation(notation, split="validation")
        tiles, photos, own = AerialImages(dataset), GroundImages(dataset), dataset.positive_rows()
        _check_count(len(photos), notation)
        order = np.random.default_rng(0).permutation(len(photos))
        half = min(MOST_CALIBRATING, len(photos) // 2)
        judging = order[half : half + MOST_PAIRS]
        gallery = np.unique(own[judging])
        self.positives = np.searchsorted(gallery, own[judging])
        self.description = f"pairs of {dataset.name}"
        rows = ({"ground": order[:half], "aerial": own[order[:half]]}, {"ground": judging, "aerial": gallery})
        columns = {"ground": photos, "aerial": tiles}
        first, second = (
            {view: self._prepared([columns[view][int(row)] for row in some[view]], view) for view in VIEWS}
            for some in rows
        )
        return first, second


def _check_count(count: int, where: str) -> None:
    if count < LEAST:
        raise GenGeoError(f"{where} holds {count} images: calibration and its check need at least {LEAST}")
