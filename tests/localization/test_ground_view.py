"""Pixels, azimuths and headings of photos for a pose head."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.metadata import PhotoMetadata
from gengeo_hf.localization.ground_view import ground_view, heading_prior_of
from gengeo_hf.localization.photos import Photo, panorama_canvas, pictures
from tests.localization.pose_models import small_encoder


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def ordinary():
    return small_encoder("photo")


def noise(size, metadata=None):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Photo(Image.fromarray(pixels), metadata or PhotoMetadata())


COMPASS = PhotoMetadata(camera=CameraView(heading=80.0), heading_is_magnetic=True)
TRUE_NORTH = PhotoMetadata(camera=CameraView(heading=80.0))


@pytest.mark.parametrize(
    ("metadata", "heading", "prior"),
    [
        (PhotoMetadata(), None, "180"),
        (PhotoMetadata(), 0.0, "known"),
        (TRUE_NORTH, None, "known"),
        (COMPASS, None, "45"),
        (COMPASS, 10.0, "known"),
        (TRUE_NORTH, "unknown", "180"),
    ],
)
def test_heading_prior_is_the_narrowest_that_the_photo_allows(metadata, heading, prior):
    assert heading_prior_of(noise((9, 9), metadata), CameraView(heading=heading)) == prior


def test_ground_view_of_a_panorama_is_rolled_to_north(encoder):
    photo = noise((224, 56), TRUE_NORTH)
    view = ground_view(encoder, panorama_canvas(encoder), photo, CameraView(fov=360.0))
    assert view.panorama and view.pixels.shape == (1, 3, 28, 112)
    assert (view.stated, view.rolled, view.prior) == (0.0, 80.0, "known")
    assert view.azimuths.tolist() == [-157.5 + 45 * column for column in range(8)]
    unknown = ground_view(encoder, panorama_canvas(encoder), photo, CameraView(fov=360.0, heading="unknown"))
    assert (unknown.stated, unknown.rolled, unknown.prior) == (0.0, 0.0, "180")
    assert (unknown.pixels.float() - view.pixels.float()).abs().max() > 20


def test_ground_view_cannot_be_changed(ordinary):
    view = ground_view(ordinary, None, noise((300, 200)), CameraView(fov=90.0))
    with pytest.raises(FrozenInstanceError):
        view.prior = "180"


def test_ground_view_of_a_photo_for_a_model_of_panoramas_is_projected_to_its_scale(encoder):
    photo, camera = noise((300, 200)), CameraView(fov=100.0, heading=30.0)
    view = ground_view(encoder, panorama_canvas(encoder), photo, camera)
    (picture,) = pictures(photo, camera, panorama_canvas(encoder), 14)
    assert np.array_equal(view.pixels[0].permute(1, 2, 0).numpy(), np.asarray(picture.image))
    assert view.pixels.shape == (1, 3, 28, 28) and not view.panorama  # 28 of 112 columns are 90 degrees
    assert view.azimuths.tolist() == [-22.5, 22.5]
    assert (view.stated, view.rolled, view.prior) == (30.0, 0.0, "known")


@pytest.mark.parametrize(
    ("fov", "projection", "flat"),
    [(90.0, None, True), (90.0, "perspective", True), (90.0, "equirectangular", False), (180.0, None, False)],
)
def test_ground_view_for_a_model_of_photos_has_the_azimuths_of_its_projection(ordinary, fov, projection, flat):
    view = ground_view(ordinary, None, noise((300, 200)), CameraView(fov=fov, projection=projection), "45")
    assert view.pixels.shape == (1, 3, 28, 112) and view.prior == "45" and (view.stated, view.rolled) == (0.0, 0.0)
    middles = (np.arange(8) + 0.5) / 4 - 1
    expected = np.degrees(np.arctan(middles * math.tan(math.radians(fov / 2)))) if flat else middles * fov / 2
    np.testing.assert_allclose(view.azimuths, expected, rtol=1e-5)


def test_ground_view_of_a_panorama_for_a_model_of_photos_is_not_rolled(ordinary):
    view = ground_view(ordinary, None, noise((224, 56), TRUE_NORTH), CameraView(fov=360.0))
    assert view.panorama and (view.stated, view.rolled, view.prior) == (80.0, 0.0, "known")
    assert view.azimuths.tolist() == [-157.5 + 45 * column for column in range(8)]


def test_ground_view_without_a_field_of_view_is_none_and_a_heading_out_of_range_raises_an_error(ordinary):
    assert ground_view(ordinary, None, noise((30, 20)), CameraView(heading=10.0)) is None
    with pytest.raises(GenGeoError, match=r"lies in 0\.\.360 degrees"):
        ground_view(ordinary, None, noise((30, 20)), CameraView(fov=90.0, heading=361.0))
