"""Values of calibrations by hand: confidences, radii, thresholds, reliability and its plot."""

import json
import math
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.localization.answers import Place
from gengeo_hf.localization.confidence import Calibration, absence_notes, reliability, reliability_plot
from gengeo_hf.localization.confidence_fits import HeldOutPhoto, auroc, brier_skill, fit_best, held_out, radius_factors


def calibration(**more):
    """A calibration in which the confidence of the best place is sigmoid(-9 + 10 x score + 4 x lead)."""
    return Calibration(-9.0, 10.0, 4.0, 50.0, "f", 100, 20, 0.1, **more)


def distant(*scores, uncertainty_m=None):
    return [Place(n + 1, 60.0 + n, 25.0, score, f"t{n}", uncertainty_m=uncertainty_m) for n, score in enumerate(scores)]


def test_apply_with_the_default_coefficients_divides_the_rest_equally():
    first, second, third = (place.confidence for place in calibration().apply(distant(0.9, 0.8, 0.7)))
    best, utility = 1 / (1 + math.exp(-(-9 + 9 + 0.4))), math.exp(-2)
    assert first == pytest.approx(best)
    assert second == third == pytest.approx((1 - best) * utility / (1 + 2 * utility))
    assert calibration().auroc == 0.5 and calibration().apply([]) == []


def test_apply_with_a_window_gives_confidences_to_the_places_in_it():
    places = distant(0.9, 0.8, 0.7, 0.6)
    found = calibration().apply(places, window=2)
    assert [place.tile_id for place in found] == ["t0", "t1", "t2", "t3"]
    assert [place.confidence for place in found[2:]] == [None, None]
    assert [p.confidence for p in found[:2]] == [p.confidence for p in calibration().apply(places[:2])]


def test_apply_gives_confidences_to_ten_places():
    found = [place.confidence for place in calibration().apply(distant(*np.linspace(0.9, 0.4, 12)))]
    assert [value is None for value in found] == [False] * 10 + [True] * 2


def test_apply_multiplies_the_uncertainty_by_the_radius_factors():
    fitted = calibration(radius_factors=(0.5, 2.0))
    (place,) = fitted.apply(distant(0.9, uncertainty_m=30.0))
    assert (place.radius_68_m, place.radius_95_m) == (15.0, 60.0)
    for one, places in ((fitted, distant(0.9)), (calibration(), distant(0.9, uncertainty_m=30.0))):
        (place,) = one.apply(places)
        assert place.radius_68_m is None and place.radius_95_m is None


def test_not_in_index_is_a_regression_on_score_and_lead():
    fitted = calibration(absence=(1.0, -2.0, -3.0))
    assert fitted.not_in_index(distant(0.9, 0.8)) == pytest.approx(1 / (1 + math.exp(-(1 - 1.8 - 0.3))))
    assert fitted.not_in_index([]) is None and calibration().not_in_index(distant(0.9)) is None


@pytest.mark.parametrize(("probability", "notes"), [(0.75, 0), (0.7501, 1)])
def test_absence_note_is_given_above_75_percent(probability, notes):
    assert len(absence_notes(probability)) == notes


def answered(count, right):
    """Answers of which the given ones have their best place at the true position."""
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.4, 0.8, count)
    answers = [distant(score, score - 0.1 * rng.random(), uncertainty_m=20.0) for score in scores]
    return answers, [(60.0, 25.0) if good else (10.0, 25.0) for good in right]


def test_fit_of_20_photos_counts_only_photos_with_places():
    answers, truth = answered(20, np.arange(20) % 3 == 0)
    fitted = Calibration.fit([*answers, []], [*truth, (60.0, 25.0)], "f", 7, 50.0)
    assert (fitted.photos, fitted.gallery, fitted.within_m, fitted.fingerprint) == (20, 7, 50.0, "f")
    with pytest.raises(GenGeoError, match="all 20 answers are wrong within 50 m"):
        Calibration.fit(answers, [(10.0, 25.0)] * 20, "f", 7, 50.0)


def test_calibration_cannot_be_changed():
    fitted = calibration()
    assert fitted.apply([]) == []
    with pytest.raises(FrozenInstanceError):
        fitted.bias = 0.0


