"""Fewer tokens: recall and CPU time of an encoder at smaller image sizes (`--input-scale`).

    python benchmarks/input_scale.py --model demo/gengeo-world-urban \\
        --data "world-urban:test demo/world num_pairs=500 ground_size=[42,168] aerial_size=[70,70]"
    python benchmarks/input_scale.py                       # CPU time alone, of ViT-B/14 with random weights

For each scale it prints the CPU milliseconds of a photo in torch float32 and, with data, R@1 when photos and
tiles are encoded at it. The last line names the smallest scale that loses at most a point of R@1. Scales take turns in
one process.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from extraction import random_checkpoint
from measuring import Figure, in_turns

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder

SCALES = (1.0, 0.85, 0.75, 0.6, 0.5)
MOST_LOSS = 0.01  # of R@1


def figures(folder: Path, scales: list[float], data: str | None, rounds: int, judge: bool = True) -> list[Figure]:
    """Times as fast as the model's own size, and R@1 where there is a data set."""
    encoders, rows, recalls = {}, [], {}
    for scale in scales:
        try:
            encoders[scale] = Encoder.from_pretrained(folder, device="cpu", input_scale=scale)
        except GenGeoError as error:
            rows.append(Figure("input scale", f"scale {scale:g}: left out", 0.0, "", note=str(error)))
    sizes = {scale: encoder.view_sizes["ground"] for scale, encoder in encoders.items()}
    pixels = {scale: torch.randn(1, 3, size["height"], size["width"]) for scale, size in sizes.items()}
    ways = {
        f"{scale:g}": lambda scale=scale, encoder=encoder: encoder.encode_pixels(pixels[scale], "ground")
        for scale, encoder in encoders.items()
    }
    turns = in_turns(ways, rounds)
    first = f"{scales[0]:g}"
    for scale, encoder in encoders.items():
        name, size = f"{scale:g}", sizes[scale]
        clock, cpu = turns.medians(name)
        note = f"{size['height']} x {size['width']} px, {1000 * cpu:.1f} CPU ms a photo"
        if data is not None:
            recalls[scale] = recall(encoder, data)
            note += f", R@1 {recalls[scale]:.1%}"
        ratio = turns.times_as_fast(name, first)
        goal = ">= 1.8" if judge and scale == 0.75 else ""
        rows.append(Figure("input scale", f"scale {name}", ratio, "times as fast as scale 1", clock, cpu, goal, note))
    good = [scale for scale, found in recalls.items() if found >= recalls[scales[0]] - MOST_LOSS]
    if good:
        ratio = turns.times_as_fast(f"{min(good):g}", first)
        what = f"smallest scale that loses at most a point of R@1: {min(good):g}"
        rows.append(Figure("input scale", what, ratio, "times as fast as scale 1"))
    return rows


def recall(encoder: Encoder, data: str) -> float:
    """R@1 with photos and tiles at the encoder's sizes; ties count against the model."""
    from gengeo_hf.data import load_notation
    from gengeo_hf.data.loading import AerialImages, GroundImages

    dataset = load_notation(data)
    ground = encoder.encode(GroundImages(dataset), "ground")
    aerial = encoder.encode(AerialImages(dataset), "aerial")
    scores = ground @ aerial.T
    own = scores[np.arange(len(scores)), dataset.positive_rows()][:, None]
    return float(((scores >= own).sum(axis=1) == 1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint; default: ViT-B/14 with random weights")
    parser.add_argument("--data", help="data set in the notation of gengeo evaluate")
    parser.add_argument("--scales", type=float, nargs="+", default=[*SCALES])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or random_checkpoint("base", Path(temporary), onnx=False)
        for row in figures(folder, given.scales, given.data, given.rounds, judge=given.model is None):
            print(f"{row.what}: {row.value:.2f} {row.unit} {row.note}")


if __name__ == "__main__":
    main()
