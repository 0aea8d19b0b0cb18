"""Inputs of the sampler: neighbour tables by epoch, rules, semi-positives, tiles with several photos."""

import dataclasses

import numpy as np
import pytest
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.training import batches
from gengeo_hf.training.settings import Settings
from tests.training.random_pairs import random_pairs


def sampling(**values):
    settings = Settings(output="unused")
    for name, value in values.items():
        setattr(settings.sampling, name, value)
    return settings


def several_photos(count=6):
    """Return data in which photos 2n and 2n + 1 show tile n, two tiles have no photo, and the orders differ."""
    data = random_pairs(2 * count)
    ids = data.gallery["tile_id"][:]
    queries = data.queries.map(lambda _, row: {"positive": ids[2 * (row // 2)]}, with_indices=True)
    gallery = data.gallery.select([*range(0, 2 * count, 2), 1, 3][::-1])
    return dataclasses.replace(data, queries=queries, gallery=gallery)


def epochs_of_mining(monkeypatch, epochs, **values):
    """Return the epochs in which descriptors are computed, and the names of the tables after each epoch."""
    data = random_pairs(6)
    pairs = batches.training_pairs(data)
    monkeypatch.setattr(batches, "encode_training_pairs", lambda *_: "descriptors")
    monkeypatch.setattr(batches, "visual_tables", lambda *_: {"visual": np.zeros((6, 2), np.int32)})
    tables, mined, names = {}, [], []
    for epoch in range(1, epochs + 1):
        settings = sampling(pool=2, **values)
        if batches.neighbour_tables(settings, epoch, data, pairs, tables, Accelerator(cpu=True), None) is not None:
            mined.append(epoch)
        names.append("+".join(sorted(tables)))
    return mined, names


def test_neighbour_tables_are_mined_after_first_phase_every_n_epochs(monkeypatch):
    mined, names = epochs_of_mining(monkeypatch, 9, gps_epochs=2, mining_every=3)
    assert mined == [3, 6, 9]
    assert names == ["geographic"] * 2 + ["visual"] * 7  # mined tables are kept until the next round
    mined, names = epochs_of_mining(monkeypatch, 4, gps_epochs=0, mining_every=2)
    assert mined == [1, 3] and names == ["visual"] * 4


def test_neighbour_tables_without_mining_stay_in_first_phase(monkeypatch):
    assert epochs_of_mining(monkeypatch, 5, gps_epochs=2, mining_every=0) == ([], ["geographic"] * 5)
    assert epochs_of_mining(monkeypatch, 3, gps_epochs=9, mining_every=0, first_phase="random") == ([], [""] * 3)


def test_neighbour_tables_keep_geographic_table_with_share(monkeypatch):
    _, names = epochs_of_mining(monkeypatch, 4, gps_epochs=2, mining_every=1, geographic_share=0.25)
    assert names == ["geographic"] * 2 + ["geographic+visual"] * 2
    _, names = epochs_of_mining(
        monkeypatch, 3, gps_epochs=1, mining_every=1, geographic_share=0.25, first_phase="random"
    )
    assert names == ["", "geographic+visual", "geographic+visual"]


@pytest.mark.parametrize(("kind", "banned"), [("banned", True), ("ignored", False), ("positive", False)])
def test_batch_rules_follow_settings(kind, banned):
    rules = batches.batch_rules(
        sampling(semi_positives=kind, batch_size=8, neighbours=3, random_share=0.5, min_negative_distance_m=7.0)
    )
    assert rules.ban_semi_positives is banned and (rules.batch_size, rules.neighbours) == (8, 3)
    assert rules.random_share == 0.5 and rules.min_negative_distance_m == 7.0 and rules.backfill
    published = batches.batch_rules(sampling(protocol="sample4geo", semi_positives="banned", batch_size=8))
    assert not published.ban_semi_positives and not published.backfill and published.requeue


def test_batch_rules_min_distance_needs_positions():
    data = random_pairs(8)
    asked = sampling(batch_size=4, min_negative_distance_m=50.0)
    assert batches.batch_rules(asked, batches.training_pairs(data)).min_negative_distance_m == 50.0
    queries = data.queries.map(lambda _, row: {"lat": None} if row == 3 else {}, with_indices=True)
    lost = batches.training_pairs(dataclasses.replace(data, queries=queries.cast(data.queries.features)))
    assert lost.lat_lon is None
    with pytest.raises(GenGeoError, match="needs the position of every training photo"):
        batches.batch_rules(asked, lost)


def test_training_pairs_have_tiles_semi_positives_and_positions():
    data = random_pairs(5)
    ids = data.gallery["tile_id"][:]
    semi = [[ids[3], ids[1]], [], [ids[4]], [], []]
    queries = data.queries.map(lambda _, row: {"semi_positives": semi[row]}, with_indices=True)
    pairs = batches.training_pairs(dataclasses.replace(data, queries=queries))
    assert pairs.covered == [(0, 3, 1), (1,), (2, 4), (3,), (4,)]
    np.testing.assert_allclose(pairs.lat_lon, [[10 + n * 1e-3, 20.0] for n in range(5)])
    mask = batches.coverage_mask(pairs, np.array([0, 1, 4]))
    assert mask.tolist() == [[True, True, False], [False, True, False], [False, False, True]]


def test_batch_rules_count_tiles_not_photos():
    pairs = batches.training_pairs(several_photos(6))
    assert batches.batch_rules(sampling(batch_size=6), pairs).batch_size == 6
    with pytest.raises(GenGeoError, match="12 training pairs of 6 tiles cannot fill a batch of 7"):
        batches.batch_rules(sampling(batch_size=7), pairs)


def test_visual_tables_encode_tiles_with_several_photos_once(tiny_model, tiny_processor):
    data = several_photos()
    pairs = batches.training_pairs(data)
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    settings = sampling(pool=3, mining_direction="both")
    mined = batches.encode_training_pairs(settings, data, pairs, Accelerator(cpu=True), encoder)
    ground, aerial, own = mined
    assert ground.shape == (12, 24) and aerial.shape == (6, 24)  # two of eight tiles have no photo
    images = [data.gallery[int(row)]["aerial"] for row in pairs.tile_of_query]
    np.testing.assert_allclose(aerial[own], encoder.encode(images, "aerial"), atol=1e-5)
    tables = batches.visual_tables(settings, pairs, mined, Accelerator(cpu=True))
    assert list(tables) == ["visual", "visual_reverse"] and tables["visual"].dtype == np.int32
    trained = set(pairs.tile_of_query.tolist())
    scores = ground @ aerial.T
    for photo, found in enumerate(tables["visual"].tolist()):
        tile_rows = np.unique(pairs.tile_of_query)
        order = [int(tile_rows[n]) for n in np.argsort(-scores[photo]) if n != own[photo]]
        assert found == order[:3] and set(found) <= trained
    for photo, found in enumerate(tables["visual_reverse"].tolist()):
        assert pairs.tile_of_query[photo] not in found and set(found) - {-1} <= trained
    settings.sampling.mining_direction = "ground"
    assert list(batches.visual_tables(settings, pairs, mined, Accelerator(cpu=True))) == ["visual"]


def test_visual_tables_keep_max_similarity(tiny_model, tiny_processor):
    data = several_photos()
    pairs = batches.training_pairs(data)
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    mined = batches.encode_training_pairs(sampling(), data, pairs, Accelerator(cpu=True), encoder)
    ground, aerial, own = mined
    scores = ground @ aerial.T
    limit = float(np.quantile(scores, 0.5))
    table = batches.visual_tables(sampling(pool=5, max_similarity=limit), pairs, mined, Accelerator(cpu=True))["visual"]
    tiles = np.unique(pairs.tile_of_query)
    for photo, found in enumerate(table.tolist()):
        wanted = {int(tiles[n]) for n in range(6) if scores[photo, n] < limit and n != own[photo]}
        assert set(found) - {-1} == wanted
    assert (table == -1).any()
