"""Estimates poses of photos in retrieved tiles: position and heading inside the tile.

A pose head of the checkpoint compares patch tokens of the photo with those of the tiles. Tile features are stored with
the index, or computed from imagery or from thumbnails of sufficient size. Without a head, poses are searched with the
retrieval model (`gengeo_hf.pose.search`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import size_of
from gengeo_hf.data.loading import resize_images
from gengeo_hf.index.pose_features import open_features
from gengeo_hf.localization.answers import Place
from gengeo_hf.localization.fusion import FusionWeights, TilePosterior, fuse
from gengeo_hf.localization.ground_view import GroundView, ground_view
from gengeo_hf.localization.photos import Photo, panorama_canvas
from gengeo_hf.localization.pose_calibration import PoseCalibration, pose_calibration_path
from gengeo_hf.localization.pose_places import add_radii, place_with_pose, position_map
from gengeo_hf.localization.tile_pixels import IndexPictures, TileFeatures, TilePictures
from gengeo_hf.pose.geometry import positions_of
from gengeo_hf.pose.head import FOLDER, PRIORS, PoseHead
from gengeo_hf.pose.posterior import Poses, poses_of, to_posterior
from gengeo_hf.pose.search import SearchSettings, is_rough, search_pose
from gengeo_hf.pose.tokens import check_head, grid_of, normalised, patch_tokens

if TYPE_CHECKING:
    from gengeo_hf.common.projection import PanoramaCanvas
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index.hits import Hit

FITTED, SEARCH = "fitted", "search"
METHODS = ("auto", FITTED, SEARCH)


@dataclass
class PoseSettings:
    """Settings of pose estimation.

    Args:
        method: "fitted" uses a head, "search" uses none, "auto" uses a head if the checkpoint has a suitable one.
        heading_prior: "known", "45" or "180"; None takes the narrowest prior that the photo allows.
        fusion: Weights of the fused map, from `gengeo calibrate --pose`; None keeps the order of the tiles.
        radius_factors: Conformal factors by coverage, from `gengeo calibrate --pose`; None takes those of the head.
        imagery: `TileSource` from which the index was made, for tiles without stored features.
        pictures: Source of tile pixels; None takes the imagery, else thumbnails of sufficient size.
        features: Stored keys of tiles, by heading prior.
    """

    method: str = "auto"
    heading_prior: str | None = None
    fusion: FusionWeights | None = None
    radius_factors: dict[str, float] | None = None
    imagery: Any = None
    pictures: TilePictures | None = None
    features: Mapping[str, TileFeatures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise GenGeoError(f"the pose method must be one of {', '.join(METHODS)}, found {self.method!r}")
        if self.heading_prior is not None and self.heading_prior not in PRIORS:
            raise GenGeoError(f"--heading-prior must be one of {', '.join(PRIORS)}, found {self.heading_prior!r}")


class UnposedError(GenGeoError):
    """The pose of one photo cannot be estimated; other photos are not affected."""


class PoseFinder:
    """Estimates poses with the heads of a checkpoint, or without a head.

    Args:
        encoder: Encoder of the checkpoint, with a torch model.
        checkpoint: Directory or Hub id with heads under `pose/<prior>`.
        canvas: Canvas of the model's panoramas; None for a model of ordinary photos.
        settings: Settings of pose estimation; None takes the defaults.
        where: `revision`, `token` and `cache_dir` for heads on the Hub.

    Raises:
        GenGeoError: The encoder has no patch tokens.
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
        """Replace the positions of places by poses inside their tiles.

        Args:
            photo: Photo with an image. If its pose cannot be estimated, the error is stored in `refused`.
            camera: Camera that the user states.
            hits: Most similar tiles, best first.
            places: Places of these tiles, best first.

        Returns:
            The places, and a note: why the pose is inaccurate or missing, or "". With fitted weights the places are
            peaks of the fused map of all hits.

        Raises:
            GenGeoError: Tiles lack bounds or pixels, or no head fits the tile size.
        """
        if not places:
            return list(places), ""
        view = ground_view(self.encoder, self.canvas, photo, camera, self.settings.heading_prior)
        if view is None:
            return list(places), "no pose: the field of view is unknown; state it (--fov DEGREES)"
        try:
            return self._refined(view, hits, places)
        except UnposedError as error:
            photo.refused = error
            return list(places), f"no pose: {error}"

    def _refined(self, view: GroundView, hits: Sequence[Hit], places: Sequence[Place]) -> tuple[list[Place], str]:
        """Places with their poses, and a note."""
        head = self._head(view.prior)
        fusion = self.settings.fusion
        if head is not None and fusion is not None and fusion.enabled and view.prior == "known":
            return self._fused(view, head, hits[: fusion.tiles], places), ""
        by_id = {hit.tile_id: hit for hit in hits}
        chosen = [by_id[place.tile_id] for place in places]
        if head is None:
            poses = self._search(view, chosen)
            rough = is_rough(getattr(self.encoder, "training_record", {}))
            note = "pose by search is rough: the model was not trained on centred tiles" if rough else ""
            return [place_with_pose(p, h, pose, SEARCH) for p, h, pose in zip(places, chosen, poses, strict=True)], note
        factors = self.settings.radius_factors or head.config.radius_factors
        tiles = self._posteriors(view, head, chosen)
        return [
            place_with_pose(place, hit, pose, FITTED, factors, view.rolled, tile)
            for place, hit, (tile, pose) in zip(places, chosen, tiles, strict=True)
        ], ""

    def for_index(self, index: Any, path: str | Path) -> PoseFinder:
        """Create a finder for another index of the same model, which uses the same heads.

        Args:
            index: `GeoIndex` or `StoreIndex`.
            path: Directory or address of the index, where its pose features are stored.
        """
        size = self.encoder.view_sizes["aerial"]
        pixels = IndexPictures(index, (size["height"], size["width"]), self.settings.imagery)
        settings = replace(self.settings, pictures=pixels, features=open_features(path))
        made = PoseFinder(self.encoder, self.checkpoint, self.canvas, settings, **self._where)
        made._heads = self._heads
        return made

    def candidates(
        self, photo: Photo, camera: CameraView, hits: Sequence[Hit]
    ) -> list[tuple[TilePosterior, tuple[Poses, int]]]:
        """Posteriors of one photo in some tiles, for calibration; empty if no head can be used for the photo."""
        view = ground_view(self.encoder, self.canvas, photo, camera, self.settings.heading_prior)
        head = None if view is None else self._head(view.prior)
        return [] if view is None or head is None or not hits else self._posteriors(view, head, hits)

    def _head(self, prior: str) -> PoseHead | None:
        """Narrowest suitable head; None to use the search.

        Raises:
            UnposedError: The checkpoint has heads, but none for this prior.
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
            known = {"known": "a known heading", "45": "a heading known to 45 degrees", "180": "an unknown heading"}
            raise UnposedError(  # without the path of the checkpoint, because the web page shows this message
                f"the model has no pose head {FOLDER}/{prior}, which a photo with {known[prior]} needs: state the "
                f"heading (--heading), fit one with gengeo pose fit --heading-prior {prior}, or use --pose search"
            )
        return None

    def _load(self, prior: str) -> PoseHead | None:
        folder = Path(self.checkpoint) / FOLDER / prior / "config.json"
        if Path(self.checkpoint).is_dir() and not folder.is_file():
            return None
        try:
            head = PoseHead.load(self.checkpoint, prior, **self._where)
        except GenGeoError:
            if Path(self.checkpoint).is_dir():  # the head exists and cannot be read
                raise
            return None
        check_head(head, self.encoder)
        return head

    def _posteriors(
        self, view: GroundView, head: PoseHead, hits: Sequence[Hit]
    ) -> list[tuple[TilePosterior, tuple[Poses, int]]]:
        """Compute posterior and pose of the photo in each tile."""
        with torch.inference_mode():
            queries = head.queries(patch_tokens(self.encoder, normalised(self.encoder, view.pixels)).cpu())
            keys = self._keys(head, hits)
        headings = tuple((view.stated + gap) % 360 for gap in _relative_headings(head, view.prior))
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
        """Keys of the tiles, stored or computed from their pixels: float32 (T, K, d)."""
        ids = [hit.tile_id for hit in hits]
        features = self.settings.features.get(head.config.heading_prior)
        if features is not None and features.head != head.checksum:
            raise GenGeoError(
                "the pose features of the index belong to another pose head: make them again with gengeo index "
                "--pose-features"
            )
        stored = dict(features.keys(ids)) if features is not None else {}
        missing = [tile for tile in ids if tile not in stored]
        if missing:
            images = self._images(missing)
            pixels = resize_images(self.encoder.processor, [images[tile] for tile in missing], "aerial")
            tokens = patch_tokens(self.encoder, normalised(self.encoder, pixels)).cpu().flatten(1, 2)
            stored |= dict(zip(missing, head.keys(tokens).numpy(), strict=True))
        return torch.from_numpy(np.stack([stored[tile] for tile in ids]).astype(np.float32))

    def _images(self, tile_ids: Sequence[str]) -> Mapping[str, Image.Image]:
        """Pixels of tiles by id.

        Raises:
            GenGeoError: There are no pixels for a tile.
        """
        found = self.settings.pictures.images(tile_ids) if self.settings.pictures is not None else {}
        if lacking := [tile for tile in tile_ids if tile not in found]:
            raise GenGeoError(
                f"pose needs the pixels of tile {lacking[0]!r}: the index has neither pose features (gengeo index "
                "--pose-features) nor thumbnails of the model's size; give the imagery it was made from (--imagery)"
            )
        return found

    def _search(self, view: GroundView, hits: Sequence[Hit]) -> list[tuple[Poses, int]]:
        """Search poses without a head."""
        if not view.panorama:
            raise UnposedError("the search without a head needs panoramas; fit a head for photos (gengeo pose fit)")
        images = self._images([hit.tile_id for hit in hits])
        settings, reach = SearchSettings.for_prior(view.prior), PRIORS[view.prior]
        poses = []
        for hit in hits:
            tile = resize_images(self.encoder.processor, [images[hit.tile_id]], "aerial")[0]
            found = search_pose(self.encoder, view.pixels[0], tile, size_of(_bounds(hit)), reach, settings)
            poses.append((replace(found, heading=(found.heading + view.stated + view.rolled) % 360), 0))
        return poses

    def _fused(self, view: GroundView, head: PoseHead, hits: Sequence[Hit], places: Sequence[Place]) -> list[Place]:
        """Fuse the posteriors of all hits; the peaks of the map are the places."""
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
            hit, (tile, (poses, number)) = hits[mode.tile], tiles[mode.tile]
            base = of_tile.get(hit.tile_id, places[0])
            heading = (float(poses.heading[number]) + view.rolled) % 360
            place = replace(
                base,
                rank=rank,
                lat=mode.lat,
                lon=mode.lon,
                score=hit.score,
                tile_id=hit.tile_id,
                bounds=hit.bounds,
                area=hit.area,
                source=hit.source,
                attribution=hit.attribution,
                licence=hit.licence,
                acquired=hit.acquired,
                heading=heading,
                pose=FITTED,
                pose_probability=mode.probability,
                position_map=position_map(tile),
            )
            found.append(add_radii(place, mode.spread_m, factors))
        return found


def _relative_headings(head: PoseHead, prior: str) -> Sequence[float]:
    """Candidate headings relative to the stated one; those of a wider head are limited to the range of the prior."""
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


def open_finder(
    encoder: Any,
    checkpoint: str | Path,
    index: Any,
    path: str | Path,
    calibration: str | Path | None,
    pose: PoseSettings | bool,
    options: Mapping[str, Any],
) -> PoseFinder:
    """Create a finder for an open index, with tile pixels, stored features and, if they were fitted, fusion weights.

    Args:
        encoder: Encoder of the checkpoint.
        checkpoint: Checkpoint directory or Hub id.
        index: `GeoIndex` or `StoreIndex`.
        path: Directory or address of the index, where its pose features are stored.
        calibration: File of `gengeo calibrate`; the file of `gengeo calibrate --pose` is searched in its directory.
        pose: Settings, or True for the defaults.
        options: Options of the encoder, of which `revision`, `token` and `cache_dir` are used for the heads.
    """
    settings = PoseSettings() if isinstance(pose, bool) else pose
    size = encoder.view_sizes["aerial"]
    tile_pictures = settings.pictures or IndexPictures(index, (size["height"], size["width"]), settings.imagery)
    settings = replace(settings, pictures=tile_pictures, features=settings.features or open_features(path))
    if calibration is not None and settings.fusion is None and pose_calibration_path(calibration).is_file():
        fitted = PoseCalibration.load(pose_calibration_path(calibration))
        fitted.check_model(encoder)
        settings = replace(settings, fusion=fitted.fusion, radius_factors=fitted.radius_factors or None)
    where = {name: options[name] for name in ("revision", "token", "cache_dir") if name in options}
    return PoseFinder(encoder, checkpoint, panorama_canvas(encoder), settings, **where)
