"""Encodes whole data sets: threads read images ahead, batches are encoded, shards are stored on disk.

`encode_rows` is the engine, for any reader of images and any encoder. `encode_images` runs it for an `Encoder` and
returns one array. `encode_to_store` writes to a `DescriptorStore`, a directory of shards that can be resumed after an
interruption and filled by several processes.

Batches and shards have fixed rows, so descriptors do not depend on the number of threads or processes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gengeo_hf.common.errors import GenGeoError, SourceStoppedError
from gengeo_hf.common.files import atomic_file
from gengeo_hf.encoding.inputs import load_image

if TYPE_CHECKING:
    import torch

    from gengeo_hf.encoding.encoder import Encoder, View

SHARD_ROWS = 1024
READERS = min(8, os.cpu_count() or 1)
_CHUNK = 8  # images that a thread reads at a time: eight VIGOR panoramas are 50 MB
_BATCHES_AHEAD = 2
_PROBES = 16  # images whose pixels are part of the fingerprint of a table; all images would be read twice

Transform: TypeAlias = "Callable[[torch.Tensor, Sequence[int]], torch.Tensor]"


@dataclass
class EncodedRows:
    """One batch of `encode_rows`.

    Args:
        rows: Encoded rows, in order.
        descriptors: float32 (len(rows), dim) descriptors.
        images: Images of these rows with `keep_images`, else empty.
        unreadable: Error of each row without an image, by row; None if the reader returned None.
    """

    rows: list[int] = field(default_factory=list)
    descriptors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    images: list[Any] = field(default_factory=list)
    unreadable: dict[int, GenGeoError | None] = field(default_factory=dict)


@dataclass
class _Chunk:
    """Images that one thread has read, and the prepared tensor."""

    rows: list[int]
    images: list[Any]
    prepared: Any
    unreadable: dict[int, GenGeoError | None]


def encode_rows(
    read: Callable[[int], Any],
    encode: Callable[[Any, list[int]], np.ndarray],
    rows: Iterable[int],
    *,
    batch_size: int,
    prepare: Callable[[list[Any]], torch.Tensor] | None = None,
    readers: int = READERS,
    keep_images: bool = False,
    skip_unreadable: bool = False,
) -> Iterator[EncodedRows]:
    """Encode rows in batches while threads read the next ones.

    Args:
        read: Function from a row to its image, or None if there is none; called in threads.
        encode: Function from the images of a batch (concatenated results of `prepare`; without it a list) and their
            rows to descriptors, float32 (rows, dim). Called in this thread, one batch at a time.
        rows: Rows to encode, in this order.
        batch_size: Number of rows of a batch; a batch with unreadable rows is smaller.
        prepare: Function from images to a tensor (images, ...), called in the reading threads.
        readers: Number of threads.
        keep_images: Return the images as well, for example for thumbnails.
        skip_unreadable: Report rows without an image in `EncodedRows.unreadable` instead of raising.

    Yields:
        One `EncodedRows` for each batch, in order.

    Raises:
        GenGeoError: An image is missing or broken, and `skip_unreadable` is False.
        SourceStoppedError: `read` raised it.
    """

    def read_chunk(some: list[int]) -> _Chunk:
        chunk = _Chunk([], [], None, {})
        for row in some:
            try:
                image = read(row)
            except SourceStoppedError:
                raise
            except GenGeoError as error:
                if not skip_unreadable:
                    raise
                image, chunk.unreadable[row] = None, error
            if image is None:
                chunk.unreadable.setdefault(row, None)
            else:
                chunk.rows.append(row)
                chunk.images.append(image)
        if prepare is not None and chunk.images:
            chunk.prepared = prepare(chunk.images)
            chunk.images = chunk.images if keep_images else []
        return chunk

    def encode_batch(futures: list[Future[_Chunk]]) -> EncodedRows:
        import torch  # here because searching an index does not need torch

        chunks = [future.result() for future in futures]
        out = EncodedRows([row for chunk in chunks for row in chunk.rows])
        for chunk in chunks:
            out.unreadable |= chunk.unreadable
        if not skip_unreadable and out.unreadable:
            raise GenGeoError(f"row {next(iter(out.unreadable))} has no image")
        images = [image for chunk in chunks for image in chunk.images]
        if out.rows:
            ready = [chunk.prepared for chunk in chunks if chunk.rows]
            out.descriptors = encode(images if prepare is None else torch.cat(ready), out.rows)
        out.images = images if keep_images else []
        return out

    pool = ThreadPoolExecutor(max(1, readers), thread_name_prefix="read")
    ahead: deque[list[Future[_Chunk]]] = deque()
    try:
        for batch in _parts(list(rows), batch_size):
            ahead.append([pool.submit(read_chunk, part) for part in _parts(batch, _CHUNK)])
            if len(ahead) > _BATCHES_AHEAD:
                yield encode_batch(ahead.popleft())
        while ahead:
            yield encode_batch(ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def encode_images(
    encoder: Encoder,
    images: Sequence[Any],
    view: View,
    rows: Sequence[int] | np.ndarray | range | None = None,
    *,
    transform: Transform | None = None,
    readers: int = READERS,
    show_progress_bar: bool = False,
) -> np.ndarray:
    """Encode rows of a sequence of images.

    Args:
        encoder: Encoder with model and preprocessing.
        images: Images by row: paths, bytes, PIL images or arrays; each is read when it is needed.
        view: "ground" or "aerial".
        rows: Rows to encode; None for all.
        transform: Function from pixel values (B, 3, H, W) and their rows to the pixel values to encode, for example a
            crop.
        readers: Number of threads that read images.
        show_progress_bar: Show images per second on stderr.

    Returns:
        Unit descriptors, float32 (rows, dim), in the order of `rows`.

    Raises:
        GenGeoError: An image is missing or broken, or the model cannot take images of this size.
    """

    def prepare(some: list[Any]) -> torch.Tensor:
        pixels: torch.Tensor = encoder.processor(some, view=view, return_tensors="pt")["pixel_values"]
        return pixels

    def encode(pixels: torch.Tensor, some: list[int]) -> np.ndarray:
        return encoder.encode_pixels(pixels if transform is None else transform(pixels, some), view)

    wanted = [int(row) for row in (range(len(images)) if rows is None else rows)]
    out = np.empty((len(wanted), encoder.dim), dtype=np.float32)
    done = 0
    try:
        batches = encode_rows(
            lambda row: load_image(images[row]),
            encode,
            wanted,
            batch_size=encoder.batch_size,
            prepare=prepare,
            readers=readers,
        )
        with _progress(len(wanted), f"encode {view}", show_progress_bar) as bar:
            for batch in batches:
                out[done : done + len(batch.rows)] = batch.descriptors
                done += len(batch.rows)
                bar.update(len(batch.rows))
    except GenGeoError:
        raise
    except ValueError as error:  # the model cannot take images of this size
        raise GenGeoError(f"{view} images: {error}") from error
    return out


class DescriptorStore:
    """A directory of shards with the descriptors of one table, view, model and preprocessing.

    Args:
        root: Directory for the descriptors of all models and data sets.
        key: JSON values on which the descriptors depend; their hash is the name of the directory. The value of "images"
            is the attribute `images`.
        count: Number of rows.
        dim: Number of values of a descriptor.
        shard_rows: Number of rows of a shard.
    """

    def __init__(
        self, root: str | Path, key: dict[str, Any], count: int, dim: int, shard_rows: int = SHARD_ROWS
    ) -> None:
        self.images = key.get("images")
        self.key = json.dumps({**key, "count": count, "dim": dim, "shard_rows": shard_rows}, sort_keys=True)
        name = f"{key.get('view', 'table')}-{hashlib.sha256(self.key.encode()).hexdigest()[:24]}"
        self.folder, self.count, self.dim, self.shard_rows = Path(root) / name, count, dim, shard_rows

    def shards(self) -> list[range]:
        """Rows of each shard."""
        return [
            range(start, min(start + self.shard_rows, self.count)) for start in range(0, self.count, self.shard_rows)
        ]

    def path(self, number: int) -> Path:
        """Path of a shard, by its zero-based index."""
        return self.folder / f"shard-{number:05d}.safetensors"

    def read(self, number: int) -> np.ndarray | None:
        """Read a shard: descriptors, float32 (rows, dim); None if it is missing, damaged or of other data."""
        rows = self.shards()[number]
        try:
            with safe_open(self.path(number), framework="np") as file:
                descriptors: np.ndarray = file.get_tensor("descriptors")
                same = (file.metadata() or {}).get("key") == self.key
        except (OSError, SafetensorError):
            return None
        return descriptors if same and descriptors.shape == (len(rows), self.dim) else None

    def write(self, number: int, descriptors: np.ndarray) -> None:
        """Write a shard atomically.

        Args:
            number: Zero-based index of the shard.
            descriptors: float32 (rows, dim).
        """
        with atomic_file(self.path(number)) as temporary:
            save_file({"descriptors": np.ascontiguousarray(descriptors)}, temporary, metadata={"key": self.key})

    def fill(
        self,
        encode: Callable[[range], np.ndarray],
        *,
        process: int = 0,
        processes: int = 1,
        show_progress_bar: bool = False,
    ) -> int:
        """Encode the missing shards of this process.

        Args:
            encode: Function from rows to descriptors (rows, dim).
            process: Zero-based index of this process.
            processes: Number of processes that fill the store; all must have access to the directory.
            show_progress_bar: Show rows per second on stderr.

        Returns:
            The number of encoded shards.
        """
        missing = [n for n in range(len(self.shards())) if n % processes == process and self.read(n) is None]
        total = sum(len(self.shards()[number]) for number in missing)
        with _progress(total, f"encode {self.folder.name.split('-')[0]}", show_progress_bar) as bar:
            for number in missing:
                self.write(number, encode(self.shards()[number]))
                bar.update(len(self.shards()[number]))
        return len(missing)

    def load(self) -> np.ndarray:
        """Load all descriptors, float32 (count, dim).

        Raises:
            GenGeoError: A shard is missing or damaged, for example because another process stopped.
        """
        whole = np.empty((self.count, self.dim), dtype=np.float32)
        for number, rows in enumerate(self.shards()):
            part = self.read(number)
            if part is None:
                raise GenGeoError(f"{self.path(number)} is missing or damaged; run the same command again")
            whole[rows.start : rows.stop] = part
        return whole


def encode_to_store(
    encoder: Encoder,
    images: Sequence[Any],
    view: View,
    ids: Sequence[str],
    root: str | Path,
    *,
    transform: Transform | None = None,
    transform_key: Any = None,
    process: int = 0,
    processes: int = 1,
    show_progress_bar: bool = False,
    shard_rows: int = SHARD_ROWS,
) -> DescriptorStore:
    """Encode one view of a data set, or the part of this process, to a store.

    Args:
        encoder: Encoder with model and preprocessing.
        images: Images in the order of `ids`.
        view: "ground" or "aerial".
        ids: Ids of the images, part of the key.
        root: Directory of all stores.
        transform: As in `encode_images`.
        transform_key: JSON value that identifies the transform, part of the key.
        process, processes, show_progress_bar, shard_rows: As in `DescriptorStore`.

    Returns:
        The store; call `load` when all processes are done.

    Raises:
        GenGeoError: An image cannot be read.
    """
    key = {
        "model": encoder.fingerprint,
        "view": view,
        "images": images_fingerprint(images, ids),
        "transform": transform_key,
        "computed_by": encoder.computed_by,
    }
    store = DescriptorStore(root, key, len(ids), encoder.dim, shard_rows)
    store.fill(
        lambda rows: encode_images(encoder, images, view, rows, transform=transform),
        process=process,
        processes=processes,
        show_progress_bar=show_progress_bar,
    )
    return store


def images_fingerprint(images: Sequence[Any], ids: Sequence[str]) -> str:
    """SHA-256 of all ids and of the pixels of some images, to detect replaced images."""
    digest = hashlib.sha256(json.dumps(list(ids)).encode())
    for row in np.unique(np.linspace(0, len(ids) - 1, _PROBES).astype(int)):
        digest.update(np.asarray(images[int(row)]).tobytes())
    return digest.hexdigest()


def _parts(rows: list[int], size: int) -> list[list[int]]:
    """Split rows into consecutive parts of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _progress(total: int, description: str, shown: bool) -> Any:
    """Create a progress bar on stderr, which can be hidden."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=description, unit="image", leave=False, disable=not shown)
