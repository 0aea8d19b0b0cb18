"""Adaptation of an index: fitted on the imagery before a build, stored in the manifest, and applied to photos."""

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
    """Adapt an encoder to imagery before indexing it.

    Args:
        encoder: Encoder without an adaptation; truncate it before.
        source: Imagery, of which up to 2,000 evenly spaced tiles are read and encoded.
        centering: Subtract means; False only adds the mirror image.
        photos: Descriptors of photos of the area by `AdaptedEncoder(encoder, Adaptation(flip=flip))`, with their
            positions. None uses the mean of the tiles for both views.
        flip: Also use the descriptor of the mirror image.

    Raises:
        GenGeoError: Too few tiles can be read, or the photos are from too few locations.
    """
    plain = AdaptedEncoder(encoder, Adaptation(flip=flip))
    if not centering:
        return plain if flip else encoder
    blocks = list(plain.encode_stream(_readable(source), "aerial"))
    tiles = np.concatenate(blocks) if blocks else np.empty((0, plain.dim), np.float32)
    descriptors, positions = photos if photos is not None else (None, None)
    return AdaptedEncoder(encoder, fit_adaptation(tiles, descriptors, flip=flip, photo_positions=positions))


def _readable(source: TileSource) -> Iterator[Any]:
    """Yield the pixels of a sample of the tiles, without those that cannot be read or hold no data."""
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
    """Return a manifest with the adaptation of its encoder."""
    if not isinstance(encoder, AdaptedEncoder):
        return manifest
    done = encoder.adaptation
    means = None
    if done.means:
        ground, aerial = (np.asarray(done.means[view]).tolist() for view in ("ground", "aerial"))
        means = Means(ground, aerial, images=done.images)
    return replace(manifest, model=replace(manifest.model, centering=done.centering, flip=done.flip), means=means)


def adaptation_of(manifest: Manifest) -> Adaptation:
    """Adaptation of an index; without a name if its descriptors are not adapted."""
    model, means = manifest.model, manifest.means
    if model.centering is None or means is None:
        return Adaptation(flip=model.flip)
    stored = {"ground": means.ground, "aerial": means.aerial}
    arrays = {view: np.asarray(mean, dtype=np.float32) for view, mean in stored.items()}
    return Adaptation(model.flip, arrays, model.centering, means.images)


def encoder_options(manifest: Manifest) -> dict[str, Any]:
    """Options with which an encoder must be loaded to search an index: `truncate_dim` and `input_scale`.

    Args:
        manifest: Manifest of the index.

    Returns:
        Arguments of `Encoder.from_pretrained`; only those that are not the defaults.
    """
    width, scale = manifest.model.truncate_dim, manifest.preprocessing.get("input_scale", 1.0)
    return ({"truncate_dim": int(width)} if width else {}) | ({"input_scale": scale} if scale != 1 else {})


def adapted_for(encoder: Encoder, manifest: Manifest) -> Encoder:
    """Adapt an encoder to an index, to encode photos; returns `encoder` if the index is not adapted.

    Raises:
        GenGeoError: The width of the means is not that of the encoder's descriptors.
    """
    adaptation = adaptation_of(manifest)
    return AdaptedEncoder(encoder, adaptation) if adaptation.name else encoder
