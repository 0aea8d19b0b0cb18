"""Decoding of the images of a `CrossViewDataset`, in a table's order or as batches for a `DataLoader`.

Panoramas are levelled and aligned with north when they are decoded, by the camera that the table states or, where the
table states none, by the metadata of the image file. Training, evaluation, figures and mining therefore get the same
pixels.
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

MAX_TRIES = 100  # broken pairs in a row after which an error is raised: the whole data set is damaged
SLICE = 32  # images decoded at a time: a large batch of full-size tiles may not fit into memory
Pair = tuple[Image.Image, Image.Image]


class ImageColumn:
    """Encoded images of a table's column, decoded one by one.

    Args:
        table: A `datasets.Dataset`.
        column: The name of its image column.
        cameras: Camera of each ground image, by which panoramas are levelled and aligned with north. Values that it
            does not state are taken from the metadata of the image file. None leaves all images unchanged.
    """

    def __init__(self, table: Any, column: str, cameras: Sequence[CameraView] | None = None) -> None:
        self.cameras = cameras
        undecoded = table.select_columns([column]).cast_column(column, ImageFeature(decode=False))
        self.table, self.column = undecoded.with_format("arrow"), column

    def __len__(self) -> int:
        return len(self.table)

    def sources(self, rows: Sequence[int]) -> list[Any]:
        """Path or bytes of each row's image, None where a row has none; the table is read once."""
        cells = self.table[list(rows)][self.column].to_pylist()
        return [None if c is None else c["bytes"] if c["bytes"] is not None else c["path"] for c in cells]

    def decode(self, source: Any, row: int) -> Image.Image:
        """Decode an image as upright RGB; the centre column of a panorama shows north.

        Args:
            source: Path or bytes from `sources`.
            row: Row of the table, which selects the camera.

        Raises:
            GenGeoError: The image is missing or broken; the message names the row.
        """
        if source is None:
            raise GenGeoError(f"row {row} has no {self.column} image")
        try:
            if self.cameras is None:
                return open_image(source)
            found, stated = read_image(source), self.cameras[row]
        except GenGeoError as error:
            raise GenGeoError(f"{self.column} image of row {row}: {error}") from error
        # An image of a table counts as a panorama by its column `fov` or its GPano metadata, never by its shape alone.
        camera = found.metadata.camera
        if stated.fov is None and (camera.heading is None and camera.is_level):
            return found.image
        return align_with_north(found.image, stated.completed_by(camera))


