"""Errors in metres of retrieval and pose together: every photo is located in the whole gallery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.spatial import KDTree

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, great_circle_m, offset, size_of, to_unit_vectors
from gengeo_hf.data.loading import AerialImages, GroundImages, resize_images
from gengeo_hf.localization.fusion import FusionWeights, TilePosterior, fit_weights, fuse
from gengeo_hf.pose.geometry import column_azimuths, positions_of
from gengeo_hf.pose.head import PoseHead
from gengeo_hf.pose.posterior import poses_of, to_posterior
from gengeo_hf.pose.tokens import check_head, grid_of, normalised, tokens_and_descriptors

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset
    from gengeo_hf.encoding.encoder import Encoder

WITHIN_M = (5, 10, 25)
BLOCK = 512  # photos whose similarities to all tiles are held at a time
MODEL_SCALE_CAP = 100.0


@dataclass
class Candidates:
    """The most similar tiles of every photo with their poses.

    Args:
        photos: Candidate tiles of each of N photos, most similar first.
        centre: (N, 2) latitude and longitude of the centre of each photo's most similar tile.
        best: (N, 2) latitude and longitude of the pose in that tile.
        truth: (N, 2) latitude and longitude of the photos.
        scale: InfoNCE scale of the model.
        gallery: (G, 2) latitude and longitude of the centres of all tiles.
        positives: (N,) row in `gallery` of each photo's true tile.
    """

    photos: list[list[TilePosterior]]
    centre: np.ndarray
    best: np.ndarray
    truth: np.ndarray
    scale: float
    gallery: np.ndarray
    positives: np.ndarray


def find_candidates(
    encoder: Encoder, head: PoseHead, dataset: CrossViewDataset, tiles: int = 40, batch_size: int = 64
) -> Candidates:
    """Retrieve the most similar tiles of every north-aligned panorama, and estimate its pose in each of them.

    Args:
        encoder: Encoder of the model.
        head: Pose head for a known heading.
        dataset: Panoramas with positions, tiles with bounds of one size.
        tiles: Number of candidate tiles for each photo.
        batch_size: Images in one forward pass.

    Raises:
        GenGeoError: The head belongs to another encoder, photos are not panoramas, or tiles lack bounds.
    """
    check_head(head, encoder)
    if any(fov is None or fov < 360 for fov in dataset.queries["fov"][:]):
        raise GenGeoError(f"{dataset.name} holds photos that are not panoramas: --all-tiles needs panoramas")
    ground, queries = _encode(encoder, head, GroundImages(dataset), "ground", batch_size)
    aerial, keys = _encode(encoder, head, AerialImages(dataset), "aerial", batch_size)
    lat, lon = (np.array(dataset.gallery[name][:], dtype=np.float64) for name in ("lat", "lon"))
    boxes = np.array([dataset.gallery[side][:] for side in Bounds._fields], dtype=np.float64).T
    if np.isnan(boxes).any():
        raise GenGeoError(f"{dataset.name} has tiles without bounds: pose needs their size in metres")
    size = np.median([size_of(Bounds(*box)) for box in boxes], axis=0)
    sizes = encoder.processor.view_sizes["aerial"]
    layout = head.layout((float(size[0]), float(size[1])), grid_of(encoder, sizes["height"], sizes["width"]))
    azimuths, positions = column_azimuths(queries.shape[1], 360.0), positions_of(layout)
    found: list[list[TilePosterior]] = []
    best, centre = np.empty((len(ground), 2)), np.empty((len(ground), 2))
    for photo, (scores, rows) in enumerate(_most_similar(ground, aerial, tiles)):
        with torch.inference_mode():
            logits = head.scores(queries[photo][None], keys[rows][None], layout, azimuths, (0.0,))[0]
        posterior = to_posterior(logits, positions, (0.0,))
        mass, evidence = posterior.position_mass(), posterior.log_evidence
        where = positions.numpy()
        found.append(
            [
                TilePosterior(lat[row], lon[row], float(score), evidence[number], where, mass[number])
                for number, (score, row) in enumerate(zip(scores, rows, strict=True))
            ]
        )
        east, north = poses_of(posterior).offset_m[0]
        best[photo] = offset(lat[rows[0]], lon[rows[0]], east, north)
        centre[photo] = lat[rows[0]], lon[rows[0]]
    truth = np.array([dataset.queries[name][:] for name in ("lat", "lon")], dtype=np.float64).T
    scale = float(encoder.model.logit_scale.detach().exp().clamp(max=MODEL_SCALE_CAP))
    return Candidates(found, centre, best, truth, scale, np.stack([lat, lon], axis=1), dataset.positive_rows())


def _most_similar(ground: torch.Tensor, aerial: torch.Tensor, tiles: int) -> Iterator[tuple[Any, Any]]:
    """Yield cosines and rows of the most similar tiles of each photo, best first; computed in blocks of photos."""
    for start in range(0, len(ground), BLOCK):
        tops = (ground[start : start + BLOCK] @ aerial.T).topk(min(tiles, len(aerial)), dim=1)
        yield from zip(tops.values, tops.indices, strict=True)


def _encode(
    encoder: Encoder, head: PoseHead, images: Any, view: Any, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images: descriptors, and the head's queries (ground) or keys (aerial)."""
    descriptors, features = [], []
    for start in range(0, len(images), batch_size):
        pixels = normalised(encoder, resize_images(encoder.processor, images[start : start + batch_size], view))
        with torch.inference_mode():
            tokens, vectors = tokens_and_descriptors(encoder, pixels, view)
            tokens = tokens.cpu()
            features.append(head.queries(tokens) if view == "ground" else head.keys(tokens.flatten(1, 2)))
        descriptors.append(vectors.cpu())
    return torch.cat(descriptors), torch.cat(features)


