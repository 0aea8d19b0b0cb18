"""Figures of attributions: kept mass, matching patches, comparison of two tiles, regions, clusters, pairs.

Each function returns one PIL picture with a caption; `attribution`, `links` and `clusters` compute what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain.attribution import Attribution, as_picture, attribute, require_dustbin
from gengeo_hf.explain.clusters import Box, Patch, cluster_histogram, histogram_similarity, similarity_elsewhere
from gengeo_hf.explain.draw import (
    SCALE_NOTE,
    SERIES,
    Panel,
    Row,
    Scale,
    bars,
    heat,
    legend,
    overlay,
    sheet,
    stretch,
    stretch_signed,
)
from gengeo_hf.explain.links import Match, Preference

NORM_NOTE = (
    "Feature norm: length of each patch's features after the last block and before the final LayerNorm; each image is "
    "scaled by itself."
)
EVIDENCE_NOTE = "Each map is scaled by itself, from the 2nd to the 98th percentile of its patches, with blended edges."
_SIDE = 190  # height of a panel in pixels


def selection_figure(
    encoder: Encoder, pairs: Sequence[tuple[Any, Any]], titles: Sequence[str] = (), side: int = _SIDE
) -> Image.Image:
    """Draw the image, the feature norms and the kept mass of both views of each pair (GenGeo, Figures 4-6).

    Args:
        encoder: An encoder of a model with a SALAD head and a dustbin.
        pairs: (ground, aerial) images of each pair. Pairs of several domains show whether the selection generalises.
        titles: Text above each pair, for example its domain; pairs beyond the last title have none.
        side: Height of a panel in pixels.

    Raises:
        GenGeoError: The model has no dustbin, or an image cannot be read.
    """
    require_dustbin(encoder)
    rows = []
    for number, (ground, aerial) in enumerate(pairs):
        both = attribute(encoder, ground, "ground"), attribute(encoder, aerial, "aerial")
        rows.append(Row([Panel(x.image, x.view) for x in both], side, titles[number] if number < len(titles) else ""))
        rows.append(Row([_map_panel(x, x.norms, "feature norm", "{:.1f} to {:.1f}") for x in both], side))
        rows.append(Row([_kept_panel(x) for x in both], side))
    return sheet(rows, "What the head kept", [f"Kept share: {SCALE_NOTE}", NORM_NOTE], Scale())


def match_figure(match: Match, count: int = 5, side: int = 250) -> Image.Image:
    """Draw which patches of a photo match which patches of a tile, as two heat maps with lines between them.

    Args:
        match: Decomposition from `explain_match`.
        count: Largest number of lines; pairs that add less than a twentieth of the strongest pair have none.
        side: Height of the photo in pixels; the tile is 1.5 times as high.
    """
    ground, aerial = (
        Panel(
            overlay(attribution.image, stretch(attribution.on_grid(evidence))),
            heading,
            subheading=_format_sums(evidence, rest),
        )
        for attribution, evidence, rest, heading in (
            (match.ground, match.ground_evidence, match.ground_rest, f"ground: adds to the score of {match.score:.3f}"),
            (match.aerial, match.aerial_evidence, match.aerial_rest, "aerial: the same"),
        )
    )
    lower = round(1.5 * side)
    row, lines = Row([ground], side), []
    found = match.strongest(count)
    for number, (patch, other, added, cluster) in enumerate(link for link in found if link[2] > 0.05 * found[0][2]):
        colour = SERIES[number % len(SERIES)]
        ground.markers.append((*_centre(match.ground, patch), str(number + 1), colour))
        aerial.markers.append((*_centre(match.aerial, other), str(number + 1), colour))
        row.links.append(((0, number), (1, 1, number), colour))
        lines.append((f"{number + 1}  adds {added:+.3f}, mostly from cluster {cluster}", colour))
    width = round(match.ground.image.width * side / match.ground.image.height)
    beside = max(290, (width - round(lower * match.aerial.image.width / match.aerial.image.height)) // 2 - 14)
    below = Row([Panel(legend(lines, beside, lower)), aerial], lower)
    chart = Row([_cluster_chart(match, max(width, 560), 150)], 150)
    notes = [
        "The decomposition is exact: the score is the sum over all pairs of patches, plus what the global tokens add. "
        "Lines: the pairs that add most, each with the cluster that contributes most of it.",
        EVIDENCE_NOTE,
    ]
    scale = Scale("adds least to the score", "adds most")
    return sheet([row, below, chart], "Which patches match", notes, scale)


def preference_figure(
    preference: Preference, names: tuple[str, str] = ("the chosen tile", "the true tile"), side: int = 250
) -> Image.Image:
    """Draw why one tile scores higher than another: which patches of the photo favour which tile, and both tiles.

    Args:
        preference: Comparison from `explain_preference`.
        names: Names of the chosen and of the other tile.
        side: Height of the photo in pixels.
    """
    chosen, other = preference.chosen, preference.other
    photo = chosen.ground
    difference = preference.ground_difference
    first = Panel(
        overlay(photo.image, stretch_signed(photo.on_grid(difference)), signed=True),
        f"photo: orange favours {names[0]}, blue {names[1]}",
        subheading=f"patches add {difference.sum():+.3f} to the gap of {preference.gap:+.3f}, "
        f"the global token {preference.rest_difference:+.3f}",
    )
    tiles = []
    for match, name, colour in ((chosen, names[0], SERIES[0]), (other, names[1], SERIES[1])):  # ends of the map
        evidence = overlay(match.aerial.image, stretch(match.aerial.on_grid(match.aerial_evidence)))
        tiles += [
            Panel(match.aerial.image, name, frame=colour, subheading=f"score {match.score:.3f}"),
            Panel(evidence, "what favours it", subheading=_format_sums(match.aerial_evidence, match.aerial_rest)),
        ]
    gain = chosen.cluster_agreement - other.cluster_agreement
    order = np.argsort(-np.abs(gain))[:4]
    clusters = ", ".join(f"cluster {j} {gain[j]:+.2f}" for j in order)
    notes = [
        f"Clusters in which the photo is more similar to {names[0]} (+) or to {names[1]} (-), as a difference of "
        f"cosines before the projection: {clusters}.",
        "The difference is exact: patches and global token sum to the gap of the two scores. White patches of the "
        "photo favour neither tile; the colours end at the 98th percentile of the absolute differences. The maps of "
        "the tiles run from violet (adds least) to yellow (adds most), each scaled by itself.",
    ]
    higher = "higher" if preference.gap >= 0 else "lower"
    title = f"Why {names[0]} scores {higher} by {abs(preference.gap):.3f}"
    scale = Scale(f"favours {names[1]}", f"favours {names[0]}", signed=True)
    return sheet([Row([first], side), Row(tiles, side)], title, notes, scale)


def regions_figure(
    ground: Attribution, ground_box: Box, aerial: Attribution, aerial_box: Box, side: int = 250
) -> Image.Image:
    """Draw the mean cluster assignment of a region in each view, with their similarity (GenGeo, Figure 7).

    Args:
        ground: Attribution of the ground image.
        ground_box: Region of the ground image: left, top, right and bottom in shares of width and height.
        aerial: Attribution of the aerial image.
        aerial_box: Region of the aerial image, in the same form.
        side: Height of the images in pixels.
    """
    first, second = cluster_histogram(ground, ground_box), cluster_histogram(aerial, aerial_box)
    similarity = histogram_similarity(first, second)
    elsewhere = similarity_elsewhere(first, aerial, aerial_box)
    images = [
        Panel(ground.image, "ground", boxes=[(*ground_box, SERIES[0])]),
        Panel(aerial.image, "aerial", boxes=[(*aerial_box, SERIES[1])]),
    ]
    width = max(560, sum(round(p.picture.width * side / p.picture.height) for p in images) + 14)
    chart = bars([first, second], ["region of the photo", "region of the tile"], width, 220)
    less_similar = float(np.mean(elsewhere < similarity))
    notes = [
        f"Cosine similarity of the two histograms: {similarity:.3f}. Of all boxes of that size in the tile, "
        f"{less_similar:.0%} are less similar to the region of the photo (mean similarity {elsewhere.mean():.3f}).",
        "Share of the region's mass in each cluster, without the dustbin, scaled to sum 1.",
    ]
    panel = Panel(chart, "mean assignment to the clusters")
    return sheet([Row(images, side), Row([panel], 220)], "Clusters of two regions", notes)


def clusters_figure(
    ground: Sequence[Sequence[Patch]],
    aerial: Sequence[Sequence[Patch]],
    plans: tuple[np.ndarray, np.ndarray],
    most: int = 16,
    side: int = 62,
) -> Image.Image:
    """Draw the top patches of each cluster across a data set in both views, and where in the image its mass lies.

    Args:
        ground: Ground patches of each cluster, from `top_patches`.
        aerial: Aerial patches of each cluster, from `top_patches`.
        plans: Mean plan of each view, (m, rows, columns), from `top_patches`.
        most: Number of clusters that are shown, those with the largest mass in both views first.
        side: Height of a patch in pixels.
    """
    order = np.argsort(-sum(plan.mean(axis=(1, 2)) for plan in plans))[:most]
    rows: list[Row] = []
    for cluster in order:
        panels: list[Panel] = []
        for patches, plan in zip((ground[cluster], aerial[cluster]), plans, strict=True):
            view = "" if rows else "aerial" if panels else "ground"  # only above the first row
            panels.append(Panel(heat(stretch(plan[cluster]), 12), view))
            panels += [Panel(patch.picture) for patch in patches]
        shares = [np.mean([patch.share for patch in patches]) for patches in (ground[cluster], aerial[cluster])]
        title = (
            f"cluster {cluster}: takes {shares[0]:.0%} of these ground patches, {shares[1]:.0%} of these aerial patches"
        )
        rows.append(Row(panels, side, title))
    notes = [
        "Ground on the left, aerial on the right. Coloured: where in the image the cluster takes its mass, mean over "
        "all images. Then the patches with the largest shares, at most one per image, with half a patch around them.",
        "A cluster that stands for the same content in both views shows the same objects on both sides. A cluster "
        "whose coloured map has one bright spot depends more on the position in the image than on its content.",
    ]
    return sheet(rows, "Top patches of the clusters", notes, Scale("least mass", "most mass, scaled for each map"))


def cluster_map_figure(attribution: Attribution, most: int = 8, side: int = 150) -> Image.Image:
    """Draw where each of the main clusters of an image takes its mass from.

    Args:
        attribution: Attribution of the image.
        most: Number of clusters that are shown, those with the largest share of a patch first.
        side: Height of a panel in pixels.
    """
    order = np.argsort(-attribution.plan.max(axis=1))[:most]
    maps = [
        Panel(
            overlay(attribution.image, stretch(attribution.on_grid(attribution.plan[j]))),
            f"cluster {j}",
            subheading=f"at most {attribution.plan[j].max():.0%} of a patch",
        )
        for j in order
    ]
    wide = attribution.image.width / attribution.image.height
    columns = max(1, round(1100 / (side * wide)))
    columns = -(-len(maps) // -(-len(maps) // columns))  # rows of equal length
    rows = [Row([Panel(attribution.image, f"{attribution.view} image")], side)]
    rows += [Row(maps[start : start + columns], side) for start in range(0, len(maps), columns)]
    return sheet(rows, "Where each cluster takes its mass from", [EVIDENCE_NOTE], Scale("least mass", "most mass"))


def pairs_figure(pairs: Sequence[tuple[Any, Any]], titles: Sequence[str] = (), side: int = 150) -> Image.Image:
    """Draw pairs of a data set, ground and aerial image side by side (GenGeo, Figure 3).

    Args:
        pairs: (ground, aerial) images of each pair.
        titles: Text above each pair; pairs beyond the last title have none.
        side: Height of the images in pixels.

    Raises:
        GenGeoError: An image cannot be read.
    """
    pictures = [(as_picture(ground), as_picture(aerial)) for ground, aerial in pairs]
    rows = [
        Row([Panel(ground), Panel(aerial)], side, titles[number] if number < len(titles) else "")
        for number, (ground, aerial) in enumerate(pictures)
    ]
    return sheet(rows, "Pairs: ground and aerial", [])


def _map_panel(attribution: Attribution, values: np.ndarray, name: str, template: str) -> Panel:
    """A map of patches over the image, with its smallest and largest value in the subheading."""
    picture = overlay(attribution.image, stretch(attribution.on_grid(values)))
    return Panel(picture, name, subheading=template.format(float(values.min()), float(values.max())))


def _kept_panel(attribution: Attribution) -> Panel:
    template = f"{{:.0%}} to {{:.0%}}, mean {attribution.kept.mean():.0%}"
    return _map_panel(attribution, attribution.kept, "kept mass", template)


def _format_sums(evidence: np.ndarray, rest: float) -> str:
    return f"patches {evidence.sum():+.3f}, global token {rest:+.3f}"


def _cluster_chart(match: Match, width: int, height: int) -> Panel:
    """Bar chart of the cosine similarity in each cluster."""
    chart = bars([np.clip(match.cluster_agreement, 0, None)], [], width, height, percent=False)
    return Panel(chart, "cosine similarity of the two views' vectors of each cluster, before the projection")


def _centre(attribution: Attribution, patch: int) -> tuple[float, float]:
    """Position (x, y) of the centre of a patch, in shares of width and height."""
    row, column = divmod(patch, attribution.grid[1])
    return (column + 0.5) / attribution.grid[1], (row + 0.5) / attribution.grid[0]
