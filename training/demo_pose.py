"""The demo's step for position and heading: fit a head, measure it on a domain never seen, draw what it says.

Writes `pose.json` (percent of all photos of the off-centre test domain; metres), `pose.png` and, beside the model,
`pose/known`. A second run with the same model finds them. For a model that was trained in another way:

    python training/demo_pose.py runs/world_anywhere/model --out runs/pose --world demo/world
"""

import argparse
import json
from pathlib import Path
from typing import Any

from demo_pose_picture import draw_poses
from gengeo_hf.common.errors import exit_on_error
from gengeo_hf.common.files import sha256_of, write_json

PAIRS, VALIDATION = 2_400, 300  # pairs of the urban world to fit on; off-centre places to fit the joining weights on
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
        `median_m`, `within_5_m`), and the centre of the best retrieved tile and the fused map of the whole gallery
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
    settings = FitSettings(pairs=PAIRS, steps=1000, other_share=0.0, narrow_share=0.0)
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
