"""One epoch's layout on small cases that are counted by hand."""

import numpy as np
import pytest

from gengeo_hf.learning import Pairs, Rules, plan_epoch


class InOrder:
    """A generator that draws nothing: photos come in their order."""

    def permutation(self, count):
        return np.arange(count)


def laid_out(pairs, tables, rules, **options):
    return plan_epoch(pairs, tables, rules, InOrder(), **options)


def semi(count, **rows):
    table = np.full((count, 1), -1)
    for row, tile in rows.items():
        table[int(row[1:])] = tile
    return table


def test_a_semi_positive_is_banned_in_both_directions():
    tiles = np.arange(4)
    # Tile 1 covers photo 0: photo 1 cannot follow photo 0, and waits for the next batch.
    assert laid_out(Pairs(tiles, semi(4, q0=1)), [], Rules(2)).batches.tolist() == [[0, 2], [1, 3]]
    # Tile 0 covers photo 1: photo 1 itself would have tile 0 as a false negative.
    assert laid_out(Pairs(tiles, semi(4, q1=0)), [], Rules(2)).batches.tolist() == [[0, 2], [1, 3]]
    allowed = Rules(2, ban_semi_positives=False)
    assert laid_out(Pairs(tiles, semi(4, q0=1)), [], allowed).batches.tolist() == [[0, 1], [2, 3]]


def test_a_neighbour_that_is_a_semi_positive_is_not_brought_along():
    table = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    rules = Rules(2, neighbours=1)
    assert laid_out(Pairs(np.arange(4)), [table], rules).batches.tolist()[0] == [0, 1]
    made = laid_out(Pairs(np.arange(4), semi(4, q0=1)), [table], rules)
    assert made.batches.tolist() == [[0, 2], [1, 3]] and made.taken == (1,)


def test_deferred_anchors_start_the_next_batch_in_their_order():
    tiles = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6])  # photos 1 and 2 clash with photo 0, and with one another
    assert laid_out(Pairs(tiles), [], Rules(3)).batches.tolist() == [[0, 3, 4], [1, 5, 6], [2, 7, 8]]


def test_deferred_anchors_of_the_published_rules_go_to_the_end():
    tiles = np.array([0, 0, 0, 1, 2, 3, 4, 5, 6])
    rules = Rules(3, requeue=True, stop_after_rejects=4)
    assert laid_out(Pairs(tiles), [], rules).batches.tolist() == [[0, 3, 4], [5, 6, 7], [8, 1]][:2]


def test_an_incomplete_batch_is_left_out_and_counted():
    made = laid_out(Pairs(np.arange(7)), [], Rules(3))
    assert made.batches.tolist() == [[0, 1, 2], [3, 4, 5]] and (made.dropped, made.anchors) == (1, 7)


def test_rejects_in_a_row_end_an_epoch_and_others_do_not():
    tiles = np.array([0, 0, 0, 1, 0, 0, 2, 3])  # two rejects, one taken, two rejects, two taken
    assert laid_out(Pairs(tiles), [], Rules(4, stop_after_rejects=3)).batches.tolist() == [[0, 3, 6, 7]]
    assert len(laid_out(Pairs(tiles), [], Rules(4, stop_after_rejects=2)).batches) == 0


def test_the_random_share_leaves_the_last_places_to_anchors():
    table = np.stack([np.delete(np.arange(8), row)[:7] for row in range(8)])
    made = laid_out(Pairs(np.arange(8)), [table], Rules(4, neighbours=7, random_share=0.5))
    assert made.anchors == 6 and made.taken == (2,)  # of each batch: an anchor, one neighbour, two strangers
    assert laid_out(Pairs(np.arange(8)), [table], Rules(4, neighbours=7)).anchors == 2


@pytest.mark.parametrize(("shares", "taken"), [([0.25, 0.75], (2, 6)), (None, (4, 4)), ([1.0, 0.0], (8, 0))])
def test_tables_give_their_share_of_the_neighbours(shares, taken):
    one = np.tile(np.arange(1, 9), (20, 1))
    other = np.tile(np.arange(10, 18), (20, 1))
    made = laid_out(Pairs(np.arange(20)), [one, other], Rules(9, neighbours=8), shares=shares)
    assert tuple(int(np.isin(made.batches[0], part).sum()) for part in (one, other)) == taken


def test_a_photo_of_a_neighbour_is_taken_once_and_then_another_of_its_tile():
    tiles = np.array([0, 1, 1, 2, 3, 4])
    table = np.array([[1], [2], [2], [1], [1], [0]])
    made = laid_out(Pairs(tiles), [table], Rules(2, neighbours=1))
    assert made.batches.tolist()[:2] == [[0, 1], [2, 3]]  # photo 2 comes as an anchor: photo 1 of its tile was taken
    again = laid_out(Pairs(tiles[::-1].copy()), [table[::-1].copy()], Rules(2, neighbours=1))
    assert again.batches.tolist()[:2] == [[0, 5], [1, 3]]


def test_no_two_members_are_nearer_than_asked():
    lat_lon = np.array([[0.0, 0.0], [0.0, 0.001], [0.0, 0.002], [0.0, 0.003]])  # 111 m apart
    pairs = Pairs(np.arange(4), None, lat_lon)
    assert laid_out(pairs, [], Rules(2, min_negative_distance_m=120)).batches.tolist() == [[0, 2], [1, 3]]
    assert laid_out(pairs, [], Rules(2, min_negative_distance_m=105)).batches.tolist() == [[0, 1], [2, 3]]
