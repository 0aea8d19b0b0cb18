"""From rows of a dataset to batches of uint8 images, in worker processes.

Before: a `CrossViewDataset`. After: `{"ground", "aerial", "query_row", "tile_row"}` for the training loop, or one
image after the other for the encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import torch
from PIL import Image
from torch import Tensor

from gengeo_hf.data.images import open_image
from gengeo_hf.data.schema import CrossViewDataset
from gengeo_hf.errors import GenGeoError

if TYPE_CHECKING:
    from gengeo_hf.model import GenGeoImageProcessor

logger = logging.getLogger(__name__)


class _Images(Sequence[Image.Image]):
    """A column of images, opened when they are asked for."""

    def __init__(self, table: datasets.Dataset, column: str, id_column: str) -> None:
        self.rows = table.select_columns([column, id_column]).cast_column(column, datasets.Image(decode=False))
        self.column, self.id_column = column, id_column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: Any) -> Any:
        """The image of one row.

        Raises:
            GenGeoError: it is missing or broken; the message names its id.
        """
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        stored = self.rows[int(row)]
        image = stored[self.column]
        try:
            return open_image(image["bytes"] if image["bytes"] is not None else image["path"])
        except GenGeoError as error:
            raise GenGeoError(f"{self.id_column} {stored[self.id_column]}: {error}") from error

    def __iter__(self) -> Iterator[Image.Image]:
        for row in range(len(self)):
            yield self[row]


class GroundImages(_Images):
    """The ground images of a dataset, in the order of its queries."""

    def __init__(self, data: CrossViewDataset) -> None:
        super().__init__(data.queries, "ground", "query_id")


class AerialImages(_Images):
    """The tiles of a dataset, in the order of its gallery."""

    def __init__(self, data: CrossViewDataset) -> None:
        super().__init__(data.gallery, "aerial", "tile_id")


class PairSource(torch.utils.data.Dataset):
    """Query rows to pairs of images: what the sampler's batches index.

    A broken image must not end an epoch of hours. Its pair gives None, which `collate` leaves out of the batch with a
    warning that names the image; a batch that loses more than a tenth of its pairs is an error, because the data are
    then wrong as a whole.

    Args:
        data: the training split.
        processor: sets the size of each view.
    """

    def __init__(self, data: CrossViewDataset, processor: GenGeoImageProcessor) -> None:
        self.ground, self.aerial = GroundImages(data), AerialImages(data)
        self.tile_of_query = data.positive_rows()
        self.processor = processor

    def __len__(self) -> int:
        return len(self.ground)

    def __getitem__(self, row: int) -> tuple[int, Image.Image, Image.Image] | None:
        try:
            return row, self.ground[row], self.aerial[self.tile_of_query[row]]
        except GenGeoError as error:
            logger.warning("a training pair is left out: %s", error)
            return None

    def collate(self, items: Sequence[tuple[int, Image.Image, Image.Image] | None]) -> dict[str, Tensor]:
        """Stack a batch.

        Returns:
            `ground` and `aerial`, uint8 (batch, 3, height, width); `query_row` and `tile_row`, int64 (batch,).

        Raises:
            GenGeoError: more than a tenth of the batch could not be read.
        """
        good = [item for item in items if item is not None]
        if len(items) - len(good) > len(items) / 10:
            raise GenGeoError(
                f"{len(items) - len(good)} of {len(items)} pairs of a batch cannot be read: check the images with "
                "`gengeo data check`"
            )
        # Equal sizes on every process and in every batch: a lost pair's place is taken by another of the batch only
        # when there is one process, so it is replaced by nothing and the batch is one shorter.
        rows = torch.tensor([item[0] for item in good])
        return {
            "ground": self._pixels([item[1] for item in good], "ground"),
            "aerial": self._pixels([item[2] for item in good], "aerial"),
            "query_row": rows,
            "tile_row": torch.from_numpy(self.tile_of_query)[rows],
        }

    def _pixels(self, images: list[Image.Image], view: str) -> Tensor:
        """Resized uint8 images; scale and normalisation come after augmentation."""
        prepared = self.processor(images, view=view, do_rescale=False, do_normalize=False, return_tensors="pt")  # type: ignore[call-arg]  # valid_kwargs
        pixels: Tensor = prepared["pixel_values"]
        return pixels
