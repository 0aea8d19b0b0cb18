"""Pictures that tell why: what the head kept, which parts of photo and tile agree, why another tile scored higher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from PIL import Image

    from gengeo_hf.explain import Attribution


@dataclass(frozen=True)
class Seen:
    """One image as the head sees it.

    Args:
        picture: the image with its heatmap; None where there is none.
        attribution: for `agreement`; None where there is none.
        note: why there is none.
    """

    picture: Image.Image | None = None
    attribution: Attribution | None = None
    note: str = ""


def see(encoder: Any, image: Image.Image, view: Any) -> Seen:
    """Run the model once more and lay what it kept over the image."""
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.explain import attribute, overlay, stretch
    from gengeo_hf.explain.attribution import need_dustbin

    if not isinstance(encoder, Encoder):
        return Seen(note="There is no heatmap: the encoder is not a GenGeo model.")
    try:
        need_dustbin(encoder)
        seen = attribute(encoder, image, view)
    except GenGeoError as error:
        return Seen(note=f"There is no heatmap: {error}.")
    return Seen(overlay(seen.image, stretch(seen.on_grid(seen.kept))), seen)


def agreement(photo: Seen, tile: Seen) -> Image.Image | None:
    """Which patches of the photo match which patches of the tile; None where the model cannot be looked into."""
    from gengeo_hf.explain import account, match_figure

    if photo.attribution is None or tile.attribution is None:
        return None
    return match_figure(account(photo.attribution, tile.attribution))


def contrast(photo: Seen, best: Seen, tile: Seen, names: tuple[str, str]) -> Image.Image | None:
    """Why the best tile scores higher than another one; None where there is nothing to compare.

    Args:
        photo: what was asked about.
        best, tile: the two tiles.
        names: what the picture calls them.
    """
    from gengeo_hf.explain import account, preference_figure
    from gengeo_hf.explain import contrast as compared

    if photo.attribution is None or best.attribution is None or tile.attribution is None:
        return None
    try:
        found = compared(account(photo.attribution, best.attribution), account(photo.attribution, tile.attribution))
    except GenGeoError:  # the same picture twice, as where two tiles show nothing but sea
        return None
    return preference_figure(found, names)


def clusters(seen: Seen) -> Image.Image | None:
    """Where each cluster collects mass in an image; None where the model cannot be looked into."""
    from gengeo_hf.explain import cluster_map_figure

    return None if seen.attribution is None else cluster_map_figure(seen.attribution)
