"""One model and the index that is in use, for the page and the service.

Photos come from clients that are not trusted, so `serving.decoding` decodes them.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import ImageFile, image_header, open_image, read_image
from gengeo_hf.index.index import GeoIndex
from gengeo_hf.localization.localizer import Answer, GeoLocalizer, open_index
from gengeo_hf.serving.batching import BatchingEncoder
from gengeo_hf.serving.decoding import Decoder, DecodingLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from gengeo_hf.common.units import Near
    from gengeo_hf.encoding.encoder import View
    from gengeo_hf.encoding.protocol import EncoderProtocol
    from gengeo_hf.localization.confidence import Calibration
    from gengeo_hf.localization.pose import PoseFinder, PoseSettings

MAX_PIXELS = 50_000_000  # 150 MB as RGB; enough for photos of 48 megapixels


class PhotoError(GenGeoError):
    """A file is not a photo, or the photo cannot be used."""


@dataclass(frozen=True)
class LocateQuery:
    """Options of one localisation.

    Args:
        top: Largest number of places.
        near: Latitude and longitude in degrees and radius in metres of the only area that is searched; None searches
            the whole index.
        near_exif_m: Radius in metres around the GPS position in the photo's EXIF data that is searched instead of
            `near`, where the photo has such a position.
        merge: Whether overlapping tiles are merged into one place.
        threshold: Confidence, 0 to 1, below which the answer is "don't know"; above 0 it needs a calibration.
        camera: How the photo was taken, where it differs from what the file states.
    """

    top: int = 5
    near: Near | None = None
    near_exif_m: float | None = None
    merge: bool = True
    threshold: float = 0.0
    camera: CameraView = field(default_factory=CameraView)


class Locator:
    """A model and an index that can be replaced while photos are located.

    Each photo is located from start to end with the index that was in use when it began.

    Args:
        encoder: The model.
        index: An open index that this model made.
        calibration: Turns scores into confidences; None gives no confidences.
        model_name: Name of the model in answers; of a path, only the last part is used.
        batch_size: Largest number of photos that are encoded together, see `BatchingEncoder`.
        max_pixels: Largest number of pixels of a photo; larger photos are refused before they are decoded.
        decoding: Limits of decoding in worker processes; None decodes in this process, for trusted files.
        pose: Finds position and heading inside the tiles; None answers with the positions of the tiles.

    Raises:
        GenGeoError: Another model made the index or the calibration.
    """

    def __init__(
        self,
        encoder: EncoderProtocol,
        index: Any,
        calibration: Calibration | None = None,
        model_name: str = "",
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        decoding: DecodingLimits | None = None,
        pose: PoseFinder | None = None,
    ) -> None:
        self.decoder = Decoder(replace(decoding, max_pixels=max_pixels)) if decoding is not None else None
        self.encoder = BatchingEncoder(encoder, batch_size)
        self.localizer = GeoLocalizer(self.encoder, index, calibration=calibration, pose=pose)
        self.model_name, self.max_pixels = Path(model_name).name, max_pixels
        self._reloading = threading.Lock()

    @classmethod
    def open(
        cls,
        model: str | Path,
        index: str | Path,
        calibration: str | Path | None = None,
        device: str | None = None,
        backend: str = "auto",
        compute_dtype: str = "auto",
        pose: PoseSettings | None = None,
        **options: Any,
    ) -> Locator:
        """Load a model, an index and a calibration.

        Args:
            model: Checkpoint directory or Hub id.
            index: Index directory, or address of a store.
            calibration: File of `gengeo calibrate`; None gives no confidences.
            device: See `gengeo_hf.encoding.encoder.Encoder`.
            backend: See `gengeo_hf.encoding.encoder.Encoder`.
            compute_dtype: See `gengeo_hf.encoding.encoder.Encoder`.
            pose: Settings of the search for position and heading inside the tiles; None does not search.
            options: Further arguments of the class: `batch_size`, `max_pixels`, `decoding`.

        Raises:
            GenGeoError: A part is missing or damaged, or the parts do not belong together.
        """
        localizer = GeoLocalizer.from_pretrained(
            model,
            index,
            calibration=calibration,
            pose=pose,
            device=device,
            backend=backend,
            compute_dtype=compute_dtype,
        )
        return cls(
            localizer.encoder, localizer.index, localizer.calibration, str(model), pose=localizer.pose, **options
        )

    @property
    def caveat(self) -> str:
        """Warnings about the training data and the calibration; empty where there are none."""
        return self.localizer.caveat

    @contextlib.contextmanager
    def read(self, content: bytes) -> Iterator[ImageFile]:
        """Decode a photo; its pixels count against the budget until the block ends.

        Args:
            content: Bytes of the image file.

        Yields:
            The upright RGB image and the metadata of its file.

        Raises:
            PhotoError: The file is not an image, is damaged, too small or too large, or costs too much to decode.
            BudgetError: The pixels of other photos fill the budget.
        """
        with contextlib.ExitStack() as stack:
            try:
                if self.decoder is not None:
                    image = stack.enter_context(self.decoder.read(content))
                else:
                    check_size(content, self.max_pixels)
                    image = read_image(content)  # at full size, so that the descriptor is that of `GeoLocalizer`
            except GenGeoError as error:
                raise PhotoError(str(error)) from error
            yield image

    def locate(self, image: ImageFile, query: LocateQuery, name: str = "photo") -> tuple[Answer, Any]:
        """Locate one photo.

        Args:
            image: Photo decoded by `read`.
            query: Options of the localisation.
            name: Name of the photo in the answer.

        Returns:
            The answer, and the index that it comes from.

        Raises:
            PhotoError: The model cannot use the photo.
            GenGeoError: A threshold without a calibration, or an error of the index.
        """
        localizer = self.localizer  # `reload` may replace it while this photo is located
        answer = next(
            localizer.locate_many(
                iter([image]),  # an iterator: a photo without a pose keeps its tile and gets a note
                top=query.top,
                near=query.near,
                merge=query.merge,
                exif_radius_m=query.near_exif_m,
                threshold=query.threshold,
                camera=query.camera,
            )
        )
        if answer.error:
            raise PhotoError(answer.error)
        places = [replace(place, source=_public_source(place.source)) for place in answer.places]
        return replace(answer, photo=name, places=places), localizer.index

    def encode(self, image: ImageFile, view: View) -> np.ndarray:
        """Encode a photo or a tile.

        Args:
            image: Image decoded by `read`.
            view: "ground" for a photo, "aerial" for a tile.

        Returns:
            Descriptor of length 1, float32 (dim,).
        """
        descriptor: np.ndarray = self.encoder.encode([image.image], view)[0]
        return descriptor

    @property
    def outdated(self) -> bool:
        """Whether the index on disk was replaced since it was opened; `reload` opens the new one."""
        index = self.localizer.index
        return isinstance(index, GeoIndex) and index.is_outdated

    def reload(self) -> int:
        """Open the index again and use it for the photos that follow.

        Returns:
            Number of tiles of the index.

        Raises:
            GenGeoError: The index is missing, damaged or made by another model; the open one stays in use.
        """
        with self._reloading:
            old = self.localizer
            index, pose = old.index, old.pose
            if isinstance(old.index, GeoIndex):
                index = open_index(old.index.path)
                pose = pose.for_index(index, old.index.path) if pose is not None else None
            self.localizer = GeoLocalizer(self.encoder, index, calibration=old.calibration, pose=pose)
        return len(index)

    def close(self) -> None:
        """Encode the photos that wait, then end the thread of the encoder and the processes of the decoder."""
        self.encoder.close()
        if self.decoder is not None:
            self.decoder.close()


def _public_source(source: str) -> str:
    """Name of an imagery source without directories of this machine: of an absolute path, the last part."""
    for path in (PurePosixPath(source), PureWindowsPath(source)):
        if path.is_absolute():
            return path.name
    return source


def check_size(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a photo that is too large according to its header, before a pixel is decoded.

    Args:
        source: Bytes or path of the image file.
        max_pixels: Largest number of pixels.

    Raises:
        PhotoError: The photo has more pixels than `max_pixels`.
    """
    try:
        with image_header(source) as header:
            width, height = header.size
    except Exception:  # the decoder supports more formats, and raises the error
        return
    if width * height > max_pixels:
        raise PhotoError(
            f"the photo has {width} x {height} pixels, the limit is {max_pixels / 1e6:g} megapixels; "
            "make it smaller: the model resizes photos to a few hundred pixels"
        )


def read_photo(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a photo as an upright RGB image.

    Args:
        source: Bytes or path of the image file.
        max_pixels: Largest number of pixels.

    Raises:
        PhotoError: The file is not an image, is damaged, too small, or has too many pixels.
    """
    check_size(source, max_pixels)
    try:
        return open_image(source)
    except GenGeoError as error:
        raise PhotoError(str(error)) from error
