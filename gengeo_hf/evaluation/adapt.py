"""Adapts an encoder to the evaluated data: centring and mirror images, see `encoding.adaptation`."""

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.adaptation import Adaptation, AdaptedEncoder, fit_adaptation, sample_rows
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.encoding.engine import encode_images

CENTERINGS = ("gallery", "queries")


def adapt_encoder(encoder: Encoder, data: CrossViewDataset, centering: str | None, flip: bool) -> Encoder:
    """Adapt an encoder to the images of a data set.

    Args:
        encoder: Encoder without an adaptation.
        data: Data set that will be evaluated.
        centering: "gallery" subtracts the mean descriptor of the tiles from both views; "queries" subtracts the mean of
            the queries from ground descriptors and the mean of the tiles from aerial ones. None does not centre.
        flip: Also use the descriptor of the mirror image.

    Returns:
        The adapted encoder; `encoder` itself without centring and flip.

    Raises:
        GenGeoError: `centering` has another value, there are too few images, or the encoder is adapted already.
    """
    if centering is not None and centering not in CENTERINGS:
        raise GenGeoError(f"centering is {centering!r}; expected {' or '.join(CENTERINGS)}")
    if centering is None and not flip:
        return encoder
    if isinstance(encoder, AdaptedEncoder):
        raise GenGeoError("the encoder is adapted already: leave centering and flip out")
    plain = AdaptedEncoder(encoder, Adaptation(flip=flip))
    if centering is None:
        return plain
    tiles, photos = AerialImages(data), GroundImages(data)
    aerial = encode_images(plain, tiles, "aerial", sample_rows(len(tiles)))
    if centering == "gallery":
        return AdaptedEncoder(encoder, fit_adaptation(aerial, flip=flip))
    rows = sample_rows(len(photos))
    positions = np.array([data.queries["lat"][:], data.queries["lon"][:]], dtype=float).T[rows]
    ground = encode_images(plain, photos, "ground", rows)
    return AdaptedEncoder(encoder, fit_adaptation(aerial, ground, flip=flip, photo_positions=positions))
