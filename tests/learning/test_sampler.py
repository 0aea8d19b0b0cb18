import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from gengeo_hf.learning import HardNegativeBatchSampler, Pairs, Rules, plan_epoch


def line_world(n=600, semi=False, per_tile=1):
    """Return pairs on a line, 10 m apart, and the table of their nearest neighbours."""
    tiles = np.arange(n) // per_tile
    lat_lon = np.stack([np.arange(n) * 10 / 111_195.08, np.full(n, 20.0)], axis=1)
    last = tiles.max()
    first = np.clip(tiles - 64, 0, max(0, last - 128))  # the 64 nearest of a row are within 64 rows of it
    window = first[:, None] + np.arange(min(129, last + 1))
    distance = np.abs(window - tiles[:, None]).astype(float)
    distance[window == tiles[:, None]] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, : min(64, last)]
    table = np.take_along_axis(window, order, axis=1).astype(np.int32)
    semis = np.clip(np.stack([tiles - 1, tiles + 1], axis=1), -1, tiles.max()) if semi else None
    return Pairs(tiles, semis, lat_lon), table


def plan(pairs, table, rules, seed=0):
    return plan_epoch(pairs, [table] if table is not None else [], rules, np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(40, 300),
    batch=st.integers(2, 40),
    per_tile=st.integers(1, 3),
    semi=st.booleans(),
    neighbours=st.integers(0, 70),
    random_share=st.sampled_from([0.0, 0.3, 1.0]),
    backfill=st.booleans(),
    seed=st.integers(0, 5),
)
def test_plan_has_unique_queries_and_no_false_negatives(
    n, batch, per_tile, semi, neighbours, random_share, backfill, seed
):
    pairs, table = line_world(n, semi, per_tile)
    rules = Rules(batch, neighbours, random_share=random_share, backfill=backfill)
    epoch = plan(pairs, table, rules, seed)
    flat = epoch.batches.ravel()
    assert len(set(flat.tolist())) == flat.size, "a query twice in an epoch"
    assert epoch.dropped == n - flat.size
    for rows in epoch.batches:
        tiles = pairs.tile_of_query[rows]
        assert len(set(tiles.tolist())) == batch, "a tile twice in a batch"
        for one, other in itertools.permutations(range(batch), 2):
            assert tiles[other] not in pairs.covered[rows[one]][1:], "a semi-positive as a negative"


def test_sampler_is_determined_by_seed_and_epoch():
    pairs, table = line_world()
    samplers = [HardNegativeBatchSampler(pairs, Rules(32), seed=3) for _ in range(2)]
    for sampler in samplers:
        sampler.set_tables(table)
        sampler.set_epoch(4)
    first, second = (list(sampler) for sampler in samplers)
    assert first == second and len(samplers[0]) == len(first)
    samplers[0].set_epoch(5)
    assert list(samplers[0]) != first


def test_sampler_members_are_neighbours():
    pairs, table = line_world()
    near = HardNegativeBatchSampler(pairs, Rules(64, neighbours=32))
    near.set_tables(table)
    random_batches = HardNegativeBatchSampler(pairs, Rules(64, neighbours=32))
    assert near.report()["nearest_negative_m"] == pytest.approx(10, rel=1e-3)
    assert near.report()["nearest_negative_m"] < random_batches.report()["nearest_negative_m"]
    assert near.report()["anchors_per_batch"] < 5 and random_batches.report()["anchors_per_batch"] == pytest.approx(
        64, abs=8
    )


def test_plan_half_of_neighbours_are_nearest_and_half_drawn():
    pairs, table = line_world(5000)
    epoch = plan(pairs, table[:, :64], Rules(17, neighbours=16, backfill=False))
    rows = epoch.batches[0]  # one anchor and its sixteen
    away = np.sort(np.abs(rows - rows[0]))
    assert away[1:9].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert (away[9:] > 4).all() and (away[9:] <= 32).all() and away[-1] > 8


def test_plan_backfill_needs_fewer_anchors():
    # An anchor takes only a part of its neighbourhood, so that the nearest neighbours of late anchors are used already.
    pairs, table = line_world(3000)

    def late_distance(backfill):
        epoch = plan(pairs, table, Rules(60, neighbours=16, backfill=backfill))
        return epoch.anchors / len(epoch.batches)

    assert late_distance(True) < late_distance(False)


