# SPDX-License-Identifier: Apache-2.0
"""Answers an Inference Endpoint: images of either view to unit descriptors.

The request is a raw image body, or JSON {"inputs": base64 or a list of them, "parameters": {"view": "aerial"}}.
The answer is {"view": ..., "descriptors": one list of numbers for each image}. The dot product of two is their cosine.
"""

import base64
import io
from typing import Any

import torch
from PIL import Image
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
        """Encode the images of one request.

        Raises:
            ValueError: the request is not as described above, the view is unknown, or an input is not an image.
        """
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f'parameters is {parameters!r:.40}: expected an object such as {{"view": "aerial"}}')
        view = parameters.get("view") or data.get("view") or "ground"
        if view not in ("ground", "aerial"):
            raise ValueError(f'view is {view!r}: expected "ground" or "aerial"')
        inputs = data.get("inputs")
        images = [read_image(item) for item in (inputs if isinstance(inputs, list) else [inputs])]
        if not images:
            return {"view": view, "descriptors": []}
        pixels = self.processor(images, view=view, return_tensors="pt")["pixel_values"].to(self.device)
        return {"view": view, "descriptors": self.model(pixels, view=view).pooler_output.tolist()}


def read_image(item: Any) -> Image.Image:
    """A decoded image from a PIL image, bytes, or base64 text; the image processor turns it upright and into RGB."""
    if isinstance(item, Image.Image):
        return item
    try:
        if isinstance(item, str):
            text = "".join(item.rpartition("base64,")[2].split())  # `base64 photo.jpg` breaks its lines
            item = base64.b64decode(text, validate=True)
        image = Image.open(io.BytesIO(item))
        image.load()
        return image
    except Exception as error:  # decoders meet damaged files in many ways
        raise ValueError(f"an input is no image ({error}): send image bytes, or base64 of them in JSON") from error
