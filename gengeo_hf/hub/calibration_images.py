"""Images that calibrate and evaluate an int8 export: photos of a directory, or pairs of a data set."""

from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import VIEWS

MAX_CALIBRATION, MAX_EVALUATION, MAX_PAIRS, MIN_IMAGES = 64, 64, 500, 8
BATCH_SIZE = 8


class CalibrationImages:
    """Pixel values of images of both views, one part for calibration and another part for evaluation.

    Args:
        notation: Directory of photos, which are used as both views, or a data set in the notation of `gengeo evaluate`.
        processor: Image processor of the model.

    Raises:
        GenGeoError: The directory or data set is missing, or has fewer than 8 images.
    """

    def __init__(self, notation: str, processor: Any) -> None:
        self.processor: Any = processor
        self.positives: np.ndarray | None = None  # row of the tile of each evaluation photo
        found = self._photos(notation) if Path(notation).is_dir() else self._pairs(notation)
        self._calibration, self._evaluation = found
        self.count = len(self._calibration["ground"])

    def calibration_pixels(self, views: list[str]) -> list[np.ndarray]:
        """Pixel values (1, 3, H, W) of the calibration images, alternating between the views."""
        return [pixels for pair in zip(*(self._calibration[view] for view in views), strict=False) for pixels in pair]

    def evaluation_pixels(self, view: str) -> list[np.ndarray]:
        """Batches of pixel values (B, 3, H, W) of the evaluation images of a view."""
        pixels = self._evaluation[view]
        return [np.concatenate(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE)]

    def _prepared(self, images: list[Any], view: str) -> list[np.ndarray]:
        return [self.processor([image], view=view, return_tensors="np")["pixel_values"] for image in images]

    def _photos(self, folder: str) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
        from gengeo_hf.common.images import find_images, open_image

        files = sorted(find_images(Path(folder)))
        _check_count(len(files), folder)
        chosen = [files[row] for row in np.random.default_rng(0).permutation(len(files))]
        images = [open_image(path) for path in chosen[: MAX_CALIBRATION + MAX_EVALUATION]]
        half = min(MAX_CALIBRATION, len(images) // 2)
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
        half = min(MAX_CALIBRATION, len(photos) // 2)
        evaluation = order[half : half + MAX_PAIRS]
        gallery = np.unique(own[evaluation])
        self.positives = np.searchsorted(gallery, own[evaluation])
        self.description = f"pairs of {dataset.name}"
        rows = ({"ground": order[:half], "aerial": own[order[:half]]}, {"ground": evaluation, "aerial": gallery})
        columns = {"ground": photos, "aerial": tiles}
        first, second = (
            {view: self._prepared([columns[view][int(row)] for row in some[view]], view) for view in VIEWS}
            for some in rows
        )
        return first, second


def _check_count(count: int, where: str) -> None:
    if count < MIN_IMAGES:
        raise GenGeoError(f"{where} holds {count} images: calibration and its check need at least {MIN_IMAGES}")
