# SPDX-License-Identifier: Apache-2.0
"""Handler of an Inference Endpoint: encodes images of either view to descriptors of length 1.

A request is a raw image body, or JSON {"inputs": base64 text or a list of it, "parameters": {"view": "aerial"}}. The
answer is {"view": ..., "descriptors": a list of numbers for each image}; a dot product is a cosine similarity.
"""

import base64
import io
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

# Pillow opens only these formats in this process, also when the server calls it: EPS, for example, would start
# Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
Image.init()
Image.ID[:] = [name for name in Image.ID if name in FORMATS]


class EndpointHandler:
    """Loads the model once, and encodes the images of requests.

    Args:
        path: Directory of this repository.
    """

    def __init__(self, path: str = "") -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).to(self.device).eval()
        self.processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=True)

    @torch.inference_mode()
    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Encode the images of one request.

        Args:
            data: Request, see above.

        Returns:
            Answer, see above.

        Raises:
            ValueError: The request has another form, the view is unknown, or an input is not an image.
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
    """Decode a PIL image, bytes or base64 text; the image processor makes the image upright and RGB."""
    if isinstance(item, Image.Image):
        return item
    try:
        if isinstance(item, str):
            text = "".join(item.rpartition("base64,")[2].split())  # `base64 photo.jpg` wraps lines
            item = base64.b64decode(text, validate=True)
        image = Image.open(io.BytesIO(item))
        image.load()
        return image
    except Exception as error:  # decoders raise many kinds of errors
        raise ValueError(f"an input is not an image ({error}): send the bytes of an image, or base64 text in JSON") from error
