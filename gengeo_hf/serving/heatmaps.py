"""Pictures of attributions on the page: heat maps of the photo and a tile, their matching parts, a second tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from PIL import Image

    from gengeo_hf.explain import Attribution


@dataclass(frozen=True)
class ImageAttribution:
    """Attribution of one image as the page shows it.

    Args:
        picture: The image with the heat map of the mass that the head kept; None if the model has no attribution.
        attribution: Arrays of the attribution, for `match_picture`; None if the model has no attribution.
        note: Why the model has no attribution; empty if it has one.
    """

    picture: Image.Image | None = None
    attribution: Attribution | None = None
    note: str = ""


def attribute_image(encoder: Any, image: Image.Image, view: Any) -> ImageAttribution:
    """Run the model and draw the mass that its head kept over the image.

    Args:
        encoder: The encoder; only an `Encoder` of a SALAD model with a dustbin gives a heat map.
        image: RGB image.
        view: "ground" or "aerial".
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.explain import attribute, overlay, stretch
    from gengeo_hf.explain.attribution import require_dustbin

    if not isinstance(encoder, Encoder):
        return ImageAttribution(note="There is no heat map: the encoder is not a GenGeo model.")
    try:
        require_dustbin(encoder)
        found = attribute(encoder, image, view)
    except GenGeoError as error:
        return ImageAttribution(note=f"There is no heat map: {error}.")
    return ImageAttribution(overlay(found.image, stretch(found.on_grid(found.kept))), found)


def match_picture(photo: ImageAttribution, tile: ImageAttribution) -> Image.Image | None:
    """Draw which patches of the photo match which patches of the tile; None without attributions."""
    from gengeo_hf.explain import match_attributions, match_figure

    if photo.attribution is None or tile.attribution is None:
        return None
    return match_figure(match_attributions(photo.attribution, tile.attribution))


def preference_picture(
    photo: ImageAttribution, best: ImageAttribution, tile: ImageAttribution, names: tuple[str, str]
) -> Image.Image | None:
    """Draw why the best tile scores higher than another tile.

    Args:
        photo: Attribution of the photo.
        best: Attribution of the best tile.
        tile: Attribution of the other tile.
        names: Names of the best and of the other tile in the picture.

    Returns:
        The picture; None without attributions, or if both tiles have the same descriptor.
    """
    from gengeo_hf.explain import compare_matches, match_attributions, preference_figure

    if photo.attribution is None or best.attribution is None or tile.attribution is None:
        return None
    matches = (match_attributions(photo.attribution, which) for which in (best.attribution, tile.attribution))
    try:
        found = compare_matches(*matches)
    except GenGeoError:  # the same descriptor, for example of two tiles that show only water
        return None
    return preference_figure(found, names)


def cluster_picture(image: ImageAttribution) -> Image.Image | None:
    """Draw where each cluster takes its mass from in an image; None without an attribution."""
    from gengeo_hf.explain import cluster_map_figure

    return None if image.attribution is None else cluster_map_figure(image.attribution)
