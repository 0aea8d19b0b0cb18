import math

import pytest
import torch
import torch.nn.functional as F

from gengeo_hf.learning import symmetric_info_nce
from gengeo_hf.learning.loss import MAX_SCALE, clamp_scale


def unit(rows, dim, seed):
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_info_nce_equals_two_cross_entropies():
    ground, aerial, scale = unit(7, 5, 0), unit(7, 5, 1), torch.tensor(2.0)
    logits = scale.exp() * ground @ aerial.T
    labels = torch.arange(7)
    expected = (
        F.cross_entropy(logits, labels, label_smoothing=0.1) + F.cross_entropy(logits.T, labels, label_smoothing=0.1)
    ) / 2
    torch.testing.assert_close(symmetric_info_nce(ground, aerial, scale, label_smoothing=0.1), expected)


def test_info_nce_two_orthogonal_pairs_has_known_value():
    # Two pairs with cosines 1 on the diagonal and 0 elsewhere: -log(e^s / (e^s + 1)) in all four softmaxes.
    eye = torch.eye(2)
    loss = symmetric_info_nce(eye, eye, torch.tensor(0.0))
    assert loss.item() == pytest.approx(torch.log1p(torch.exp(torch.tensor(-1.0))).item(), rel=1e-6)


def test_info_nce_ignored_candidate_has_no_gradient():
    ground, aerial = unit(3, 4, 0), unit(3, 4, 1).requires_grad_()
    ignored = torch.zeros(3, 3, dtype=torch.bool)
    ignored[0, 2] = ignored[2, 0] = ignored[1, 2] = ignored[2, 1] = True
    loss = symmetric_info_nce(ground, aerial, torch.tensor(1.0), ignored=ignored)
    loss.backward()
    pair = symmetric_info_nce(ground[:2], aerial[:2], torch.tensor(1.0))
    torch.testing.assert_close(loss, pair * 2 / 3)  # the third pair has no negatives and a loss of zero
    assert aerial.grad[2].abs().max() == 0


def test_info_nce_true_tile_is_never_ignored():
    ground = unit(4, 4, 0)
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert symmetric_info_nce(ground, unit(4, 4, 1), torch.tensor(1.0), ignored=everything).item() == 0


def test_info_nce_several_positives_share_target():
    ground = unit(2, 4, 0)
    aerial = ground[[0, 0]]  # both tiles are positives of photo 0
    positives = torch.tensor([[True, True], [True, True]])
    loss = symmetric_info_nce(ground[[0, 0]], aerial, torch.tensor(3.0), positives=positives)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-5)


def test_info_nce_scale_is_clamped_and_autocast_has_no_effect():
    ground, aerial = unit(8, 16, 0), unit(8, 16, 1)
    huge, limit = torch.tensor(50.0), torch.tensor(100.0).log()
    torch.testing.assert_close(symmetric_info_nce(ground, aerial, huge), symmetric_info_nce(ground, aerial, limit))
    plain = symmetric_info_nce(ground, aerial, limit)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert symmetric_info_nce(ground, aerial, limit).item() == plain.item()


