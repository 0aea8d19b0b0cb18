"""Mixtures of several data sets."""

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_pairs

URBAN = "world-urban num_pairs=6"


def test_mixture_concatenates_parts_with_their_images(tmp_path):
    joined = load_pairs("mixture", tmp_path, "train", parts=[URBAN, "world-offcenter num_pairs=5"])
    first = load_pairs("world-urban", tmp_path, "train", num_pairs=6)
    second = load_pairs("world-offcenter", tmp_path, "train", num_pairs=5)
    assert joined.queries["query_id"][:] == first.queries["query_id"][:] + second.queries["query_id"][:]
    assert joined.gallery["tile_id"][:] == first.gallery["tile_id"][:] + second.gallery["tile_id"][:]
    assert joined.queries["semi_positives"][6:] == second.queries["semi_positives"][:]
    rows = joined.positive_rows()
    for row, part, inside in ((0, first, 0), (7, second, 1)):
        expected = part.gallery[int(part.positive_rows()[inside])]["aerial"]
        assert np.array_equal(joined.gallery[int(rows[row])]["aerial"], expected)
        assert np.array_equal(joined.queries[row]["ground"], part.queries[inside]["ground"])
    assert joined.ground_camera() == first.ground_camera()


def test_mixture_with_equal_ids_adds_number_of_part(tmp_path):
    joined = load_pairs("mixture", tmp_path, "train", parts=[URBAN, URBAN])
    ids = joined.queries["query_id"][:]
    assert len(set(ids)) == 12 and ids[0] == "1/" + ids[6].removeprefix("2/")
    assert np.array_equal(joined.positive_rows()[6:], joined.positive_rows()[:6] + 6)


@pytest.mark.parametrize("parts", [[URBAN], URBAN, [URBAN, "mixture"], [URBAN, "no-such-set"]])
def test_mixture_invalid_parts_raise_error(parts, tmp_path):
    with pytest.raises(GenGeoError, match=r"mixture|no-such-set"):
        load_pairs("mixture", tmp_path, "train", parts=parts)
