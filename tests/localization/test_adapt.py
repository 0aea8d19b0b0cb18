"""Descriptors and positions of the photos of an area."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.localization.adapt import encode_photos
from tests.localization.photo_files import save_with_position
from tests.localization.pose_models import small_encoder


def test_encode_photos_gives_plain_descriptors_and_known_positions(tmp_path):
    encoder = small_encoder("photo")
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (28, 112, 3), np.uint8)) for n in range(2)]
    save_with_position(tmp_path / "a.png", images[0], -33.5, 151.0)
    images[1].save(tmp_path / "b.png")
    descriptors, positions = encode_photos(encoder, tmp_path)
    assert descriptors.dtype == np.float32 and descriptors.shape == (2, encoder.dim)
    np.testing.assert_allclose(descriptors, encoder.encode(images, "ground"), atol=1e-5)
    np.testing.assert_array_equal(positions, [[-33.5, 151.0], [np.nan, np.nan]])
    (tmp_path / "c.png").write_bytes(b"x")
    with pytest.raises(GenGeoError, match=r"c\.png: "):
        encode_photos(encoder, tmp_path)
