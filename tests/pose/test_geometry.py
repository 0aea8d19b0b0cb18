"""Geometry without parameters: an oracle finds the exact position and heading; methods of scoring agree."""

import numpy as np
import pytest
import torch

from gengeo_hf.pose.geometry import (
    Layout,
    azimuth_weights,
    column_azimuths,
    is_circle,
    patch_points,
    positions_of,
    score_matrix,
    visibility,
)
from gengeo_hf.pose.head import PoseConfig, PoseHead, scores_by_direction, scores_by_frequency
from gengeo_hf.pose.posterior import poses_of, to_posterior

EDGES = (5.0, 10.0, 16.0, 24.0)


def layout(side=65.0, grid=(5, 5), coverage=0.55, step=3.0):
    return Layout(side, side, *grid, coverage, step, EDGES, 36, 10.0)


def oracle_scores(shape, position, heading, columns, fov=360.0):
    """Keys identify patches, queries are the exact visibility at a position: the score is their product."""
    azimuths = column_azimuths(columns, fov)
    headings = tuple(np.arange(0.0, 360.0, 10.0))
    seen = visibility(shape)
    seen = seen - seen.mean(dim=1, keepdim=True)
    norm = seen.pow(2).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
    seen = seen / norm
    where = azimuth_weights(azimuths, [heading], shape.bins)[:, 0]
    told = torch.einsum("krb,cb->crk", seen[position], where)
    possible = torch.einsum("pkrb,chb->hpcrk", seen, azimuth_weights(azimuths, headings, shape.bins))
    return torch.einsum("crk,hpcrk->hp", told, possible), headings


@pytest.mark.parametrize("fov, columns", [(360.0, 12), (90.0, 3), (70.0, 5)])
def test_oracle_finds_exact_position_and_heading(fov, columns):
    shape = layout(step=6.0, grid=(8, 8))
    for position in range(0, len(positions_of(shape)), 7):
        for heading in (0.0, 130.0):
            scores, headings = oracle_scores(shape, position, heading, columns, fov)
            best_heading, best = divmod(int(scores.argmax()), scores.shape[1])
            assert best == position
            assert headings[best_heading] == heading


def test_positions_are_a_centred_grid_in_metres():
    found = positions_of(layout())
    assert len(found) == 13 * 13
    assert found.min() == -18 and found.max() == 18
    assert torch.equal(found[84], torch.zeros(2))
    assert torch.equal(found[0], torch.tensor([-18.0, -18.0]))  # south-west first


def test_patch_points_start_in_the_north_west():
    points = patch_points(layout())
    assert points.shape == (25, 36, 2)
    assert points[0].mean(0).tolist() == pytest.approx([-26, 26])
    assert points[24].mean(0).tolist() == pytest.approx([26, -26])


def test_visibility_holds_direction_and_distance_of_a_patch():
    shape = layout(grid=(13, 13))
    seen = visibility(shape)
    centre = 84
    north = 3 * 13 + 6  # 15 m north of the centre
    east = 6 * 13 + 9
    for patch, bin_ in ((north, 0), (east, 9)):
        share = seen[centre, patch]
        ring, azimuth = divmod(int(share.argmax()), 36)
        assert ring == 2  # 10 to 16 m
        assert azimuth == bin_
    assert seen.sum(dim=1).max() <= 1 + 1e-5


def test_rolled_columns_are_a_turned_heading():
    azimuths = column_azimuths(12, 360.0)
    turned = azimuth_weights(azimuths, [90.0], 36)[:, 0]
    straight = azimuth_weights(azimuths, [0.0], 36)[:, 0]
    assert torch.allclose(turned, straight.roll(-3, 0), atol=1e-6)  # three columns of 30 degrees to the left


def test_flat_photo_columns_follow_the_tangent():
    azimuths = column_azimuths(2, 90.0, flat=True)
    assert azimuths.tolist() == pytest.approx([-np.degrees(np.arctan(0.5)), np.degrees(np.arctan(0.5))])


@pytest.mark.parametrize("fov, columns, headings", [(360.0, 12, (0.0,)), (90.0, 3, (37.0, 47.0, 57.0))])
def test_product_and_correlation_give_the_same_scores(fov, columns, headings):
    rng = torch.Generator().manual_seed(0)
    shape = layout(step=6.0)
    queries, keys = torch.randn(3, columns, 5, 16, generator=rng), torch.randn(3, 25, 16, generator=rng)
    azimuths = column_azimuths(columns, fov)
    matrix = score_matrix(shape, tuple(azimuths.tolist()), headings)
    product = ((queries.flatten(1, 2) @ keys.transpose(1, 2)).flatten(1) @ matrix).view(3, len(headings), -1)
    other = scores_by_direction(queries, keys, shape, azimuths, headings)
    assert torch.allclose(product, other, atol=1e-3)


def test_scores_equal_the_sum_in_the_documentation():
    """The formula of `head`, summed in plain loops over a few elements."""
    rng = torch.Generator().manual_seed(1)
    shape = layout(step=9.0, grid=(3, 3))
    head = PoseHead(PoseConfig(token_dim=4, ground_rows=2, tile_m=[60, 70]))
    queries, keys = torch.randn(1, 4, 5, 16, generator=rng), torch.randn(1, 9, 16, generator=rng)
    azimuths = column_azimuths(4, 360.0)
    found = head.scores(queries, keys, shape, azimuths, [20.0])[0, 0]
    seen = visibility(shape)
    for position in (0, 7):
        total = 0.0
        for column in range(4):
            bin_ = float(azimuths[column] + 20.0) % 360 / 10
            low, share = int(bin_) % 36, bin_ % 1
            for ring in range(5):
                for patch in range(9):
                    m = (1 - share) * seen[position, patch, ring, low] + share * seen[
                        position, patch, ring, (low + 1) % 36
                    ]
                    total += float(queries[0, column, ring] @ keys[0, patch] * m)
        assert found[position].item() == pytest.approx(total / 4, abs=1e-4)


def test_posterior_of_a_single_peak_is_that_pose():
    shape = layout()
    scores = torch.full((1, 36, 169), -50.0)
    scores[0, 12, 30] = 0.0
    found = poses_of(to_posterior(scores, positions_of(shape), np.arange(0, 360, 10)))
    assert found.offset_m[0] == pytest.approx(positions_of(shape)[30].numpy())
    assert found.heading[0] == pytest.approx(120)
    assert found.spread_m[0] < 1e-3


@pytest.mark.parametrize("first", [0.0, -137.0])
def test_circular_correlation_gives_the_scores_of_the_product(first):
    generator = torch.Generator().manual_seed(0)
    shape = Layout(65.0, 60.0, 5, 4, 0.5, 6.0, (5.0, 10.0, 24.0), 36, 10.0)
    queries, keys = torch.randn(2, 12, 4, 16, generator=generator), torch.randn(2, 20, 16, generator=generator)
    azimuths, headings = column_azimuths(12, 360.0), tuple(first + 10.0 * number for number in range(36))
    assert is_circle(headings, 36) and not is_circle(headings[:9], 36) and not is_circle(headings[::-1], 36)
    products = (queries.flatten(1, 2) @ keys.transpose(1, 2)).flatten(1)
    wanted = (products @ score_matrix(shape, tuple(azimuths.tolist()), headings)).view(2, 36, -1)
    found = scores_by_frequency(queries, keys, shape, azimuths, first)
    assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))
