"""The pictures: what was kept, which patches match, why another tile won, regions, clusters, pairs.

One PIL picture with a caption for each kind of attribution (`attribution`, `links`, `clusters`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.explain.attribution import Attribution, as_picture, attribute, need_dustbin
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
    "Feature norm: length of each patch's features after the last block and before the final LayerNorm, also scaled "
    "for each image by itself."
)
EVIDENCE_NOTE = (
    "Each map is scaled by itself, from the 2nd to the 98th percentile of its patches, and blended between them."
)
_SIDE = 190  # pixels: height of a panel


def selection_figure(
    encoder: Encoder, pairs: Sequence[tuple[Any, Any]], titles: Sequence[str] = (), side: int = _SIDE
) -> Image.Image:
    """Input, feature norm and what the head kept, for both views of each pair (GenGeo, Figures 4-6).

    Args:
        encoder: a model with a SALAD head and a dustbin.
        pairs: (ground, aerial) images; give pairs of several domains to see whether the selection carries over.
        titles: a line above each pair, for example its domain.
        side: height of a panel in pixels.

    Raises:
        GenGeoError: the model has no dustbin, or an image cannot be read.
    """
    need_dustbin(encoder)
    rows = []
    for number, (ground, aerial) in enumerate(pairs):
        both = attribute(encoder, ground, "ground"), attribute(encoder, aerial, "aerial")
        rows.append(Row([Panel(x.image, x.view) for x in both], side, titles[number] if number < len(titles) else ""))
        rows.append(Row([_map_panel(x, x.norms, "feature norm", "{:.1f} to {:.1f}") for x in both], side))
        rows.append(Row([_kept_panel(x) for x in both], side))
    return sheet(rows, "What the head kept", [f"Kept share: {SCALE_NOTE}", NORM_NOTE], Scale())


def match_figure(match: Match, count: int = 5, side: int = 250) -> Image.Image:
    """Which patches of a photo match which patches of a tile, as two heatmaps linked by lines.

    Args:
        match: from `explain_match`.
        count: links that are drawn, at most; those that add less than a twentieth of the first are left out.
        side: height of the photo in pixels; the tile is drawn larger.
    """
    ground, aerial = (
        Panel(overlay(attribution.image, stretch(attribution.on_grid(evidence))), words, small=_adds(evidence, rest))
        for attribution, evidence, rest, words in (
            (match.ground, match.ground_evidence, match.ground_rest, f"ground: adds to the score of {match.score:.3f}"),
            (match.aerial, match.aerial_evidence, match.aerial_rest, "aerial: the same"),
        )
    )
    lower = round(1.5 * side)
    row, lines = Row([ground], side), []
    found = match.strongest(count)
    for number, (patch, other, added, cluster) in enumerate(link for link in found if link[2] > 0.05 * found[0][2]):
        colour = SERIES[number % len(SERIES)]
        ground.marks.append((*_centre(match.ground, patch), str(number + 1), colour))
        aerial.marks.append((*_centre(match.aerial, other), str(number + 1), colour))
        row.links.append(((0, number), (1, 1, number), colour))
        lines.append((f"{number + 1}  adds {added:+.3f}, mostly through cluster {cluster}", colour))
    width = round(match.ground.image.width * side / match.ground.image.height)
    beside = max(290, (width - round(lower * match.aerial.image.width / match.aerial.image.height)) // 2 - 14)
    below = Row([Panel(legend(lines, beside, lower)), aerial], lower)
    chart = Row([_agreement(match, max(width, 560), 150)], 150)
    notes = [
        "An exact account: the score is the sum over all pairs of patches, plus what the global tokens add. Lines: the "
        "pairs that add most, each with the cluster through which its two patches meet most.",
        EVIDENCE_NOTE,
    ]
    scale = Scale("adds least to the score", "adds most")
    return sheet([row, below, chart], "Which patches match", notes, scale)


def preference_figure(
    preference: Preference, names: tuple[str, str] = ("the chosen tile", "the true tile"), side: int = 250
) -> Image.Image:
    """Why one tile won over another: the photo's patches by the tile that they support, and both tiles.

    Args:
        preference: from `explain_preference`.
        names: of the chosen and of the other tile.
        side: height of the photo in pixels.
    """
    chosen, other = preference.chosen, preference.other
    photo = chosen.ground
    difference = preference.ground_difference
    first = Panel(
        overlay(photo.image, stretch_signed(photo.on_grid(difference)), signed=True),
        f"photo: orange favours {names[0]}, blue {names[1]}",
        small=f"patches add {difference.sum():+.3f} to the gap of {preference.gap:+.3f}, "
        f"the global token {preference.rest_difference:+.3f}",
    )
    tiles = []
    for match, name, colour in ((chosen, names[0], SERIES[0]), (other, names[1], SERIES[1])):  # the map's two ends
        evidence = overlay(match.aerial.image, stretch(match.aerial.on_grid(match.aerial_evidence)))
        tiles += [
            Panel(match.aerial.image, name, frame=colour, small=f"score {match.score:.3f}"),
            Panel(evidence, "what favours it", small=_adds(match.aerial_evidence, match.aerial_rest)),
        ]
    gain = chosen.cluster_agreement - other.cluster_agreement
    order = np.argsort(-np.abs(gain))[:4]
    words = ", ".join(f"cluster {j} {gain[j]:+.2f}" for j in order)
    notes = [
        f"Clusters in which the photo agrees more with {names[0]} (+) or with {names[1]} (-), as a difference of "
        f"cosines before the projection: {words}.",
        "The difference is exact: patches and global token add up to the gap of the two scores. White patches of the "
        "photo support both alike; the colours end at the 98th percentile of the differences' sizes. The tiles' maps "
        "run from violet (adds least) to yellow (adds most), each scaled by itself.",
    ]
    higher = "higher" if preference.gap >= 0 else "lower"
    title = f"Why {names[0]} scores {higher} by {abs(preference.gap):.3f}"
    scale = Scale(f"favours {names[1]}", f"favours {names[0]}", signed=True)
    return sheet([Row([first], side), Row(tiles, side)], title, notes, scale)


def regions_figure(
    ground: Attribution, ground_box: Box, aerial: Attribution, aerial_box: Box, side: int = 250
) -> Image.Image:
    """Mean cluster assignment of a region in each view, and how alike they are (GenGeo, Figure 7).

    Args:
        ground, aerial: attributions of the two images.
        ground_box, aerial_box: left, top, right, bottom in shares of width and height.
        side: height of the images in pixels.
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
    beaten = float(np.mean(elsewhere < similarity))
    notes = [
        f"Cosine of the two histograms: {similarity:.3f}. Held against the same photo region and every box of that "
        f"size in the tile: {beaten:.0%} of them are less alike (their mean is {elsewhere.mean():.3f}).",
        "Share of the region's mass in each cluster; the dustbin is left out and the rest scaled to sum 1.",
    ]
    heading = Panel(chart, "mean assignment to the clusters")
    return sheet([Row(images, side), Row([heading], 220)], "Clusters of two regions", notes)


