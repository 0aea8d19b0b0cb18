"""`plan_epoch` on small cases with known results."""

import dataclasses

import numpy as np
import pytest

from gengeo_hf.common.geo import EARTH_RADIUS_M
from gengeo_hf.learning import Pairs, Rules, plan_epoch


class InOrder:
    """A generator whose permutations keep the order of the photos."""

    def permutation(self, count):
        return np.arange(count)


class InOrderThenReversed:
    """A generator that keeps the order of the anchors and reverses all others."""

    calls = 0

    def permutation(self, count):
        self.calls += 1
        return np.arange(count)[:: 1 if self.calls == 1 else -1]


def plan_reversed(pairs, tables, rules, **options):
    return plan_epoch(pairs, tables, rules, InOrderThenReversed(), **options)


def rows_of(count, width, **rows):
    """Return a neighbour table that is empty except for some rows."""
    table = np.full((count, width), -1)
    for row, tiles in rows.items():
        table[int(row[1:]), : len(tiles)] = tiles
    return table


def plan_in_order(pairs, tables, rules, **options):
    return plan_epoch(pairs, tables, rules, InOrder(), **options)


def semi(count, **rows):
    table = np.full((count, 1), -1)
    for row, tile in rows.items():
        table[int(row[1:])] = tile
    return table


def test_plan_semi_positive_is_banned_in_both_directions():
    tiles = np.arange(4)
    # Tile 1 covers photo 0: photo 1 is not allowed in the batch of photo 0 and moves to the next batch.
    assert plan_in_order(Pairs(tiles, semi(4, q0=1)), [], Rules(2)).batches.tolist() == [[0, 2], [1, 3]]
    # Tile 0 covers photo 1: photo 1 itself would have tile 0 as a false negative.
    assert plan_in_order(Pairs(tiles, semi(4, q1=0)), [], Rules(2)).batches.tolist() == [[0, 2], [1, 3]]
    allowed = Rules(2, ban_semi_positives=False)
    assert plan_in_order(Pairs(tiles, semi(4, q0=1)), [], allowed).batches.tolist() == [[0, 1], [2, 3]]


def test_plan_semi_positive_neighbour_is_not_added():
    table = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    rules = Rules(2, neighbours=1)
    assert plan_in_order(Pairs(np.arange(4)), [table], rules).batches.tolist()[0] == [0, 1]
    plan = plan_in_order(Pairs(np.arange(4), semi(4, q0=1)), [table], rules)
    assert plan.batches.tolist() == [[0, 2], [1, 3]] and plan.taken == (1,)


def test_plan_deferred_anchors_start_next_batch_in_order():
    tiles = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6])  # photos 0, 1 and 2 have the same tile
    assert plan_in_order(Pairs(tiles), [], Rules(3)).batches.tolist() == [[0, 3, 4], [1, 5, 6], [2, 7, 8]]


def test_plan_published_rules_requeue_anchors_at_end():
    tiles = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6])
    rules = Rules(3, requeue=True, stop_after_rejects=4)
    assert plan_in_order(Pairs(tiles), [], rules).batches.tolist() == [[0, 3, 4], [5, 6, 7], [8, 1]][:2]


def test_plan_incomplete_batch_is_dropped_and_counted():
    plan = plan_in_order(Pairs(np.arange(7)), [], Rules(3))
    assert plan.batches.tolist() == [[0, 1, 2], [3, 4, 5]] and (plan.dropped, plan.anchors) == (1, 7)


def test_plan_consecutive_rejects_end_epoch():
    tiles = np.array([0, 0, 0, 1, 0, 0, 2, 3])  # two rejects, one taken, two rejects, two taken
    assert plan_in_order(Pairs(tiles), [], Rules(4, stop_after_rejects=3)).batches.tolist() == [[0, 3, 6, 7]]
    assert len(plan_in_order(Pairs(tiles), [], Rules(4, stop_after_rejects=2)).batches) == 0


def test_plan_random_share_fills_end_of_batch_with_anchors():
    table = np.stack([np.delete(np.arange(8), row)[:7] for row in range(8)])
    plan = plan_in_order(Pairs(np.arange(8)), [table], Rules(4, neighbours=7, random_share=0.5))
    assert plan.anchors == 6 and plan.taken == (2,)  # each batch: an anchor, one neighbour, two random pairs
    assert plan_in_order(Pairs(np.arange(8)), [table], Rules(4, neighbours=7)).anchors == 2


