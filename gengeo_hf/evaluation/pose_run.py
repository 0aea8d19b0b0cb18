"""Evaluates position and heading of a checkpoint with pose heads: `gengeo evaluate --pose`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.registry import DataNotation, load_notation, parse_data
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation.pose import evaluate_pose
from gengeo_hf.evaluation.pose_gallery import evaluate_gallery, find_candidates, fit_fusion
from gengeo_hf.evaluation.pose_published import differences, published_poses
from gengeo_hf.localization.fusion import FusionWeights
from gengeo_hf.pose.head import FOLDER, PRIORS, PoseHead
from gengeo_hf.pose.random_encoder import SUBFOLDER

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset

# Name -> accepted data sets, the first of which is the default, and the options of their loader.
PROTOCOLS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "vigor-pose": (("vigor-same", "vigor-cross"), {"labels": "corrected", "positions": "labels"}),
    "world-pose": (("world-urban", "world-rural"), {"num_pairs": 500, "tile_shift_m": 15.8}),
}
METHODS = ("auto", "fitted", "search")


def evaluate_pose_checkpoint(
    model: str | Path,
    data: str | None,
    prior: str = "known",
    *,
    protocol: str | None = None,
    method: str = "auto",
    fov: float = 360.0,
    gallery: bool = False,
    validation: str | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate position and heading of every photo in its true tile, and optionally in the whole gallery.

    Args:
        model: Checkpoint directory or Hub id, with heads under `pose/`.
        data: Data set as `NAME[:SPLIT] [ROOT] [key=value ...]`; None takes the default of the protocol.
        prior: What is known about the heading: "known", "45" or "180".
        protocol: "world-pose" or "vigor-pose" sets the loader options of the data; None sets none.
        method: "fitted" uses the head, "search" does not, "auto" uses the head if the checkpoint has one.
        fov: Horizontal field of view in degrees to which panoramas are cropped; 360 keeps them.
        gallery: Also locate every photo in the whole gallery; needs a known heading.
        validation: Data set on which the weights that fuse the maps of 40 tiles are fitted; implies `gallery`.
        device: Device on which the model runs; None takes a GPU if there is one.
        batch_size: Images in one forward pass.
        seed: Seed of random headings.

    Returns:
        The dict of `evaluate_pose`; under `gallery` that of `evaluate_gallery`; with "vigor-pose", `published` rows,
        and under `not_comparable` why the result must not be compared with them (empty where it may).

    Raises:
        GenGeoError: Protocol, method or prior is unknown, the head is missing, or the data lack what pose needs.
    """
    if method not in METHODS:
        raise GenGeoError(f"--pose-method must be one of {', '.join(METHODS)}, found {method!r}")
    if prior not in PRIORS:
        raise GenGeoError(f"--heading-prior must be one of {', '.join(PRIORS)}, found {prior!r}")
    notation = pose_notation(data, protocol)
    head = None if method == "search" else _head(model, prior, needed=method == "fitted" or gallery or bool(validation))
    random_head = _random_head(model, prior) if head is not None else None
    encoder = Encoder.from_pretrained(model, device=device, batch_size=batch_size)
    dataset: CrossViewDataset = notation.load("test")
    result: dict[str, Any] = {"protocol": protocol, "data": str(notation), "model": str(model)}
    result |= evaluate_pose(encoder, dataset, prior, head=head, random_head=random_head, fov=fov, seed=seed)
    if protocol == "vigor-pose":
        result["published"] = published_poses(dataset, prior)
        result["not_comparable"] = differences(dataset, encoder.training_record, result)
    if head is not None and (gallery or validation):
        weights = FusionWeights()  # not enabled: the best tile only
        if validation:
            weights = fit_fusion(find_candidates(encoder, head, load_notation(validation, "validation")))
        result["gallery"] = evaluate_gallery(find_candidates(encoder, head, dataset), weights)
    return result


def pose_notation(data: str | None, protocol: str | None) -> DataNotation:
    """Parse the data set of a pose evaluation and add the protocol's loader options.

    Raises:
        GenGeoError: Neither data nor protocol is given, or the protocol does not take this data set.
    """
    if protocol is None:
        if data is None:
            raise GenGeoError("nothing to evaluate on: give --data, or --protocol world-pose")
        return parse_data(data)
    if protocol not in PROTOCOLS:
        raise GenGeoError(f"--pose takes the protocols {', '.join(PROTOCOLS)}, found {protocol!r}")
    names, options = PROTOCOLS[protocol]
    if data is None and protocol == "vigor-pose":
        raise GenGeoError(
            'vigor-pose needs the directory of VIGOR: give --data "vigor-same ROOT" or "vigor-cross ROOT"'
        )
    notation = parse_data(data) if data is not None else DataNotation(names[0])
    if notation.name not in names:
        raise GenGeoError(f"protocol {protocol} takes {' or '.join(names)}, found {notation.name!r}")
    return replace(notation, options=options | notation.options)


def _head(model: str | Path, prior: str, needed: bool) -> PoseHead | None:
    """Load the head of a prior; None where the checkpoint has no heads and none is needed."""
    has_one = not Path(model).is_dir() or (Path(model) / FOLDER).is_dir()
    try:
        return PoseHead.load(model, prior)
    except GenGeoError:
        if needed or (has_one and Path(model).is_dir()):
            raise
        return None


def _random_head(model: str | Path, prior: str) -> PoseHead | None:
    """Load the head that was fitted on random weights, if there is one."""
    folder = Path(model) / FOLDER / prior / SUBFOLDER
    return PoseHead.from_pretrained(folder).eval() if (folder / "config.json").is_file() else None


def format_gallery(found: dict[str, Any]) -> str:
    """Format a result of `evaluate_gallery` for a terminal."""
    lines = [f"all {found['photos']:,} photos in the whole gallery, within 5 / 10 / 25 m; R@1 of the nearest tile:"]
    names = (("centre", "centre of the best tile"), ("best_tile", "pose in the best tile"), ("fused", "fused map"))
    for key, name in names if found["weights"]["photos"] else names[:2]:
        shares = " / ".join(f"{found[f'{key}_within_{metres}_m']:.1f}" for metres in (5, 10, 25))
        recall, median = found[f"{key}_recall_1"], found[f"{key}_median_m"]
        lines.append(f"  {name:24} {shares} %, R@1 {recall:.1f} %, median {median:,.1f} m")
    if found["weights"]["photos"] and not found["weights"]["enabled"]:
        lines.append("  fusion did not improve recall on the validation photos and is not used")
    return "\n".join(lines)