class PairSource(Dataset[dict[str, Any]]):
    """Map-style dataset over the queries: each item is a photo and its positive tile, resized, as uint8.

    A pair with a broken image neither ends an epoch nor shrinks a batch, whose size InfoNCE and the sampler rely on. It
    is reported once, listed in `broken`, and replaced by the next readable pair of the table whose tile is not in the
    batch yet. `query_row` and `tile_row` of the batch state the pair that is used.

    Args:
        dataset: Queries and gallery.
        processor: A `GenGeoImageProcessor`, which sets the sizes, the interpolation and the view transforms.
        auxiliary: Processor of a third view of the ground images, which batches then hold as `auxiliary`. None: no
            third view.
        with_positions: Whether batches hold `position`, float32 (B, 2), see `positions_in_tiles`.

    Raises:
        GenGeoError: The data cannot provide a view of a processor, or `with_positions` needs an unknown position.

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
                "position loss needs both; disable the loss for tiles that are centred on their photos"
            )
        self.ground = ImageColumn(dataset.queries, "ground", dataset.cameras())
        self.aerial = ImageColumn(dataset.gallery, "aerial")
        self.tile_rows = dataset.positive_rows()
        # Images of an unknown field of view count as ordinary photos, so that augmentation does not roll them.
        self.panorama = torch.tensor([camera.is_panorama for camera in self.ground.cameras or ()])
        # Shared with the workers, so that the main process knows all broken rows and each is reported once.
        self._broken = torch.zeros(len(self.ground), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.ground)

    @property
    def broken(self) -> list[int]:
        """Rows of the queries whose photo or tile could not be decoded so far."""
        return self._broken.nonzero().flatten().tolist()

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One pair, without the batch dimension."""
        return {key: value[0] for key, value in self.__getitems__([row]).items()}

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        """The batch of some rows. `DataLoader` calls this method, so the table is read once per batch."""
        decoded: list[dict[str, torch.Tensor]] = []
        final = [int(row) for row in rows]
        for start in range(0, len(rows), SLICE):
            pairs = self._decode_pairs(final, range(start, min(start + SLICE, len(rows))))
            decoded.append({"ground": self._pixels(pairs, "ground"), "aerial": self._pixels(pairs, "aerial")})
            if self.auxiliary is not None:
                decoded[-1]["auxiliary"] = resize_images(self.auxiliary, [pair[0] for pair in pairs], "ground")
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
        """`collate_fn` for a `DataLoader`: returns a batch of `__getitems__` unchanged and stacks single items."""
        if isinstance(items, dict):
            return items
        return {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]}

    def _decode_pairs(self, final: list[int], indices: range) -> list[Pair]:
        """Decode the pairs at some indices of the batch; `final`, the rows of the batch, is updated by replacements."""
        rows = [final[index] for index in indices]
        grounds = self.ground.sources(rows)
        aerials = self.aerial.sources(self.tile_rows[rows].tolist())
        pairs = []
        for index, ground, aerial in zip(indices, grounds, aerials, strict=True):
            pair = None if self._broken[final[index]] else self._decode_pair(final[index], ground, aerial)
            pairs.append(pair or self._replace_pair(final, index))
        return pairs

    def _decode_pair(self, row: int, ground: Any, aerial: Any) -> Pair | None:
        """Decode one pair; None, with a warning the first time, where one of its images is broken."""
        tile_row = int(self.tile_rows[row])
        try:
            return self.ground.decode(ground, row), self.aerial.decode(aerial, tile_row)
        except GenGeoError as error:
            if not self._broken[row]:
                logger.warning("%s: a broken pair is replaced by another one: %s", self.dataset.name, error)
            self._broken[row] = True
            return None

    def _replace_pair(self, final: list[int], index: int) -> Pair:
        """Decode the next readable pair whose tile is not in the batch, and set `final[index]` to its row.

        Raises:
            GenGeoError: Too many pairs in a row are broken.
        """
        tiles = {int(self.tile_rows[row]) for row in final}
        first = final[index]
        tries = 0
        for step in range(1, len(self)):
            row = (first + step) % len(self)
            if self._broken[row] or int(self.tile_rows[row]) in tiles:
                continue
            pair = self._decode_pair(row, self.ground.sources([row])[0], self.aerial.sources([self.tile_rows[row]])[0])
            if pair is not None:
                final[index] = row
                return pair
            tries += 1
            if tries >= MAX_TRIES:
                break
        raise GenGeoError(
            f"{self.dataset.name}: {len(self.broken)} pairs are broken, and no other pair was found to replace row "
            f"{first}; check the images with `gengeo data check`"
        )

    def _pixels(self, pairs: list[Pair], view: str) -> torch.Tensor:
        """One view of the pairs at the model's size: uint8 (pairs, 3, H, W)."""
        images = [pair[0] if view == "ground" else pair[1] for pair in pairs]
        return resize_images(self.processor, images, view)


def resize_images(processor: Any, images: list[Image.Image], view: str) -> torch.Tensor:
    """Resize images to the view's size, without normalisation.

    Args:
        processor: A `GenGeoImageProcessor`.
        images: RGB images of any sizes.
        view: "ground" or "aerial".

    Returns:
        Pixels, uint8 (B, 3, H, W).
    """
    out = processor(images, view=view, do_rescale=False, do_normalize=False, return_tensors="pt")
    return out["pixel_values"]


class _Images(Sequence[Image.Image]):
    """The images of one table, in its order, decoded on access; base of the two classes below."""

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
            return [self._decode(s, r) for r, s in zip(rows, self.images.sources(rows), strict=True)] if rows else []
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row = int(row) % len(self)
        return self._decode(self.images.sources([row])[0], row)

    def __iter__(self) -> Iterator[Image.Image]:
        for start in range(0, len(self), SLICE):
            yield from self[start : start + SLICE]

    def _decode(self, source: Any, row: int) -> Image.Image:
        """Decode one image; a broken one raises an error or, with `replace_broken`, becomes a grey square."""
        try:
            return self.images.decode(source, row)
        except GenGeoError as error:
            if not self.replace_broken:
                raise
            if row not in self.broken:
                logger.warning("replaced by a grey image: %s", error)
            self.broken.add(row)
            return Image.new("RGB", (64, 64), BACKGROUND)


class GroundImages(_Images):
    """All ground images of a data set, one per query, in the table's order; panoramas are aligned with north.

    Args:
        dataset: Queries and gallery.
        replace_broken: Whether a broken image becomes a grey image instead of an error; it is reported once and its
            row is added to `broken`. For mining during training; an evaluation must not score replaced images.

    Example:
        >>> descriptors = encoder.encode(GroundImages(dataset), view="ground")
    """

    column = "ground"


class AerialImages(_Images):
    """All tiles of a data set's gallery, in the table's order; arguments as in `GroundImages`."""

    column = "aerial"
