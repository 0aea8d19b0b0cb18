"""Number formats of images: which values become white."""

import numpy as np
import pytest

from gengeo_hf.model.image_processing_gengeo import eight_bits


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),  # fractions of 1
        ([0.0, 1.0, 1.0], [0, 1, 1]),  # whole numbers are grey levels, however small
        ([0, 128, 255], [0, 128, 255]),
        ([0, 2048, 4095], [0, 128, 255]),  # 12 bits
        ([0, 256, 65535], [0, 1, 255]),
        ([-5.0, np.nan, 100.0], [0, 0, 100]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_eight_bits_scales_by_the_depth_of_the_values(values, expected):
    assert eight_bits(np.array(values)).tolist() == expected
