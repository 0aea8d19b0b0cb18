"""Explanations of a match: mass kept by the head, matching patches, comparison of two tiles, contents of clusters.

Each is an array, and a picture with a caption. The commands are `gengeo explain` and `gengeo figure`.
"""

from gengeo_hf.explain.attribution import Attribution, attribute, attribute_many, kept_map
from gengeo_hf.explain.clusters import (
    Patch,
    cluster_histogram,
    histogram_similarity,
    parse_box,
    similarity_elsewhere,
    top_patches,
)
from gengeo_hf.explain.draw import SCALE_NOTE, overlay, stretch, stretch_signed
from gengeo_hf.explain.figures import (
    cluster_map_figure,
    clusters_figure,
    match_figure,
    pairs_figure,
    preference_figure,
    regions_figure,
    selection_figure,
)
from gengeo_hf.explain.links import (
    Match,
    Preference,
    compare_matches,
    explain_match,
    explain_preference,
    link_direction_error,
    match_attributions,
)

__all__ = [
    "SCALE_NOTE",
    "Attribution",
    "Match",
    "Patch",
    "Preference",
    "attribute",
    "attribute_many",
    "cluster_histogram",
    "cluster_map_figure",
    "clusters_figure",
    "compare_matches",
    "explain_match",
    "explain_preference",
    "histogram_similarity",
    "kept_map",
    "link_direction_error",
    "match_attributions",
    "match_figure",
    "overlay",
    "pairs_figure",
    "parse_box",
    "preference_figure",
    "regions_figure",
    "selection_figure",
    "similarity_elsewhere",
    "stretch",
    "stretch_signed",
    "top_patches",
]
