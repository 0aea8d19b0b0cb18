"""Contents of clusters: histograms of regions (the paper's Figure 7), and the top patches of each cluster."""

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
MARGIN = 0.5  # margin of the picture of a patch on each side, in patches
PICTURE_SIDE = 96  # pixels of the picture of a patch


def parse_box(text: str) -> Box:
    """Parse `left,top,right,bottom` in shares of the image's width and height, for example `0.1,0.4,0.3,0.9`.

    Raises:
        GenGeoError: The text is not a box inside the image.
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
    """Compute the share of each patch that lies in a box: float32 (n,), row-major.

    Args:
        grid: Number of rows and of columns of patches.
        box: Left, top, right and bottom in shares of width and height.
    """
    left, top, right, bottom = box
    down = _overlap(grid[0], top, bottom)
    across = _overlap(grid[1], left, right)
    return np.outer(down, across).ravel()


def cluster_histogram(attribution: Attribution, box: Box | None = None) -> np.ndarray:
    """Compute the mean assignment of a region's patches to the clusters, without the dustbin (GenGeo, Figure 7).

    Args:
        attribution: Attribution of the image.
        box: The region; None takes the whole image. Patches on its edge count by the share that lies inside.

    Returns:
        float32 (m,), scaled to sum 1.
    """
    inside = np.ones(len(attribution.kept), np.float32) if box is None else patches_in(attribution.grid, box)
    histogram: np.ndarray = attribution.plan @ inside
    return histogram / max(float(histogram.sum()), 1e-12)


def histogram_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the cosine similarity of two histograms (m,), 0 to 1."""
    return float(first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-12))


def similarity_elsewhere(histogram: np.ndarray, attribution: Attribution, box: Box) -> np.ndarray:
    """Compute the similarity of a histogram to every region of a box's size in an image, as a baseline.

    Args:
        histogram: Histogram of a region of the other view, (m,).
        attribution: Attribution of the image in which the box is moved, patch by patch.
        box: Box whose size is used.

    Returns:
        float64, one value for each position of the box.
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
    """A patch that is assigned to a cluster.

    Args:
        share: Share of the patch's mass that is assigned to the cluster, 0 to 1.
        image_index: Index of the image in the data set.
        cell: Row and column on the patch grid.
        picture: The patch in a thin frame, with half a patch around it; square, RGB.
    """

    share: float
    image_index: int
    cell: tuple[int, int]
    picture: Image.Image


def top_patches(
    encoder: Encoder, images: Iterable[Any], view: View, count: int = 8
) -> tuple[list[list[Patch]], np.ndarray]:
    """Find, for each cluster, the patches of a data set with the largest shares; at most one from each image.

    Args:
        encoder: An encoder of a model with a SALAD head.
        images: Paths or PIL images, read one batch at a time.
        view: "ground" or "aerial".
        count: Number of patches for each cluster.

    Returns:
        The patches of each cluster, largest share first; and float64 (m, rows, columns), the mean of the plans of all
        images. If such a map is concentrated, the cluster depends more on the position than on the content.

    Raises:
        GenGeoError: There are no images, an image cannot be read, or see `attribute`.
    """
    best: list[list[tuple[float, int, Patch]]] = []
    total, image_count = np.zeros(()), 0
    for index, attribution in enumerate(attributions(encoder, images, view)):
        best = best or [[] for _ in attribution.plan]
        for cluster, heap in enumerate(best):
            _offer(heap, attribution, cluster, index, count)
        total = total + attribution.plan.reshape(-1, *attribution.grid).astype(np.float64)
        image_count = index + 1
    if not image_count:
        raise GenGeoError("there are no images")
    chosen = [[patch for _, _, patch in sorted(heap, key=lambda item: -item[0])] for heap in best]
    return chosen, total / image_count


def attributions(encoder: Encoder, images: Iterable[Any], view: View) -> Iterator[Attribution]:
    """Attribute a stream of images, with one batch in memory at a time.

    Args:
        encoder: An encoder of a model with a SALAD head.
        images: Paths or PIL images.
        view: "ground" or "aerial".

    Yields:
        The attribution of each image, in order.
    """
    iterator = iter(images)
    while batch := list(itertools.islice(iterator, encoder.batch_size)):
        yield from attribute_many(encoder, batch, view)


def _offer(
    heap: list[tuple[float, int, Patch]], attribution: Attribution, cluster: int, image_index: int, count: int
) -> None:
    """Add the patch of an image with the largest share of a cluster, if it is among the best `count`."""
    index = int(attribution.plan[cluster].argmax())
    share = float(attribution.plan[cluster, index])
    if len(heap) == count and share <= heap[0][0]:
        return
    row, column = divmod(index, attribution.grid[1])
    patch = Patch(share, image_index, (row, column), _crop_patch(attribution, row, column))
    (heapq.heappush if len(heap) < count else heapq.heapreplace)(heap, (share, -image_index, patch))


def _crop_patch(attribution: Attribution, row: int, column: int) -> Image.Image:
    """Crop a patch with half a patch around it, in a thin white frame; grey outside the image."""
    margin, side = MARGIN, PICTURE_SIDE
    tall, wide = attribution.image.height / attribution.grid[0], attribution.image.width / attribution.grid[1]
    box = ((column - margin) * wide, (row - margin) * tall, (column + 1 + margin) * wide, (row + 1 + margin) * tall)
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
    edge = side * margin / (1 + 2 * margin)
    ImageDraw.Draw(picture).rectangle((edge, edge, side - 1 - edge, side - 1 - edge), outline="white", width=2)
    return picture


def _overlap(count: int, start: float, end: float) -> np.ndarray:
    """Share of each of `count` equal intervals of 0..1 that lies between `start` and `end`."""
    edges = np.arange(count + 1) / count
    inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0, None)
    return (inside * count).astype(np.float32)
