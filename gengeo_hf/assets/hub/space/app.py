"""A page that ranks aerial images, or the tiles of an index on the Hub, by their similarity with one photo.

Settings come from space.json: the model, and an index (a dataset repository made by `gengeo push`) or none.
"""

import json
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

SETTINGS = json.loads((Path(__file__).parent / "space.json").read_text(encoding="utf-8"))
# Not everything that Pillow knows: EPS, for one, would start Ghostscript on a stranger's file. For the whole process:
# gradio opens images as well.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
Image.init()
Image.ID[:] = [name for name in Image.ID if name in FORMATS]
BEST = 5
BLOCK = 100_000  # tiles that are compared at once
model = AutoModel.from_pretrained(SETTINGS["model"], trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(SETTINGS["model"], trust_remote_code=True)


@torch.inference_mode()
def encode(images: list[str | Image.Image], view: str) -> np.ndarray:
    """Unit descriptors (N, D) of images of one view, given as files; gradio's own opener would clip 16-bit ones."""
    opened = [Image.open(image) if isinstance(image, str) else image for image in images]
    pixels = processor(opened, view=view, return_tensors="pt")["pixel_values"]
    return model(pixels, view=view).pooler_output.numpy()


def load_index(repository: str) -> tuple[np.ndarray, list[dict]]:
    """Descriptors and tile rows of an index on the Hub (or in a folder), which this model must have made."""
    import pyarrow as pa

    folder = fetched(repository, "dataset", ["manifest.json", "segment-*/*.npy", "segment-*/tiles.arrow"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    made_by = manifest["model"]["fingerprint"]
    ours = fetched(SETTINGS["model"], "model", ["gengeo_export.json"]) / "gengeo_export.json"
    if json.loads(ours.read_text(encoding="utf-8"))["fingerprint"] != made_by:
        raise SystemExit(f"the index {repository} was made by another model than {SETTINGS['model']}")
    descriptors, tiles = [], []
    for segment in manifest["segments"]:
        place = folder / segment["name"]
        vectors = np.load(place / "descriptors.npy", mmap_mode="r", allow_pickle=False)
        with pa.memory_map(str(place / "tiles.arrow")) as file:
            rows = pa.ipc.open_file(file).read_all().select(["tile_id", "lat", "lon"]).to_pylist()
        if removed := segment.get("tombstones"):
            bits = np.load(place / removed["file"], allow_pickle=False)
            live = np.flatnonzero(np.unpackbits(bits, count=len(rows)) == 0)
            vectors, rows = vectors[live], [rows[row] for row in live]
        descriptors.append(vectors)
        tiles += rows
    return descriptors[0] if len(descriptors) == 1 else np.concatenate(descriptors), tiles


def fetched(repository: str, repo_type: str, names: list[str]) -> Path:
    """A folder with these files of a repository."""
    if Path(repository).is_dir():
        return Path(repository)
    return Path(snapshot_download(repository, repo_type=repo_type, allow_patterns=names))


def rank_images(photo: str, tiles: list[str]) -> list[tuple[Image.Image, str]]:
    """The uploaded tiles, most similar first."""
    if photo is None or not tiles:
        raise gr.Error("Give a photo and at least one aerial image.")
    try:
        images = [Image.open(tile) for tile in tiles]
    except Exception as error:  # decoders meet damaged files in many ways
        raise gr.Error(f"One of the files is no image: {error}") from error
    scores = encode([photo], "ground")[0] @ encode(images, "aerial").T
    return [(images[i], f"{scores[i]:.3f}") for i in np.argsort(-scores)]


def rank_index(photo: str) -> list[list[str]]:
    """The best tiles of the index: id, latitude, longitude, similarity."""
    if photo is None:
        raise gr.Error("Give a photo.")
    descriptors, tiles = INDEX
    query = encode([photo], "ground")[0]
    # A block at a time: the stored numbers are half floats, and a whole gallery as floats may not fit.
    starts = range(0, len(descriptors), BLOCK)
    scores = np.concatenate([descriptors[start : start + BLOCK].astype(np.float32) @ query for start in starts])
    best = np.argsort(-scores)[:BEST]
    return [[tiles[i]["tile_id"], f"{tiles[i]['lat']:.6f}", f"{tiles[i]['lon']:.6f}", f"{scores[i]:.3f}"] for i in best]


INDEX = load_index(SETTINGS["index"]) if SETTINGS.get("index") else None

with gr.Blocks(title="GenGeo") as page:
    gr.Markdown(f"Which aerial image shows the place of this photo? Model: `{SETTINGS['model']}`")
    photo_input = gr.Image(type="filepath", image_mode=None, label="ground photo")
    if INDEX is None:
        tiles_input = gr.Files(label="aerial images", file_types=["image"])
        gr.Button("Rank").click(rank_images, [photo_input, tiles_input], gr.Gallery(label="most similar first"))
    else:
        table = gr.Dataframe(headers=["tile", "latitude", "longitude", "similarity"])
        gr.Button("Locate").click(rank_index, photo_input, table)

if __name__ == "__main__":
    page.launch()
