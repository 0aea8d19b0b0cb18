"""`Encoder`: computes descriptors of images with a checkpoint, its preprocessing and a backend."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import ExportedGraphs
from gengeo_hf.encoding.backends.graphs import graph_backend
from gengeo_hf.encoding.backends.loaded import LoadedModel
from gengeo_hf.encoding.backends.protocol import Backend, Choice, check_backend
from gengeo_hf.encoding.checkpoints import EXPORT_REASON, TRAINING_RECORD, is_worth_export, load_parts, training_record
from gengeo_hf.encoding.fingerprint import at_input_scale
from gengeo_hf.encoding.inputs import check_view, fetch_image, is_address, is_single_image, load_image, prepare
from gengeo_hf.encoding.preprocessing import fast_scale, scaled_sizes
from gengeo_hf.encoding.protocol import EncoderProtocol, View

if TYPE_CHECKING:
    import torch

    from gengeo_hf.encoding.preprocessing import FileProcessor
    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel


class Encoder:
    """A GenGeo model with its image processor and a backend.

    Args:
        model: Model, which is moved to `device` and set to evaluation mode; or the graphs of an ONNX export.
        processor: Image processor with which the model was trained.
        device: For example "cuda", "cuda:1" or "cpu"; None takes a GPU if there is one.
        batch_size: Images in one forward pass; methods can override it.
        backend: "torch", "openvino", or "auto" for the faster of the two; "onnx" for exported graphs.
        compute_dtype: Precision of computation: "float32", "bfloat16", or "auto" for the fastest that agrees with
            float32. None keeps the precision of the weights.
        expected_images: Number of images that will be encoded; None if unknown. With "auto", there is no trial of
            backends for a few images.
        directory: Checkpoint directory, whose int8 graphs are candidates of "auto".

    Raises:
        GenGeoError: The device or the backend is not available, or `batch_size` is below 1.

    Example:
        >>> encoder = Encoder.from_pretrained("./gengeo-cvusa")
        >>> photo = encoder.encode_ground("photo.jpg")  # float32 (1024,)
        >>> tiles = encoder.encode_aerial(["a.png", "b.png"])  # float32 (2, 1024)
        >>> encoder.similarity(photo, tiles)  # float32 (2,): cosines
    """

    input_scale = 1.0  # see `scale_input`

    def __init__(
        self,
        model: GenGeoModel | ExportedGraphs,
        processor: GenGeoImageProcessor | FileProcessor,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        backend: str = "torch",
        compute_dtype: str | None = None,
        expected_images: int | None = None,
        directory: Path | None = None,
    ) -> None:
        _check_batch_size(batch_size)
        check_backend(backend, compute_dtype or "auto")
        self.processor: Any = processor
        self.batch_size = batch_size
        self.training_record: dict[str, Any] = {}
        self.source: LoadedModel | ExportedGraphs
        self.device: Any
        self._model: GenGeoModel | None = None
        if isinstance(model, ExportedGraphs):
            if compute_dtype == "bfloat16":
                raise GenGeoError("backend onnx computes in float32: leave compute_dtype out, or take another backend")
            graphs = graph_backend(model, backend, device)
            self.source, self.device, self.choice = model, graphs.device, Choice(graphs)
            return
        if compute_dtype == "int8":
            raise GenGeoError(
                "int8 runs exported graphs, found a model in memory: gengeo export --int8 writes them, and "
                "Encoder.from_pretrained with backend onnx or openvino runs them"
            )
        if backend == "onnx":
            raise GenGeoError("backend onnx runs exported graphs, found a model in memory: use Encoder.from_pretrained")
        import torch  # here because exported graphs run without torch

        from gengeo_hf.encoding.backends.torch import TorchBackend, usable_device
        from gengeo_hf.encoding.backends.trial import choose

        on_cpu = backend == "openvino" and device is None  # OpenVINO runs only on the CPU
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() and not on_cpu else "cpu"))
        self._model = model
        model.to(self.device)
        model.eval()
        self.source = LoadedModel(model, cast("GenGeoImageProcessor", processor))
        plain = backend == "torch" and compute_dtype is None
        self.choice = (
            Choice(TorchBackend(model))
            if plain
            else choose(self.source, backend, compute_dtype or "auto", expected_images, directory)
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        backend: str = "torch",
        truncate_dim: int | None = None,
        input_scale: float | Literal["fast"] = 1.0,
        dtype: str | torch.dtype | None = None,
        compute_dtype: str | None = None,
        expected_images: int | None = None,
        needs_model: bool = True,
        **kwargs: Any,
    ) -> Encoder:
        """Load model, preprocessing and training record from a checkpoint directory or a Hub id.

        Args:
            name: Directory with config.json and model.safetensors, or `organisation/name` on the Hub.
            device, batch_size, expected_images: As in the class.
            backend: "torch" or "openvino" runs the weights, "onnx" the files of `gengeo export --onnx` in the same
                directory; "auto" takes the faster of the first two.
            truncate_dim: Number of values of a descriptor, see `truncate`; None keeps that of the checkpoint.
            input_scale: Factor of the image sizes, see `scale_input`.
            dtype: Type of the weights, as in transformers: a `torch.dtype` or its name; "auto" or None keeps the stored
                type. Another type gives another fingerprint.
            compute_dtype: Precision of computation, as in the class; "int8" runs the graphs of `gengeo export --int8`
                in the same directory, with backend "onnx" or "openvino".
            needs_model: False allows "auto" to run the ONNX export of these weights, if there is one, instead of the
                model: for a few images on a CPU, which then do not wait for the import of torch.
            kwargs: Arguments of `GenGeoModel.from_pretrained`, for example `revision`; exported graphs take `revision`,
                `token` and `cache_dir`.

        Raises:
            GenGeoError: `name` does not exist or is not a GenGeo checkpoint, or the backend is not available.
        """
        check_backend(backend, compute_dtype or "auto")
        if dtype is not None and backend == "onnx":
            raise GenGeoError("backend onnx computes in float32: leave dtype out, or take another backend")
        if dtype is not None:
            kwargs["dtype"] = dtype
        if (Path(name) / "gengeo_fusion.json").is_file():
            from gengeo_hf.encoding.fusion import load_fusion

            if input_scale != 1:
                raise GenGeoError(f"{name} fuses several models without a common input scale: leave input_scale out")
            kwargs |= {"device": device, "batch_size": batch_size, "expected_images": expected_images}
            return load_fusion(Path(name), truncate_dim, backend=backend, compute_dtype=compute_dtype, **kwargs)
        is_export = not needs_model and backend == "auto" and str(device or "cpu") == "cpu" and not kwargs
        if is_export := is_export and is_worth_export(name, compute_dtype, expected_images):
            backend = "onnx"
        model, processor, record = load_parts(name, backend, compute_dtype, **kwargs)
        encoder = cls(
            model,
            processor,
            device=device,
            batch_size=batch_size,
            backend=backend,
            compute_dtype=compute_dtype,
            expected_images=expected_images,
            directory=Path(name),
        )
        encoder.training_record = record
        if input_scale != 1:
            encoder.scale_input(input_scale)
        if is_export:
            encoder.choice = Choice(encoder.backend, EXPORT_REASON)
        if truncate_dim is not None:
            encoder.truncate(truncate_dim)
        return encoder

    @property
    def model(self) -> GenGeoModel:
        """The model in torch.

        Raises:
            GenGeoError: The encoder runs exported graphs, which have descriptors only.
        """
        if self._model is None:
            raise GenGeoError("an ONNX encoder computes only descriptors: use the torch checkpoint of the export")
        return self._model

    can_mirror = True  # mirrored pixel values are those of the mirrored image

    @property
    def backend(self) -> Backend:
        """Backend that computes descriptors."""
        return self.choice.backend

    @property
    def computed_by(self) -> str:
        """Backend, precision and input scale (unless it is 1) for manifests and results: "torch float32"."""
        scale = f" at input scale {self.input_scale:g}" if self.input_scale != 1 else ""
        return f"{self.backend.name} {self.backend.dtype}{scale}"

    @property
    def choice_reason(self) -> str:
        """Reason for the choice of the backend in one line; empty if there was no choice."""
        return self.choice.reason

    @property
    def dim(self) -> int:
        """Number of values of a descriptor."""
        return self.source.truncate_dim or self.source.whole_dim

    @property
    def truncate_dim(self) -> int | None:
        """Number of values to which descriptors are truncated; None if they are not."""
        return self.source.truncate_dim

    @property
    def patch(self) -> int:
        """Width of a patch in pixels."""
        return self.source.patch

    @property
    def view_sizes(self) -> Mapping[str, Mapping[str, int]]:
        """`height` and `width` in pixels at which "ground" and "aerial" images are encoded."""
        sizes: Mapping[str, Mapping[str, int]] = self.processor.view_sizes
        return sizes

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Settings of the image processor as plain JSON values."""
        settings: dict[str, Any] = json.loads(json.dumps(self.processor.to_dict(), default=str))
        return settings | ({"input_scale": self.input_scale} if self.input_scale != 1 else {})

    @property
    def ground_camera(self) -> str | None:
        """Type of the ground images in training: "panorama", "photo", or None if the checkpoint does not state it."""
        return self.source.ground_view[0]

    @property
    def ground_vertical_fov(self) -> float | None:
        """Vertical field of view in degrees of the panoramas in training; None if the checkpoint does not state it."""
        return self.source.ground_view[1]

    def truncate(self, dim: int) -> None:
        """Truncate descriptors to their first `dim` values and normalise them again: smaller indexes, faster search.

        Recall falls little for a model that was trained with such prefixes (`matryoshka_dims`).

        Raises:
            GenGeoError: The model's descriptors have fewer values.
        """
        whole = self.source.whole_dim
        if not 1 <= dim <= whole:
            raise GenGeoError(f"descriptors have {whole} values: they cannot be truncated to {dim}")
        if dim != self.dim:
            self.source.truncate(dim)

    def scale_input(self, scale: float | Literal["fast"]) -> None:
        """Encode images of both views at a smaller size, with fewer tokens.

        Time is proportional to the square of the scale. Recall may fall much for a model that was trained with one size
        (benchmarks/input_scale.py measures both). Only descriptors of the same scale can be compared.

        Args:
            scale: Factor of the model's image sizes, 0.1 to 1; sides are rounded to whole patches. "fast" is 0.75, for
                a model that was trained with several sizes.

        Raises:
            GenGeoError: The scale is out of range, leaves too few patches for the head, or is "fast" for a model that
                was trained with one size.
        """
        scale = fast_scale(self.training_record) if scale == "fast" else scale
        source = self.source  # its sizes do not change: they are part of the fingerprint
        sizes = scaled_sizes(source.processor.view_sizes, scale, source.patch_sides, source.fewest_tokens)
        self.processor = copy.copy(source.processor)
        self.processor.view_sizes = sizes
        self.input_scale = scale

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing: descriptors of different fingerprints cannot be compared.

        It does not depend on the backend, because descriptors of backends agree, see
        `gengeo_hf.encoding.backends.protocol.LOWEST_COSINE`.
        """
        return at_input_scale(self.source.fingerprint(), self.input_scale)

    def encode_ground(
        self, images: Any, *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Encode ground photos; see `encode`."""
        return self.encode(images, "ground", batch_size=batch_size, show_progress_bar=show_progress_bar)

    def encode_aerial(
        self, images: Any, *, batch_size: int | None = None, show_progress_bar: bool = False
    ) -> np.ndarray:
        """Encode aerial tiles; see `encode`."""
        return self.encode(images, "aerial", batch_size=batch_size, show_progress_bar=show_progress_bar)

    def encode(
        self,
        images: Any,
        view: View,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        resize: bool = True,
    ) -> np.ndarray:
        """Encode one image or many images, in their order.

        Args:
            images: One image, or a sequence or stream of images. An image is a path, an http(s) address, the bytes of
                a file, a PIL image, an array (height, width, 3) or (3, height, width), a tensor (3, height, width), or
                a dict with `bytes` or `path`. An array or tensor of four axes is a batch.
            view: "ground" for photos, "aerial" for tiles. It sets image size and head.
            batch_size: Images in one forward pass; None takes that of the encoder.
            show_progress_bar: Show a bar with images per second.
            resize: Resize to the size of the view. False keeps the images' own size, which must be equal in a batch.

        Returns:
            Unit descriptors, float32: (dim,) for one image, (images, dim) for many. Their dot product is the cosine.

        Raises:
            GenGeoError: An image is missing or broken, or the view is unknown.
            ValueError: The model cannot take images of this size.
        """
        check_view(view)
        single = is_single_image(images)
        several = [images] if single else images if hasattr(images, "__len__") else list(images)
        fetched: Iterable[Any] = (fetch_image(image) if is_address(image) else image for image in several)
        if show_progress_bar:
            from tqdm.auto import tqdm

            fetched = tqdm(fetched, total=len(several), desc=f"encode {view}", unit="image", leave=False)
        descriptors, row = np.empty((len(several), self.dim), dtype=np.float32), 0
        for block in self.encode_stream(fetched, view, batch_size=batch_size, resize=resize):
            descriptors[row : row + len(block)] = block
            row += len(block)
        return descriptors[0] if single else descriptors

    def encode_stream(
        self, images: Iterable[Any], view: View, *, batch_size: int | None = None, resize: bool = True
    ) -> Iterator[np.ndarray]:
        """Encode images as `encode`, in batches, for more images than fit in memory; addresses are not fetched.

        Yields:
            Unit descriptors, float32 (at most batch_size, dim).
        """
        check_view(view)
        size = self.batch_size if batch_size is None else batch_size
        _check_batch_size(size)
        iterator = iter(images)
        while batch := [load_image(image) for image in itertools.islice(iterator, size)]:
            tensors = "np" if self._model is None else "pt"
            yield self.encode_pixels(prepare(self.processor, batch, view, resize=resize, tensors=tensors), view)

    def encode_pixels(self, pixels: torch.Tensor | np.ndarray, view: View) -> np.ndarray:
        """Encode pixel values (B, 3, H, W) on any device to unit descriptors, float32 (B, dim).

        Raises:
            ValueError: The model cannot take images of this size.
        """
        found = self.backend.encode_pixels(pixels, view)
        if found.shape[1] > self.dim:  # the torch model truncates; graphs do not
            found = found[:, : self.dim]
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return found

    def similarity(self, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Cosine similarity of every query with every gallery descriptor.

        Args:
            queries: (dim,) or (N, dim) descriptors of this encoder.
            gallery: (dim,) or (M, dim) descriptors of this encoder.

        Returns:
            float32 (N, M) cosines; without the axis of an input that is a single descriptor.

        Raises:
            GenGeoError: The numbers of values differ.
        """
        first, second = (np.asarray(side, dtype=np.float32) for side in (queries, gallery))
        if first.shape[-1] != second.shape[-1]:
            raise GenGeoError(
                f"descriptors have {first.shape[-1]} and {second.shape[-1]} values: both must come from one encoder"
            )
        cosines: np.ndarray = first @ second.T
        return cosines


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise GenGeoError(f"batch_size is {batch_size}: it must be at least 1")


__all__ = ["TRAINING_RECORD", "Encoder", "EncoderProtocol", "View", "training_record"]
