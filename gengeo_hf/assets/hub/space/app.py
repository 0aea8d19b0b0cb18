"""A page that ranks aerial images, or the tiles of an index on the Hub, by their similarity to a photo.

The file space.json has the settings: the model, and an index (a dataset repository of `gengeo push`) or null.
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
# Pillow opens only these formats in this process, also when gradio calls it: EPS, for example, would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
Image.init()
Image.ID[:] = [name for name in Image.ID if name in FORMATS]
TOP = 5  # tiles in the answer
BLOCK = 100_000  # tiles that are compared at the same time
model = AutoModel.from_pretrained(SETTINGS["model"], trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(SETTINGS["model"], trust_remote_code=True)


@torch.inference_mode()
def encode(images: list[str | Image.Image], view: str) -> np.ndarray:
    """Encode images of one view: (N, D). They are paths, because gradio would clip 16-bit images when it opens them."""
    opened = [Image.open(image) if isinstance(image, str) else image for image in images]
    pixels = processor(opened, view=view, return_tensors="pt")["pixel_values"]
    return model(pixels, view=view).pooler_output.numpy()


def load_index(repository: str) -> tuple[np.ndarray, list[dict]]:
    """Load descriptors and tile rows of an index on the Hub or in a directory, which this model must have made."""
    import pyarrow as pa

    folder = download(repository, "dataset", ["manifest.json", "segment-*/*.npy", "segment-*/tiles.arrow"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    fingerprint = manifest["model"]["fingerprint"]
    exported = download(SETTINGS["model"], "model", ["gengeo_export.json"]) / "gengeo_export.json"
    if json.loads(exported.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
        raise SystemExit(f"the index {repository} was made by another model than {SETTINGS['model']}")
    descriptors, tiles = [], []
    for segment in manifest["segments"]:
        directory = folder / segment["name"]
        vectors = np.load(directory / "descriptors.npy", mmap_mode="r", allow_pickle=False)
        with pa.memory_map(str(directory / "tiles.arrow")) as file:
            rows = pa.ipc.open_file(file).read_all().select(["tile_id", "lat", "lon"]).to_pylist()
        if removed := segment.get("tombstones"):
            bits = np.load(directory / removed["file"], allow_pickle=False)
            live = np.flatnonzero(np.unpackbits(bits, count=len(rows)) == 0)
            vectors, rows = vectors[live], [rows[row] for row in live]
        descriptors.append(vectors)
        tiles += rows
    return descriptors[0] if len(descriptors) == 1 else np.concatenate(descriptors), tiles


def download(repository: str, repo_type: str, names: list[str]) -> Path:
    """Download files of a repository; gives their directory."""
    if Path(repository).is_dir():
        return Path(repository)
    return Path(snapshot_download(repository, repo_type=repo_type, allow_patterns=names))


def rank_images(photo: str, tiles: list[str]) -> list[tuple[Image.Image, str]]:
    """Rank the uploaded tiles, most similar first."""
    if photo is None or not tiles:
        raise gr.Error("Give a photo and at least one aerial image.")
    try:
        images = [Image.open(tile) for tile in tiles]
    except Exception as error:  # decoders raise many kinds of errors
        raise gr.Error(f"One of the files is not an image: {error}") from error
    scores = encode([photo], "ground")[0] @ encode(images, "aerial").T
    return [(images[i], f"{scores[i]:.3f}") for i in np.argsort(-scores)]


def rank_index(photo: str) -> list[list[str]]:
    """Find the best tiles of the index: id, latitude, longitude, similarity."""
    if photo is None:
        raise gr.Error("Give a photo.")
    descriptors, tiles = INDEX
    query = encode([photo], "ground")[0]
    # In blocks: descriptors are stored as float16, and a whole gallery as float32 may not fit into memory.
    starts = range(0, len(descriptors), BLOCK)
    scores = np.concatenate([descriptors[start : start + BLOCK].astype(np.float32) @ query for start in starts])
    best = np.argsort(-scores)[:TOP]
    return [[tiles[i]["tile_id"], f"{tiles[i]['lat']:.6f}", f"{tiles[i]['lon']:.6f}", f"{scores[i]:.3f}"] for i in best]


INDEX = load_index(SETTINGS["index"]) if SETTINGS.get("index") else None

with gr.Blocks(title="GenGeo") as page:
    gr.Markdown(f"Which aerial image shows where this photo was taken? Model: `{SETTINGS['model']}`")
    photo_input = gr.Image(type="filepath", image_mode=None, label="ground photo")
    if INDEX is None:
        tiles_input = gr.Files(label="aerial images", file_types=["image"])
        gr.Button("Rank").click(rank_images, [photo_input, tiles_input], gr.Gallery(label="most similar first"))
    else:
        table = gr.Dataframe(headers=["tile", "latitude", "longitude", "similarity"])
        gr.Button("Locate").click(rank_index, photo_input, table)

if __name__ == "__main__":
    page.launch()
