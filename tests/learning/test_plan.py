"""`plan_epoch` on small cases with known results."""

import numpy as np
import pytest

from gengeo_hf.learning import Pairs, Rules, plan_epoch


class InOrder:
    """A generator whose permutations keep the order of the photos."""

    def permutation(self, count):
        return np.arange(count)


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
