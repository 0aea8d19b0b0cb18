"""Source tiles of one service: fetched politely, checked, kept on disk and in memory, and cropped by metres.

Each tile is fetched once, however many threads and crops need it. What is not a picture of the ground counts as ground
without data; its reason is kept and counted.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.imagery import pictures
from gengeo_hf.imagery.client import HostUnavailableError, ImageryClient, ServerError
from gengeo_hf.imagery.cutter import TileWindow
from gengeo_hf.imagery.grids import Level, is_web_mercator
from gengeo_hf.imagery.pictures import NotAPictureError, Repetitions, decode_tile
from gengeo_hf.imagery.services import TileService
from gengeo_hf.imagery.tile_cache import TileCache
from gengeo_hf.imagery.tiles import ImageryStoppedError, tile_image

MEMORY_MB = 64
SIDES = (128, 200, 250, 256, 500, 512, 1000, 1024, 2048)  # pixels that source tiles have

Place = tuple[int, int, int]  # zoom, column, row


@dataclass(frozen=True)
class SourceTile:
    """A decoded source tile.

    Args:
        pixels: RGB, (side, side, 3) uint8.
        mask: 0 where there is no data, (side, side) uint8; None where all pixels hold data.
    """

    pixels: np.ndarray
    mask: np.ndarray | None

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.pixels.nbytes + (0 if self.mask is None else self.mask.nbytes)


class TileReader:
    """Reads and crops the imagery of a tile service. Safe for threads.

    Args:
        service: Where the tiles come from.
        client: Fetches them.
        cache: Keeps them on disk; None keeps nothing.
        shift_m: Metres to the east and to the north by which the imagery is moved.
        max_empty: Share of a crop's pixels that may hold no data.
        one_colour: Take source tiles of one colour for imagery, not for ground without data.
    """

    def __init__(
        self,
        service: TileService,
        client: ImageryClient,
        cache: TileCache | None,
        shift_m: tuple[float, float] = (0.0, 0.0),
        max_empty: float = 0.5,
        one_colour: bool = False,
    ) -> None:
        self.service, self.client, self.cache = service, client, cache
        self.bad: Counter[str] = Counter()  # source tiles that are not used, by reason
        self.fetched = 0
        self.max_empty = max_empty
        self.refusal = ""  # what a server said last when it did not give what was asked for
        self._one_colour = one_colour
        self._side: int | None = None  # pixels of a source tile; None while any square is taken
        self._shift = np.array(shift_m)
        self._wraps = is_web_mercator(service.grid.crs)
        self._repetitions = Repetitions()
        self._lock = threading.Lock()
        self._memory: OrderedDict[Place, SourceTile | str] = OrderedDict()
        self._memory_bytes = 0
        self._in_work: dict[Place, Future[SourceTile | str]] = {}
        self._counted: set[Place] = set()

    def tile(self, place: Place) -> SourceTile | str:
        """A source tile, or the reason why there is none.

        Args:
            place: Zoom, column and row.

        Raises:
            ImageryStoppedError: The server is down, or the cache cannot be written.
        """
        with self._lock:
            if place in self._memory:
                self._memory.move_to_end(place)
                return self._memory[place]
            future = self._in_work.get(place)
            is_ours = future is None
            if future is None:
                future = self._in_work[place] = Future()
        if not is_ours:
            return future.result()
        try:
            found = self._load(place)
        except BaseException as error:
            with self._lock:
                del self._in_work[place]
            future.set_exception(error)
            raise
        with self._lock:
            del self._in_work[place]
            self._keep(place, found)
        future.set_result(found)
        return found

    def look(self, place: Place) -> SourceTile | str:
        """As `tile`; one that is not usable is not counted."""
        found = self.tile(place)
        if isinstance(found, str):
            with self._lock:
                if place in self._counted:
                    self._counted.discard(place)
                    self.bad -= Counter([found])
        return found

    @property
    def side(self) -> int:
        """Side of a source tile in pixels: as `probe` found it, before that as the grid has it."""
        return self._side or next(iter(self.service.grid.levels.values())).tile

    def probe(self, places: list[Place]) -> list[str]:
        """Read some source tiles, and take the size of most of them for the size of all.

        Args:
            places: Zoom, column and row of each.

        Returns:
            Reasons of those that are not usable.

        Raises:
            ImageryStoppedError: The server is down, or the cache cannot be written.
        """
        found = {place: self.tile(place) for place in places}
        sides = Counter(tile.pixels.shape[0] for tile in found.values() if isinstance(tile, SourceTile))
        if sides:
            self._side = sides.most_common(1)[0][0]
        for place, tile in found.items():
            if isinstance(tile, SourceTile) and tile.pixels.shape[0] != self._side:
                self._withdraw(place, pictures.WRONG_SIZE)
        now = (self.tile(place) for place in places)  # a repeated picture is found at its second occurrence
        return [tile for tile in now if isinstance(tile, str)]

    def crop(self, to_pixel: np.ndarray, level: Level, tile_m: float, pixels: int) -> tuple[Image.Image | None, str]:
        """A north-up tile of a ground size, resampled once from the source tiles under it.

        Args:
            to_pixel: Affine map from (east, north) metres around the centre to pixels of the level, (2, 3).
            level: Zoom level to take.
            tile_m: Side in metres on the ground.
            pixels: Side in pixels.

        Returns:
            The RGB image, or None where too little of it holds data; and the commonest reason of what is missing.

        Raises:
            ImageryStoppedError: The server is down, or the cache cannot be written.
        """
        if self.side != level.tile:
            to_pixel, level = to_pixel * (self.side / level.tile), level.with_tile(self.side)
        to_pixel = to_pixel.copy()
        to_pixel[:, 2] -= to_pixel[:, :2] @ self._shift
        turns = 3 if self._wraps else 1  # across the date line the plane goes on with its other end
        to_pixel[0, 2] += level.width * (turns // 2)
        window = TileWindow.under(to_pixel, tile_m, pixels, turns * level.width, level.height)
        if window.is_empty:
            return None, pictures.MISSING
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
        return image, reason or ("" if image is not None else pictures.MISSING)

    def _assemble(self, box: tuple[int, int, int, int], level: Level) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
        """Pixels and mask of a box of the grid, from the source tiles; and by reason the pixels without data."""
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

    def _load(self, place: Place) -> SourceTile | str:
        """From the cache or the server; a reason where it is not usable, which is counted once for each tile."""
        try:
            found: SourceTile | str = self._cached(place) or self._fetched(place)
        except NotAPictureError as error:
            found = error.reason
        if isinstance(found, str):
            self._count(place, found)
        return found

    def _cached(self, place: Place) -> SourceTile | None:
        """A tile of the cache; a damaged one is removed, and so fetched again."""
        if self.cache is None:
            return None
        content = self.cache.get(*place)
        if content is not None:
            try:
                return self._checked(content, place)[0]
            except NotAPictureError as error:
                self.cache.drop(*place)
                if error.reason == pictures.REPEATED:
                    raise
        reason = self.cache.reason(*place)
        if reason and not (self._one_colour and reason == pictures.ONE_COLOUR):
            raise NotAPictureError(reason)
        return None

    def _fetched(self, place: Place) -> SourceTile:
        try:
            answer = self.service.fetch(self.client, *place)
        except HostUnavailableError:
            raise
        except ServerError as error:
            self.refusal = str(error)
            raise NotAPictureError(pictures.REFUSED if 400 <= error.status < 429 else pictures.NO_ANSWER) from None
        with self._lock:
            self.fetched += 1
        try:
            if answer.is_missing:
                raise NotAPictureError(pictures.MISSING)
            tile, suffix = self._checked(answer.content, place)
        except NotAPictureError as error:
            reason = error.reason
            if reason in pictures.LASTING:
                self._store(lambda cache: cache.remember(*place, reason))
            raise
        self._store(lambda cache: cache.put(*place, answer.content, suffix))
        return tile

    def _store(self, action: Callable[[TileCache], Any]) -> None:
        if self.cache is None:
            return
        try:
            action(self.cache)
        except ValueError as error:  # a full disk ends the build; the next run goes on from here
            raise ImageryStoppedError(error) from error

    def _checked(self, content: bytes, place: Place) -> tuple[SourceTile, str]:
        pixels, mask, suffix = decode_tile(content, self._one_colour)
        height, width = pixels.shape[:2]
        if height != width or height not in (SIDES if self._side is None else (self._side,)):
            raise NotAPictureError(pictures.WRONG_SIZE)
        if (first := self._repetitions.check(content, place)) is not None:
            self._withdraw(first, pictures.REPEATED)
            raise NotAPictureError(pictures.REPEATED)
        return SourceTile(pixels, mask), suffix

    def _withdraw(self, place: Place, reason: str) -> None:
        """Take back a tile that turned out not to be one, for example the first occurrence of a repeated picture."""
        if self.cache is not None:
            self.cache.drop(*place)
        with self._lock:
            self._keep(place, reason)
        self._count(place, reason)

    def _keep(self, place: Place, found: SourceTile | str) -> None:
        old = self._memory.pop(place, None)
        self._memory_bytes += _bytes(found) - (_bytes(old) if old is not None else 0)
        self._memory[place] = found
        while self._memory_bytes > MEMORY_MB << 20:
            self._memory_bytes -= _bytes(self._memory.popitem(last=False)[1])

    def _count(self, place: Place, reason: str) -> None:
        with self._lock:
            if place not in self._counted:
                self._counted.add(place)
                self.bad[reason] += 1


def _bytes(found: SourceTile | str) -> int:
    return found.size if isinstance(found, SourceTile) else 100
