"""Triplet, counterfactual and position losses, compared with slow formulas and known values."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from gengeo_hf.learning import symmetric_info_nce
from gengeo_hf.learning.counterfactual import counterfactual_loss
from gengeo_hf.learning.position import position_error, soft_argmax
from gengeo_hf.learning.triplet import soft_margin_triplet


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize("scale", [20.0, 5.0])
def test_triplet_equals_double_loop(scale):
    ground, aerial, ignored = unit(5, 7), unit(5, 7, seed=1), torch.zeros(5, 5, dtype=torch.bool)
    ignored[0, 3] = True
    terms = {"photo": [], "tile": []}
    for i in range(5):
        for j in range(5):
            if i == j or ignored[i, j]:
                continue
            distance = lambda a, b: float(((a - b) ** 2).sum())  # noqa: E731  # squared distances, as in the papers
            right = distance(ground[i], aerial[i]), distance(ground[j], aerial[j])
            wrong = distance(ground[i], aerial[j])
            terms["photo"].append(math.log1p(math.exp(scale / 2 * (right[0] - wrong))))
            terms["tile"].append(math.log1p(math.exp(scale / 2 * (right[1] - wrong))))
    expected = sum(sum(each) / len(each) for each in terms.values()) / 2
    found = soft_margin_triplet(ground, aerial, scale=scale, ignored=ignored)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_triplet_of_two_pairs_is_info_nce_at_its_scale():
    ground, aerial = unit(2, 9), unit(2, 9, seed=1)
    scale = torch.tensor(20.0).log()
    expected = symmetric_info_nce(ground, aerial, scale)
    assert soft_margin_triplet(ground, aerial).item() == pytest.approx(expected.item(), rel=1e-5)


def test_triplet_without_negatives_is_refused():
    same = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="without negatives"):
        soft_margin_triplet(unit(2, 4), unit(2, 4), positives=same)
    with pytest.raises(ValueError, match="of one shape"):
        soft_margin_triplet(unit(2, 4), unit(3, 4))


def test_counterfactual_loss_of_equal_and_orthogonal_descriptors_has_known_values():
    found = counterfactual_loss(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert found.tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-10))], rel=1e-4)


def test_soft_argmax_one_hot_map_is_centre_of_cell():
    cells = torch.zeros(1, 2, 3, 5)
    cells[:, 1] = 1
    cells[0, :, 2, 3] = torch.tensor([1.0, 0.0])
    query = torch.tensor([[1.0, 0.0]])
    assert soft_argmax(query, cells, temperature=0.01)[0].tolist() == pytest.approx([3.0, 2.0], abs=1e-4)
    square = torch.nn.functional.pad(cells, (0, 0, 0, 2))
    square[:, 1, 3:] = 1
    centre_of_cell = torch.tensor([[3.5 / 5, 2.5 / 5]])  # fractions of width and height
    assert position_error(query, square, centre_of_cell, (5,), 0.01).item() == pytest.approx(0, abs=1e-3)


def slow_position_error(query, cells, position, grids):
    expected, side = [], cells.shape[-1]
    for image in range(len(query)):
        total = 0.0
        for grid in grids:
            step, scores, coordinates = side // grid, [], []
            for row in range(grid):
                for column in range(grid):
                    block = cells[image, :, row * step : (row + 1) * step, column * step : (column + 1) * step]
                    mean = block.mean(dim=(1, 2))
                    scores.append(float(mean @ query[image] / (mean.norm() * query[image].norm())) / 0.05)
                    coordinates.append((column, row))
            weights = torch.tensor(scores).softmax(0)
            x, y = (float(sum(w * p[axis] for w, p in zip(weights, coordinates, strict=True))) for axis in (0, 1))
            total += math.hypot(x - (position[image, 0] * grid - 0.5), y - (position[image, 1] * grid - 0.5))
        expected.append(total)
    return expected


def test_position_error_equals_slow_formula():
    torch.manual_seed(0)
    query, cells, position = torch.randn(3, 4), torch.randn(3, 4, 6, 6), torch.rand(3, 2)
    for grids in ((6, 3, 2), (1,)):
        expected = slow_position_error(query, cells, position, grids)
        assert position_error(query, cells, position, grids).tolist() == pytest.approx(expected, rel=1e-4)
    cells = torch.randn(3, 4, 12, 12)
    expected = slow_position_error(query, cells, position, (12, 6, 3))  # the grids of AuxGeo
    assert position_error(query, cells, position).tolist() == pytest.approx(expected, rel=1e-4)


def test_soft_argmax_temperature_is_a_twentieth_by_default():
    # Two cells with cosines 1 and 0.9: the difference of 0.1 is two units of temperature.
    cells = torch.tensor([[1.0, 0.9], [0.0, math.sqrt(1 - 0.81)]]).reshape(1, 2, 1, 2)
    expected = 1 / (1 + math.exp(2))
    query = torch.tensor([[3.0, 0.0]])
    assert soft_argmax(query, cells)[0].tolist() == pytest.approx([expected, 0.0], rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert soft_argmax(query, cells)[0].tolist() == pytest.approx([expected, 0.0], rel=1e-4)


@pytest.mark.parametrize("grids", [(), (0,), (2, 6), (6,), (0, 3)])
def test_position_error_grids_outside_a_map_of_unequal_sides_are_refused(grids):
    with pytest.raises(ValueError, match="the map has 5 cells a side"):
        position_error(torch.ones(1, 2), torch.ones(1, 2, 5, 7), torch.ones(1, 2), grids)


def test_triplet_loss_is_float32_under_autocast():
    ground, aerial = unit(5, 7).float(), unit(5, 7, seed=1).float()
    expected = soft_margin_triplet(ground, aerial)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(soft_margin_triplet(ground, aerial), expected)
    with pytest.raises(ValueError, match="of one shape"):
        soft_margin_triplet(ground[None], aerial[None])


def test_position_error_grid_finer_than_map_is_refused():
    with pytest.raises(ValueError, match="the map has 5 cells a side"):
        position_error(torch.ones(1, 2), torch.ones(1, 2, 5, 5), torch.ones(1, 2), (12,))
