"""Fetching, checking, caching and cropping of the source tiles of one service.

Each source tile is fetched once, even if several threads and crops need it. A source tile that is not imagery of the
ground is treated as ground without data, and counted by its reason.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import tile_content
from gengeo_hf.imagery.client import HostUnavailableError, ImageryClient, ServerError
from gengeo_hf.imagery.grids import Level, is_web_mercator
from gengeo_hf.imagery.services import TileService
from gengeo_hf.imagery.tile_cache import TileCache
from gengeo_hf.imagery.tile_content import NotAPictureError, Repetitions, decode_tile
from gengeo_hf.imagery.tile_window import TileWindow
from gengeo_hf.imagery.tiles import ImageryStoppedError, tile_image

MEMORY_MB = 64
SIDES = (128, 200, 250, 256, 500, 512, 1000, 1024, 2048)  # accepted sides of source tiles in pixels

TileIndex = tuple[int, int, int]  # zoom, column, row


@dataclass(frozen=True)
class SourceTile:
    """A decoded source tile.

    Args:
        pixels: RGB, uint8 (side, side, 3).
        mask: 0 for pixels without data, uint8 (side, side); None if all pixels have data.
    """

    pixels: np.ndarray
    mask: np.ndarray | None

    @property
    def size(self) -> int:
        """Size in memory in bytes."""
        return self.pixels.nbytes + (0 if self.mask is None else self.mask.nbytes)


class TileReader:
    """Reads and crops the imagery of a tile service. Safe for threads.

    Args:
        service: The tile service.
        client: HTTP client.
        cache: Cache of source tiles on disk; None for no cache.
        shift_m: Metres by which the imagery is moved to the east and to the north.
        max_empty: Maximum share of a crop's pixels without data.
        keep_one_colour: Whether source tiles of one colour are imagery instead of ground without data.

    Attributes:
        bad: Number of source tiles that are not used, by reason.
        fetched: Number of source tiles for which the server sent a response.
        refusal: Last error message of the server, "" if there was none.
    """

    def __init__(
        self,
        service: TileService,
        client: ImageryClient,
        cache: TileCache | None,
        shift_m: tuple[float, float] = (0.0, 0.0),
        max_empty: float = 0.5,
        keep_one_colour: bool = False,
    ) -> None:
        self.service, self.client, self.cache = service, client, cache
        self.bad: Counter[str] = Counter()
        self.fetched = 0
        self.max_empty = max_empty
        self.refusal = ""
        self._keep_one_colour = keep_one_colour
        self._side: int | None = None  # pixels of a source tile; None accepts any of `SIDES`
        self._shift = np.array(shift_m)
        self._wraps = is_web_mercator(service.grid.crs)
        self._repetitions = Repetitions()
        self._lock = threading.Lock()
        self._memory: OrderedDict[TileIndex, SourceTile | str] = OrderedDict()
        self._memory_bytes = 0
        self._in_work: dict[TileIndex, Future[SourceTile | str]] = {}
        self._counted: set[TileIndex] = set()

    def tile(self, index: TileIndex) -> SourceTile | str:
        """A source tile, or the reason why it cannot be used.

        Args:
            index: Zoom, column and row.

        Raises:
            ImageryStoppedError: The server does not respond any more, or the cache cannot be written.
        """
        with self._lock:
            if index in self._memory:
                self._memory.move_to_end(index)
                return self._memory[index]
            future = self._in_work.get(index)
            must_load = future is None
            if future is None:
                future = self._in_work[index] = Future()
        if not must_load:
            return future.result()
        try:
            found = self._load(index)
        except BaseException as error:
            with self._lock:
                del self._in_work[index]
            future.set_exception(error)
            raise
        with self._lock:
            del self._in_work[index]
            self._keep(index, found)
        future.set_result(found)
        return found

    def tile_uncounted(self, index: TileIndex) -> SourceTile | str:
        """Like `tile`, but a source tile that cannot be used is not counted in `bad`."""
        found = self.tile(index)
        if isinstance(found, str):
            with self._lock:
                if index in self._counted:
                    self._counted.discard(index)
                    self.bad -= Counter([found])
        return found

    @property
    def side(self) -> int:
        """Side of a source tile in pixels: measured by `probe`, before that as stated by the grid."""
        return self._side or next(iter(self.service.grid.levels.values())).tile

    def probe(self, indices: list[TileIndex]) -> list[str]:
        """Read some source tiles, and set the size of source tiles to the most frequent one.

        Args:
            indices: Zoom, column and row of each source tile.

        Returns:
            Reasons of the source tiles that cannot be used.

        Raises:
            ImageryStoppedError: The server does not respond any more, or the cache cannot be written.
        """
        found = {index: self.tile(index) for index in indices}
        sides = Counter(tile.pixels.shape[0] for tile in found.values() if isinstance(tile, SourceTile))
        if sides:
            self._side = sides.most_common(1)[0][0]
        for index, tile in found.items():
            if isinstance(tile, SourceTile) and tile.pixels.shape[0] != self._side:
                self._withdraw(index, tile_content.WRONG_SIZE)
        # Read again, since the first occurrence of a repeated image is withdrawn only at the second one.
        return [tile for tile in map(self.tile, indices) if isinstance(tile, str)]

    def crop(self, to_pixel: np.ndarray, level: Level, tile_m: float, pixels: int) -> tuple[Image.Image | None, str]:
        """Crop a north-up tile of a ground size, resampled once from the source tiles under it.

        Args:
            to_pixel: Affine map from (east, north) metres around the centre to pixels of the level, (2, 3).
            level: Zoom level of the source tiles.
            tile_m: Side of the tile in metres on the ground.
            pixels: Side of the tile in pixels.

        Returns:
            The RGB image, or None if too much of it has no data; and the most frequent reason of missing pixels, "" if
            none is missing.

        Raises:
            ImageryStoppedError: The server does not respond any more, or the cache cannot be written.
        """
        if self.side != level.tile:
            to_pixel, level = to_pixel * (self.side / level.tile), level.with_tile(self.side)
        to_pixel = to_pixel.copy()
        to_pixel[:, 2] -= to_pixel[:, :2] @ self._shift
        copies = 3 if self._wraps else 1  # the plane is repeated to both sides of the date line
        to_pixel[0, 2] += level.width * (copies // 2)
        window = TileWindow.under(to_pixel, tile_m, pixels, copies * level.width, level.height)
        if window.is_empty:
            return None, tile_content.MISSING
        whole = window.whole_box()
        canvas, mask, reasons = self._assemble(whole or (*window.low.tolist(), *window.high.tolist()), level)
        if whole is None:
            canvas, valid = window.resample(canvas, mask)
        else:
            valid = None if mask.all() else mask > 0
        reason = reasons.most_common(1)[0][0] if reasons else ""
        if valid is None:
            return Image.fromarray(canvas), reason
        canvas = np.where(valid[..., None], canvas, 0).astype(np.uint8)
        image = tile_image(canvas, 1 - float(valid.mean()), self.max_empty)
        return image, reason or ("" if image is not None else tile_content.MISSING)

    def _assemble(self, box: tuple[int, int, int, int], level: Level) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
        """Pixels and mask of a box of the grid, from source tiles; number of pixels without data by reason."""
        left, top, right, bottom = box
        canvas = np.zeros((bottom - top, right - left, 3), np.uint8)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        reasons: Counter[str] = Counter()
        side = level.tile
        for row in range(top // side, (bottom - 1) // side + 1):
            for column in range(left // side, (right - 1) // side + 1):
                x0, y0 = max(left, column * side), max(top, row * side)
                x1, y1 = min(right, (column + 1) * side), min(bottom, (row + 1) * side)
                found = self.tile((level.zoom, column % level.columns, row))
                if isinstance(found, str):
                    reasons[found] += (x1 - x0) * (y1 - y0)
                    continue
                source = slice(y0 - row * side, y1 - row * side), slice(x0 - column * side, x1 - column * side)
                target = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
                canvas[target] = found.pixels[source]
                mask[target] = 255 if found.mask is None else found.mask[source]
        return canvas, mask, reasons

    def _load(self, index: TileIndex) -> SourceTile | str:
        """A source tile from the cache or the server, or the reason why it cannot be used, which is counted once."""
        try:
            found: SourceTile | str = self._load_cached(index) or self._fetch(index)
        except NotAPictureError as error:
            found = error.reason
        if isinstance(found, str):
            self._count(index, found)
        return found

    def _load_cached(self, index: TileIndex) -> SourceTile | None:
        """A source tile from the cache, None if it is not cached. A damaged file is removed and fetched again.

        Raises:
            NotAPictureError: The tile is recorded as missing, or repeats another one.
        """
        if self.cache is None:
            return None
        content = self.cache.get(*index)
        if content is not None:
            try:
                return self._decode(content, index)[0]
            except NotAPictureError as error:
                self.cache.drop(*index)
                if error.reason == tile_content.REPEATED:
                    raise
        reason = self.cache.reason(*index)
        if reason and not (self._keep_one_colour and reason == tile_content.ONE_COLOUR):
            raise NotAPictureError(reason)
        return None

    def _fetch(self, index: TileIndex) -> SourceTile:
        """Fetch a source tile and cache it.

        Raises:
            NotAPictureError: The server has no such tile, refuses, or sends other content.
            HostUnavailableError: The server does not respond any more.
        """
        try:
            answer = self.service.fetch(self.client, *index)
        except HostUnavailableError:
            raise
        except ServerError as error:
            self.refusal = str(error)
            raise NotAPictureError(
                tile_content.REFUSED if 400 <= error.status < 429 else tile_content.NO_ANSWER
            ) from None
        with self._lock:
            self.fetched += 1
        try:
            if answer.is_missing:
                raise NotAPictureError(tile_content.MISSING)
            tile, suffix = self._decode(answer.content, index)
        except NotAPictureError as error:
            reason = error.reason
            if reason in tile_content.LASTING:
                self._store(lambda cache: cache.remember(*index, reason))
            raise
        self._store(lambda cache: cache.put(*index, answer.content, suffix))
        return tile

    def _store(self, action: Callable[[TileCache], Any]) -> None:
        """Write to the cache, if there is one."""
        if self.cache is None:
            return
        try:
            action(self.cache)
        except GenGeoError as error:  # a full disk ends the build, and the next run continues
            raise ImageryStoppedError(error) from error

    def _decode(self, content: bytes, index: TileIndex) -> tuple[SourceTile, str]:
        """Decode and check a source tile; also returns the suffix of its format.

        Raises:
            NotAPictureError: The content cannot be used.
        """
        pixels, mask, suffix = decode_tile(content, self._keep_one_colour)
        height, width = pixels.shape[:2]
        if height != width or height not in (SIDES if self._side is None else (self._side,)):
            raise NotAPictureError(tile_content.WRONG_SIZE)
        if (first := self._repetitions.check(content, index)) is not None:
            self._withdraw(first, tile_content.REPEATED)
            raise NotAPictureError(tile_content.REPEATED)
        return SourceTile(pixels, mask), suffix

    def _withdraw(self, index: TileIndex, reason: str) -> None:
        """Stop using a source tile, for example the first occurrence of a repeated image."""
        if self.cache is not None:
            self.cache.drop(*index)
        with self._lock:
            self._keep(index, reason)
        self._count(index, reason)

    def _keep(self, index: TileIndex, found: SourceTile | str) -> None:
        old = self._memory.pop(index, None)
        self._memory_bytes += _bytes(found) - (_bytes(old) if old is not None else 0)
        self._memory[index] = found
        while self._memory_bytes > MEMORY_MB << 20:
            self._memory_bytes -= _bytes(self._memory.popitem(last=False)[1])

    def _count(self, index: TileIndex, reason: str) -> None:
        """Count a source tile that cannot be used, once."""
        with self._lock:
            if index not in self._counted:
                self._counted.add(index)
                self.bad[reason] += 1


def _bytes(found: SourceTile | str) -> int:
    return found.size if isinstance(found, SourceTile) else 100
