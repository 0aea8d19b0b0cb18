"""From rows of a `CrossViewDataset` to pixels: what a data loader's workers do.

Panoramas are levelled and aligned with north here, by the camera that the table states or, where it is silent, that
their files state; so training, evaluation, pictures and mining see the same image.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import Dataset

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import BACKGROUND, open_image, read_image
from gengeo_hf.common.projection import align_with_north
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.view_checks import check_views, positions_in_tiles

logger = logging.getLogger(__name__)

ENOUGH_TRIES = 100  # broken pairs in a row after which the folder is wrong, not some files
SLICE = 32  # images that are decoded at one time: full-size tiles of a large batch would fill the memory
Pair = tuple[Image.Image, Image.Image]


class ImageColumn:
    """Encoded images of a table's column, decoded one by one.

    Args:
        table: A `datasets.Dataset`.
        column: The name of its image column.
        cameras: How each image was taken, for ground images: panoramas are levelled and aligned with north by it. What
            it leaves open is taken from the image's own file. None leaves images as they are.
    """

    def __init__(self, table: Any, column: str, cameras: Sequence[CameraView] | None = None) -> None:
        self.cameras = cameras
        undecoded = table.select_columns([column]).cast_column(column, ImageFeature(decode=False))
        self.table, self.column = undecoded.with_format("arrow"), column

    def __len__(self) -> int:
        return len(self.table)

    def sources(self, rows: Sequence[int]) -> list[Any]:
        """Path or bytes of each row's image, in one look-up."""
        cells = self.table[list(rows)][self.column].to_pylist()
        return [None if c is None else c["bytes"] if c["bytes"] is not None else c["path"] for c in cells]

    def decode(self, source: Any, row: int) -> Image.Image:
        """The image, upright RGB; a panorama looks north in its centre column.

        Raises:
            GenGeoError: it is missing or broken; the message names the row.
        """
        if source is None:
            raise GenGeoError(f"row {row} has no {self.column} image")
        try:
            if self.cameras is None:
                return open_image(source)
            found, stated = read_image(source), self.cameras[row]
        except GenGeoError as error:
            raise GenGeoError(f"{self.column} image of row {row}: {error}") from error
        # The shape alone makes no panorama of a table's image: only its column or its GPano metadata do.
        told = found.metadata.camera
        if stated.fov is None and (told.heading is None and told.is_level):
            return found.image
        return align_with_north(found.image, stated.completed_by(told))


