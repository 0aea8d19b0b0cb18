"""Draws training samples of a pose head: augmented pairs as patch tokens of the frozen encoder.

The true position and heading of each sample are known: both views are mirrored and turned together, the tile is moved
(its edge is filled by reflection) and the panorama is rolled within the heading prior. Samples with the same geometry
(tile size, field of view, stated heading) form a group; a batch is drawn from one group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, metres_per_degree, size_of
from gengeo_hf.data.augment import roll_panoramas, turn_tiles
from gengeo_hf.data.loading import PairSource
from gengeo_hf.data.views import limited_fov
from gengeo_hf.pose.geometry import Layout, column_azimuths
from gengeo_hf.pose.head import PRIORS, PoseHead
from gengeo_hf.pose.tokens import grid_of, normalised, patch_tokens, tokens_and_descriptors

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.encoding.protocol import View

SIZE_BIN = 0.02  # relative width of the bins of tile sides; tiles of one bin have the same geometry
HEADING_BIN = 5.0  # degrees; ordinary photos with headings in one bin have the same geometry
CACHE_BYTES = 2**29  # maximum size of decoded pixels in memory
NEIGHBOURS = 30  # wrong tiles are drawn from the most similar ones


@dataclass(frozen=True)
class PosePairs:
    """Photos with their true tiles, in the order of the data set, with the position and view of each photo.

    Args:
        source: Source of the pixels.
        offset_m: (N, 2) offset from the tile's centre to the photo, metres east and north.
        size_m: (N, 2) width and height of the tile in metres.
        fov: (N,) horizontal field of view in degrees; 360 for panoramas.
        heading: (N,) heading of the photo's centre column, degrees clockwise from north; 0 for panoramas.
        areas: (N,) names of areas.
        cache: Decoded pairs by row, filled by `pixels`.
    """

    source: PairSource
    offset_m: np.ndarray
    size_m: np.ndarray
    fov: np.ndarray
    heading: np.ndarray
    areas: np.ndarray
    cache: dict[int, tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.fov)

    def pixels(self, rows: np.ndarray) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Read photos and tiles at the model's sizes; they are decoded once if all fit into `CACHE_BYTES`.

        Args:
            rows: (n,) rows of the pairs.

        Returns:
            Rows that were read, which differ for damaged pairs (see `PairSource`), and uint8 (n, 3, H, W) of both
            views.
        """
        sizes = self.source.processor.view_sizes
        bytes_each = sum(3 * size["height"] * size["width"] for size in sizes.values())
        if bytes_each * len(self) > CACHE_BYTES:
            batch = self.source.__getitems__(rows.tolist())
            return batch["query_row"].numpy(), batch["ground"], batch["aerial"]
        if missing := [row for row in rows.tolist() if row not in self.cache]:
            batch = self.source.__getitems__(missing)
            for row, *found in zip(missing, batch["query_row"].tolist(), batch["ground"], batch["aerial"], strict=True):
                self.cache[row] = (found[0], found[1], found[2])
        final, photos, tiles = zip(*(self.cache[row] for row in rows.tolist()), strict=True)
        return np.array(final), torch.stack(photos), torch.stack(tiles)

    @classmethod
    def of(cls, dataset: CrossViewDataset, processor: Any) -> PosePairs:
        """Create the pairs of a data set.

        Raises:
            GenGeoError: A photo has no position or field of view, a tile has no bounds, or an ordinary photo has no
                heading.
        """
        source = PairSource(dataset, processor)
        queries, gallery, tile_rows = dataset.queries, dataset.gallery, source.tile_rows
        lat, lon, fov, heading = (_column(queries, name) for name in ("lat", "lon", "fov", "heading"))
        where = {name: _column(gallery, name)[tile_rows] for name in ("lat", "lon", "west", "south", "east", "north")}
        _need(dataset.name, "photos", "position (lat, lon)", np.isnan(lat) | np.isnan(lon))
        _need(dataset.name, "photos", "field of view (column fov, 360 for a panorama)", np.isnan(fov))
        _need(dataset.name, "tiles", "bounds (west, south, east, north)", np.isnan(where["west"]))
        _need(dataset.name, "ordinary photos", "heading", np.isnan(heading) & (fov < 360))
        per_lat, per_lon = metres_per_degree(where["lat"])
        offset = np.stack([(lon - where["lon"] + 180) % 360 - 180, lat - where["lat"]], 1)
        boxes = np.stack([where[side] for side in Bounds._fields], 1)
        return cls(
            source,
            offset * np.stack([per_lon, per_lat], 1),
            np.array([size_of(Bounds(*box)) for box in boxes]),
            fov,
            np.where(fov < 360, np.nan_to_num(heading) % 360, 0.0),  # panoramas are aligned with north
            np.array([area or "" for area in queries["area"][:]], dtype=object),
        )


