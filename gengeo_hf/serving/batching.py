"""One encoder for many threads: what waits at the same moment goes through the model in one forward pass.

Before: requests, each in a thread of its own. After: the encoder, which sees one caller and full batches.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

    from gengeo_hf.imagery.tiles import EncoderLike


class _Job(NamedTuple):
    """What waits.

    Args:
        kind: jobs of one kind may be joined: the encoder's method, the view, and the shape of what `describe` is given.
        content: images, or pixel values (images, 3, H, W).
        done: gets the descriptors.
    """

    kind: tuple[str, Any, tuple[int, ...]]
    content: Any
    done: Future[np.ndarray]


class BatchingEncoder:
    """An encoder that any number of threads may call at the same time.

    Nobody waits for a batch to fill: whatever has arrived while the last batch was computed is the next batch. So a
    lone request is as fast as without, and a crowd shares the cost of each pass.

    Args:
        encoder: the model; for descriptors only one thread of ours ever calls it.
        batch_size: images that are encoded together at most; 1 encodes each request by itself.
    """

    def __init__(self, encoder: EncoderLike, batch_size: int = 8) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="gengeo-encoder", daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        """All else is the encoder's own: `training_record`, `processor`, ..."""
        return getattr(self.encoder, name)

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self.encoder.dim

    @property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing."""
        return self.encoder.fingerprint

    def encode(self, images: Sequence[Any], view: Any) -> np.ndarray:
        """Unit descriptors, float32 (images, dim); waits until they are computed.

        Raises:
            RuntimeError: the encoder is closed.
        """
        return self._ask(("encode", view, ()), list(images))

    def describe(self, pixels: torch.Tensor, view: Any) -> np.ndarray:
        """Unit descriptors, float32 (images, dim), of pixel values (images, 3, H, W): of cut-outs of one size.

        Raises:
            RuntimeError: the encoder is closed.
            ValueError: the model cannot take images of this size.
        """
        return self._ask(("describe", view, tuple(pixels.shape[1:])), pixels)

    def _ask(self, kind: tuple[str, Any, tuple[int, ...]], content: Any) -> np.ndarray:
        """Put a job into the queue and wait for its descriptors."""
        if not self._thread.is_alive():
            raise RuntimeError("the encoder is closed")
        job = _Job(kind, content, Future())
        self._waiting.put(job)
        return job.done.result()

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        """Take what waits, encode it, give it back; until `close`."""
        held: _Job | None = None
        while True:
            first = held or self._waiting.get()
            if first is None:
                return
            jobs, held, closing = self._more(first)
            self._encode(jobs)
            del first, jobs  # else the last batch's pixels would stay until the next request
            if closing:
                return

    def _more(self, first: _Job) -> tuple[list[_Job], _Job | None, bool]:
        """Jobs for one batch, the one that did not fit, and whether `close` was met."""
        jobs, size = [first], len(first.content)
        while size < self.batch_size:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, None, True
            if job.kind != first.kind or size + len(job.content) > self.batch_size:
                return jobs, job, False
            jobs.append(job)
            size += len(job.content)
        return jobs, None, False

    def _encode(self, jobs: list[_Job]) -> None:
        """Answer jobs of one kind together; when that fails, one by one, so that only the culprit fails."""
        method, view, _ = jobs[0].kind
        try:
            found = getattr(self.encoder, method)(_joined([job.content for job in jobs]), view)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
            else:
                for job in jobs:
                    self._encode([job])
            return
        row = 0
        for job in jobs:
            job.done.set_result(found[row : row + len(job.content)])
            row += len(job.content)


def _joined(contents: list[Any]) -> Any:
    """Lists of images as one list, or pixel values of one shape as one tensor."""
    if len(contents) == 1:
        return contents[0]
    if isinstance(contents[0], list):
        return [image for images in contents for image in images]
    import torch

    return torch.cat(contents)
