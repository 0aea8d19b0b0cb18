"""Recall and CPU time of an encoder at smaller image sizes (`--input-scale`, `--fast`).

    python benchmarks/input_scale.py --model runs/world_input_scales/model \\
        --data "world-urban num_pairs=500 ground_size=[84,336] aerial_size=[140,140]"
    python benchmarks/input_scale.py                       # only CPU time, of ViT-B/14 with random weights

For each scale it prints the CPU milliseconds of a photo in torch float32 and, for each data set, R@1 with photos and
tiles of this scale, and the difference to the first scale (95 % intervals, paired). The last line is the smallest scale
that loses at most one point of R@1 on each data set. Scales run in turns in one process.
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
from gengeo_hf.encoding.preprocessing import FAST_SCALE
from gengeo_hf.evaluation.intervals import mean_interval, paired_interval

SCALES = (1.0, 0.85, 0.75, 0.6, 0.5)
MOST_LOSS = 0.01  # maximum loss of R@1


def figures(folder: Path, scales: list[float], data_sets: list[str], rounds: int, judge: bool = True) -> list[Figure]:
    """Speed relative to the model's own image size, and R@1 for the data sets."""
    encoders, rows = {}, []
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
    found = {data: {scale: hits(encoder, data) for scale, encoder in encoders.items()} for data in data_sets}
    for scale, size in sizes.items():
        name = f"{scale:g}"
        clock, cpu = turns.medians(name)
        notes = [f"{size['height']} x {size['width']} px, {1000 * cpu:.1f} CPU ms a photo"]
        notes += [f"{data.split()[0]} {compared(of[scale], of[scales[0]])}" for data, of in found.items()]
        ratio = turns.times_as_fast(name, first)
        goal = ">= 1.8" if judge and scale == FAST_SCALE else ""
        note = ", ".join(notes)
        rows.append(Figure("input scale", f"scale {name}", ratio, "times as fast as scale 1", clock, cpu, goal, note))
    if found:
        good = min(s for s in sizes if all(of[s].mean() >= of[scales[0]].mean() - MOST_LOSS for of in found.values()))
        what = f"smallest scale that loses at most a point of R@1: {good:g}"
        rows.append(Figure("input scale", what, turns.times_as_fast(f"{good:g}", first), "times as fast as scale 1"))
    return rows


def hits(encoder: Encoder, data: str) -> np.ndarray:
    """Whether each photo's true tile ranks first, float64 (photos,) of 0 and 1; ties count against the model."""
    from gengeo_hf.data import load_notation
    from gengeo_hf.data.loading import AerialImages, GroundImages

    dataset = load_notation(data)
    ground = encoder.encode(GroundImages(dataset), "ground")
    aerial = encoder.encode(AerialImages(dataset), "aerial")
    scores = ground @ aerial.T
    own = scores[np.arange(len(scores)), dataset.positive_rows()][:, None]
    return ((scores >= own).sum(axis=1) == 1).astype(np.float64)


def compared(found: np.ndarray, first: np.ndarray) -> str:
    """Format R@1 of a scale and its difference to the first scale, with 95 % intervals."""
    low, high = mean_interval(found)
    text = f"R@1 {found.mean():.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    if found is first:
        return text
    difference, (low, high) = paired_interval(found - first)
    return f"{text}, {100 * difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint; default: ViT-B/14 with random weights")
    parser.add_argument(
        "--data", action="extend", nargs="+", default=[], help="data sets in the notation of gengeo evaluate"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[*SCALES])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or random_checkpoint("base", Path(temporary), onnx=False)
        for row in figures(folder, given.scales, given.data, given.rounds, judge=given.model is None):
            print(f"{row.what}: {row.value:.2f} {row.unit} {row.note}")


if __name__ == "__main__":
    main()