class PairSource(Dataset[dict[str, Any]]):
    """A map-style dataset over the queries: row -> the photo and its true tile, resized, as uint8.

    A pair with a broken image does not end an epoch, nor does it shrink a batch (InfoNCE and the sampler count on its
    size). It is reported once, counted in `broken`, and its place is taken by the next whole pair of the table whose
    tile is not in the batch yet; `query_row` and `tile_row` tell which pair it really is.

    Args:
        dataset: queries and gallery.
        processor: a `GenGeoImageProcessor`; it sets the sizes, the way of resizing and the views.
        auxiliary: a processor for a third view, made from the ground images; batches then have `auxiliary`.
        with_positions: batches then have `position`, float32 (B, 2), see `positions_in_tiles`.

    Raises:
        GenGeoError: the data lack a view of a processor, or positions that were asked for.

    Example:
        >>> source = PairSource(dataset, processor)
        >>> loader = DataLoader(source, batch_sampler=sampler, collate_fn=PairSource.collate, num_workers=2)
        >>> batch = next(iter(loader))  # ground, aerial: uint8 (B, 3, H, W); query_row, tile_row: int64 (B,)
    """

    def __init__(
        self, dataset: CrossViewDataset, processor: Any, *, auxiliary: Any = None, with_positions: bool = False
    ) -> None:
        self.dataset, self.processor, self.auxiliary = dataset, processor, auxiliary
        for each in filter(None, (processor, auxiliary)):
            check_views(dataset, each)
        self.positions = torch.from_numpy(positions_in_tiles(dataset)) if with_positions else None
        if self.positions is not None and not bool(self.positions.isfinite().all()):
            raise GenGeoError(
                f"{dataset.name}: a photo has no position, or its tile no bounds (west, south, east, north), and the "
                "position loss needs both; for tiles that are centred on their photos leave it out"
            )
        self.ground = ImageColumn(dataset.queries, "ground", dataset.cameras())
        self.aerial = ImageColumn(dataset.gallery, "aerial")
        self.tile_rows = dataset.positive_rows()
        # Unknown is a photo: what may be no panorama must not be rolled by augmentation.
        self.panorama = torch.tensor([camera.is_panorama for camera in self.ground.cameras or ()])
        # Shared with the workers, so that the main process sees what they met and each file is reported once.
        self._broken = torch.zeros(len(self.ground), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.ground)

    @property
    def broken(self) -> list[int]:
        """Query rows whose photo or tile could not be decoded so far."""
        return self._broken.nonzero().flatten().tolist()

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One pair, without the batch dimension."""
        return {key: value[0] for key, value in self.__getitems__([row]).items()}

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        """A whole batch: what PyTorch's loader asks for, so that the table is read once and not B times."""
        decoded: list[dict[str, torch.Tensor]] = []
        final = [int(row) for row in rows]
        for start in range(0, len(rows), SLICE):
            pairs = self._pairs(final, range(start, min(start + SLICE, len(rows))))
            decoded.append({"ground": self._pixels(pairs, "ground"), "aerial": self._pixels(pairs, "aerial")})
            if self.auxiliary is not None:
                decoded[-1]["auxiliary"] = resized(self.auxiliary, [pair[0] for pair in pairs], "ground")
        query_row = torch.tensor(final, dtype=torch.int64)
        batch = {view: torch.cat([part[view] for part in decoded]) for view in decoded[0]}
        batch["query_row"] = query_row
        batch["tile_row"] = torch.from_numpy(self.tile_rows[final])
        if self.positions is not None:
            batch["position"] = self.positions[query_row]
        if not bool(self.panorama.all()):
            batch["panorama"] = self.panorama[query_row]
        return batch

    @staticmethod
    def collate(items: Any) -> dict[str, Any]:
        """The loader's `collate_fn`: a batch from `__getitems__` passes, single items are stacked."""
        if isinstance(items, dict):
            return items
        return {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]}

    def _pairs(self, final: list[int], places: range) -> list[Pair]:
        """Decoded pairs for some places of the batch; `final` is changed where a pair is replaced."""
        rows = [final[place] for place in places]
        grounds = self.ground.sources(rows)
        aerials = self.aerial.sources(self.tile_rows[rows].tolist())
        pairs = []
        for place, ground, aerial in zip(places, grounds, aerials, strict=True):
            pair = None if self._broken[final[place]] else self._decoded(final[place], ground, aerial)
            pairs.append(pair or self._replacement(final, place))
        return pairs

    def _decoded(self, row: int, ground: Any, aerial: Any) -> Pair | None:
        """One pair, or None after a report."""
        tile_row = int(self.tile_rows[row])
        try:
            return self.ground.decode(ground, row), self.aerial.decode(aerial, tile_row)
        except GenGeoError as error:
            if not self._broken[row]:
                logger.warning("%s is left out and replaced by another pair: %s", self.dataset.name, error)
            self._broken[row] = True
            return None

    def _replacement(self, final: list[int], place: int) -> Pair:
        """The next whole pair that is not in the batch; `final[place]` becomes its row.

        Raises:
            GenGeoError: too many pairs in a row are broken.
        """
        tiles = {int(self.tile_rows[row]) for row in final}
        first = final[place]
        tries = 0
        for step in range(1, len(self)):
            row = (first + step) % len(self)
            if self._broken[row] or int(self.tile_rows[row]) in tiles:
                continue
            pair = self._decoded(row, self.ground.sources([row])[0], self.aerial.sources([self.tile_rows[row]])[0])
            if pair is not None:
                final[place] = row
                return pair
            tries += 1
            if tries >= ENOUGH_TRIES:
                break
        raise GenGeoError(
            f"{self.dataset.name}: {len(self.broken)} pairs are broken and none is left to replace row {first}; "
            "check the images with `gengeo data check`"
        )

    def _pixels(self, pairs: list[Pair], view: str) -> torch.Tensor:
        """One view of the pairs at the model's size: uint8 (pairs, 3, H, W)."""
        images = [pair[0] if view == "ground" else pair[1] for pair in pairs]
        return resized(self.processor, images, view)


def resized(processor: Any, images: list[Image.Image], view: str) -> torch.Tensor:
    """Images at the view's size, uint8 (B, 3, H, W), without normalisation."""
    out = processor(images, view=view, do_rescale=False, do_normalize=False, return_tensors="pt")
    return out["pixel_values"]


class _Images(Sequence[Image.Image]):
    """The images of one table, in its order, decoded when they are asked for; see the two classes below."""

    column = ""

    def __init__(self, dataset: CrossViewDataset, replace_broken: bool = False) -> None:
        if self.column == "ground":
            self.images = ImageColumn(dataset.queries, self.column, dataset.cameras())
        else:
            self.images = ImageColumn(dataset.gallery, self.column)
        self.replace_broken, self.broken = replace_broken, set[int]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: Any) -> Any:
        """The image of a row, or a list of images for a slice."""
        if isinstance(row, slice):
            rows = list(range(*row.indices(len(self))))
            return [self._decoded(s, r) for r, s in zip(rows, self.images.sources(rows), strict=True)] if rows else []
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row = int(row) % len(self)
        return self._decoded(self.images.sources([row])[0], row)

    def __iter__(self) -> Iterator[Image.Image]:
        for start in range(0, len(self), SLICE):
            yield from self[start : start + SLICE]

    def _decoded(self, source: Any, row: int) -> Image.Image:
        """One image; a broken one is an error, or a grey square where that was asked for."""
        try:
            return self.images.decode(source, row)
        except GenGeoError as error:
            if not self.replace_broken:
                raise
            if row not in self.broken:
                logger.warning("a grey image stands in: %s", error)
            self.broken.add(row)
            return Image.new("RGB", (64, 64), BACKGROUND)


class GroundImages(_Images):
    """All ground images of a dataset, one per query, in the table's order; panoramas are aligned with north.

    Args:
        dataset: queries and gallery.
        replace_broken: give a grey image, report it once and keep its row in `broken`, instead of raising. For
            mining during training; an evaluation must not count images that nobody saw.

    Example:
        >>> descriptors = encoder.encode(GroundImages(dataset), view="ground")
    """

    column = "ground"


class AerialImages(_Images):
    """All tiles of a dataset's gallery, in the table's order; arguments as in `GroundImages`."""

    column = "aerial"