def clusters_figure(
    ground: Sequence[Sequence[Patch]],
    aerial: Sequence[Sequence[Patch]],
    plans: tuple[np.ndarray, np.ndarray],
    most: int = 16,
    side: int = 62,
) -> Image.Image:
    """What each cluster collects across a data set: its top patches in both views, and where in the image they lie.

    Args:
        ground, aerial: patches of each cluster, from `top_patches`.
        plans: the mean plan of each view, (m, rows, columns), from `top_patches`.
        most: clusters that are shown, those with most mass in both views first.
        side: height of a patch in pixels.
    """
    order = np.argsort(-sum(plan.mean(axis=(1, 2)) for plan in plans))[:most]
    rows: list[Row] = []
    for cluster in order:
        panels: list[Panel] = []
        for patches, plan in zip((ground[cluster], aerial[cluster]), plans, strict=True):
            view = "" if rows else "aerial" if panels else "ground"  # once, above the first row
            panels.append(Panel(heat(stretch(plan[cluster]), 12), view))
            panels += [Panel(patch.picture) for patch in patches]
        shares = [np.mean([patch.share for patch in patches]) for patches in (ground[cluster], aerial[cluster])]
        title = (
            f"cluster {cluster}: takes {shares[0]:.0%} of these ground patches, {shares[1]:.0%} of these aerial ones"
        )
        rows.append(Row(panels, side, title))
    notes = [
        "Ground on the left, aerial on the right. Coloured: where in the image the cluster takes its mass, mean over "
        "all images. Then the patches that it takes most of, at most one an image, with half a patch around them.",
        "A cluster that means the same from the street and from above shows the same things on both sides. A cluster "
        "whose coloured map has one bright spot follows a place in the image rather than what the image shows there.",
    ]
    return sheet(rows, "What the clusters collect", notes, Scale("takes least", "takes most, for each map by itself"))