def _column(table: Any, name: str) -> np.ndarray:
    return np.array(table[name][:], dtype=np.float64)


def _need(name: str, what: str, fact: str, missing: np.ndarray) -> None:
    if missing.any():
        raise GenGeoError(f"{name}: {int(missing.sum()):,} of {len(missing):,} {what} have no {fact}; pose needs it")


@dataclass(frozen=True)
class Plan:
    """A group of samples to draw.

    Args:
        rows: Rows of the pairs in the data set.
        fov: Field of view in degrees, to which panoramas are cropped, or that of ordinary photos.
        heading: Stated heading of the centre column, degrees.
        scale: Ground size of the tile relative to the original tile, by enlarging (below 1) or padding (above 1).
        moved: Share of the tile's sides within which the photo lies after the tile is moved; 0 does not move it.
        turned: Whether both views are mirrored and turned together.
    """

    rows: np.ndarray
    fov: float = 360.0
    heading: float = 0.0
    scale: float = 1.0
    moved: float = 0.0
    turned: bool = True


@dataclass
class Samples:
    """A group of samples as tokens.

    Args:
        ground: float16 (N, rows, C, D) ground tokens.
        aerial: float16 (N, K, D) aerial tokens.
        offset_m: float32 (N, 2) true positions, metres east and north of the tile's centre.
        heading: float32 (N,) true headings, degrees clockwise from north.
        layout: Geometry of the tiles.
        azimuths: (C,) azimuths of the columns relative to the centre column, degrees.
        headings: Candidate headings, degrees.
        neighbours: int64 (N, n) rows of the samples with the most similar wrong tiles; n may be 0.
    """

    ground: torch.Tensor
    aerial: torch.Tensor
    offset_m: torch.Tensor
    heading: torch.Tensor
    layout: Layout
    azimuths: torch.Tensor
    headings: tuple[float, ...]
    neighbours: torch.Tensor

    def __len__(self) -> int:
        return len(self.ground)

    @property
    def stated(self) -> float:
        """Stated heading: the middle of the candidates, degrees."""
        return self.headings[len(self.headings) // 2]


def geometry_groups(pairs: PosePairs, rows: np.ndarray) -> list[np.ndarray]:
    """Group rows by tile size, field of view and, for ordinary photos, heading."""
    flat = pairs.fov < 360
    headings = np.where(flat, np.round(pairs.heading / HEADING_BIN), 0)
    keys = np.stack([*np.round(np.log(pairs.size_m.T) / SIZE_BIN), np.round(pairs.fov), headings], axis=1)[rows]
    _, group = np.unique(keys, axis=0, return_inverse=True)
    return [rows[group.ravel() == number] for number in range(group.max() + 1)]


def plain_plans(pairs: PosePairs, rows: np.ndarray, fov: float = 360.0, moved: float = 0.0) -> list[Plan]:
    """Plans that use each pair once, neither mirrored nor turned, for evaluation.

    Args:
        pairs: Pairs of a data set.
        rows: Rows of the pairs to use.
        fov: Field of view in degrees to which panoramas are cropped.
        moved: Share of the tile's sides within which the photo lies, see `Plan`.
    """
    plans = []
    for group in geometry_groups(pairs, rows):
        flat = pairs.fov[group[0]] < 360
        stated = float(np.round(pairs.heading[group].mean())) if flat else 0.0
        plans.append(Plan(group, float(pairs.fov[group[0]]) if flat else fov, stated, moved=moved, turned=False))
    return plans


def draw_samples(
    encoder: Encoder,
    head: PoseHead,
    pairs: PosePairs,
    plan: Plan,
    rng: np.random.Generator,
    batch_size: int = 64,
    neighbours: int = 0,
) -> Samples:
    """Draw a group of samples: augment the pixels, encode, and store tokens in float16.

    Args:
        encoder: Frozen encoder.
        head: Head whose configuration sets the searched headings and positions.
        pairs: Source of pixels and positions.
        plan: Plan of the group.
        rng: Generator of all random numbers.
        batch_size: Images in one forward pass.
        neighbours: Number of similar wrong tiles to look up for each sample.
    """
    ground: list[torch.Tensor] = []
    aerial: list[torch.Tensor] = []
    photos: list[torch.Tensor] = []
    tiles: list[torch.Tensor] = []
    offsets, headings = [], []
    views: tuple[View, View] = ("ground", "aerial")
    for start in range(0, len(plan.rows), batch_size):
        numbers = plan.rows[start : start + batch_size]
        photo, tile, offset, heading = changed(pairs, numbers, plan, head.config.heading_prior, rng, encoder.patch)
        for images, view, into, similar in zip((photo, tile), views, (ground, aerial), (photos, tiles), strict=True):
            pixels = normalised(encoder, images)
            if neighbours:
                tokens, descriptors = tokens_and_descriptors(encoder, pixels, view)
                similar.append(descriptors.cpu())
            else:
                tokens = patch_tokens(encoder, pixels)
            into.append(tokens.half().cpu())
        offsets.append(offset)
        headings.append(heading)
    size = np.median(pairs.size_m[plan.rows], axis=0) * plan.scale
    layout = head.layout((float(size[0]), float(size[1])), grid_of(encoder, *tile.shape[-2:]))
    flat = bool(pairs.fov[plan.rows[0]] < 360)
    queries = torch.cat(ground)
    return Samples(
        queries,
        torch.cat(aerial).flatten(1, 2),
        torch.from_numpy(np.concatenate(offsets)).float(),
        torch.from_numpy(np.concatenate(headings)).float(),
        layout,
        column_azimuths(queries.shape[2], fov_shown(plan.fov, photo.shape[-1], pairs, flat), flat),
        tuple(plan.heading + gap for gap in head.config.headings),
        similar_tiles(torch.cat(photos), torch.cat(tiles), neighbours) if neighbours else torch.empty(len(queries), 0),
    )


def fov_shown(fov: float, width: int, pairs: PosePairs, flat: bool) -> float:
    """Horizontal field of view of an image in degrees; for a cropped panorama, which keeps its scale, by its width."""
    if flat or fov >= 360:
        return fov
    return 360.0 * width / int(pairs.source.processor.view_sizes["ground"]["width"])


def changed(
    pairs: PosePairs, rows: np.ndarray, plan: Plan, prior: str, rng: np.random.Generator, patch: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Augment the pixels of some pairs by a plan.

    Args:
        pairs: Pairs of a data set.
        rows: (n,) rows of the pairs.
        plan: Plan of the samples.
        prior: Heading prior: "known", "45" or "180".
        rng: Generator of all random numbers.
        patch: Width of a patch in pixels.

    Returns:
        uint8 photos (n, 3, H, W') and tiles (n, 3, S, S), positions (n, 2) in metres, headings (n,) in degrees.
    """
    rows, photo, tile = pairs.pixels(rows)  # damaged pairs are replaced by others
    offset, size = pairs.offset_m[rows].copy(), pairs.size_m[rows] * plan.scale
    panorama = pairs.fov[rows] >= 360
    if plan.turned:
        mirrored = torch.from_numpy((rng.random(len(rows)) < 0.5) & panorama)
        photo = torch.where(mirrored[:, None, None, None], photo.flip(-1), photo)
        tile = torch.where(mirrored[:, None, None, None], tile.flip(-1), tile)
        offset[mirrored.numpy(), 0] *= -1
        square = abs(np.log(size[:, 0] / size[:, 1])) < SIZE_BIN
        turns = np.where(panorama & square, rng.integers(0, 4, len(rows)), 0)
        photo, tile = roll_panoramas(photo, turns), turn_tiles(tile, turns)
        for _ in range(3):
            offset = np.where((turns > 0)[:, None], np.stack([-offset[:, 1], offset[:, 0]], 1), offset)
            turns = turns - 1
    if plan.moved or plan.scale != 1:
        tile, offset = moved_tile(tile, offset, size, plan, rng)
    photo, heading = _rolled_within(photo, panorama, pairs.heading[rows], plan, prior, rng, patch)
    return photo, tile, offset, heading


def moved_tile(
    tile: torch.Tensor, offset: np.ndarray, size: np.ndarray, plan: Plan, rng: np.random.Generator
) -> tuple[torch.Tensor, np.ndarray]:
    """Move tiles and change their ground size; the area outside is filled by reflection.

    Args:
        tile: uint8 (n, 3, S, S).
        offset: (n, 2) offset from the tile's centre to the photo, metres.
        size: (n, 2) ground size of the new tile, metres.
        plan: Plan with `moved` and `scale`.
        rng: Generator of the moves.

    Returns:
        Tiles, and new offsets. At scale 1 tiles are moved by whole pixels.
    """
    side = np.array([tile.shape[-1], tile.shape[-2]])
    pixel = size / side  # metres of a pixel of the new tile
    reach = plan.moved * size / 2
    wanted = offset - rng.uniform(-1, 1, offset.shape) * reach if plan.moved else offset
    if plan.moved:  # positions outside of the reach are reflected at its edge
        wanted = np.where(np.abs(wanted) > reach, np.sign(wanted) * (2 * reach - np.abs(wanted)), wanted)
    move = offset - wanted  # of the centre, metres
    if plan.scale == 1:
        move = np.round(move / pixel) * pixel
    return padded_move(tile, move / (size / plan.scale), plan.scale), offset - move


def padded_move(tile: torch.Tensor, shares: np.ndarray, scale: float = 1.0) -> torch.Tensor:
    """Move the centre of tiles; the area outside is filled by reflection.

    Args:
        tile: uint8 (n, 3, H, W).
        shares: (n, 2) moves east and north, relative to width and height.
        scale: Ground size of the result relative to that of the tile.

    Returns:
        uint8 (n, 3, H, W). Moves by whole pixels at scale 1 are exact.
    """
    theta = torch.zeros(len(tile), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = torch.from_numpy(2 * shares * (1, -1))
    grid = functional.affine_grid(theta, list(tile.shape), align_corners=False)
    drawn = functional.grid_sample(tile.float(), grid, padding_mode="reflection", align_corners=False)
    return drawn.round().clamp(0, 255).to(torch.uint8)


def _rolled_within(
    photo: torch.Tensor,
    panorama: np.ndarray,
    heading: np.ndarray,
    plan: Plan,
    prior: str,
    rng: np.random.Generator,
    patch: int,
) -> tuple[torch.Tensor, np.ndarray]:
    """Roll panoramas within the prior around the stated heading, and crop them to the field of view."""
    if not panorama.all():  # ordinary photos are not rolled
        return photo, heading
    width = photo.shape[-1]
    gap = rng.uniform(-1, 1, len(photo)) * PRIORS[prior]
    pixels = np.round((plan.heading + gap - heading) / 360 * width)
    turn = torch.from_numpy(pixels * 360 / width)
    return limited_fov(photo, plan.fov, turn, patch), heading + turn.numpy()


def similar_tiles(ground: torch.Tensor, aerial: torch.Tensor, count: int, block: int = 1024) -> torch.Tensor:
    """Rows of the samples with the tiles most similar to each sample's photo, without its own: int64 (N, count)."""
    count = min(count, len(ground) - 1)
    if count <= 0:
        return torch.empty(len(ground), 0, dtype=torch.int64)
    found = []
    for start in range(0, len(ground), block):
        scores = ground[start : start + block] @ aerial.T
        own = torch.arange(start, start + len(scores))
        scores[torch.arange(len(scores)), own] = -torch.inf
        found.append(scores.topk(count, dim=1).indices)
    return torch.cat(found)


def batches(samples: Sequence[Samples], weights: Sequence[float], size: int, rng: np.random.Generator) -> Iterator[Any]:
    """Yield batches without end, each from one group.

    Args:
        samples: Groups of samples.
        weights: Probability of each group, not normalised.
        size: Batch size, limited to the size of the group.
        rng: Generator of groups and order.

    Yields:
        The group, and int64 rows of its samples.
    """
    probability = np.asarray(weights, dtype=np.float64)
    probability = probability / probability.sum()
    orders = [np.empty(0, np.int64) for _ in samples]
    while True:
        group = int(rng.choice(len(samples), p=probability))
        if len(orders[group]) < min(size, len(samples[group])):
            orders[group] = rng.permutation(len(samples[group]))
        numbers, orders[group] = orders[group][:size], orders[group][size:]
        yield samples[group], torch.from_numpy(numbers)
