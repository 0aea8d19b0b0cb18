"""Indexes of adapted descriptors, whose adaptation is applied to photos."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.adaptation import Adaptation, AdaptedEncoder
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.adapt import adaptation_of, adapted_for, encoder_options, fit_to_imagery
from gengeo_hf.index.build import build_index
from gengeo_hf.index.manifest import Means, Model, new_manifest
from gengeo_hf.localization import GeoLocalizer
from gengeo_hf.localization.adapt import encode_photos
from tests.stubs import ListSource


@pytest.fixture
def encoder(tiny_model, tiny_processor):
    return Encoder(tiny_model, tiny_processor, device="cpu")


@pytest.mark.parametrize(("centering", "flip"), [(True, False), (False, True), (True, True)])
def test_adapted_for_applies_the_adaptation_of_the_index(encoder, tiny_checkpoint, tmp_path, centering, flip):
    tiles = ListSource(40)
    adapted = fit_to_imagery(encoder, tiles, centering=centering, flip=flip)
    build_index(adapted, tiles, tmp_path / "index")
    index = GeoIndex.load(tmp_path / "index")
    assert index.manifest.dim == encoder.dim * (1 + flip)
    assert adapted_for(encoder, index.manifest).fingerprint == adapted.fingerprint
    assert adaptation_of(index.manifest).name in index.report()
    localizer = GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "index", device="cpu", backend="torch")
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 255, (28, 112, 3), dtype=np.uint8))
    found = localizer.index.search(localizer.encoder.encode([photo], "ground"), k=1)[0][0]
    scores = adapted.encode([tiles.read(row) for row in range(40)], "aerial") @ adapted.encode(photo, "ground")
    assert found.score == pytest.approx(scores.max(), abs=2e-3)
    with pytest.raises(GenGeoError, match="made by another model"):
        GeoLocalizer(encoder, index)


def test_fit_to_imagery_with_photos_uses_their_mean_for_ground(encoder, tmp_path):
    for row in range(31):
        pixels = np.random.default_rng(row).integers(0, 255, (28, 112, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{row:02d}.png")
    descriptors, positions = encode_photos(encoder, tmp_path, flip=True)
    assert descriptors.shape == (31, 2 * encoder.dim) and np.isnan(positions).all()
    adapted = fit_to_imagery(encoder, ListSource(40), photos=(descriptors, positions), flip=True)
    assert isinstance(adapted, AdaptedEncoder) and adapted.adaptation.centering == "photos"
    plain = AdaptedEncoder(encoder, Adaptation(flip=True))
    mean = plain.encode([Image.open(path) for path in sorted(tmp_path.glob("*.png"))], "ground").mean(axis=0) * 2**0.5
    assert np.allclose(adapted.adaptation.means["ground"], mean, atol=1e-5)


def test_fit_to_imagery_with_too_few_tiles_raises_an_error(encoder):
    with pytest.raises(GenGeoError, match="at least 30 tiles from different locations, found 9"):
        fit_to_imagery(encoder, ListSource(9))


@pytest.mark.parametrize(
    ("width", "preprocessing", "options"),
    [
        (None, {}, {}),
        (128, {"input_scale": 1}, {"truncate_dim": 128}),
        (None, {"input_scale": 0.5}, {"input_scale": 0.5}),
        (64, {"input_scale": 2.0}, {"truncate_dim": 64, "input_scale": 2.0}),
    ],
)
def test_encoder_options_are_those_that_are_not_defaults(width, preprocessing, options):
    assert encoder_options(new_manifest(8, Model("0" * 64, truncate_dim=width), preprocessing)) == options


def test_adaptation_of_a_manifest_has_its_flip_and_means():
    means = Means([1.0, 2.0], [3.0, 4.0], images=7)
    for flip in (False, True):
        plain = adaptation_of(new_manifest(2, Model("0" * 64, flip=flip), {}))
        assert (plain.flip, plain.means, plain.centering) == (flip, Adaptation().means, None)
        manifest = replace(new_manifest(2, Model("0" * 64, centering="photos", flip=flip), {}), means=means)
        found = adaptation_of(manifest)
        assert (found.flip, found.centering, found.images) == (flip, "photos", 7)
        assert [found.means[view].tolist() for view in ("ground", "aerial")] == [[1.0, 2.0], [3.0, 4.0]]


def test_fit_to_imagery_subtracts_means_without_mirror_images_by_default(encoder):
    found = fit_to_imagery(encoder, ListSource(40, broken=[3], empty=[5])).adaptation
    assert (found.centering, found.flip) == ("gallery", False)
    assert fit_to_imagery(encoder, ListSource(2), centering=False) is encoder
    with pytest.raises(GenGeoError, match="found 0"):
        fit_to_imagery(encoder, ListSource(4, empty=range(4)))
