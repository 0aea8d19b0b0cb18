"""`pipeline("image-feature-extraction")` with the argument `view`, once this package is imported.

The class of transformers drops arguments that it does not know, such as `view`, and converts PIL images to 8-bit RGB
before the image processor gets them. This class passes both on; other models use the methods of transformers.
"""

from typing import Any

from transformers import ImageFeatureExtractionPipeline
from transformers.pipelines import SUPPORTED_TASKS

from gengeo_hf.encoding.inputs import load_image

TASK = "image-feature-extraction"


class GenGeoFeaturePipeline(ImageFeatureExtractionPipeline):
    """Pipeline of descriptors: `pipe(images, view="aerial")`, or `pipeline(..., view="aerial")`."""

    def _sanitize_parameters(self, *args: Any, view: str | None = None, **kwargs: Any) -> tuple[dict, dict, dict]:
        if view is not None:
            if self.model.config.model_type != "gengeo":
                raise TypeError(f"view is an argument of GenGeo models, found a {self.model.config.model_type} model")
            kwargs["image_processor_kwargs"] = {**(kwargs.get("image_processor_kwargs") or {}), "view": view}
        first, second, third = super()._sanitize_parameters(*args, **kwargs)
        return first, second, third

    def preprocess(  # type: ignore[override]  # the signature of the class of transformers
        self, image: Any, timeout: float | None = None, **image_processor_kwargs: Any
    ) -> Any:
        """Open an image and preprocess it; transformers fetches a URL."""
        is_address = isinstance(image, str) and image.startswith(("http://", "https://", "data:"))
        if self.model.config.model_type != "gengeo" or is_address:
            return super().preprocess(image, timeout=timeout, **image_processor_kwargs)
        prepare: Any = self.image_processor
        inputs = prepare(load_image(image), return_tensors="pt", **image_processor_kwargs)
        return inputs.to(self.dtype)


def register() -> None:
    """Set the class of the task. It is not registered as a custom pipeline, so saved models do not refer to it."""
    task: Any = SUPPORTED_TASKS[TASK]
    task["impl"] = GenGeoFeaturePipeline
