"""One encoder for many threads: images that wait at the same moment are encoded in one forward pass.

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
    from gengeo_hf.places.tiles import EncoderLike


class _Job(NamedTuple):
    images: Sequence[Any]
    view: Any
    done: Future[np.ndarray]


class BatchingEncoder:
    """An encoder that any number of threads may call at the same time.

    Nobody waits for a batch to fill: whatever has arrived while the last batch was computed is the next batch. So a
    lone request is as fast as without, and a crowd shares the cost of each pass.

    Args:
        encoder: the model; only one thread of ours ever calls it.
        batch_size: images that are encoded together at most; 1 encodes each request by itself.
    """

    def __init__(self, encoder: EncoderLike, batch_size: int = 8) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="gengeo-encoder", daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        """All but `encode` is the encoder's own: `dim`, `fingerprint`, `training_record`, `processor`, ..."""
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
        if not self._thread.is_alive():
            raise RuntimeError("the encoder is closed")
        job = _Job(images, view, Future())
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
        jobs, size = [first], len(first.images)
        while size < self.batch_size:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, None, True
            if job.view != first.view or size + len(job.images) > self.batch_size:
                return jobs, job, False
            jobs.append(job)
            size += len(job.images)
        return jobs, None, False

    def _encode(self, jobs: list[_Job]) -> None:
        """Answer jobs of one view together; when that fails, one by one, so that only the culprit fails."""
        try:
            found = self.encoder.encode([image for job in jobs for image in job.images], jobs[0].view)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
            else:
                for job in jobs:
                    self._encode([job])
            return
        row = 0
        for job in jobs:
            job.done.set_result(found[row : row + len(job.images)])
            row += len(job.images)