@pytest.mark.parametrize(("shares", "taken"), [([0.25, 0.75], (2, 6)), (None, (4, 4)), ([1.0, 0.0], (8, 0))])
def test_plan_tables_contribute_by_shares(shares, taken):
    one = np.tile(np.arange(1, 9), (20, 1))
    other = np.tile(np.arange(10, 18), (20, 1))
    plan = plan_in_order(Pairs(np.arange(20)), [one, other], Rules(9, neighbours=8), shares=shares)
    assert tuple(int(np.isin(plan.batches[0], part).sum()) for part in (one, other)) == taken


def test_plan_photo_of_neighbour_is_used_once():
    tiles = np.array([0, 1, 1, 2, 3, 4])
    table = np.array([[1], [2], [2], [1], [1], [0]])
    plan = plan_in_order(Pairs(tiles), [table], Rules(2, neighbours=1))
    assert plan.batches.tolist()[:2] == [[0, 1], [2, 3]]  # photo 2 is an anchor, since photo 1 of its tile is used
    again = plan_in_order(Pairs(tiles[::-1].copy()), [table[::-1].copy()], Rules(2, neighbours=1))
    assert again.batches.tolist()[:2] == [[0, 5], [1, 3]]


def test_plan_min_negative_distance_is_kept():
    lat_lon = np.array([[0.0, 0.0], [0.0, 0.001], [0.0, 0.002], [0.0, 0.003]])  # 111 m apart
    pairs = Pairs(np.arange(4), None, lat_lon)
    assert plan_in_order(pairs, [], Rules(2, min_negative_distance_m=120)).batches.tolist() == [[0, 2], [1, 3]]
    assert plan_in_order(pairs, [], Rules(2, min_negative_distance_m=105)).batches.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("batch", "k", "expected"),
    [
        (5, 4, [0, 1, 2, 8, 7]),  # two nearest, two drawn from the others, here from the end
        (6, 5, [0, 1, 2, 3, 8, 7]),  # one more of the nearest if k is odd
        (3, 4, [0, 1, 2]),  # the nearest come first in a batch with less room
    ],
)
def test_plan_nearest_half_comes_first_and_the_rest_is_drawn(batch, k, expected):
    table = rows_of(9, 8, q0=range(1, 9))
    assert plan_reversed(Pairs(np.arange(9)), [table], Rules(batch, neighbours=k)).batches[0].tolist() == expected


def test_plan_each_photo_of_a_tile_can_be_a_neighbour_in_random_order():
    pairs = Pairs(np.array([0, 2, 1, 1]))  # photos 2 and 3 have tile 1
    plan = plan_reversed(pairs, [rows_of(4, 1, q0=[1], q1=[1])], Rules(2, neighbours=1))
    assert plan.batches.tolist() == [[0, 3], [1, 2]] and (plan.anchors, plan.taken, plan.dropped) == (2, (2,), 0)


def test_plan_tile_zero_is_a_neighbour_a_bridge_and_found_over_a_bridge():
    pairs = Pairs(np.array([5, 4, 3, 2, 1, 0]))  # photo 5 has tile 0
    rules = Rules(4, neighbours=3)
    over = plan_in_order(pairs, [rows_of(6, 2, q0=[0], q5=[4, 3])], rules)
    assert over.batches.tolist() == [[0, 5, 1, 2]] and (over.anchors, over.taken) == (3, (3,))
    found = plan_in_order(pairs, [rows_of(6, 2, q0=[1], q4=[0, 4])], rules)
    assert found.batches.tolist() == [[0, 4, 5, 1]] and (found.anchors, found.taken) == (3, (3,))


def test_plan_banned_neighbour_is_replaced_and_not_counted():
    pairs, rules = Pairs(np.arange(6), semi(6, q0=3)), Rules(3, neighbours=2)  # tile 3 covers photo 0
    drawn = plan_reversed(pairs, [rows_of(6, 3, q0=[1, 2, 3])], rules)
    assert drawn.batches.tolist() == [[0, 1, 2], [3, 4, 5]] and (drawn.anchors, drawn.taken) == (4, (2,))
    bridged = plan_reversed(pairs, [rows_of(6, 3, q0=[1], q1=[3, 4])], rules)
    assert bridged.batches.tolist() == [[0, 1, 4], [2, 3, 5]] and (bridged.anchors, bridged.taken) == (4, (2,))


def test_plan_published_rules_do_not_replace_used_neighbours():
    table = rows_of(12, 7, q0=range(1, 8), q3=[8, 1, 9, 10, 11, 5, 6])
    rules = Rules(6, neighbours=5, backfill=False)
    plan = plan_reversed(Pairs(np.arange(12)), [table], rules)
    # Photo 3: of the nearest two, 1 is used; of the three that are drawn (6, 5 and 11), two are used.
    assert plan.batches.tolist() == [[0, 1, 2, 7, 6, 5], [3, 8, 11, 4, 9, 10]]
    assert (plan.anchors, plan.taken, plan.dropped) == (5, (7,), 0)


