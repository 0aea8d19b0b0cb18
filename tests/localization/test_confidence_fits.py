"""Regressions and quality measures of calibrations, against slow formulas and values computed by hand."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy.optimize import minimize

from gengeo_hf.common.geo import great_circle_m, offset
from gengeo_hf.localization.answers import Place
from gengeo_hf.localization.confidence_fits import (
    HeldOutPhoto,
    auroc,
    brier_skill,
    fit_absence,
    fit_best,
    fit_logistic,
    fit_rest,
    held_out,
    logistic,
    radius_factors,
    rest_probabilities,
    score_and_lead,
)


def photo(scores, right, absent=(), ratio=None):
    return HeldOutPhoto(np.array(scores, dtype=float), right, np.array(absent, dtype=float), ratio)


def north_of(metres, row, **more):
    lat, lon = offset(60.0, 25.0, 0.0, metres)
    return Place(row + 1, float(lat), float(lon), 0.9 - row / 50, str(row), **more)


def places_at(*metres):
    return [north_of(away, row, uncertainty_m=20.0) for row, away in enumerate(metres)]


def test_held_out_photo_takes_the_nearest_place_within_the_limit_and_its_ratio():
    found = HeldOutPhoto.of(places_at(40.0, -20.0, 90.0, 3000.0), 60.0, 25.0, within_m=50.0)
    assert found.right == 1 and found.ratio == pytest.approx(1.0, rel=0.01)
    assert HeldOutPhoto.of(places_at(70.0, 90.0), 60.0, 25.0, within_m=50.0).right is None
    assert HeldOutPhoto.of([north_of(20.0, 0)], 60.0, 25.0, within_m=50.0).ratio is None


def test_held_out_photo_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        HeldOutPhoto.of(places_at(20.0), 60.0, 25.0, within_m=50.0).right = 1


def test_held_out_photo_limits_are_inclusive():
    (place,) = places_at(80.0)
    away = float(great_circle_m(place.lat, place.lon, 60.0, 25.0))
    assert HeldOutPhoto.of([place], 60.0, 25.0, within_m=away).right == 0
    assert len(HeldOutPhoto.of([place], 60.0, 25.0, within_m=away / 4).absent_scores) == 0  # at four times the limit
    assert len(HeldOutPhoto.of([place], 60.0, 25.0, within_m=away / 4.5).absent_scores) == 1


def test_held_out_photo_keeps_ten_places():
    found = HeldOutPhoto.of(places_at(*(1000.0 * row for row in range(12))), 60.0, 25.0, within_m=50.0)
    assert len(found.scores) == 10 and len(found.absent_scores) == 9


def test_score_and_lead_of_one_place_has_a_lead_of_zero():
    assert score_and_lead(np.array([0.7])) == (0.7, 0.0)
    assert score_and_lead(np.array([0.75, 0.5])) == (0.75, 0.25)
    assert score_and_lead(np.array([0.75, 0.5, 0.125])) == (0.75, 0.25)


def test_rest_probabilities_are_a_softmax_with_one_more_outcome():
    found = rest_probabilities(np.array([-1.0, 10.0]), np.array([0.8, 0.7, 0.5]))
    second, third = math.exp(-1 - 1), math.exp(-1 - 3)
    np.testing.assert_allclose(found, [second / (1 + second + third), third / (1 + second + third)], rtol=1e-12)
    extreme = rest_probabilities(np.array([0.0, 1e6]), np.array([0.5, 0.4, 0.1]))
    assert np.isfinite(extreme).all() and extreme.max() < 1e-20
    assert rest_probabilities(np.array([1e6, 0.0]), np.array([0.5, 0.4])) == pytest.approx([1.0])


def test_logistic_has_known_values_and_no_overflow():
    weights, features = np.array([0.5, 2.0, -1.0]), np.array([[0.25, 1.0], [1.0, 0.5], [0.0, 1e6], [1e6, 0.0]])
    np.testing.assert_allclose(logistic(weights, features), [0.5, 1 / (1 + math.exp(-2)), 0, 1], rtol=1e-12, atol=1e-20)


def scored_features(share, seed=3, count=400):
    """Score and lead of photos with different means and spreads, and outcomes of which about `share` are 1."""
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.normal(0.6, 0.1, count), rng.exponential(0.03, count)])
    logits = 8 * (features[:, 0] - 0.6) + 20 * (features[:, 1] - 0.03) + math.log(share / (1 - share))
    return features, (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(float)


def slow_logistic(features, right, counts):
    """Minimise the loss, with a ridge of 1 % on standardised features, by a general optimiser."""
    scale = features.std(axis=0)

    def loss(weights):
        logits = weights[0] + features @ weights[1:]
        ridge = 0.01 * len(right) * ((weights[1:] * scale) ** 2).sum() / 2
        return float((counts * (np.logaddexp(0, logits) - right * logits)).sum() + ridge)

    start = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 2000, "maxfev": 4000}).x
    return minimize(loss, start, method="BFGS", options={"gtol": 1e-6}).x


@pytest.mark.parametrize("share", [0.03, 0.5, 0.97])
def test_fit_logistic_equals_the_minimum_of_its_loss(share):
    features, right = scored_features(share)
    counts = np.where(right > 0, 1.7, 0.6)
    np.testing.assert_allclose(
        fit_logistic(features, right, counts), slow_logistic(features, right, counts), rtol=2e-3, atol=2e-3
    )
    plain = fit_logistic(features, right)
    np.testing.assert_allclose(plain, slow_logistic(features, right, np.ones(400)), rtol=2e-3, atol=2e-3)
    # At the minimum the stated probabilities have the mean of the outcomes, because the bias has no ridge.
    assert logistic(plain, features).mean() == pytest.approx(right.mean(), rel=1e-7)


def test_fit_logistic_of_a_constant_lead_uses_the_score():
    features, right = scored_features(0.5)
    features[:, 1] = 0.0
    found = fit_logistic(features, right)
    assert found[2] == 0 and logistic(found, features).mean() == pytest.approx(right.mean(), rel=1e-7)
    assert found[1] == pytest.approx(slow_logistic(features, right, np.ones(400))[1], rel=2e-3)


def test_fit_logistic_of_separable_outcomes_is_finite():
    features = np.column_stack([np.linspace(0.4, 0.8, 40), np.linspace(0.0, 0.3, 40) ** 2])
    found = fit_logistic(features, (features[:, 0] > 0.6).astype(float))
    assert np.isfinite(found).all() and (np.diff(logistic(found, features)) > 0).all()


def ragged_photos(count=240, seed=2):
    """Photos with one to six places, of which a softmax of 10 x score - 1 with one more outcome chooses the right."""
    rng = np.random.default_rng(seed)
    photos = []
    for _ in range(count):
        scores = np.sort(rng.uniform(0.3, 0.7, rng.integers(1, 7)))[::-1]
        utility = np.exp([1.0, *(10 * (scores[1:] - scores[0]) - 0.5), 0.0])
        pick = int(rng.choice(len(utility), p=utility / utility.sum()))
        photos.append(photo(scores, pick if pick < len(scores) else None))
    return photos


def slow_rest(photos):
    """Maximum likelihood of further places with a ridge of 1 %, photo by photo."""
    wrong = [one for one in photos if one.right != 0 and len(one.scores) > 1]
    scale = np.concatenate([one.scores[1:] - one.scores[0] for one in wrong]).std()

    def loss(weights):
        total = 0.0
        for one in wrong:
            utility = [weights[0] + weights[1] * (score - one.scores[0]) for score in one.scores[1:]]
            chosen = 0.0 if one.right is None else utility[one.right - 1]
            total += math.log(1 + sum(map(math.exp, utility))) - chosen
        return total / len(wrong) + 0.01 * (weights[0] ** 2 + (weights[1] * scale) ** 2) / 2

    return minimize(loss, np.array([0.5, 1.0]), method="BFGS", options={"gtol": 1e-6}).x


@pytest.mark.parametrize("count", [24, 240])
def test_fit_rest_equals_the_maximum_of_the_likelihood(count):
    photos = ragged_photos(count)
    np.testing.assert_allclose(fit_rest(photos), slow_rest(photos), rtol=5e-3, atol=2e-3)


def test_fit_rest_without_a_wrong_best_place_gives_the_defaults():
    for photos in ([photo([0.7, 0.6], 0)] * 3, [photo([0.7], None)] * 3):
        assert fit_rest(photos) == (-2.0, 0.0)


def test_fit_best_separates_photos_whose_first_place_is_right():
    photos = ragged_photos()
    features = np.array([score_and_lead(one.scores) for one in photos])
    right = np.array([float(one.right == 0) for one in photos])
    np.testing.assert_allclose(
        fit_best(photos), slow_logistic(features, right, np.ones(len(right))), rtol=5e-3, atol=5e-3
    )


def test_fit_absence_weights_photos_and_absent_photos_equally():
    rng = np.random.default_rng(5)
    present = [np.sort(rng.uniform(0.4, 0.8, 3))[::-1] for _ in range(60)]
    absent = [np.sort(rng.uniform(0.3, 0.6, 2))[::-1] for _ in range(20)]
    photos = [photo(scores, 0, absent[row] if row < 20 else ()) for row, scores in enumerate(present)]
    features = np.array([(scores[0], scores[0] - scores[1]) for scores in [*present, *absent]])
    expected = slow_logistic(features, np.repeat([0.0, 1.0], (60, 20)), np.repeat([1.0, 3.0], (60, 20)))
    np.testing.assert_allclose(fit_absence(photos), expected, rtol=5e-3, atol=5e-3)
    assert fit_absence(photos[1:]) == ()  # 19 absent photos are too few


def test_radius_factors_are_conformal_quantiles_of_right_best_places():
    ratios = np.random.default_rng(0).permutation(np.arange(1.0, 46.0))
    photos = [photo([0.7], 0, ratio=ratio) for ratio in ratios]
    others = [photo([0.7, 0.6], 1, ratio=0.1), photo([0.7], None), photo([0.7], 0)]
    # Ranks of the 45 ratios: 0.68 x 46 = 31.28 and 0.95 x 46 = 43.7, rounded up.
    assert radius_factors([*photos, *others]) == (32.0, 44.0)
    assert len(radius_factors(photos[:20])) == 2 and radius_factors(photos[:19]) == ()


def test_held_out_fits_each_half_on_the_other():
    photos = ragged_photos(81)
    best, further, further_right = held_out(photos)
    stated, right = [], []
    for half in (0, 1):
        weights, rest = (np.array(fit(photos[1 - half :: 2])) for fit in (fit_best, fit_rest))
        for row in range(half, 81, 2):
            scores = photos[row].scores
            assert best[row] == pytest.approx(float(logistic(weights, np.array([score_and_lead(scores)]))[0]))
            stated += list((1 - best[row]) * rest_probabilities(rest, scores)[:4])  # places 2 to 5
            right += [float(photos[row].right == place) for place in range(1, min(len(scores), 5))]
    np.testing.assert_allclose(further, stated, rtol=1e-12)
    assert further_right.tolist() == right and 0 < sum(right) < len(right)


def test_brier_skill_has_the_value_of_its_definition():
    # Brier score (0.01 + 0.36 + 0.04) / 3, against 2/9 of always stating one third.
    assert brier_skill(np.array([0.9, 0.6, 0.2]), np.array([1.0, 0.0, 0.0])) == pytest.approx(1 - 0.41 / 3 / (2 / 9))
    assert brier_skill(np.array([0.9, 0.6]), np.ones(2)) == brier_skill(np.empty(0), np.empty(0)) == 0.0


def test_auroc_is_the_share_of_pairs_in_order():
    stated, right = np.array([0.2, 0.5, 0.5, 0.9, 0.1]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    pairs = [np.sign(a - b) / 2 + 0.5 for a in stated[right > 0] for b in stated[right == 0]]
    assert auroc(stated, right) == pytest.approx(np.mean(pairs)) == pytest.approx(3.5 / 6)
