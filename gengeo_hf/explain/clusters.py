"""What the clusters stand for: histograms of regions, and the patches that a cluster collects across a data set.

Arrays for the paper's Figure 7 and for sheets of clusters.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.explain.attribution import Attribution, attribute_many

Box = tuple[float, float, float, float]
AROUND = 0.5  # patches that the picture of a patch shows on each side of it
PICTURE_SIDE = 96  # pixels of such a picture


def parse_box(text: str) -> Box:
    """Read `left,top,right,bottom` in shares of the image's width and height, for example `0.1,0.4,0.3,0.9`.

    Raises:
        GenGeoError: it is not a box inside the image.
    """
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError as error:
        raise GenGeoError(
            f"{text!r} is not a box: expected left,top,right,bottom, for example 0.1,0.4,0.3,0.9"
        ) from error
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise GenGeoError(
            f"the box {text} must lie inside the image: shares from 0 to 1, left < right and top < bottom"
        )
    return left, top, right, bottom


def patches_in(grid: tuple[int, int], box: Box) -> np.ndarray:
    """Share of each patch that lies in a box: float32 (n,), row-major.

    Args:
        grid: rows and columns of patches.
        box: left, top, right, bottom in shares of width and height.
    """
    left, top, right, bottom = box
    down = _overlap(grid[0], top, bottom)
    along = _overlap(grid[1], left, right)
    return np.outer(down, along).ravel()


def cluster_histogram(attribution: Attribution, box: Box | None = None) -> np.ndarray:
    """Mean assignment of a region's patches to the clusters, dustbin left out, scaled to sum 1 (GenGeo, Figure 7).

    Args:
        attribution: the image.
        box: the region; None takes the whole image. Patches on its edge count by the share that lies inside.

    Returns:
        float32 (m,).
    """
    inside = np.ones(len(attribution.kept), np.float32) if box is None else patches_in(attribution.grid, box)
    histogram: np.ndarray = attribution.plan @ inside
    return histogram / max(float(histogram.sum()), 1e-12)


def histogram_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two histograms (m,): 0 to 1."""
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12))


def similarity_elsewhere(histogram: np.ndarray, attribution: Attribution, box: Box) -> np.ndarray:
    """Similarity of a histogram to every region of a box's size in an image: what a high number must be held against.

    Args:
        histogram: (m,), of a region of the other view.
        attribution: the image in which the box is moved, patch by patch.
        box: gives the size.

    Returns:
        float64, one number for each place of the box.
    """
    rows, columns = attribution.grid
    height, width = max(1, round((box[3] - box[1]) * rows)), max(1, round((box[2] - box[0]) * columns))
    maps = attribution.plan.reshape(-1, rows, columns)
    found = []
    for row, column in itertools.product(range(rows - height + 1), range(columns - width + 1)):
        region = maps[:, row : row + height, column : column + width].sum(axis=(1, 2))
        found.append(histogram_similarity(histogram, region))
    return np.array(found)


@dataclass(frozen=True)
class Patch:
    """A patch that a cluster collected.

    Args:
        share: of the patch that went to the cluster, 0 to 1.
        number: of the image in the data set.
        place: row and column on the patch grid.
        picture: the patch in a thin frame, with half a patch around it; square, RGB.
    """

    share: float
    number: int
    place: tuple[int, int]
    picture: Image.Image


def top_patches(
    encoder: Encoder, images: Iterable[Any], view: View, count: int = 8
) -> tuple[list[list[Patch]], np.ndarray]:
    """For each cluster, the patches of a data set that it takes most of; at most one from each image.

    Args:
        encoder: a model with a SALAD head.
        images: paths or PIL images; they are streamed.
        view: "ground" or "aerial".
        count: patches for each cluster.

    Returns:
        For each cluster its patches, most first; and float64 (m, rows, columns), the mean of all images' plans. Where
        such a map is concentrated, the cluster follows places in the image rather than what the image shows there.

    Raises:
        GenGeoError: see `attribute`; or there are no images.
    """
    best: list[list[tuple[float, int, Patch]]] = []
    total, seen_images = np.zeros(()), 0
    for number, attribution in enumerate(attributions(encoder, images, view)):
        best = best or [[] for _ in attribution.plan]
        for cluster, heap in enumerate(best):
            _offer(heap, attribution, cluster, number, count)
        total = total + attribution.plan.reshape(-1, *attribution.grid).astype(np.float64)
        seen_images = number + 1
    if not seen_images:
        raise GenGeoError("there are no images")
    chosen = [[patch for _, _, patch in sorted(heap, key=lambda item: -item[0])] for heap in best]
    return chosen, total / seen_images


def attributions(encoder: Encoder, images: Iterable[Any], view: View) -> Iterator[Attribution]:
    """Looks at a stream of images, a batch in memory at a time."""
    iterator = iter(images)
    while batch := list(itertools.islice(iterator, encoder.batch_size)):
        yield from attribute_many(encoder, batch, view)


def _offer(
    heap: list[tuple[float, int, Patch]], attribution: Attribution, cluster: int, number: int, count: int
) -> None:
    """Keep the patch of an image that a cluster takes most of, if it is among the best so far."""
    index = int(attribution.plan[cluster].argmax())
    share = float(attribution.plan[cluster, index])
    if len(heap) == count and share <= heap[0][0]:
        return
    row, column = divmod(index, attribution.grid[1])
    patch = Patch(share, number, (row, column), _cut_patch(attribution, row, column))
    (heapq.heappush if len(heap) < count else heapq.heapreplace)(heap, (share, -number, patch))


def _cut_patch(attribution: Attribution, row: int, column: int) -> Image.Image:
    """A patch in a thin white frame, with half a patch around it; grey where the image has ended."""
    around, side = AROUND, PICTURE_SIDE
    tall, wide = attribution.image.height / attribution.grid[0], attribution.image.width / attribution.grid[1]
    box = ((column - around) * wide, (row - around) * tall, (column + 1 + around) * wide, (row + 1 + around) * tall)
    inside = (
        max(0.0, box[0]),
        max(0.0, box[1]),
        min(attribution.image.width, box[2]),
        min(attribution.image.height, box[3]),
    )
    scale = side / (box[2] - box[0]), side / (box[3] - box[1])
    corners = [round((inside[i] - box[i % 2]) * scale[i % 2]) for i in range(4)]
    part = attribution.image.resize(
        (corners[2] - corners[0], corners[3] - corners[1]), Image.Resampling.BICUBIC, box=inside
    )
    picture = Image.new("RGB", (side, side), "#eef1f4")
    picture.paste(part, (corners[0], corners[1]))
    edge = side * around / (1 + 2 * around)
    ImageDraw.Draw(picture).rectangle((edge, edge, side - 1 - edge, side - 1 - edge), outline="white", width=2)
    return picture


def _overlap(count: int, start: float, end: float) -> np.ndarray:
    """Share of each of `count` equal cells of 0..1 that lies between start and end."""
    edges = np.arange(count + 1) / count
    inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
    return (inside * count).astype(np.float32)
