"""An encoder for many threads: images that wait at the same time are encoded in one forward pass."""

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
    """Images of one call that wait for the encoder.

    Args:
        kind: View, and size (width, height) of images that are not resized, else None. Jobs of the same kind may be
            encoded in one batch.
        images: Images of the call, at least one.
        done: Future of the descriptors, float32 (images, dim).
    """

    kind: tuple[View, Any]
    images: list[Any]
    done: Future[np.ndarray]


class BatchingEncoder:
    """An encoder that any number of threads may call at the same time.

    No call waits for a batch to fill: the images that arrive while one batch is computed are the next batch. So a
    single call is as fast as without batching, and many calls share the cost of each pass.

    Args:
        encoder: The encoder; only one thread of this object calls it.
        batch_size: Largest number of images that are encoded together; 1 encodes each image by itself.
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
        """Number of values that descriptors are truncated to; None if they are not truncated."""
        return self.encoder.truncate_dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing."""
        return self.encoder.fingerprint

    @property
    def patch(self) -> int:
        """Width in pixels of a patch."""
        return self.encoder.patch

    @property
    def view_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """`height` and `width` in pixels of each view."""
        return self.encoder.view_sizes

    @property
    def ground_camera(self) -> str | None:
        """Kind of the ground images of training: "panorama", "photo", or None if unknown."""
        return self.encoder.ground_camera

    @property
    def ground_vertical_fov(self) -> float | None:
        """Vertical field of view of the panoramas of training, in degrees; None if unknown."""
        return self.encoder.ground_vertical_fov

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Settings of the preprocessing as plain JSON values."""
        return self.encoder.preprocessing

    @property
    def training_record(self) -> Mapping[str, Any]:
        """Training record beside the checkpoint; empty where there is none."""
        return self.encoder.training_record

    @property
    def computed_by(self) -> str:
        """Backend and precision, for example "torch float32"."""
        return self.encoder.computed_by

    @property
    def choice_reason(self) -> str:
        """Why this backend was chosen."""
        return self.encoder.choice_reason

    def encode(self, images: Any, view: View, *, resize: bool = True) -> np.ndarray:
        """Encode images as `EncoderProtocol.encode` does; waits until the descriptors are computed.

        Args:
            images: One image or several.
            view: "ground" or "aerial".
            resize: False encodes the images at their own size, which must be the same for all.

        Returns:
            float32 (dim,) for one image, (images, dim) for several.

        Raises:
            RuntimeError: The encoder is closed.
            ValueError: The model cannot encode images of this size.
        """
        single = is_single_image(images)
        several = [images] if single else list(images)
        if not several:
            return np.empty((0, self.dim), dtype=np.float32)
        descriptors = self._submit((view, None if resize else several[0].size), several)
        return descriptors[0] if single else descriptors

    def _submit(self, kind: tuple[View, Any], images: list[Any]) -> np.ndarray:
        """Put a job into the queue and wait for its descriptors."""
        if not self._thread.is_alive():
            raise RuntimeError("the encoder is closed")
        job = _Job(kind, images, Future())
        self._waiting.put(job)
        return job.done.result()

    def close(self) -> None:
        """Encode the images that wait, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        """Encode waiting jobs in batches until `close` is called."""
        held: _Job | None = None
        while True:
            first = held or self._waiting.get()
            if first is None:
                return
            jobs, held, closing = self._join_jobs(first)
            self._encode(jobs)
            del first, jobs  # frees the pixels of the batch before the next job arrives
            if closing:
                return

    def _join_jobs(self, first: _Job) -> tuple[list[_Job], _Job | None, bool]:
        """Jobs of one batch, the next job if it does not fit, and whether `close` was called."""
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
        """Encode jobs of one kind together; if that fails, one by one, so that only jobs with bad images fail."""
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
