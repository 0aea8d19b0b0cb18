"""One model and the index that is in use now, asked by the page and by the service.

Photos come from people who may send anything: they are decoded by `serving.decoding`.
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

MAX_PIXELS = 50_000_000  # 150 MB decoded; a 48-megapixel phone still fits


class PhotoError(GenGeoError):
    """What was sent is not a photo that can be read."""


@dataclass(frozen=True)
class LocateQuery:
    """What is asked about a photo.

    Args:
        top: how many places at most.
        near: only places within (lat, lon, radius in metres).
        near_exif_m: only places within this many metres of the photo's own GPS position, where it has one; it goes
            before `near`.
        merge: merge overlapping tiles into one place.
        threshold: confidence below which the answer is "don't know"; needs a calibration.
        camera: how the photo was taken, where the user knows better than its file.
    """

    top: int = 5
    near: Near | None = None
    near_exif_m: float | None = None
    merge: bool = True
    threshold: float = 0.0
    camera: CameraView = field(default_factory=CameraView)


class Locator:
    """A model and an index that may be exchanged while questions are answered.

    Each question is answered from start to end by the index that was in use when it began.

    Args:
        encoder: the model.
        index: an open index of this model.
        calibration: gives confidences; None gives none.
        model_name: how answers call the model.
        batch_size: photos encoded together, see `BatchingEncoder`.
        max_pixels: photos with more are refused before they are decoded.
        decoding: bounds of decoding, in worker processes; None decodes in this process, for files that are trusted.
        pose: finds position and heading inside the tiles; None answers with the tiles' own positions.

    Raises:
        GenGeoError: another model made the index or the calibration.
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
        """Load a checkpoint folder or Hub id, an index folder or store address, and a calibration file.

        Args:
            device, backend, compute_dtype: see `gengeo_hf.encoding.encoder.Encoder`.
            pose: how position and heading inside the tiles are found; None leaves them out.
            options: of the class: `batch_size`, `max_pixels`.
        """
        made = GeoLocalizer.from_pretrained(
            model,
            index,
            calibration=calibration,
            pose=pose,
            device=device,
            backend=backend,
            compute_dtype=compute_dtype,
        )
        return cls(made.encoder, made.index, made.calibration, str(model), pose=made.pose, **options)

    @property
    def caveat(self) -> str:
        """What must be known before an answer is believed; empty where there is nothing to warn of."""
        return self.localizer.caveat

    @contextlib.contextmanager
    def read(self, content: bytes) -> Iterator[ImageFile]:
        """Decode a photo; its pixels count against the budget until the block ends.

        Raises:
            PhotoError: It is not a photo, damaged, too small, too large, or costs too much to decode.
            BudgetError: Other photos fill the budget.
        """
        with contextlib.ExitStack() as stack:
            try:
                if self.decoder is not None:
                    image = stack.enter_context(self.decoder.read(content))
                else:
                    check_size(content, self.max_pixels)
                    image = read_image(content)  # at full size: the same descriptor as everywhere
            except GenGeoError as error:
                raise PhotoError(str(error)) from error
            yield image

    def ask(self, image: ImageFile, query: LocateQuery, name: str = "photo") -> tuple[Answer, Any]:
        """Places for one photo, and the index that gave them.

        Args:
            image: of `read`.
            query: what is asked.
            name: how the answer calls the photo.

        Raises:
            PhotoError: the model cannot use it.
            GenGeoError: a threshold without a calibration, or the index cannot answer.
        """
        localizer = self.localizer  # one for the whole answer, also when the index is changed meanwhile
        answer = next(
            localizer.locate_many(
                iter([image]),  # not a list of one: a photo that has no pose keeps its tile and says why
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
        places = [replace(place, source=_public(place.source)) for place in answer.places]
        return replace(answer, photo=name, places=places), localizer.index

    def encode(self, image: ImageFile, view: View) -> np.ndarray:
        """The unit descriptor of a photo or a tile, float32 (dim,)."""
        descriptor: np.ndarray = self.encoder.encode([image.image], view)[0]
        return descriptor

    @property
    def outdated(self) -> bool:
        """True when another index lies at the place of the one in use: `reload` takes it."""
        index = self.localizer.index
        return isinstance(index, GeoIndex) and index.is_outdated

    def reload(self) -> int:
        """Open the index again and use it from the next question on; the number of its tiles.

        Raises:
            GenGeoError: it is missing, damaged or of another model; the old one stays in use.
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
        """Finish what waits, end the encoder's thread and the decoders."""
        self.encoder.close()
        if self.decoder is not None:
            self.decoder.close()


def _public(source: str) -> str:
    """Name of a source for strangers: of an absolute path of this machine the last part, any other as it is."""
    for path in (PurePosixPath(source), PureWindowsPath(source)):
        if path.is_absolute():
            return path.name
    return source


def check_size(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a photo by the size in its header, before a pixel is decoded.

    Raises:
        PhotoError: it has more pixels than `max_pixels`.
    """
    try:
        with image_header(source) as header:
            width, height = header.size
    except Exception:  # who decodes it says in words what is wrong, and knows more formats
        return
    if width * height > max_pixels:
        raise PhotoError(
            f"the photo has {width} x {height} pixels, the limit here is {max_pixels / 1e6:g} megapixels; make it "
            "smaller: the model looks at a few hundred pixels only"
        )


def read_photo(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A photo as an upright RGB image.

    Raises:
        PhotoError: it is no photo, damaged, too small or has too many pixels.
    """
    check_size(source, max_pixels)
    try:
        return open_image(source)
    except GenGeoError as error:
        raise PhotoError(str(error)) from error