def test_plan_published_rules_remove_neighbours_for_all_photos_of_a_tile():
    pairs = Pairs(np.array([0, 0, 1, 2, 3, 4]))  # photos 0 and 1 have tile 0
    table = rows_of(6, 3, q0=[1, 2, 3], q1=[1, 2, 3])
    plan = plan_reversed(pairs, [table], Rules(3, neighbours=2, backfill=False))
    # Photo 0 takes tiles 1 and 3; the nearest of the others for photo 1 is tile 2, that of photo 3.
    assert plan.batches.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert (plan.anchors, plan.taken) == (3, (3,))


def test_plan_published_rules_end_after_1024_rejects():
    def batches(rejects):
        return plan_in_order(Pairs(np.array([0] * (rejects + 1) + [1])), [], Rules.sample4geo(2)).batches

    assert batches(1023).shape == (1, 2) and batches(1024).shape == (0, 2)


def test_rules_defaults_are_those_of_the_papers():
    rules = Rules(8)
    assert rules.neighbours == 64 and rules.backfill and rules.ban_semi_positives and not rules.requeue
    published = Rules.sample4geo(8)
    assert published.neighbours == 64 and published.requeue
    assert not published.backfill and not published.ban_semi_positives


def test_plan_distance_equal_to_the_minimum_is_allowed():
    """The distance of the poles, half of the circumference, is exact in floating point numbers."""
    pairs, half = Pairs(np.arange(2), None, np.array([[90.0, 0.0], [-90.0, 0.0]])), np.pi * EARTH_RADIUS_M
    assert plan_in_order(pairs, [], Rules(2, min_negative_distance_m=half)).batches.tolist() == [[0, 1]]
    assert not len(plan_in_order(pairs, [], Rules(2, min_negative_distance_m=half + 0.01)).batches)


def test_plan_of_exactly_one_batch_and_tables_without_neighbours():
    pairs = Pairs(np.arange(3))
    assert plan_in_order(pairs, [rows_of(3, 2)], Rules(3)).batches.tolist() == [[0, 1, 2]]
    assert plan_in_order(pairs, [np.empty((3, 0), dtype=int)], Rules(3)).batches.tolist() == [[0, 1, 2]]


def test_plan_shares_are_relative():
    one, other = np.tile(np.arange(1, 9), (20, 1)), np.tile(np.arange(10, 18), (20, 1))
    for shares in ([0.1, 0.3], [1.0, 3.0]):
        plan = plan_in_order(Pairs(np.arange(20)), [one, other], Rules(9, neighbours=8), shares=shares)
        assert plan.batches[0].tolist() == [0, 1, 2, *range(10, 16)]


def test_pairs_list_photos_of_tiles_and_are_short_in_print():
    pairs = Pairs(np.array([2, 0, 2]), np.array([[0, -1], [-1, -1], [-1, 1]]))
    assert pairs.queries_of_tile == [[1], [], [0, 2]] and pairs.covered == [(2, 0), (0,), (2, 1)]
    assert "queries_of_tile" not in repr(pairs) and "covered" not in repr(pairs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Pairs(np.zeros((2, 2), dtype=int)), "non-empty vector of gallery rows"),
        (lambda: Pairs(np.array([], dtype=int)), "non-empty vector of gallery rows"),
        (lambda: Pairs(np.array([3, -1])), "non-empty vector of gallery rows"),
        (lambda: Pairs(np.arange(3), np.zeros((2, 1))), "semi_positives has 2 rows for 3 queries"),
        (lambda: Rules(4, neighbours=-1), "found -1, 0.0 and 0.0"),
        (lambda: Rules(4, random_share=1.5), "found 64, 0.0 and 1.5"),
        (lambda: Rules(4, random_share=-0.5), "found 64, 0.0 and -0.5"),
        (lambda: Rules(4, min_negative_distance_m=-1.0), "found 64, -1.0 and 0.0"),
        (lambda: plan_in_order(Pairs(np.arange(3)), [np.zeros(3, dtype=int)], Rules(2)), "does not fit 3 queries"),
        (lambda: plan_in_order(Pairs(np.arange(3)), [np.full((3, 1), -2)], Rules(2)), "not the true tile"),
        (lambda: plan_in_order(Pairs(np.arange(3)), [rows_of(3, 1, q1=[3])], Rules(2)), "not the true tile"),
    ],
)
def test_plan_invalid_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_plan_inputs_and_results_cannot_be_changed():
    plan = plan_in_order(Pairs(np.arange(3)), [], Rules(3))
    for instance, name in ((Pairs(np.arange(3)), "lat_lon"), (Rules(3), "batch_size"), (plan, "dropped")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, name, None)
