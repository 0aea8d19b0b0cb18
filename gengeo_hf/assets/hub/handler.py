"""Answers an Inference Endpoint: images of either view to unit descriptors.

Before: a raw image body, or JSON {"inputs": base64 or a list of them, "parameters": {"view": "ground" or "aerial"}}.
After: {"view": ..., "descriptors": one list of numbers for each image}. The dot product of two is their cosine.
"""

import base64
import io
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModel

# Not everything that Pillow knows: EPS, for one, would start Ghostscript on a stranger's file. For the whole process:
# the server that calls this file opens images as well.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
Image.init()
Image.ID[:] = [name for name in Image.ID if name in FORMATS]


class EndpointHandler:
    """Loads the model once, then answers requests.

    Args:
        path: folder of this repository.
    """

    def __init__(self, path: str = "") -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).to(self.device).eval()
        self.processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)

    @torch.inference_mode()
    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Describe the images of one request.

        Raises:
            ValueError: the view is unknown, or an input is no image.
        """
        view = (data.get("parameters") or {}).get("view") or data.get("view") or "ground"
        if view not in ("ground", "aerial"):
            raise ValueError(f'view is {view!r}: expected "ground" or "aerial"')
        inputs = data.get("inputs")
        images = [read_image(item) for item in (inputs if isinstance(inputs, list) else [inputs])]
        pixels = self.processor(images, view=view, return_tensors="pt")["pixel_values"].to(self.device)
        return {"view": view, "descriptors": self.model(pixels, view=view).pooler_output.tolist()}


def read_image(item: Any) -> Image.Image:
    """An upright RGB image from a PIL image, bytes, or base64 text with or without a data: prefix."""
    if isinstance(item, Image.Image):
        return ImageOps.exif_transpose(item).convert("RGB")
    try:
        if isinstance(item, str):
            item = base64.b64decode(item.rpartition("base64,")[2], validate=True)
        return ImageOps.exif_transpose(Image.open(io.BytesIO(item))).convert("RGB")  # phones turn photos by EXIF
    except Exception as error:  # decoders meet damaged files in many ways
        raise ValueError(f"an input is no image ({error}): send image bytes, or base64 of them in JSON") from error
