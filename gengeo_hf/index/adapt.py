"""Adapted descriptors in an index: fitted from the imagery before a build, kept in the manifest, read for photos."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.adaptation import Adaptation, AdaptedEncoder, fit_adaptation, sample_rows
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.imagery.tiles import ImageryStoppedError, TileSource, read_tile
from gengeo_hf.index.manifest import Manifest, Means

Photos = tuple[np.ndarray, np.ndarray]  # descriptors (N, dim) and latitude, longitude (N, 2), NaN where unknown


def fit_to_imagery(
    encoder: Encoder, source: TileSource, *, centering: bool = True, photos: Photos | None = None, flip: bool = False
) -> Encoder:
    """An encoder that is adapted to the imagery that it will index.

    Args:
        encoder: Without an adaptation, truncated if it shall be.
        source: The imagery; up to 2,000 of its tiles, evenly spread, are read and encoded.
        centering: Subtract means; False keeps them and adds the mirror image alone.
        photos: Descriptors of photos of the area by `AdaptedEncoder(encoder, Adaptation(flip=flip))`, with their
            positions. None takes the mean of the tiles for both views.
        flip: Keep the descriptor of the mirror image too.

    Raises:
        GenGeoError: Too few tiles can be read, or too few photos of different places were given.
    """
    plain = AdaptedEncoder(encoder, Adaptation(flip=flip))
    if not centering:
        return plain if flip else encoder
    blocks = list(plain.encode_stream(_readable(source), "aerial"))
    tiles = np.concatenate(blocks) if blocks else np.empty((0, plain.dim), np.float32)
    descriptors, positions = photos if photos is not None else (None, None)
    return AdaptedEncoder(encoder, fit_adaptation(tiles, descriptors, flip=flip, photo_positions=positions))


def _readable(source: TileSource) -> Iterator[Any]:
    """Pixels of a sample of the tiles; those that cannot be read or hold no data are left out."""
    for row in sample_rows(source.table.num_rows):
        try:
            image = read_tile(source, int(row))
        except ImageryStoppedError:
            raise
        except GenGeoError:
            continue  # the build reports it
        if image is not None:
            yield image


def with_adaptation(manifest: Manifest, encoder: Any) -> Manifest:
    """A manifest that says what its encoder does to descriptors."""
    if not isinstance(encoder, AdaptedEncoder):
        return manifest
    done = encoder.adaptation
    means = None
    if done.means:
        ground, aerial = (np.asarray(done.means[view]).tolist() for view in ("ground", "aerial"))
        means = Means(ground, aerial, images=done.images)
    return replace(manifest, model=replace(manifest.model, centering=done.centering, flip=done.flip), means=means)


def adaptation_of(manifest: Manifest) -> Adaptation:
    """What was done to the descriptors of an index; an adaptation without a name where nothing was."""
    model, means = manifest.model, manifest.means
    if model.centering is None or means is None:
        return Adaptation(flip=model.flip)
    stored = {"ground": means.ground, "aerial": means.aerial}
    arrays = {view: np.asarray(mean, dtype=np.float32) for view, mean in stored.items()}
    return Adaptation(model.flip, arrays, model.centering, means.images)


def encoder_options(manifest: Manifest) -> dict[str, Any]:
    """What an encoder must be loaded with to ask an index: width and input scale, where they are not the model's own.

    Args:
        manifest: Of the index.

    Returns:
        Arguments of `Encoder.from_pretrained`.
    """
    width, scale = manifest.model.truncate_dim, manifest.preprocessing.get("input_scale", 1.0)
    return ({"truncate_dim": int(width)} if width else {}) | ({"input_scale": scale} if scale != 1 else {})


def adapted_for(encoder: Encoder, manifest: Manifest) -> Encoder:
    """The encoder that makes descriptors of photos for an index; the same one where nothing is to be done.

    Raises:
        GenGeoError: The means are of another width than the encoder's descriptors.
    """
    done = adaptation_of(manifest)
    return AdaptedEncoder(encoder, done) if done.name else encoder
