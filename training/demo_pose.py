"""The demo's step for position and heading: fit a head, measure it on a domain never seen, draw the answers.

Writes `pose.json` (percent of all photos of the off-centre test domain; metres), `pose.png` and, beside the model,
`pose/known`. A second run with the same model finds them. For a model that was trained in another way:

    python training/demo_pose.py runs/world_anywhere/model --out runs/pose --world demo/world
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from gengeo_hf.common.errors import exit_on_error
from gengeo_hf.common.files import atomic_file, sha256_of, write_json

PAIRS, VALIDATION = 2_400, 300  # pairs of the urban world to fit on; off-centre places to fit the joining weights on
SHOWN, SIDE = 4, 210  # photos in the picture, and the side of a tile in it, pixels
MEASURED = "pose_measured.json"  # all figures, and what they belong to


def measure_pose(root: Path, model: Path, train: Any, build: Any, places: int) -> dict[str, float]:
    """Fit the head and measure it, unless that was done for this model and number of places.

    Args:
        root: directory of the demo.
        model: its checkpoint.
        train: the urban training world.
        build: builds an off-centre world from its split and number of places.
        places: test places.

    Returns:
        The five figures of `pose.json`: the true tile's centre and the pose in the true tile (`centre_median_m`,
        `median_m`, `within_5_m`), and the centre of the best retrieved tile and the joined map of the whole gallery
        (`centre_within_10_m`, `fused_within_10_m`).
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.evaluation.pose import evaluate_pose
    from gengeo_hf.evaluation.pose_gallery import evaluate_gallery, find_candidates, fit_fusion
    from gengeo_hf.pose.fitting import FitSettings, fit_head

    key = {"model": sha256_of(model / "model.safetensors"), "places": places}
    path = root / "pose.json"
    head_folder = model / "pose" / "known"
    measured = json.loads((root / MEASURED).read_text(encoding="utf-8")) if (root / MEASURED).is_file() else {}
    whole = path.is_file() and (head_folder / "config.json").is_file()
    if whole and {name: measured.get(name) for name in key} == key:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    encoder = Encoder.from_pretrained(model)
    settings = FitSettings(pairs=PAIRS, other_share=0.0)
    head = fit_head(encoder, train, head_folder, settings, random_baseline=False, overwrite=True)
    world = build("test", places)
    true_tile = evaluate_pose(encoder, world, head=head)
    weights = fit_fusion(find_candidates(encoder, head, build("validation", min(VALIDATION, places))))
    gallery = evaluate_gallery(find_candidates(encoder, head, world), weights)
    figures = {name: true_tile[name] for name in ("centre_median_m", "median_m", "within_5_m")}
    figures |= {f"{name}_within_10_m": gallery[f"{name}_within_10_m"] for name in ("centre", "fused")}
    draw_poses(root / "pose.png", encoder, head, world)
    write_json(path, figures)
    write_json(root / MEASURED, key | {"true_tile": true_tile, "gallery": gallery})
    return figures


@torch.inference_mode()
def draw_poses(path: Path, encoder: Any, head: Any, world: Any) -> None:
    """A few photos and their true tiles with the posterior of the position: truth green, answer red, mass yellow."""
    from gengeo_hf.pose.geometry import positions_of
    from gengeo_hf.pose.posterior import poses_of, to_posterior
    from gengeo_hf.pose.samples import PosePairs, draw_samples, plain_plans

    pairs = PosePairs.of(world, encoder.processor)
    rows = np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs))).astype(int)
    plan = plain_plans(pairs, rows)[0]
    samples = draw_samples(encoder, head, pairs, plan, np.random.default_rng(0))
    _, photos, tiles = pairs.pixels(plan.rows)
    queries, keys = head.queries(samples.ground.float()), head.keys(samples.aerial.float())
    scores = head.scores(queries, keys, samples.layout, samples.azimuths, samples.headings)
    posterior = to_posterior(scores, positions_of(samples.layout), samples.headings)
    found, mass = poses_of(posterior), posterior.position_mass()
    strips = []
    for number in range(len(plan.rows)):
        photo = Image.fromarray(photos[number].permute(1, 2, 0).numpy()).resize((4 * SIDE, SIDE))
        tile = Image.fromarray(tiles[number].permute(1, 2, 0).numpy()).resize((SIDE, SIDE))
        side_m = (samples.layout.width_m, samples.layout.height_m)
        marked = _marked(
            tile, side_m, posterior.positions, mass[number], found.offset_m[number], samples.offset_m[number].numpy()
        )
        strip = Image.new("RGB", (4 * SIDE + 10 + SIDE, SIDE), "white")
        strip.paste(photo, (0, 0))
        strip.paste(marked, (4 * SIDE + 10, 0))
        strips.append(strip)
    sheet = Image.new("RGB", (strips[0].width, len(strips) * (SIDE + 10) - 10), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, number * (SIDE + 10)))
    with atomic_file(path) as temporary:
        sheet.save(temporary)


def _marked(
    tile: Image.Image, side_m: tuple[float, float], positions: np.ndarray, mass: np.ndarray, answer: Any, truth: Any
) -> Image.Image:
    """A tile with the posterior and two marks."""
    draw = ImageDraw.Draw(tile, "RGBA")

    def pixel(offset: Any) -> tuple[float, float]:
        return (0.5 + offset[0] / side_m[0]) * tile.width, (0.5 - offset[1] / side_m[1]) * tile.height

    step = abs(positions[1, 0] - positions[0, 0]) / side_m[0] * tile.width / 2
    for position, weight in zip(positions, mass / mass.max(), strict=True):
        x, y = pixel(position)
        draw.rectangle((x - step, y - step, x + step, y + step), fill=(255, 220, 0, int(170 * weight)))
    for offset, colour, radius in ((truth, (11, 110, 79, 255), 7), (answer, (179, 38, 30, 255), 4)):
        x, y = pixel(offset)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(255, 255, 255, 255))
    return tile


def main() -> None:
    """Parse, measure, print."""
    from gengeo_hf.world import build_world

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="checkpoint; the head is written into its folder pose/known")
    parser.add_argument("--out", type=Path, default=Path("pose"), help="folder of the figures and the picture")
    parser.add_argument("--world", type=Path, help="cache of drawn worlds")
    parser.add_argument("--places", type=int, default=500, help="test places")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    train = build_world("urban", "train", PAIRS, cache_dir=given.world)

    def offcenter(split: str, places: int) -> Any:
        return build_world("offcenter", split, places, cache_dir=given.world, progress=True)

    measure_pose(given.out, given.model, train, offcenter, given.places)
    print((given.out / MEASURED).read_text(encoding="utf-8"))


if __name__ == "__main__":
    with exit_on_error():
        main()
