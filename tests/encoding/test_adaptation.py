"""Centring and mirror images, compared with slow formulas; invalid arguments."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.adaptation import Adaptation, AdaptedEncoder, fit_adaptation
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from tests.conftest import TINY

DIM = 6


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def vectors(count, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, DIM)) + shift


def mirrored(vectors):
    """Descriptors of vectors whose mirror image is their reverse, as of an encoder with `Adaptation(flip=True)`."""
    return Adaptation(flip=True).apply([unit(vectors), unit(vectors)[:, ::-1]], "ground")


@pytest.mark.parametrize("flip", [False, True])
def test_adapted_similarity_is_the_mean_of_the_centred_similarities(flip):
    tiles, photos = vectors(40, 1, 0.5), vectors(35, 2, -0.5)
    encode = mirrored if flip else unit
    fitted = fit_adaptation(encode(tiles), encode(photos), flip=flip)
    query, tile = unit(vectors(3, 3)), unit(vectors(4, 4))
    sides = [(query, tile), (query[:, ::-1], tile[:, ::-1])][: 1 + flip]
    means = [unit(photos).mean(0), unit(tiles).mean(0)]
    expected = np.zeros((3, 4))
    for turned, (q, t) in enumerate(sides):
        ground, aerial = (mean[::-1] if turned else mean for mean in means)
        expected += unit(q - ground) @ unit(t - aerial).T / len(sides)
    ground = fitted.apply([q for q, _ in sides], "ground")
    aerial = fitted.apply([t for _, t in sides], "aerial")
    assert ground.dtype == np.float32 and ground.shape == (3, DIM * (1 + flip))
    assert np.allclose(ground @ aerial.T, expected, atol=1e-6)
    assert np.allclose(np.linalg.norm(ground, axis=1), 1, atol=1e-6)


def test_fit_adaptation_of_the_gallery_is_used_for_both_views():
    tiles = unit(vectors(40, 1, 0.5))
    fitted = fit_adaptation(tiles)
    assert fitted.name == "centering=gallery" and fitted.images == 40
    assert np.allclose(fitted.means["ground"], tiles.mean(0), atol=1e-6)


def test_fit_adaptation_of_too_few_images_or_one_street_raises_an_error():
    tiles, photos = unit(vectors(40, 1)), unit(vectors(40, 2))
    with pytest.raises(GenGeoError, match="at least 30 photos from different locations, found 10"):
        fit_adaptation(tiles, photos[:10])
    with pytest.raises(GenGeoError, match="at least 30 tiles"):
        fit_adaptation(tiles[:29])
    street = np.stack([47 + np.arange(40) * 1e-5, np.full(40, 8.0)], axis=1)  # 40 photos on 45 metres
    with pytest.raises(GenGeoError, match="from 2 locations 25 m apart"):
        fit_adaptation(tiles, photos, photo_positions=street)
    town = np.stack([47 + np.arange(40) * 1e-3, np.full(40, 8.0)], axis=1)
    assert fit_adaptation(tiles, photos, photo_positions=town).images == 40
    unknown = np.full((40, 2), np.nan)
    assert fit_adaptation(tiles, photos, photo_positions=unknown).centering == "photos"


def test_fingerprint_depends_on_the_whole_adaptation():
    tiles = unit(vectors(40, 1))
    first, other = fit_adaptation(tiles), fit_adaptation(unit(vectors(40, 1) + 1e-3))
    photos = fit_adaptation(tiles, tiles)
    all_of_them = [first, other, photos, Adaptation(), Adaptation(flip=True)]
    assert len({x.fingerprint("a" * 64) for x in all_of_them}) == 5
    assert Adaptation().fingerprint("a" * 64) == "a" * 64
    assert first.fingerprint("b" * 64) not in {x.fingerprint("a" * 64) for x in all_of_them}


def test_adaptation_of_unsuitable_means_raises_an_error():
    mean = np.zeros(DIM, dtype=np.float32)
    for wrong in ({"ground": mean}, {"ground": mean, "aerial": mean[1:]}, {"ground": mean, "aerial": mean + np.nan}):
        with pytest.raises(GenGeoError, match="finite mean"):
            Adaptation(False, wrong, "photos")
    with pytest.raises(GenGeoError, match="exactly when"):
        Adaptation(centering="gallery")
    with pytest.raises(GenGeoError, match="expected 'gallery', 'photos'"):
        Adaptation(False, {"ground": mean, "aerial": mean}, "both")


def test_adapted_encoder_encodes_the_mirror_image_with_twice_the_width(tiny_model, tiny_processor):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    images = [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (56, 56, 3), dtype=np.uint8)) for i in range(30)
    ]
    mirror = AdaptedEncoder(encoder, Adaptation(flip=True))
    found = mirror.encode(images, "aerial")
    plain, turned = encoder.encode(images, "aerial"), encoder.encode([ImageOps.mirror(x) for x in images], "aerial")
    assert mirror.dim == 2 * encoder.dim == found.shape[1]
    assert np.allclose(found, np.concatenate([plain, turned], axis=1) / 2**0.5, atol=1e-5)
    adapted = AdaptedEncoder(encoder, fit_adaptation(found, flip=True))
    assert adapted.encode(images, "ground").shape == (30, 2 * encoder.dim)
    assert np.abs(adapted.encode(images, "aerial").mean(0)).max() < np.abs(found.mean(0)).max()
    assert len({x.fingerprint for x in (encoder, mirror, adapted)}) == 3
    with pytest.raises(GenGeoError, match="truncate the encoder, then adapt"):
        adapted.truncate(4)
    with pytest.raises(GenGeoError, match="another model, width or mirror"):
        AdaptedEncoder(encoder, fit_adaptation(plain[:, :8]))


def test_adapted_encoder_with_two_heads_and_the_mean_of_the_gallery_raises_an_error(tiny_config, tiny_processor):
    model = GenGeoModel(GenGeoConfig(**{**TINY, "share_aggregator": False}))
    encoder = Encoder(model, tiny_processor, device="cpu")
    tiles = unit(np.random.default_rng(0).normal(size=(30, encoder.dim)))
    with pytest.raises(GenGeoError, match="one head for each view"):
        AdaptedEncoder(encoder, fit_adaptation(tiles))
    assert AdaptedEncoder(encoder, fit_adaptation(tiles, tiles)).dim == encoder.dim
