"""The pose step of the demo: fit a pose head, evaluate it on a domain outside the training data, draw examples.

Writes `pose.json` (metres, and percent of all photos of the off-centre test domain), `pose.png` and, in the directory
of the model, `pose/known`. A second run with the same model reuses them. For another model:

    python training/demo_pose.py runs/world_anywhere/model --out runs/pose --world demo/world
"""

import argparse
import json
from pathlib import Path
from typing import Any

from demo_pose_picture import draw_poses
from gengeo_hf.common.errors import exit_on_error
from gengeo_hf.common.files import sha256_of, write_json

PAIRS, VALIDATION = 2_400, 300  # urban pairs for the pose head; off-centre pairs for the fusion weights
MEASURED = "pose_measured.json"  # all results, with the model and the number of photos


def measure_pose(root: Path, model: Path, train: Any, build: Any, places: int) -> dict[str, float]:
    """Fit and evaluate the pose head, unless the results for this model and number of photos exist.

    Args:
        root: Directory of the demo.
        model: Directory of the checkpoint.
        train: Urban training world.
        build: Function that builds an off-centre world from a split and a number of pairs.
        places: Number of test photos.

    Returns:
        The values of `pose.json`. In the true tile: median error of the centre of the tile (`centre_median_m`) and of
        the pose (`median_m`), and percent of the poses within 5 m (`within_5_m`). In the whole gallery: percent within
        10 m of the centre of the best tile (`centre_within_10_m`) and of the fused map (`fused_within_10_m`).
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
    """Parse the command line, evaluate, print the results."""
    from gengeo_hf.world import build_world

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Checkpoint; the head is written to its directory pose/known.")
    parser.add_argument("--out", type=Path, default=Path("pose"), help="Directory of the results (default: pose).")
    parser.add_argument("--world", type=Path, help="Cache of rendered worlds (default: ~/.cache/gengeo_hf/world).")
    parser.add_argument("--places", type=int, default=500, help="Number of test photos (default: 500).")
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
