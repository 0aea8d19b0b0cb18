"""Splits by area and by id."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import haversine_distances

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M
from gengeo_hf.data.area_split import blocks_of, choose_block_m, split_training


def town(count=600, seed=0, metres=8_000.0):
    rng = np.random.default_rng(seed)
    half = np.degrees(metres / 2 / EARTH_RADIUS_M)
    lat = -35.3 + rng.uniform(-half, half, count)
    return [f"p{i}" for i in range(count)], lat, 149.1 + rng.uniform(-half, half, count) / np.cos(np.radians(35.3))


def test_split_training_by_area_keeps_margin_and_share():
    ids, lat, lon = town()
    split = split_training(ids, lat, lon, 0.1, block_m=500, margin_m=200)
    assert not (split.train & split.validation).any()
    assert 0.08 < split.validation.mean() < 0.14
    metres = haversine_distances(np.radians(np.stack([lat, lon], axis=1))) * EARTH_RADIUS_M
    assert metres[np.ix_(split.train, split.validation)].min() >= 200
    left_out = ~(split.train | split.validation)
    assert (metres[np.ix_(left_out, split.validation)].min(axis=1) < 200).all()  # only pairs in the margin are left out
    assert np.array_equal(split.covers(lat, lon), split.validation)


def test_split_training_by_area_depends_on_positions_and_seed_not_on_order():
    ids, lat, lon = town()
    first = split_training(ids, lat, lon, 0.1, block_m=500, margin_m=0)
    order = np.random.default_rng(3).permutation(len(ids))
    again = split_training([ids[i] for i in order], lat[order], lon[order], 0.1, block_m=500, margin_m=0)
    assert np.array_equal(first.validation[order], again.validation)
    other = split_training(ids, lat, lon, 0.1, block_m=500, margin_m=0, seed=1)
    assert not np.array_equal(first.validation, other.validation)


@pytest.mark.parametrize("lat", [0.0, 47.0, -80.0])
def test_blocks_of_have_the_given_side_at_every_latitude(lat):
    step = np.degrees(1_000 / EARTH_RADIUS_M)
    north = lat + np.linspace(0, 40 * step, 2_000)
    assert len(np.unique(blocks_of(north, np.full(2_000, 10.0), 1_000.0), axis=0)) in (40, 41, 42)
    east = 10 + np.linspace(0, 40 * step, 2_000) / np.cos(np.radians(lat))
    assert len(np.unique(blocks_of(np.full(2_000, lat), east, 1_000.0), axis=0)) in (40, 41, 42)
    line = blocks_of(np.full(2, lat), np.array([179.9999, -179.9999]), 1_000.0)
    assert abs(line[0, 1] - line[1, 1]) <= 1  # equal or neighbouring columns across the date line


def test_split_training_by_id_keeps_equal_ids_together():
    ids = [f"tile-{i // 3}" for i in range(90)]
    split = split_training(ids, None, None, 0.2, method="id", block_m=0, margin_m=0)
    assert split.validation.sum() == 18 and (split.train ^ split.validation).all()
    assert not {ids[i] for i in np.flatnonzero(split.train)} & {ids[i] for i in np.flatnonzero(split.validation)}


def test_split_training_impossible_split_raises_error_with_option():
    ids, lat, lon = town(50, metres=10.0)
    with pytest.raises(GenGeoError, match="block_m"):
        split_training(ids, lat, lon, 0.1, block_m=10_000, margin_m=0)
    lat[3] = np.nan
    with pytest.raises(GenGeoError, match="validation_by=id"):
        split_training(ids, lat, lon, 0.1, block_m=500, margin_m=0)
    with pytest.raises(GenGeoError, match="validation_share"):
        split_training(ids, lat, lon, 0.9, block_m=500, margin_m=0)


def test_choose_block_m_depends_on_extent():
    _, lat, lon = town()
    assert 200 <= choose_block_m(lat, lon, 0.1) <= 2_000
    rng = np.random.default_rng(0)
    assert choose_block_m(rng.uniform(30, 48, 600), rng.uniform(-120, -75, 600), 0.1) == 20_000