def test_fit_states_the_quality_on_photos_that_it_did_not_see():
    answers, truth = answered(60, np.arange(60) % 3 == 0)
    fitted = Calibration.fit(answers, truth, "f", 7, 50.0)
    photos = [HeldOutPhoto.of(places, *position, 50.0) for places, position in zip(answers, truth, strict=True)]
    best, further, further_right = held_out(photos)
    right = np.array([position == (60.0, 25.0) for position in truth], dtype=float)
    assert fitted.auroc == auroc(best, right) and fitted.reliability == reliability(best, right)[1]
    assert fitted.brier_skill == (brier_skill(best, right), brier_skill(further, further_right))
    assert (fitted.bias, fitted.score_weight, fitted.lead_weight) == fit_best(photos)
    assert fitted.radius_factors == radius_factors(photos) and fitted.expected_calibration_error > 0


def test_fit_states_the_trade_at_thresholds_from_0_to_90_percent(monkeypatch):
    stated = np.concatenate([np.full(15, 0.5), np.full(15, 0.95)])
    monkeypatch.setattr("gengeo_hf.localization.confidence.held_out", lambda photos: (stated, np.zeros(1), np.zeros(1)))
    answers, truth = answered(30, np.arange(30) % 5 > 0)  # 12 of each half are right
    trade = Calibration.fit(answers, truth, "f", 7, 50.0).trade
    assert [row[0] for row in trade] == pytest.approx([0.1 * n for n in range(10)])
    assert [row[1] for row in trade] == [1.0] * 6 + [0.5] * 4 and {row[2] for row in trade} == {0.8}
    monkeypatch.setattr(
        "gengeo_hf.localization.confidence.held_out", lambda photos: (stated / 2, np.zeros(1), np.zeros(1))
    )
    assert [row[0] for row in Calibration.fit(answers, truth, "f", 7, 50.0).trade] == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_reliability_has_ten_bins_of_which_the_last_holds_a_confidence_of_one():
    stated = np.array([0.0, 0.0625, 0.125, 0.5, 0.53125, 0.96875, 1.0])
    right = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    gap, bins = reliability(stated, right)
    assert bins == (
        (0.03125, 0.5, 2),
        (0.125, 0.0, 1),
        (0.515625, 0.5, 2),
        (0.984375, 1.0, 2),
    )
    assert gap == pytest.approx((2 * 0.46875 + 0.125 + 2 * 0.015625 + 2 * 0.015625) / 7)


def test_reliability_plot_shows_shares_intervals_and_counts(tmp_path, monkeypatch):
    figure_module = pytest.importorskip("matplotlib.figure")
    figures = []
    save = figure_module.Figure.savefig
    monkeypatch.setattr(
        figure_module.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    bins = ((0.25, 0.5, 10), (0.75, 1.0, 10))
    reliability_plot(calibration(reliability=bins), tmp_path / "plot.png")
    upper, lower = figures[0].axes
    diagonal, shares = upper.lines[:2]
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert shares.get_xydata().tolist() == [[0.25, 0.5], [0.75, 1.0]]
    ends = upper.containers[0].lines[2][0].get_segments()
    wilson = [[0.2366, 0.7634], [0.7225, 1.0]]  # of 5 and of 10 in 10 photos, 95 %
    np.testing.assert_allclose([segment[:, 1] for segment in ends], wilson, atol=1e-3)
    assert [bar.get_height() for bar in lower.patches] == [10, 10]
    assert [bar.get_x() + bar.get_width() / 2 for bar in lower.patches] == pytest.approx([0.25, 0.75])
    assert max(bar.get_width() for bar in lower.patches) < 0.1  # narrower than a bin
    assert upper.get_xlim() == lower.get_xlim() == (0, 1)
    assert -0.1 < upper.get_ylim()[0] < 0 and 1 < upper.get_ylim()[1] < 1.1


def test_load_of_an_earlier_version_has_the_defaults_of_missing_values(tmp_path):
    calibration(absence=(1.0, 2.0, 3.0)).save(tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text())
    for name in ("sha256", "absence", "radius_factors", "brier_skill", "auroc", "rest_bias", "rest_weight"):
        del values[name]
    (tmp_path / "c.json").write_text(json.dumps(values))
    assert Calibration.load(tmp_path / "c.json") == calibration()


@pytest.mark.parametrize(("value", "valid"), [(sys.float_info.max, True), (10**309, False), (-(10**309), False)])
def test_load_accepts_numbers_in_the_range_of_float(tmp_path, value, valid):
    calibration().save(tmp_path / "c.json")
    values = json.loads((tmp_path / "c.json").read_text()) | {"bias": value}
    del values["sha256"]
    (tmp_path / "c.json").write_text(json.dumps(values))
    if valid:
        assert Calibration.load(tmp_path / "c.json").bias == value
    else:
        with pytest.raises(GenGeoError, match="bias is"):
            Calibration.load(tmp_path / "c.json")
