"""Descriptors of a whole dataset on disk: made once, in shards, by any number of processes.

Before: an encoder and the images of a dataset. After: one float32 array for each view, kept for the next evaluation.

This, `pictures.py` and `album.py` are the only modules of the room that see an image. Shards have a fixed number of
rows and each is described by one process, so the descriptors do not depend on how many processes there are, and a run
that was stopped goes on where it was.
"""

import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder, View
    from gengeo_hf.evaluation.protocols import Protocol

SHARD_ROWS = 1024
_READERS = min(8, os.cpu_count() or 1)
_READ_AHEAD = 64  # decoded images waiting: 64 VIGOR panoramas are 400 MB
_PROBES = 16  # images whose bytes enter the fingerprint of a table; all of them would mean reading the data twice


class DescriptorStore:
    """A folder of shards of one table, view, model and preprocessing.

    Args:
        root: folder for the descriptors of all models and datasets.
        key: everything that the descriptors depend on; its hash names the folder. "images" is kept as `images`.
        count: rows in all.
        dim: length of a descriptor.
        shard_rows: rows of one file.
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
        """File of a shard."""
        return self.folder / f"shard-{number:05d}.safetensors"

    def read(self, number: int) -> np.ndarray | None:
        """The descriptors of a shard, (rows, dim); None where it is missing, damaged or of something else."""
        rows = self.shards()[number]
        try:
            with safe_open(self.path(number), framework="np") as file:
                descriptors: np.ndarray = file.get_tensor("descriptors")
                same = (file.metadata() or {}).get("key") == self.key
        except (OSError, SafetensorError):
            return None
        return descriptors if same and descriptors.shape == (len(rows), self.dim) else None

    def write(self, number: int, descriptors: np.ndarray) -> None:
        """Keep a shard; a reader sees all of it or nothing.

        Args:
            number: of the shard.
            descriptors: float32 (rows, dim).
        """
        with atomic_file(self.path(number)) as temporary:
            save_file({"descriptors": np.ascontiguousarray(descriptors)}, temporary, metadata={"key": self.key})

    def fill(
        self, describe: Callable[[range], np.ndarray], *, process: int = 0, processes: int = 1, progress: bool = False
    ) -> int:
        """Make the missing shards whose turn is this process's.

        Args:
            describe: rows to descriptors (rows, dim).
            process: number of this process.
            processes: how many share the work; all must see one folder.
            progress: show a bar.

        Returns:
            How many shards were made.
        """
        missing = [n for n in range(len(self.shards())) if n % processes == process and self.read(n) is None]
        for number in _bar(missing, progress, self.folder.name.split("-")[0]):
            self.write(number, describe(self.shards()[number]))
        return len(missing)

    def load(self) -> np.ndarray:
        """All descriptors, float32 (count, dim).

        Raises:
            GenGeoError: a shard is missing, for example because another process stopped.
        """
        whole = np.empty((self.count, self.dim), dtype=np.float32)
        for number, rows in enumerate(self.shards()):
            part = self.read(number)
            if part is None:
                raise GenGeoError(f"{self.path(number)} is missing or damaged; the same command makes it again")
            whole[rows.start : rows.stop] = part
        return whole


def describe_view(
    encoder: "Encoder",
    images: Sequence[Any],
    view: "View",
    ids: Sequence[str],
    root: str | Path,
    *,
    fov: int = 360,
    headings: np.ndarray | None = None,
    process: int = 0,
    processes: int = 1,
    progress: bool = False,
    shard_rows: int = SHARD_ROWS,
) -> DescriptorStore:
    """Describe one view of a dataset, or this process's part of it, into a store.

    Args:
        encoder: model and preprocessing.
        images: in the order of `ids`.
        view: "ground" or "aerial".
        ids: of the images, part of the key.
        root: folder of all stores.
        fov: degrees that panoramas are cut to.
        headings: (images,) degrees that the cuts look at; None is north.
        process, processes, progress, shard_rows: see `DescriptorStore`.

    Returns:
        The store; `load` it when all processes are through.

    Raises:
        GenGeoError: an image cannot be read.
    """
    limited = fov < 360 or headings is not None
    key = {
        "model": encoder.fingerprint,
        "view": view,
        "images": images_fingerprint(images, ids),
        "fov": fov,
        "headings": None if headings is None else hashlib.sha256(headings.tobytes()).hexdigest(),
        "computed_by": encoder.computed_by,
    }
    store = DescriptorStore(root, key, len(ids), encoder.dim, shard_rows)

    def describe(rows: range) -> np.ndarray:
        opened = _opened(images, rows)
        try:
            if not limited:
                return np.concatenate(list(encoder.encode_stream(opened, view)))
            looked_at = np.zeros(len(rows)) if headings is None else headings[rows.start : rows.stop]
            return encode_limited(encoder, opened, fov, looked_at)
        except ValueError as error:  # the model's own words about sizes that it cannot take
            raise GenGeoError(f"{view} images: {error}") from error

    store.fill(describe, process=process, processes=processes, progress=progress)
    return store


@torch.inference_mode()
def encode_limited(encoder: "Encoder", panoramas: Iterable[Any], fov: int, headings: np.ndarray) -> np.ndarray:
    """Descriptors of cut panoramas: resized to the model's ground size, then cut, as in training.

    Args:
        encoder: model and preprocessing.
        panoramas: images whose centre column looks north.
        fov: horizontal degrees; the cut keeps the scale, so it is fov / 360 of the width, in whole patches.
        headings: (panoramas,) degrees clockwise from north that each cut's centre looks at.

    Returns:
        float32 (panoramas, dim).
    """
    from gengeo_hf.data.views import limited_fov

    remaining, blocks, start = iter(panoramas), [], 0
    while batch := list(itertools.islice(remaining, encoder.batch_size)):
        pixels = encoder.processor(batch, view="ground", return_tensors="pt")["pixel_values"]  # type: ignore[call-arg]
        looked_at = torch.from_numpy(np.asarray(headings[start : start + len(batch)], dtype=np.float64))
        start += len(batch)
        blocks.append(encoder.encode_pixels(limited_fov(pixels, fov, looked_at, encoder.patch), "ground"))
    return np.concatenate(blocks)


def cut_headings(protocol: "Protocol", count: int, seed: int) -> np.ndarray | None:
    """Where the cut of each query looks, (count,) degrees clockwise from north; None is north, or no cut at all.

    Args:
        protocol: with a limited field of view or without.
        count: number of queries, in the order of the dataset's table.
        seed: draws the directions of an unknown heading.
    """
    if not protocol.limited or protocol.heading == "known":
        return None
    return np.random.default_rng(seed).uniform(0, 360, count)


def images_fingerprint(images: Sequence[Any], ids: Sequence[str]) -> str:
    """Hash of all ids and of the pixels of some images: enough to see that a table was replaced or rendered anew."""
    digest = hashlib.sha256(json.dumps(list(ids)).encode())
    for row in np.unique(np.linspace(0, len(ids) - 1, _PROBES).astype(int)):
        digest.update(np.asarray(images[int(row)]).tobytes())
    return digest.hexdigest()


def _opened(images: Sequence[Any], rows: range) -> Iterator[Any]:
    """Open images some steps ahead in threads (JPEG decoding frees the interpreter), in order and in little memory."""
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: deque[Future[Any]] = deque()
        for row in rows:
            ahead.append(pool.submit(images.__getitem__, row))
            if len(ahead) > _READ_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _bar(numbers: list[int], progress: bool, what: str) -> Iterable[int]:
    """The same numbers, behind a progress bar."""
    if not progress:
        return numbers
    from tqdm.auto import tqdm

    return tqdm(numbers, desc=f"describe {what}", unit="shard", leave=False)
