"""Inputs of the sampler: neighbour tables by epoch, rules, semi-positives, tiles with several photos."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.learning import HardNegativeBatchSampler, Pairs
from gengeo_hf.training import batches
from tests.training.random_pairs import random_pairs
from tests.training.settings_with import settings_with


def sampling(**values):
    return settings_with(**{f"sampling__{name}": value for name, value in values.items()})


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


def test_training_pairs_without_semi_positives_have_minus_one():
    assert batches.training_pairs(random_pairs(3)).semi_positives.tolist() == [[-1]] * 3


def test_batch_rules_positions_are_only_needed_for_distance():
    pairs = Pairs(np.arange(4))
    assert batches.batch_rules(sampling(batch_size=4), pairs).min_negative_distance_m == 0.0


def test_batch_rules_keep_semi_positives_out_of_every_batch():
    """Tiles 2n and 2n + 1 cover the position of both of their photos, as in VIGOR."""
    pairs = Pairs(np.arange(12), (np.arange(12) ^ 1)[:, None], np.zeros((12, 2)))
    near = {"near": (np.arange(12) ^ 1)[:, None]}  # the nearest tile is always the semi-positive
    together = {}
    for kind in ("banned", "ignored"):
        rules = batches.batch_rules(sampling(batch_size=4, neighbours=1, semi_positives=kind), pairs)
        sampler = HardNegativeBatchSampler(pairs, rules, 0)
        sampler.set_tables(shares=[1.0], **near)
        together[kind] = sum(row ^ 1 in batch for batch in sampler for row in batch)
        assert len(sampler) == 3
    assert together["banned"] == 0 < together["ignored"]


def test_neighbour_tables_count_tiles_without_a_position(capsys):
    """Half a position is none: latitude or longitude is missing, or both."""
    data = random_pairs(6)
    lost = {1: {"lat": None}, 3: {"lon": None}, 4: {"lat": None, "lon": None}}
    change = {"with_indices": True}
    queries = data.queries.map(lambda _, row: lost.get(row, {}), **change).cast(data.queries.features)
    gallery = data.gallery.map(lambda _, row: lost.get(row, {}), **change).cast(data.gallery.features)
    data = dataclasses.replace(data, queries=queries, gallery=gallery)
    tables = {}
    accelerator = Accelerator(cpu=True)
    batches.neighbour_tables(sampling(pool=2), 1, data, batches.training_pairs(data), tables, accelerator, None)
    assert tables == {} and "since 3 training tiles" in capsys.readouterr().out


@pytest.mark.parametrize(("protocol", "expected"), [("gengeo", [0, 1, 2, 3, 4, 5]), ("sample4geo", [1, 1, 3, 3, 5, 5])])
def test_neighbour_tables_of_sample4geo_have_one_row_per_tile(monkeypatch, protocol, expected):
    data = several_photos(3)
    monkeypatch.setattr(batches, "encode_training_pairs", lambda *_: "descriptors")
    monkeypatch.setattr(batches, "visual_tables", lambda *_: {"visual": np.arange(6)[:, None]})
    tables, settings = {}, sampling(gps_epochs=0, protocol=protocol)
    batches.neighbour_tables(settings, 1, data, batches.training_pairs(data), tables, Accelerator(cpu=True), None)
    assert tables["visual"].ravel().tolist() == expected


def test_geographic_table_is_limited_to_other_tiles():
    data = random_pairs(4)  # in a row from south to north
    table = batches.geographic_table(data, batches.training_pairs(data), 10, legacy_degrees=False)
    assert table.shape == (4, 3)
    assert [row[0] for row in table.tolist()][::3] == [1, 2] and table[0].tolist() == [1, 2, 3]
    assert [sorted(row) for row in table.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_visual_tables_each_process_searches_for_its_photos(monkeypatch, processes):
    pairs = batches.training_pairs(several_photos(5))  # 10 photos
    generator = np.random.default_rng(0)
    ground, aerial = generator.normal(size=(10, 4)), generator.normal(size=(5, 4))
    mined = ground.astype(np.float32), aerial.astype(np.float32), np.unique(pairs.tile_of_query, return_inverse=True)[1]
    settings = sampling(pool=2, mining_direction="both")
    whole = batches.visual_tables(settings, pairs, mined, Accelerator(cpu=True))
    searched = {"visual": [], "visual_reverse": []}

    def gather(rows, count, share, accelerator):
        assert count == 10 and share == -(-10 // processes)
        first = len(searched["visual"]) == len(searched["visual_reverse"])
        searched["visual" if first else "visual_reverse"].append(rows)
        return rows

    monkeypatch.setattr(batches, "gather_parts", gather)
    tiles = np.unique(pairs.tile_of_query)
    for rank in range(processes):
        group = SimpleNamespace(num_processes=processes, process_index=rank, device="cpu")
        batches.visual_tables(settings, pairs, mined, group)
    for name, parts in searched.items():
        rows = np.concatenate(parts)
        np.testing.assert_array_equal(np.where(rows < 0, -1, tiles[rows]), whole[name])


def test_encode_training_pairs_replaces_broken_images(tiny_model, tiny_processor):
    data = random_pairs(3)
    broken = {"bytes": b"nothing", "path": None}
    queries, gallery = data.queries.to_list(), data.gallery.to_list()
    queries[1]["ground"] = gallery[2]["aerial"] = broken
    data = dataclasses.replace(
        data,
        queries=data.queries.from_list(queries, features=data.queries.features),
        gallery=data.gallery.from_list(gallery, features=data.gallery.features),
    )
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    pairs = batches.training_pairs(data)
    ground, aerial, own = batches.encode_training_pairs(sampling(), data, pairs, Accelerator(cpu=True), encoder)
    assert ground.shape == aerial.shape == (3, 24) and own.tolist() == [0, 1, 2]
    assert np.isfinite(ground).all() and np.isfinite(aerial).all()


def test_coverage_mask_equals_slow_count():
    rng = np.random.default_rng(0)
    tiles, semi = rng.integers(0, 12, 30), rng.integers(-1, 12, (30, 3))
    rows = rng.permutation(30)[:10]
    mask = batches.coverage_mask(Pairs(tiles, semi), rows)
    for i, photo in enumerate(rows):
        for j, other in enumerate(rows):
            assert mask[i, j] == (tiles[other] == tiles[photo] or tiles[other] in semi[photo])


def test_table_shares_divide_geographic_and_visual():
    names = dict.fromkeys(("geographic", "visual", "visual_reverse"))
    settings = sampling(geographic_share=0.2)
    assert batches.table_shares(settings, {"geographic": None}) == [1.0]
    assert batches.table_shares(settings, {"visual": None}) == [1.0]
    assert batches.table_shares(settings, names) == pytest.approx([0.2, 0.4, 0.4])
    assert batches.table_shares(settings, {}) == []


def test_last_photo_of_a_tile_shares_row():
    table = np.arange(8).reshape(4, 2)
    assert batches.last_photo_of_a_tile(Pairs(np.array([0, 1, 0, 1])), table).tolist() == [
        [4, 5],
        [6, 7],
        [4, 5],
        [6, 7],
    ]


def test_batch_rules_too_few_tiles_are_refused():
    settings = sampling(batch_size=4, min_negative_distance_m=10.0)
    with pytest.raises(GenGeoError, match="5 training pairs of 3 tiles cannot fill a batch of 4"):
        batches.batch_rules(settings, Pairs(np.array([0, 0, 1, 2, 2])))
    with pytest.raises(GenGeoError, match="needs the position"):
        batches.batch_rules(settings, Pairs(np.arange(4)))
    assert batches.batch_rules(settings, Pairs(np.arange(4), lat_lon=np.zeros((4, 2)))).batch_size == 4


def test_geographic_table_uses_positions_of_photos():
    data = random_pairs(5)  # positions 0..4 in a row, 0.001 degrees apart
    gallery = data.gallery.map(lambda _: {"lat": None, "lon": None}, features=data.gallery.features)
    data = dataclasses.replace(data, gallery=gallery)
    table = batches.geographic_table(data, batches.training_pairs(data), 2, legacy_degrees=False)
    assert [set(row) for row in table.tolist()] == [{1, 2}, {0, 2}, {1, 3}, {2, 4}, {2, 3}]


@pytest.mark.parametrize("lost", [True, False])
def test_neighbour_tables_without_positions_print_note(lost, capsys):
    data = random_pairs(6)
    nowhere = {"lat": None, "lon": None}
    queries = data.queries.map(lambda _: nowhere, features=data.queries.features)
    gallery = data.gallery.map(lambda _, row: nowhere if row in (1, 4) and lost else {}, with_indices=True)
    data = dataclasses.replace(data, queries=queries, gallery=gallery.cast(data.gallery.features))
    tables = {}
    batches.neighbour_tables(
        sampling(pool=2), 1, data, batches.training_pairs(data), tables, Accelerator(cpu=True), None
    )
    assert list(tables) == ([] if lost else ["geographic"])
    assert ("2 training tiles and their photos have no position" in capsys.readouterr().out) == lost