def test_plan_sample4geo_rules_admit_semi_positives():
    pairs, table = line_world(400, semi=True)
    published = plan(pairs, table, Rules.sample4geo(32))
    clashes = sum(
        pairs.tile_of_query[b] in pairs.covered[a][1:]
        for rows in published.batches
        for a, b in itertools.permutations(rows, 2)
    )
    assert clashes > 0  # the published rules are reproduced with this defect


@pytest.mark.parametrize("metres", [25.0, 95.0])
def test_plan_min_negative_distance_is_kept(metres):
    pairs, table = line_world()
    epoch = plan(pairs, table, Rules(16, min_negative_distance_m=metres))
    assert len(epoch.batches) > 5
    for rows in epoch.batches:
        assert np.diff(np.sort(rows)).min() * 10 >= metres - 0.01


def test_plan_random_share_adds_anchors():
    pairs, table = line_world(3000)
    mixed = plan(pairs, table, Rules(60, neighbours=59, random_share=0.5))
    pure = plan(pairs, table, Rules(60, neighbours=59))
    assert mixed.anchors > 5 * pure.anchors


def test_plan_two_tables_share_neighbours():
    pairs, near = line_world(4000)
    far = (near + 2000) % 4000
    epoch = plan_epoch(pairs, [near, far], Rules(33, neighbours=32), np.random.default_rng(0))
    away = np.abs(epoch.batches[0] - epoch.batches[0][0])
    assert (away < 100).sum() == 17 and (away > 1900).sum() == 16


def test_sampler_skip_batches_resumes_inside_epoch():
    pairs, table = line_world()
    whole = HardNegativeBatchSampler(pairs, Rules(32), seed=1)
    whole.set_tables(table)
    whole.set_epoch(2)
    batches = list(whole)
    again = HardNegativeBatchSampler(pairs, Rules(32), seed=1)
    again.set_tables(table)
    again.set_epoch(2)
    again.skip_batches(7)
    assert list(again) == batches[7:] and len(again) == len(batches) - 7


def test_sampler_two_ranks_share_each_batch():
    from accelerate.data_loader import BatchSamplerShard

    pairs, table = line_world()
    sampler = HardNegativeBatchSampler(pairs, Rules(32))
    sampler.set_tables(table)
    shards = [BatchSamplerShard(sampler, 2, rank, split_batches=True, even_batches=False) for rank in range(2)]
    for whole, left, right in zip(sampler, *shards, strict=True):
        assert left + right == whole


def test_sampler_works_with_data_loader():
    pairs, _ = line_world(100)
    sampler = HardNegativeBatchSampler(pairs, Rules(10))
    loader = DataLoader(torch.arange(100), batch_sampler=sampler)
    assert len(loader) == 10 and sorted(torch.cat(list(loader)).tolist()) == list(range(100))


def test_plan_invalid_input_is_refused():
    pairs, table = line_world(100)
    with pytest.raises(ValueError, match="are fewer than one batch"):
        plan(pairs, table, Rules(101))
    with pytest.raises(ValueError, match="does not fit 100 queries"):
        plan(pairs, table[:50], Rules(10))
    with pytest.raises(ValueError, match="not the true tile of a training query"):
        plan(pairs, table + 90, Rules(10))
    with pytest.raises(ValueError, match="not the true tile of a training query"):
        plan(Pairs(np.arange(100) * 2), table, Rules(10))  # every other tile is the true tile of no query
    with pytest.raises(ValueError, match="at least 2"):
        Rules(1)
    with pytest.raises(ValueError, match="position of every query"):
        plan(Pairs(np.arange(100)), table, Rules(10, min_negative_distance_m=5))


