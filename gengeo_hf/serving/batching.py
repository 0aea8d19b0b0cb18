"""One encoder for many threads: images that wait at the same moment go through the model in one forward pass."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gengeo_hf.encoding.inputs import is_single_image

if TYPE_CHECKING:
    from gengeo_hf.encoding.protocol import EncoderProtocol, View


class _Job(NamedTuple):
    """Images that wait.

    Args:
        kind: Jobs of one kind may be joined: the view, and the size of images that keep their own (None: resized).
        images: What is encoded together.
        done: Gets the descriptors, (images, dim).
    """

    kind: tuple[View, Any]
    images: list[Any]
    done: Future[np.ndarray]


class BatchingEncoder:
    """An encoder that any number of threads may call at the same time.

    No call waits for a batch to fill: whatever has arrived while the last batch was computed is the next batch. So a
    single request is as fast as without, and many requests share the cost of each pass.

    Args:
        encoder: The model; descriptors are computed by one thread of this object only.
        batch_size: Images that are encoded together at most; 1 encodes each request by itself.
    """

    def __init__(self, encoder: EncoderProtocol, batch_size: int = 8) -> None:
        self.encoder, self.batch_size = encoder, batch_size
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="gengeo-encoder", daemon=True)
        self._thread.start()

    @property
    def dim(self) -> int:
        """Number of values of a descriptor."""
        return self.encoder.dim

    @property
    def truncate_dim(self) -> int | None:
        """Number of values that descriptors are truncated to; None for whole ones."""
        return self.encoder.truncate_dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing."""
        return self.encoder.fingerprint

    @property
    def patch(self) -> int:
        """Width in pixels of what becomes one token."""
        return self.encoder.patch

    @property
    def view_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """`height` and `width` in pixels of each view."""
        return self.encoder.view_sizes

    @property
    def ground_camera(self) -> str | None:
        """What the ground images of training were."""
        return self.encoder.ground_camera

    @property
    def ground_vertical_fov(self) -> float | None:
        """Degrees of elevation that the panoramas of training show."""
        return self.encoder.ground_vertical_fov

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Settings of the preprocessing as plain JSON values."""
        return self.encoder.preprocessing

    @property
    def training_record(self) -> Mapping[str, Any]:
        """What training wrote beside the checkpoint."""
        return self.encoder.training_record

    @property
    def computed_by(self) -> str:
        """Backend and precision."""
        return self.encoder.computed_by

    @property
    def choice_reason(self) -> str:
        """Why this backend computes."""
        return self.encoder.choice_reason

    def encode(self, images: Any, view: View, *, resize: bool = True) -> np.ndarray:
        """Descriptors of images, as `EncoderProtocol.encode`; waits until they are computed.

        Raises:
            RuntimeError: The encoder is closed.
            ValueError: The model cannot take images of this size.
        """
        single = is_single_image(images)
        several = [images] if single else list(images)
        if not several:
            return np.empty((0, self.dim), dtype=np.float32)
        descriptors = self._ask((view, None if resize else several[0].size), several)
        return descriptors[0] if single else descriptors

    def _ask(self, kind: tuple[View, Any], images: list[Any]) -> np.ndarray:
        """Put a job into the queue and wait for its descriptors."""
        if not self._thread.is_alive():
            raise RuntimeError("the encoder is closed")
        job = _Job(kind, images, Future())
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
            if job.kind != first.kind or size + len(job.images) > self.batch_size:
                return jobs, job, False
            jobs.append(job)
            size += len(job.images)
        return jobs, None, False

    def _encode(self, jobs: list[_Job]) -> None:
        """Answer jobs of one kind together; when that fails, one by one, so that only the job at fault fails."""
        view, size = jobs[0].kind
        try:
            images = [image for job in jobs for image in job.images]
            found = self.encoder.encode(images, view, resize=size is None)
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
