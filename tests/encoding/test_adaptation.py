"""Centring and the mirror image: against slow formulas, and what is refused."""

import json

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.adaptation import Adaptation, fit_adaptation, load_adaptation

DIM = 6


class Vectors:
    """An encoder whose images are vectors: the mirror image of a vector is its reverse."""

    shares_head, dim, fingerprint = True, DIM, "a" * 64

    def __init__(self):
        self.adaptation = None

    def adapt(self, adaptation):
        self.adaptation = adaptation
        self.dim = adaptation.dim(DIM) if adaptation else DIM

    def encode_stream(self, images, view):
        for image in images:
            unit = image / np.linalg.norm(image)
            parts = [unit[None], unit[None, ::-1]] if self.adaptation and self.adaptation.flip else [unit[None]]
            yield self.adaptation.apply(parts, view) if self.adaptation else parts[0]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def vectors(count, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, DIM)) + shift


@pytest.mark.parametrize("flip", [False, True])
def test_adapted_similarity_is_the_mean_of_the_centred_similarities(flip):
    tiles, photos = vectors(40, 1, 0.5), vectors(35, 2, -0.5)
    fitted = fit_adaptation(Vectors(), tiles, photos, flip=flip)
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


def test_the_gallery_alone_serves_both_views_of_a_shared_head_only():
    encoder, tiles = Vectors(), vectors(40, 1, 0.5)
    fitted = fit_adaptation(encoder, tiles)
    assert fitted.name == "centering=gallery" and encoder.adaptation is None
    assert np.allclose(fitted.means["ground"], unit(tiles).mean(0), atol=1e-6)
    encoder.shares_head = False
    with pytest.raises(GenGeoError, match="one head for each view"):
        fit_adaptation(encoder, tiles)


def test_too_few_images_and_photos_of_one_street_are_refused():
    tiles, photos = vectors(40, 1), vectors(40, 2)
    with pytest.raises(GenGeoError, match="at least 30 photos of different places, found 10"):
        fit_adaptation(Vectors(), tiles, photos[:10])
    with pytest.raises(GenGeoError, match="at least 30 tiles"):
        fit_adaptation(Vectors(), tiles[:29])
    street = np.stack([47 + np.arange(40) * 1e-5, np.full(40, 8.0)], axis=1)  # 40 photos on 45 metres
    with pytest.raises(GenGeoError, match="the mean of one street"):
        fit_adaptation(Vectors(), tiles, photos, photo_positions=street)
    town = np.stack([47 + np.arange(40) * 1e-3, np.full(40, 8.0)], axis=1)
    assert fit_adaptation(Vectors(), tiles, photos, photo_positions=town).images == {"aerial": 40, "ground": 40}
    unknown = np.full((40, 2), np.nan)
    assert fit_adaptation(Vectors(), tiles, photos, photo_positions=unknown).centering == "photos"


def test_the_fingerprint_follows_everything_that_is_done():
    tiles = vectors(40, 1)
    first = fit_adaptation(Vectors(), tiles)
    others = [Adaptation(), Adaptation(flip=True), fit_adaptation(Vectors(), tiles, flip=True),
              fit_adaptation(Vectors(), tiles + 1e-3)]  # fmt: skip
    marks = {x.fingerprint("a" * 64) for x in [first, *others]}
    assert len(marks) == 5 and Adaptation().fingerprint("a" * 64) == "a" * 64
    assert first.fingerprint("b" * 64) not in marks


def test_a_stored_adaptation_is_the_same_and_a_broken_one_is_one_line():
    fitted = fit_adaptation(Vectors(), vectors(40, 1), vectors(40, 2), flip=True)
    text = json.dumps(fitted.to_dict())
    loaded = load_adaptation(text)
    assert loaded.fingerprint("x") == fitted.fingerprint("x") and loaded.images == fitted.images
    values = json.loads(text)
    changes = [{"flip": 1}, {"centering": "both"}, {"means": {"ground": [1.0]}}, {"centering": None}]
    for wrong in ("[]", "{", *(json.dumps({**values, **change}) for change in changes)):
        with pytest.raises(GenGeoError):
            load_adaptation(wrong)


def test_means_of_another_width_are_refused():
    fitted = fit_adaptation(Vectors(), vectors(40, 1))
    fitted.check_width(DIM)
    with pytest.raises(GenGeoError, match="6 values and the encoder's descriptors 8"):
        fitted.check_width(8)