def evaluate_gallery(candidates: Candidates, weights: FusionWeights) -> dict[str, Any]:
    """Compute the errors of three answers: best tile, pose in it, and the fused map of all candidates.

    Args:
        candidates: Result of `find_candidates`.
        weights: Weights of the fused map, see `fit_fusion`.

    Returns:
        For `centre` (centre of the best tile), `best_tile` (pose in it) and `fused` (fused map): `<name>_median_m`;
        in percent of all photos `<name>_within_<m>_m` and `<name>_recall_1`, the photos whose true tile is the one with
        the centre nearest to the answer (for `centre` the R@1 of retrieval); and the weights. Where fusion is not
        enabled, the fused answer is the pose in the best tile.
    """
    answers = {"centre": candidates.centre, "best_tile": candidates.best, "fused": candidates.best}
    if weights.enabled:
        answers["fused"] = np.array([fused_answer(photo, weights) for photo in candidates.photos])
    tiles = KDTree(to_unit_vectors(*candidates.gallery.T))
    result: dict[str, Any] = {"photos": len(candidates.photos), "weights": asdict(weights)}
    for name, answer in answers.items():
        error = great_circle_m(answer[:, 0], answer[:, 1], candidates.truth[:, 0], candidates.truth[:, 1])
        result[f"{name}_median_m"] = float(np.median(error))
        result |= {f"{name}_within_{m}_m": 100 * float((error <= m).mean()) for m in WITHIN_M}
        nearest = tiles.query(to_unit_vectors(*answer.T))[1]
        result[f"{name}_recall_1"] = 100 * float((nearest == candidates.positives).mean())
    return result


def fit_fusion(candidates: Candidates, tiles: int = 40) -> FusionWeights:
    """Fit the weights of the fused map on validation photos; see `localization.fusion.fit_weights`."""
    best = [(float(lat), float(lon)) for lat, lon in candidates.best]
    return fit_weights(candidates.photos, best, candidates.truth, candidates.scale, tiles)


def fused_answer(photo: list[TilePosterior], weights: FusionWeights) -> tuple[float, float]:
    """Latitude and longitude of the highest peak of one photo's fused map."""
    tiles = photo[: weights.tiles]
    cosines, evidence = (np.array([getattr(tile, name) for tile in tiles]) for name in ("cosine", "evidence"))
    mode = fuse(tiles, weights.log_weights(cosines, evidence))[0]
    return mode.lat, mode.lon
