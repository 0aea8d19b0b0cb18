"""Parts that share no place, whatever the order of the list."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import haversine_distances

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import EARTH_RADIUS_M
from gengeo_hf.data.area_split import blocks_of, choose_block_m, split_training


def town(count=600, seed=0, metres=8_000.0):
    chance = np.random.default_rng(seed)
    half = np.degrees(metres / 2 / EARTH_RADIUS_M)
    lat = -35.3 + chance.uniform(-half, half, count)
    return [f"p{i}" for i in range(count)], lat, 149.1 + chance.uniform(-half, half, count) / np.cos(np.radians(35.3))


def test_parts_keep_their_distance_and_their_share():
    ids, lat, lon = town()
    cut = split_training(ids, lat, lon, 0.1, block_m=500, margin_m=200)
    assert not (cut.train & cut.validation).any()
    assert 0.08 < cut.validation.mean() < 0.14
    metres = haversine_distances(np.radians(np.stack([lat, lon], axis=1))) * EARTH_RADIUS_M
    assert metres[np.ix_(cut.train, cut.validation)].min() >= 200
    left_out = ~(cut.train | cut.validation)
    assert (metres[np.ix_(left_out, cut.validation)].min(axis=1) < 200).all()  # and nothing is left out in vain
    assert np.array_equal(cut.covers(lat, lon), cut.validation)


def test_the_choice_follows_places_and_seed_only():
    ids, lat, lon = town()
    first = split_training(ids, lat, lon, 0.1, block_m=500, margin_m=0)
    order = np.random.default_rng(3).permutation(len(ids))
    again = split_training([ids[i] for i in order], lat[order], lon[order], 0.1, block_m=500, margin_m=0)
    assert np.array_equal(first.validation[order], again.validation)
    other = split_training(ids, lat, lon, 0.1, block_m=500, margin_m=0, seed=1)
    assert not np.array_equal(first.validation, other.validation)


@pytest.mark.parametrize("lat", [0.0, 47.0, -80.0])
def test_blocks_are_as_large_as_said(lat):
    step = np.degrees(1_000 / EARTH_RADIUS_M)
    north = lat + np.linspace(0, 40 * step, 2_000)
    assert len(np.unique(blocks_of(north, np.full(2_000, 10.0), 1_000.0), axis=0)) in (40, 41, 42)
    east = 10 + np.linspace(0, 40 * step, 2_000) / np.cos(np.radians(lat))
    assert len(np.unique(blocks_of(np.full(2_000, lat), east, 1_000.0), axis=0)) in (40, 41, 42)
    line = blocks_of(np.full(2, lat), np.array([179.9999, -179.9999]), 1_000.0)
    assert abs(line[0, 1] - line[1, 1]) <= 1  # neighbours across the date line


def test_by_id_keeps_photos_of_one_place_together():
    ids = [f"tile-{i // 3}" for i in range(90)]
    cut = split_training(ids, None, None, 0.2, method="id", block_m=0, margin_m=0)
    assert cut.validation.sum() == 18 and (cut.train ^ cut.validation).all()
    assert not {ids[i] for i in np.flatnonzero(cut.train)} & {ids[i] for i in np.flatnonzero(cut.validation)}


def test_what_cannot_be_split_is_said():
    ids, lat, lon = town(50, metres=10.0)
    with pytest.raises(GenGeoError, match="block_m"):
        split_training(ids, lat, lon, 0.1, block_m=10_000, margin_m=0)
    lat[3] = np.nan
    with pytest.raises(GenGeoError, match="validation_by=id"):
        split_training(ids, lat, lon, 0.1, block_m=500, margin_m=0)
    with pytest.raises(GenGeoError, match="validation_share"):
        split_training(ids, lat, lon, 0.9, block_m=500, margin_m=0)


def test_the_block_fits_a_town_and_a_country():
    _, lat, lon = town()
    assert 200 <= choose_block_m(lat, lon, 0.1) <= 2_000
    chance = np.random.default_rng(0)
    assert choose_block_m(chance.uniform(30, 48, 600), chance.uniform(-120, -75, 600), 0.1) == 20_000