def cluster_map_figure(attribution: Attribution, most: int = 8, side: int = 150) -> Image.Image:
    """One image, and where each of its largest clusters takes its mass from.

    Args:
        attribution: of the image.
        most: clusters that are shown, those with the largest single share first.
        side: height of a panel in pixels.
    """
    order = np.argsort(-attribution.plan.max(axis=1))[:most]
    maps = [
        Panel(
            overlay(attribution.image, stretch(attribution.on_grid(attribution.plan[j]))),
            f"cluster {j}",
            small=f"at most {attribution.plan[j].max():.0%} of a patch",
        )
        for j in order
    ]
    wide = attribution.image.width / attribution.image.height
    columns = max(1, round(1100 / (side * wide)))
    columns = -(-len(maps) // -(-len(maps) // columns))  # as many in each row
    rows = [Row([Panel(attribution.image, f"{attribution.view} image")], side)]
    rows += [Row(maps[start : start + columns], side) for start in range(0, len(maps), columns)]
    return sheet(rows, "Where each cluster collects mass", [EVIDENCE_NOTE], Scale("takes least", "takes most"))


def pairs_figure(pairs: Sequence[tuple[Any, Any]], titles: Sequence[str] = (), side: int = 150) -> Image.Image:
    """Pairs of a data set side by side, ground and aerial (GenGeo, Figure 3).

    Args:
        pairs: (ground, aerial) images.
        titles: a line above each pair.
        side: height of the images in pixels.
    """
    opened = [(as_picture(ground), as_picture(aerial)) for ground, aerial in pairs]
    rows = [
        Row([Panel(ground), Panel(aerial)], side, titles[number] if number < len(titles) else "")
        for number, (ground, aerial) in enumerate(opened)
    ]
    return sheet(rows, "Pairs: ground and aerial", [])


def _map_panel(attribution: Attribution, values: np.ndarray, name: str, words: str) -> Panel:
    """A map of patches over the image, with its range in numbers."""
    picture = overlay(attribution.image, stretch(attribution.on_grid(values)))
    return Panel(picture, name, small=words.format(float(values.min()), float(values.max())))


def _kept_panel(attribution: Attribution) -> Panel:
    words = f"{{:.0%}} to {{:.0%}}, mean {attribution.kept.mean():.0%}"
    return _map_panel(attribution, attribution.kept, "kept", words)


def _adds(evidence: np.ndarray, rest: float) -> str:
    return f"patches {evidence.sum():+.3f}, global token {rest:+.3f}"


def _agreement(match: Match, width: int, height: int) -> Panel:
    """Bars of the cosine in each cluster."""
    chart = bars([np.clip(match.cluster_agreement, 0, None)], [], width, height, percent=False)
    return Panel(chart, "cosine of the two views' vectors in each cluster, before the projection")


def _centre(attribution: Attribution, patch: int) -> tuple[float, float]:
    """Centre of a patch in shares of width and height."""
    row, column = divmod(patch, attribution.grid[1])
    return (column + 0.5) / attribution.grid[1], (row + 0.5) / attribution.grid[0]
