"""Poses of photos in the tiles that an index finds: position and heading instead of a tile's centre.

The head of a checkpoint reads patch tokens of the photo and of the tiles. Tiles come from pose features stored with
the index, from imagery, or from thumbnails that are large enough. Without a head the retrieval model searches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import offset, size_of
from gengeo_hf.data.loading import resized
from gengeo_hf.localization.answers import Place
from gengeo_hf.localization.fusion import FusionWeights, TilePosterior, fuse
from gengeo_hf.localization.photos import Photo, pictures
from gengeo_hf.localization.tile_pixels import TileFeatures, TilePictures
from gengeo_hf.pose.geometry import column_azimuths, positions_of
from gengeo_hf.pose.head import FOLDER, PRIORS, PoseHead
from gengeo_hf.pose.posterior import Poses, poses_of, to_posterior
from gengeo_hf.pose.search import SearchSettings, is_rough, search_pose
from gengeo_hf.pose.tokens import check_head, grid_of, normalised, patch_tokens

if TYPE_CHECKING:
    from gengeo_hf.common.projection import PanoramaCanvas
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index.index import Hit

FITTED, SEARCH = "fitted", "search"
METHODS = ("auto", FITTED, SEARCH)


@dataclass
class PoseSettings:
    """What is done to find poses.

    Args:
        method: "auto" takes a head where the checkpoint has one that fits and searches where it has none; "fitted" or
            "search" insist.
        heading_prior: "known", "45" or "180", where the user states it; None takes the narrowest that the photo allows.
        fusion: weights of the joined map, from `gengeo calibrate --pose`; None leaves the order of tiles.
        radius_factors: conformal factors, from `gengeo calibrate --pose`; None takes the head's own.
        pictures: pixels of tiles.
        features: stored keys by heading prior.
    """

    method: str = "auto"
    heading_prior: str | None = None
    fusion: FusionWeights | None = None
    radius_factors: dict[str, float] | None = None
    pictures: TilePictures | None = None
    features: Mapping[str, TileFeatures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise GenGeoError(f"the way to find poses is one of {', '.join(METHODS)}, found {self.method!r}")
        if self.heading_prior is not None and self.heading_prior not in PRIORS:
            raise GenGeoError(f"--heading-prior must be one of {', '.join(PRIORS)}, found {self.heading_prior!r}")


@dataclass(frozen=True)
class GroundView:
    """A photo as the head reads it.

    Args:
        pixels: uint8 (1, 3, H, W) at the model's scale.
        azimuths: (C,) degrees of the patch columns relative to the centre column.
        stated: heading of the centre column in degrees, 0 where nothing is known.
        rolled: degrees that the panorama was rolled by already, to be added to an answer.
        prior: heading prior.
        panorama: whether it can be rolled.
    """

    pixels: torch.Tensor
    azimuths: torch.Tensor
    stated: float
    rolled: float
    prior: str
    panorama: bool


def prior_of(photo: Photo, camera: CameraView) -> str:
    """The narrowest heading prior of a photo: stated or true heading, magnetic heading, none."""
    if camera.bearing is not None:
        return "known"
    if camera.heading is not None or photo.metadata.camera.bearing is None:
        return "180"
    return "45" if photo.metadata.heading_is_magnetic else "known"


class PoseFinder:
    """Finds poses with the heads of a checkpoint, or without a head.

    Args:
        encoder: of the checkpoint, with a torch model.
        checkpoint: folder or Hub id that holds `pose/<prior>`.
        canvas: of the model's panoramas; None for a model of ordinary photos.
        settings: see `PoseSettings`.
        where: `revision`, `token`, `cache_dir`, as for the model.

    Raises:
        GenGeoError: the encoder has no patch tokens.
    """

    def __init__(
        self,
        encoder: Encoder,
        checkpoint: str | Path,
        canvas: PanoramaCanvas | None,
        settings: PoseSettings | None = None,
        **where: Any,
    ) -> None:
        self.encoder, self.checkpoint, self.canvas = encoder, checkpoint, canvas
        self.settings, self._where = settings or PoseSettings(), where
        self._heads: dict[str, PoseHead | None] = {}

    def refine(
        self, photo: Photo, camera: CameraView, hits: Sequence[Hit], places: Sequence[Place]
    ) -> tuple[list[Place], str]:
        """The places of one photo with position, heading and radii of their poses.

        Args:
            photo: with an image.
            camera: what the user states.
            hits: the most similar tiles, best first.
            places: of these tiles, best first.

        Returns:
            The places, and a sentence for the user: what is rough, or why there is no pose. With fitted weights the
            places are peaks of the joined map of all hits.

        Raises:
            GenGeoError: tiles have no bounds or no pixels, a tile size or heading prior without a head.
        """
        if not places:
            return list(places), ""
        view = self.ground_view(photo, camera)
        if view is None:
            return list(places), "no pose: its field of view is not known; give --fov"
        head = self._head(view.prior)
        fusion = self.settings.fusion
        if head is not None and fusion is not None and fusion.enabled and view.prior == "known":
            return self._joined(view, head, hits[: fusion.tiles], places), ""
        by_id = {hit.tile_id: hit for hit in hits}
        chosen = [by_id[place.tile_id] for place in places]
        if head is None:
            found = self._searched(view, chosen)
            rough = is_rough(getattr(self.encoder, "training_record", {}))
            note = "pose by search is rough: the model was not trained on centred tiles" if rough else ""
            return [_posed(p, h, pose, SEARCH) for p, h, pose in zip(places, chosen, found, strict=True)], note
        factors = self.settings.radius_factors or head.config.radius_factors
        tiles = self._posteriors(view, head, chosen)
        return [
            _posed(place, hit, pose, FITTED, factors, view.rolled)
            for place, hit, (_, pose) in zip(places, chosen, tiles, strict=True)
        ], ""

    def ground_view(self, photo: Photo, camera: CameraView) -> GroundView | None:
        """The photo at the model's scale with what is known of its camera; None without a field of view."""
        if camera.bearing is not None:
            check_heading(camera.bearing)
        stated = camera.completed_by(photo.metadata.camera)
        if stated.fov is None:
            return None
        known = stated.bearing
        one = replace(stated, heading=known)  # "unknown" would give eight rolled panoramas
        picture = pictures(photo, one, self.canvas, self.encoder.patch)[0]
        prior = self.settings.heading_prior or prior_of(photo, camera)
        if picture.own_size:
            pixels = torch.from_numpy(np.array(picture.image)).permute(2, 0, 1)[None]
            shown, flat = 360.0 * picture.image.width / self.canvas.width, False  # type: ignore[union-attr]  # own_size
        else:
            pixels = resized(self.encoder.processor, [picture.image], "ground")
            shown, flat = stated.fov, not stated.is_panorama and stated.projection in (None, "perspective")
        rolled = picture.heading if stated.is_panorama and self.canvas is not None else 0.0
        columns = grid_of(self.encoder, *pixels.shape[-2:])[1]
        azimuths = column_azimuths(columns, shown, flat and shown < 180)
        return GroundView(pixels, azimuths, (known or 0.0) - rolled, rolled, prior, stated.is_panorama)

    def _head(self, prior: str) -> PoseHead | None:
        """The narrowest head that fits; None where the search is to be used.

        Raises:
            GenGeoError: the checkpoint has heads, but none for this prior.
        """
        if self.settings.method == SEARCH:
            return None
        fitting = [name for name, reach in PRIORS.items() if reach >= PRIORS[prior]]
        for name in fitting:
            if name not in self._heads:
                self._heads[name] = self._load(name)
            if self._heads[name] is not None:
                return self._heads[name]
        if self.settings.method == FITTED or any(
            self._load(name) is not None for name in PRIORS if name not in fitting
        ):
            raise GenGeoError(
                f"{self.checkpoint} has no pose head {FOLDER}/{prior}, which a photo with heading {prior} needs: fit "
                f"one with gengeo pose fit --heading-prior {prior}, state the heading (--heading), or use --pose search"
            )
        return None

    def _load(self, prior: str) -> PoseHead | None:
        folder = Path(self.checkpoint) / FOLDER / prior / "config.json"
        if Path(self.checkpoint).is_dir() and not folder.is_file():
            return None
        try:
            head = PoseHead.load(self.checkpoint, prior, **self._where)
        except GenGeoError:
            if Path(self.checkpoint).is_dir():  # it is there and cannot be read
                raise
            return None
        check_head(head, self.encoder)
        return head

    def _posteriors(
        self, view: GroundView, head: PoseHead, hits: Sequence[Hit]
    ) -> list[tuple[TilePosterior, tuple[Poses, int]]]:
        """Posterior and pose of each tile."""
        with torch.inference_mode():
            queries = head.queries(patch_tokens(self.encoder, normalised(self.encoder, view.pixels)).cpu())
            keys = self._keys(head, hits)
        headings = tuple((view.stated + gap) % 360 for gap in _gaps(head, view.prior))
        sizes = self.encoder.processor.view_sizes["aerial"]
        grid = grid_of(self.encoder, sizes["height"], sizes["width"])
        layouts = [head.layout(size_of(_bounds(hit)), grid) for hit in hits]
        found: list[Any] = [None] * len(hits)
        for layout in dict.fromkeys(layouts):
            rows = [row for row, other in enumerate(layouts) if other == layout]
            with torch.inference_mode():
                scores = head.scores(queries, keys[rows][None], layout, view.azimuths, headings)[0]
            posterior = to_posterior(scores, positions_of(layout), headings)
            poses, mass, evidence = poses_of(posterior), posterior.position_mass(), posterior.log_evidence
            for number, row in enumerate(rows):
                hit = hits[row]
                tile = TilePosterior(
                    hit.lat, hit.lon, hit.score, float(evidence[number]), posterior.positions, mass[number]
                )
                found[row] = (tile, (poses, number))
        return found

    def _keys(self, head: PoseHead, hits: Sequence[Hit]) -> torch.Tensor:
        """Keys of the tiles, stored ones or from their pixels: float32 (T, K, d)."""
        ids = [hit.tile_id for hit in hits]
        features = self.settings.features.get(head.config.heading_prior)
        stored = dict(features.keys(ids)) if features is not None else {}
        missing = [tile for tile in ids if tile not in stored]
        if missing:
            images = self._images(missing)
            pixels = resized(self.encoder.processor, [images[tile] for tile in missing], "aerial")
            tokens = patch_tokens(self.encoder, normalised(self.encoder, pixels)).cpu().flatten(1, 2)
            stored |= dict(zip(missing, head.keys(tokens).numpy(), strict=True))
        return torch.from_numpy(np.stack([stored[tile] for tile in ids]).astype(np.float32))

    def _images(self, tile_ids: Sequence[str]) -> Mapping[str, Image.Image]:
        """Pixels of tiles.

        Raises:
            GenGeoError: there are none.
        """
        found = self.settings.pictures.images(tile_ids) if self.settings.pictures is not None else {}
        if lacking := [tile for tile in tile_ids if tile not in found]:
            raise GenGeoError(
                f"pose needs the pixels of tile {lacking[0]!r}: the index has neither pose features (gengeo index "
                "--pose-features) nor thumbnails of the model's size; give the imagery it was made from (--imagery)"
            )
        return found

    def _searched(self, view: GroundView, hits: Sequence[Hit]) -> list[tuple[Poses, int]]:
        """Poses without a head."""
        if not view.panorama:
            raise GenGeoError("the search without a head takes panoramas; fit a head for photos (gengeo pose fit)")
        images = self._images([hit.tile_id for hit in hits])
        settings, reach = SearchSettings.for_prior(view.prior), PRIORS[view.prior]
        poses = []
        for hit in hits:
            tile = resized(self.encoder.processor, [images[hit.tile_id]], "aerial")[0]
            found = search_pose(self.encoder, view.pixels[0], tile, size_of(_bounds(hit)), reach, settings)
            poses.append((replace(found, heading=(found.heading + view.stated + view.rolled) % 360), 0))
        return poses

    def _joined(
        self, view: GroundView, head: PoseHead, hits: Sequence[Hit], places: Sequence[Place]
    ) -> list[Place]:  # fmt: skip
        """Peaks of the joined map as places."""
        fusion = self.settings.fusion
        assert fusion is not None
        tiles = self._posteriors(view, head, hits)
        candidates = [tile for tile, _ in tiles]
        cosines, evidence = (np.array([getattr(tile, name) for tile in candidates]) for name in ("cosine", "evidence"))
        factors = self.settings.radius_factors or head.config.radius_factors
        of_tile = {place.tile_id: place for place in places}
        found = []
        modes = fuse(candidates, fusion.log_weights(cosines, evidence), len(places))
        for rank, mode in enumerate(modes, 1):
            hit, (_, (poses, number)) = hits[mode.tile], tiles[mode.tile]
            base = of_tile.get(hit.tile_id, places[0])
            heading = (float(poses.heading[number]) + view.rolled) % 360
            place = replace(
                base, rank=rank, lat=mode.lat, lon=mode.lon, score=hit.score, tile_id=hit.tile_id, bounds=hit.bounds,
                area=hit.area, source=hit.source, heading=heading, pose=FITTED, pose_probability=mode.probability,
            )  # fmt: skip
            found.append(_with_radii(place, mode.spread_m, factors))
        return found