def test_sampler_tables_contribute_by_shares():
    pairs, near = line_world(4000)
    far = (near + 2000) % 4000
    sampler = HardNegativeBatchSampler(pairs, Rules(33, neighbours=32))
    sampler.set_tables(shares=[0.25, 0.75], near=near, far=far)
    away = np.abs(sampler.plan().batches[0] - sampler.plan().batches[0][0])
    assert (away < 100).sum() == 1 + 8 and (away > 1900).sum() == 24
    report = sampler.report()
    assert report["share_far"] > 2 * report["share_near"]
    for wrong in ([1.0], [0.0, 0.0], [-1.0, 2.0]):
        sampler.set_tables(near, far, shares=wrong)
        with pytest.raises(ValueError, match="as many shares"):
            sampler.plan()


def test_sampler_last_batches_are_almost_as_hard_as_first():
    """Points on a sphere; hardness is the angle to the nearest other point of the batch."""
    points = np.random.default_rng(0).normal(size=(2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosine = points @ points.T
    np.fill_diagonal(cosine, -np.inf)
    table = np.argsort(-cosine, axis=1)[:, :64].astype(np.int32)

    def angles(backfill):
        sampler = HardNegativeBatchSampler(Pairs(np.arange(2000)), Rules(60, neighbours=16, backfill=backfill))
        sampler.set_tables(table)
        report = sampler.report(points, points, max_batches=1000)
        first, last = (np.arccos(report[f"hardest_negative_{part}_quarter"]) for part in ("first", "last"))
        return first, last, report["anchors_per_batch"]

    (first, last, anchors), (_, faded, more_anchors) = angles(True), angles(False)
    assert last < 1.5 * first, "hardness fades"
    assert last < 0.8 * faded, "no better than without back-fill"
    assert anchors < 1.3 * 60 / 17 < 0.7 * more_anchors, "almost every anchor brings all its neighbours"


def test_plan_exhausted_row_continues_with_neighbours_of_neighbours():
    # Rows have four neighbours and an anchor needs eight: the others are neighbours of neighbours.
    pairs, table = line_world(2000)
    epoch = plan(pairs, table[:, :4], Rules(9, neighbours=8))
    away = np.sort(np.abs(epoch.batches[0] - epoch.batches[0][0]))
    assert away.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert epoch.anchors < plan(pairs, table[:, :4], Rules(9, neighbours=8, backfill=False)).anchors


def test_plan_published_rejects_are_requeued_and_end_epoch():
    tiles = np.arange(60) // 2  # two photos a tile: one batch of all tiles, then the second photos
    epoch = plan(Pairs(tiles), None, Rules.sample4geo(30, 0))
    assert len(epoch.batches) == 2
    alone = plan(Pairs(np.zeros(40, dtype=int)), None, Rules.sample4geo(2, 0))
    assert alone.batches.shape == (0, 2) and alone.dropped == 40  # no anchor is allowed in the open batch
    with pytest.raises(ValueError, match="forever"):
        Rules(2, requeue=True)


def test_sampler_report_equals_slow_formulas():
    pairs, table = line_world(300)
    sampler = HardNegativeBatchSampler(pairs, Rules(20, neighbours=10))
    sampler.set_tables(visual=table)
    rng = np.random.default_rng(0)
    ground, aerial = rng.normal(size=(2, 300, 5))
    report = sampler.report(ground, aerial, max_batches=1000)
    batches = sampler.plan().batches
    hardest, nearest, near = [], [], []
    for rows in batches:
        for photo in rows:
            others = [other for other in rows if other != photo]
            hardest.append(max(float(ground[photo] @ aerial[other]) for other in others))
            nearest.append(min(10.0 * abs(int(photo) - int(other)) for other in others))
            near.append(sum(10.0 * abs(int(photo) - int(other)) <= 1000 for other in others))
    assert report["hardest_negative"] == pytest.approx(np.mean(hardest))
    assert report["nearest_negative_m"] == pytest.approx(np.median(nearest), rel=1e-4)
    assert report["within_1km"] == pytest.approx(np.mean(near), abs=0.2)  # rounding at 1 km
    assert report["dropped_pairs"] == 300 - batches.size
    assert report["share_visual"] + report["anchors_per_batch"] * len(batches) / 300 == pytest.approx(1)
    shuffled = rng.permutation(300)
    same = sampler.report(ground, aerial[shuffled], own=np.argsort(shuffled), max_batches=1000)
    assert same["hardest_negative"] == pytest.approx(report["hardest_negative"])


def test_sampler_starts_at_seed_zero_and_epoch_zero():
    pairs, table = line_world(200)

    def batches(*settings, epoch=None):
        sampler = HardNegativeBatchSampler(pairs, Rules(20), *settings)
        sampler.set_tables(table)
        if epoch is not None:
            sampler.set_epoch(epoch)
        return list(sampler)

    first = batches()
    assert first == batches(0) == batches(epoch=0)
    assert first != batches(1) and first != batches(epoch=1)


def test_sampler_skip_batches_beyond_the_end_and_another_epoch():
    pairs, _ = line_world(100)
    sampler = HardNegativeBatchSampler(pairs, Rules(10))
    sampler.skip_batches(12)
    assert len(sampler) == 0 and list(sampler) == []
    sampler.set_epoch(0)
    assert len(sampler) == 0  # selecting the current epoch again has no effect
    sampler.set_epoch(1)
    assert len(sampler) == len(list(sampler)) == 10


def test_sampler_batches_are_not_padded_or_repeated_by_accelerate():
    from accelerate.data_loader import BatchSamplerShard

    pairs, _ = line_world(30)
    shards = [BatchSamplerShard(HardNegativeBatchSampler(pairs, Rules(10)), 2, rank) for rank in range(2)]
    photos = [photo for shard in shards for batch in shard for photo in batch]
    assert len(photos) == len(set(photos)) == 20  # the third batch has no partner on the other process


def test_sampler_report_of_few_batches_and_of_none():
    pairs, _ = line_world(10)
    report = HardNegativeBatchSampler(Pairs(pairs.tile_of_query), Rules(10)).report()
    assert report == {"batches": 1.0, "anchors_per_batch": 10.0, "dropped_pairs": 0.0}
    none = HardNegativeBatchSampler(Pairs(np.zeros(4, dtype=int), None, np.zeros((4, 2))), Rules(2))
    assert none.report(np.eye(4), np.eye(4)) == {"batches": 0.0, "anchors_per_batch": 1.0, "dropped_pairs": 4.0}


def test_sampler_report_counts_photos_within_one_kilometre():
    degrees_per_metre = 180 / (np.pi * 6_371_008.8)
    lat_lon = np.array([[0.0, 0.0], [999.5, 0.0], [0.0, 1000.5]]) * degrees_per_metre
    report = HardNegativeBatchSampler(Pairs(np.arange(3), None, lat_lon), Rules(3)).report(np.eye(3))
    assert report["within_1km"] == pytest.approx(2 / 3)  # one pair, counted for both of its photos
    assert report["nearest_negative_m"] == pytest.approx(999.5, abs=1e-3)
    assert not [name for name in report if name.startswith("hardest")]


def hardest_of(rows, ground, aerial):
    return np.mean([max(float(ground[i] @ aerial[j]) for j in rows if j != i) for i in rows])


@pytest.mark.parametrize(("count", "quarter"), [(8, 2), (11, 2), (3, 1)])
def test_sampler_report_quarters_equal_slow_means(count, quarter):
    ground, aerial = np.random.default_rng(1).normal(size=(2, 4 * count, 5))
    sampler = HardNegativeBatchSampler(Pairs(np.arange(4 * count)), Rules(4))
    report = sampler.report(ground, aerial)
    hardest = [hardest_of(rows, ground, aerial) for rows in sampler.plan().batches]
    assert report["hardest_negative"] == pytest.approx(np.mean(hardest))
    assert report["hardest_negative_first_quarter"] == pytest.approx(np.mean(hardest[:quarter]))
    assert report["hardest_negative_last_quarter"] == pytest.approx(np.mean(hardest[-quarter:]))
    two = sampler.report(ground, aerial, max_batches=2)  # the first and the last
    assert two["hardest_negative"] == pytest.approx((hardest[0] + hardest[-1]) / 2)


def test_sampler_report_uses_48_batches_by_default():
    ground, aerial = np.random.default_rng(1).normal(size=(2, 220, 5))
    sampler = HardNegativeBatchSampler(Pairs(np.arange(220)), Rules(2))
    found = sampler.report(ground, aerial)
    assert found == sampler.report(ground, aerial, max_batches=48) != sampler.report(ground, aerial, max_batches=49)
