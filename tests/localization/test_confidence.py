"""Confidences against known probabilities, and damaged calibration files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import bounds_around, offset
from gengeo_hf.common.statistics import wilson
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer
from gengeo_hf.localization.confidence import Calibration, absence_notes, reliability, reliability_plot
from gengeo_hf.localization.confidence_fits import HeldOutPhoto, held_out
from gengeo_hf.localization.localizer import Place
from tests.stubs import ListSource, StubEncoder


def scored(count=600, seed=0):
    """Answers with a known probability to be right, which grows with the lead of the first place."""
    generator = np.random.default_rng(seed)
    lead = generator.uniform(0, 0.3, count)
    chance = 1 / (1 + np.exp(-(20 * lead - 3)))
    right = generator.random(count) < chance
    answers = [[Place(1, 60.0, 25.0, 0.5 + gap, "a"), Place(2, 61.0, 25.0, 0.5, "b")] for gap in lead]
    truth = [(60.0, 25.0) if good else (62.0, 25.0) for good in right]
    return answers, truth, chance


def test_calibration_confidences_equal_the_known_probabilities(tmp_path, encoder):
    answers, truth, chance = scored()
    calibration = Calibration.fit(answers, truth, encoder.fingerprint, 12, within_m=50)
    assert calibration.expected_calibration_error < 0.08
    stated = [calibration.apply(places)[0].confidence for places in answers]
    assert np.abs(np.array(stated) - chance).mean() < 0.05
    assert calibration.apply(answers[0])[1].confidence < stated[0]
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration
    with pytest.raises(GenGeoError, match="another model"):
        calibration.check_model(StubEncoder("other"))
    with pytest.raises(GenGeoError, match="not a calibration"):
        Calibration.load(tmp_path / "none.json")


def test_held_out_probability_of_a_photo_is_independent_of_its_own_half():
    answers, truth, _ = scored(100)
    photos = [HeldOutPhoto.of(places, *where, 50.0) for places, where in zip(answers, truth, strict=True)]
    before = held_out(photos)[0]
    photos[::2] = [replace(photo, right=None if photo.right == 0 else 0) for photo in photos[::2]]
    after = held_out(photos)[0]
    assert np.array_equal(after[::2], before[::2]) and not np.allclose(after[1::2], before[1::2])


def test_held_out_photo_without_tiles_near_it_keeps_those_beyond_four_times_the_limit():
    away = [10.0, 60.0, 190.0, 210.0, 5000.0]
    places = [
        Place(row + 1, *map(float, offset(60.0, 25.0, 0.0, metres)), 0.9 - row / 10, str(row))
        for row, metres in enumerate(away)
    ]
    photo = HeldOutPhoto.of(places, 60.0, 25.0, within_m=50.0)
    assert photo.right == 0 and photo.absent_scores.tolist() == pytest.approx([0.6, 0.5])


def test_calibration_trade_counts_answered_and_right_photos():
    answers, truth, _ = scored()
    trade = Calibration.fit(answers, truth, "f", 12, within_m=50).trade
    assert trade[0][:2] == (0.0, 1.0) and [row[0] for row in trade] == sorted(row[0] for row in trade)
    answered, right = [row[1] for row in trade], [row[2] for row in trade]
    assert answered == sorted(answered, reverse=True) and right[-1] > right[0] + 0.2


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_reliability_plot_writes_the_file(tmp_path, ending):
    pytest.importorskip("matplotlib")
    answers, truth, _ = scored()
    calibration = Calibration.fit(answers, truth, "f", 12, within_m=50)
    reliability_plot(calibration, tmp_path / f"plot.{ending}")
    if ending == "png":
        from PIL import Image

        with Image.open(tmp_path / "plot.png") as picture:
            assert picture.size == (750, 840) and len(picture.convert("RGB").getcolors(1 << 20)) > 20
    else:
        assert "<svg" in (tmp_path / "plot.svg").read_text()
    with pytest.raises(GenGeoError, match="cannot be drawn"):
        reliability_plot(calibration, tmp_path / "plot.doc")
    assert not (tmp_path / "plot.doc").exists()


def test_wilson_interval_of_a_share_has_known_values():
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10.0, 10.0, 10.0]))
    np.testing.assert_allclose([low, high], [[0, 0.2366, 0.7225], [0.2775, 0.7634, 1]], atol=1e-3)


def test_calibration_of_too_few_or_equal_outcomes_raises_an_error():
    answers, truth, _ = scored(19)
    with pytest.raises(GenGeoError, match="at least 20"):
        Calibration.fit(answers, truth, "f", 5, 50)
    with pytest.raises(GenGeoError, match="all 30 answers are right"):
        Calibration.fit(answers[:15] * 2, [(60.0, 25.0)] * 30, "f", 5, 50)


def test_reliability_of_perfect_and_overconfident_probabilities():
    assert reliability(np.array([0.0, 1.0]), np.array([0.0, 1.0]))[0] == 0
    assert reliability(np.full(10, 0.9), np.zeros(10))[0] == pytest.approx(0.9)


def test_locate_below_the_threshold_gives_an_unknown_answer(index, encoder, photo):
    with pytest.raises(GenGeoError, match="needs confidences"):
        next(GeoLocalizer(encoder, index).locate_many([photo], threshold=0.5))
    sure = Calibration(-9.0, 10.0, 0.0, 50, encoder.fingerprint, 12, 20, 0.0)
    known = [
        next(GeoLocalizer(encoder, index, calibration=sure).locate_many([photo], threshold=t)).known
        for t in (0.5, 0.99)
    ]
    assert known == [True, False]


@pytest.mark.parametrize(
    ("gallery", "caveat"),
    [(5, "with 5 tiles and the index has 12, so they are too high"), (6, ""), (24, ""), (1000, "so they are too low")],
)
def test_caveat_warns_about_a_gallery_of_another_size(index, encoder, gallery, caveat):
    assert len(index) == 12
    calibration = Calibration(-9.0, 10.0, 0.0, 50, encoder.fingerprint, gallery, 20, 0.0)
    plain, found = (GeoLocalizer(encoder, index, calibration=given).caveat for given in (None, calibration))
    assert caveat in found if caveat else found == plain


def crowded(near=30, far=10):
    """Similar overlapping tiles every 3 m, and different tiles kilometres away."""
    source = ListSource(near + far)
    base = np.asarray(source.images[0], dtype=float)
    for number in range(near):
        mixed = 0.9 * base + 0.1 * np.asarray(source.images[number], dtype=float)
        source.images[number] = Image.fromarray(mixed.astype(np.uint8))
    east = np.where(np.arange(near + far) < near, 3.0, 500.0) * np.arange(near + far)
    lat, lon = offset(60.17, 24.94, east, 0.0)
    boxes = [bounds_around(a, b, 150, 150) for a, b in zip(lat, lon, strict=True)]
    source.table = tile_table(source.table["tile_id"].to_pylist(), lat, lon, boxes)
    return source


def test_confidence_does_not_depend_on_the_number_of_places_or_on_merging(encoder, tmp_path):
    source = crowded()
    source.images[0].save(tmp_path / "photo.png")
    calibration = Calibration(-9.0, 4.0, 20.0, 50, encoder.fingerprint, 40, 20, 0.0)
    localizer = GeoLocalizer(encoder, GeoIndex.build(encoder, source, tmp_path / "idx"), calibration=calibration)
    shown = [
        localizer.locate(tmp_path / "photo.png", top=top, merge=merge).places
        for top in (1, 5)
        for merge in (True, False)
    ]
    assert [len(places) for places in shown] == [1, 1, 5, 5]
    stated = [places[0].confidence for places in shown]
    assert stated == pytest.approx([stated[0]] * 4) and stated[0] > 0.99
    # The next tile overlaps: it has the same confidence and does not compete.
    assert shown[3][1].confidence == pytest.approx(stated[0], abs=0.01)


def saved(tmp_path):
    """Write a calibration; return it with its file."""
    answers, truth, _ = scored()
    calibration = Calibration.fit(answers, truth, "f", 12, within_m=50)
    calibration.save(tmp_path / "c.json")
    return calibration, tmp_path / "c.json"


def test_load_of_a_calibration_with_any_changed_digit_raises_an_error(tmp_path):
    calibration, file = saved(tmp_path)
    content = file.read_text()
    refused = 0
    for place, letter in enumerate(content):
        if not letter.isdigit():
            continue
        file.write_text(content[:place] + str((int(letter) + 1) % 10) + content[place + 1 :])
        try:
            assert Calibration.load(file) == calibration  # a last digit beyond the precision of a float
        except GenGeoError:
            refused += 1
    assert refused > 500
    file.write_text(content.replace('"within_m": ', '"within_m": 1'))
    with pytest.raises(GenGeoError, match=r"c\.json is damaged or was changed .* make it again with gengeo calibrate"):
        Calibration.load(file)


def test_load_of_a_calibration_of_an_earlier_version_without_a_digest_works(tmp_path):
    calibration, file = saved(tmp_path)
    old = json.loads(file.read_text())
    del old["sha256"]
    file.write_text(json.dumps(old))
    assert Calibration.load(file) == calibration
    del old["trade"], old["reliability"]
    file.write_text(json.dumps(old))
    assert Calibration.load(file).bias == calibration.bias


@pytest.mark.parametrize(
    "change",
    [
        {"bias": "1"},
        {"bias": None},
        {"bias": float("nan")},
        {"lead_weight": 10**400},
        {"gallery": True},
        {"fingerprint": 7},
        {"trade": [["a", 1, 1]]},
        {"reliability": 3},
        {"unknown": 1},
    ],
)
def test_load_of_a_calibration_with_values_of_a_wrong_type_raises_an_error(tmp_path, change):
    _, file = saved(tmp_path)
    values = json.loads(file.read_text())
    del values["sha256"]
    file.write_text(json.dumps(values | change))
    with pytest.raises(GenGeoError, match="is not a calibration"):
        Calibration.load(file)
    file.write_text("[]")
    with pytest.raises(GenGeoError, match="is not a calibration"):
        Calibration.load(file)


def test_calibrate_command_states_the_backend(gengeo, monkeypatch, tmp_path):
    class Chosen(StubEncoder):
        choice_reason = "openvino float32, the faster of two"

    monkeypatch.setattr("gengeo_hf.encoding.encoder.Encoder.from_pretrained", lambda *_, **__: Chosen())
    source = ListSource(24)
    GeoIndex.build(Chosen(), source, tmp_path / "idx")
    for number, image in enumerate(source.images):
        image.save(tmp_path / f"{number}.png")
    lat, lon = source.table["lat"].to_pylist(), source.table["lon"].to_pylist()
    rows = [f"{n}.png,{lat[n] + (n % 3 == 0)},{lon[n]}" for n in range(24)]  # every third true position is far away
    (tmp_path / "held_out.csv").write_text("\n".join(["image,lat,lon", *rows]))
    options = ("--index", tmp_path / "idx", "--model", "m", "--out", tmp_path / "c.json")
    code, out, err = gengeo("calibrate", tmp_path / "held_out.csv", *options)
    assert code == 0 and "24 photos" in out, err
    assert "openvino float32, the faster of two" in err


def crowd(count=1200, seed=1):
    """Photos with five distant places of known probability: softmax of 30 x score with one more outcome."""
    rng = np.random.default_rng(seed)
    answers, truth, stated = [], [], []
    for _ in range(count):
        scores = np.sort(rng.uniform(0.3, 0.7, 5))[::-1]
        utility = np.exp(30 * (scores - 0.55))
        chances = utility / (1 + utility.sum())
        pick = rng.choice(6, p=[*chances, 1 - chances.sum()])
        answers.append([Place(n + 1, 60.0 + n, 25.0, s, f"t{n}", uncertainty_m=20.0) for n, s in enumerate(scores)])
        east = rng.normal(0, 20 / np.sqrt(2))
        lat, lon = (float(v) for v in offset(60.0 + pick, 25.0, east, rng.normal(0, 20 / np.sqrt(2))))
        truth.append((lat, lon) if pick < 5 else (10.0, 25.0))
        stated.append(chances)
    return answers, truth, np.array(stated)


def test_confidences_of_places_equal_known_probabilities_and_sum_to_at_most_one():
    answers, truth, chances = crowd()
    fitted = Calibration.fit(answers, truth, "f", 5, within_m=100)
    found = np.array([[place.confidence for place in fitted.apply(places)] for places in answers])
    assert (found.sum(axis=1) <= 1 + 1e-9).all()
    assert np.abs(found[:, 0] - chances[:, 0]).mean() < 0.08 and np.abs(found[:, 1:] - chances[:, 1:]).mean() < 0.03
    assert min(fitted.brier_skill) > 0 and fitted.auroc > 0.75
    # The regression of best places is far too confident for a second place.
    naive = [Calibration.apply(fitted, places[1:])[0].confidence for places in answers]
    assert np.mean(naive) > 2 * found[:, 1].mean()


def test_radii_contain_their_share_of_cameras():
    answers, truth, _ = crowd()
    fitted = Calibration.fit(answers[:700], truth[:700], "f", 5, within_m=100)
    from gengeo_hf.common.geo import great_circle_m

    inside = {"radius_68_m": [], "radius_95_m": []}
    for places, where in zip(answers[700:], truth[700:], strict=True):
        place = fitted.apply(places)[0]
        away = float(great_circle_m(place.lat, place.lon, *where))
        if away <= 100:
            for name, found in inside.items():
                found.append(away <= getattr(place, name))
    assert abs(np.mean(inside["radius_68_m"]) - 0.68) < 0.06 and abs(np.mean(inside["radius_95_m"]) - 0.95) < 0.03


def test_not_in_index_is_higher_for_a_photo_of_another_area():
    answers, truth, _ = scored()
    fitted = Calibration.fit(answers, truth, "f", 12, within_m=50)
    here, elsewhere = fitted.not_in_index(answers[int(np.argmax([a[0].score for a in answers]))]), 0.0
    elsewhere = fitted.not_in_index([Place(1, 61.0, 25.0, 0.5, "b"), Place(2, 62.0, 25.0, 0.499, "c")])
    assert elsewhere > here + 0.3
    assert absence_notes(here) == [] and absence_notes(None) == []
    assert absence_notes(0.83) == ["probably not in this index (probability 83%, for a prior of 50%)"]


def test_best_place_does_not_depend_on_the_number_of_places(encoder, tmp_path):
    source = crowded(near=60, far=60)
    source.images[0].save(tmp_path / "photo.png")
    localizer = GeoLocalizer(encoder, GeoIndex.build(encoder, source, tmp_path / "idx"))
    best = [localizer.locate(tmp_path / "photo.png", top=top).places[0] for top in (1, 5, 10, 50)]
    assert all(place == best[0] for place in best)


def test_locate_with_a_prior_far_from_the_index_notes_the_distance(index, encoder, photo):
    localizer = GeoLocalizer(encoder, index)
    (swapped,) = localizer.locate_many([photo], near=(24.94, 60.17, 2000.0))
    assert not swapped.places and "swapped" in swapped.notes[-1] and "km away" in swapped.notes[-1]
    (abroad,) = localizer.locate_many([photo], near=(48.8, 2.3, 2000.0))
    assert "swapped" not in abroad.notes[-1] and "the index covers 60.17" in abroad.notes[-1]