def _gaps(head: PoseHead, prior: str) -> Sequence[float]:
    """Candidate headings relative to the stated one; a wider head is used with the prior's own range."""
    reach = PRIORS[prior]
    if reach >= 180 or head.config.heading_prior == prior:
        return head.config.headings
    return [gap for gap in head.config.headings if min(gap % 360, -gap % 360) <= reach + 1e-6]


def _bounds(hit: Hit) -> Any:
    if hit.bounds is None:
        raise GenGeoError(
            f"pose needs the size of tile {hit.tile_id!r}, and the index has no bounds: index the imagery again with "
            "--tile-size-m"
        )
    return hit.bounds


def _posed(
    place: Place, hit: Hit, found: tuple[Poses, int], method: str, factors: Mapping[str, float] | None = None,
    rolled: float = 0.0,
) -> Place:  # fmt: skip
    """The place with its pose."""
    poses, number = found
    east, north = poses.offset_m[number]
    lat, lon = offset(hit.lat, hit.lon, east, north)
    heading = (float(poses.heading[number]) + rolled) % 360
    posed = replace(
        place, lat=float(lat), lon=float(lon), heading=heading, pose=method,
        pose_probability=float(poses.mode_mass[number]),
    )  # fmt: skip
    return _with_radii(posed, float(poses.spread_m[number]), factors or {})


def _with_radii(place: Place, spread_m: float, factors: Mapping[str, float]) -> Place:
    """Conformal radii where factors are known; the spread itself stands for the uncertainty."""
    radii = {share: factors[share] * spread_m for share in ("0.68", "0.95") if share in factors}
    return replace(
        place, uncertainty_m=radii.get("0.68", spread_m), radius_68_m=radii.get("0.68"), radius_95_m=radii.get("0.95")
    )


def check_heading(heading: float) -> float:
    """A stated heading in degrees.

    Raises:
        GenGeoError: it lies outside 0..360.
    """
    if not (math.isfinite(heading) and 0 <= heading <= 360):
        raise GenGeoError(f"a heading lies in 0..360 degrees clockwise from north, found {heading:g}")
    return heading