def test_info_nce_prefixes_average_losses():
    torch.manual_seed(5)
    ground, aerial = (F.normalize(torch.randn(6, 8), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(2.0)
    alone = [
        symmetric_info_nce(*(F.normalize(x[:, :width], dim=1) for x in (ground, aerial)), scale) for width in (2, 5)
    ]
    alone.append(symmetric_info_nce(ground, aerial, scale))
    nested = symmetric_info_nce(ground, aerial, scale, prefixes=[2, 5])
    torch.testing.assert_close(nested, torch.stack(alone).mean())
    # The first values have gradients of all three losses, the last ones only of the full width.
    gradient, whole = torch.autograd.grad(nested, ground)[0], torch.autograd.grad(alone[2], ground)[0]
    torch.testing.assert_close(gradient[:, 5:], whole[:, 5:] / 3)
    assert (gradient[:, :2] - whole[:, :2] / 3).abs().max() > 1e-3
    with pytest.raises(ValueError, match="prefixes"):
        symmetric_info_nce(ground, aerial, scale, prefixes=[9])


def test_info_nce_single_pair_or_unequal_views_are_refused():
    with pytest.raises(ValueError, match="at least two pairs"):
        symmetric_info_nce(unit(1, 4, 0), unit(1, 4, 1), torch.tensor(1.0))
    with pytest.raises(ValueError, match="one shape"):
        symmetric_info_nce(unit(3, 4, 0), unit(2, 4, 1), torch.tensor(1.0))


def slow_info_nce(ground, aerial, scale, target, smoothing=0.0):
    """Compute the loss with loops in float64; `target` has a 1 for each matching pair."""
    total = 0.0
    for queries, gallery, matching in ((ground, aerial, target), (aerial, ground, target.T)):
        for i, query in enumerate(queries):
            logits = [scale * float(query @ other) for other in gallery]
            logs = [logit - math.log(sum(math.exp(each) for each in logits)) for logit in logits]
            for j, log in enumerate(logs):
                share = float(matching[i, j] / matching[i].sum())
                total -= ((1 - smoothing) * share + smoothing / len(logs)) * log
    return total / (2 * len(ground))


def test_info_nce_positives_equal_double_loop():
    ground, aerial = unit(4, 6, 0).double(), unit(4, 6, 1).double()
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0, 2] = positives[0, 3] = positives[1, 0] = True  # the diagonal is positive without being named
    target = torch.eye(4) + positives
    for smoothing in (0.0, 0.2):
        found = symmetric_info_nce(ground, aerial, torch.tensor(1.2), positives=positives, label_smoothing=smoothing)
        expected = slow_info_nce(ground, aerial, math.exp(1.2), target, smoothing)
        assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prefixes", [[0], [0, 5], [2, 9], [9]])
def test_info_nce_prefixes_outside_the_width_are_refused(prefixes):
    with pytest.raises(ValueError, match="must lie between 1 and the width 8"):
        symmetric_info_nce(unit(3, 8, 0), unit(3, 8, 1), torch.tensor(1.0), prefixes=prefixes)


def test_info_nce_prefixes_of_one_and_of_all_values_are_accepted():
    ground, aerial, scale = unit(3, 8, 0), unit(3, 8, 1), torch.tensor(1.0)
    whole = symmetric_info_nce(ground, aerial, scale)
    signs = symmetric_info_nce(ground[:, :1].sign(), aerial[:, :1].sign(), scale)
    torch.testing.assert_close(symmetric_info_nce(ground, aerial, scale, prefixes=[8]), whole)
    torch.testing.assert_close(symmetric_info_nce(ground, aerial, scale, prefixes=[1]), (whole + signs) / 2)
    with pytest.raises(ValueError, match="one shape"):
        symmetric_info_nce(ground[None], aerial[None], scale)


def test_clamp_scale_bounds_the_parameter_at_ln_100():
    for value, expected in ((5.0, math.log(100)), (4.0, 4.0)):
        scale = torch.nn.Parameter(torch.tensor(value))
        clamp_scale(scale)
        assert scale.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("start", [100.0, 121.5, 99.0])
def test_clamp_scale_temperature_at_bound_can_decrease(start):
    """With random descriptors the scale must decrease from any initial value."""
    generator = torch.Generator().manual_seed(0)
    ground, aerial = (F.normalize(torch.randn(16, 8, generator=generator)) for _ in range(2))
    scale = torch.nn.Parameter(torch.tensor(start).log())
    clamp_scale(scale)
    optimizer = torch.optim.AdamW([scale], lr=0.01, weight_decay=0)
    for _ in range(50):
        optimizer.zero_grad()
        symmetric_info_nce(ground, aerial, scale).backward()
        optimizer.step()
        clamp_scale(scale)
        assert scale.exp() <= MAX_SCALE * (1 + 1e-6)
    assert scale.exp() < 70
