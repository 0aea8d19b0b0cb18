"""Correction of drives: synthetic frames along a street, some of them wrong."""

import itertools
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m, offset
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer, Motion
from gengeo_hf.localization.answers import SHARPNESS, Answer, Place, drive_line
from gengeo_hf.localization.drive import correct_drive, order_frames
from tests.stubs import ListSource


def place(rank, east, north, score):
    lat, lon = offset(60.17, 24.94, east, north)
    return Place(rank, float(lat), float(lon), score, f"{east:g}/{north:g}", uncertainty_m=30.0)


def frame(number, *places):
    return Answer(f"{number:03d}.jpg", [place(rank, *values) for rank, values in enumerate(places, 1)])


def test_correct_drive_of_a_wrong_frame_puts_the_right_place_first():
    answers = [frame(n, (15.0 * n, 0, 0.8), (900, 900, 0.6)) for n in range(7)]
    answers[3] = frame(3, (5000, 5000, 0.81), (-4000, 0, 0.8), (45, 0, 0.76))
    mended = correct_drive(answers, np.arange(7.0), Motion(top_speed=20))
    assert [answer.places[0].tile_id for answer in mended] == [f"{15 * n}/0" for n in range(7)]
    assert [p.rank for p in mended[3].places] == [1, 2, 3] and "place 3" in mended[3].notes[0]
    assert mended[3].places[1].tile_id == "5000/5000" and not mended[0].notes


def test_correct_drive_of_a_frame_without_a_reachable_place_leaves_it_out():
    answers = [frame(n, (15.0 * n, 0, 0.8)) for n in range(6)]
    answers[2] = frame(2, (50_000, 0, 0.9), (60_000, 0, 0.9))
    mended = correct_drive(answers, np.arange(6.0), Motion())
    assert [answer.known for answer in mended] == [True, True, False, True, True, True]
    assert "left out" in mended[2].notes[0] and len(drive_line(mended)) == 5
    both_ends = correct_drive([answers[2], *answers[:2], *answers[3:], answers[2]], np.arange(7.0), Motion())
    assert [answer.known for answer in both_ends] == [False, *[True] * 5, False]


@pytest.mark.parametrize("old, new, known", [(0.9, 0.2, False), (0.2, 0.9, True)])
def test_correct_drive_of_a_changed_frame_uses_the_confidence_of_the_new_place(old, new, known):
    answers = [frame(n, (15.0 * n, 0, 0.8)) for n in range(5)]
    astray = frame(2, (5000, 0, 0.81), (30, 0, 0.78))
    sure = [replace(p, confidence=c) for p, c in zip(astray.places, (old, new), strict=True)]
    answers[2] = replace(astray, places=sure, known=old >= 0.5)
    answers[3] = replace(answers[3], known=False)  # unchanged frames keep `known`
    mended = correct_drive(answers, np.arange(5.0), Motion(), threshold=0.5)
    assert mended[2].places[0].tile_id == "30/0"
    assert [answer.known for answer in mended] == [True, True, known, False, True]


def test_correct_drive_keeps_a_jump_within_reach():
    answers = [frame(0, (0, 0, 0.8), (2000, 0, 0.7)), frame(1, (2000, 0, 0.8), (0, 0, 0.7))]
    assert [a.places[0].tile_id for a in correct_drive(answers, [0, 200.0], Motion(top_speed=20))] == ["0/0", "2000/0"]
    near = [a.places[0].tile_id for a in correct_drive(answers, [0, 1.0], Motion(top_speed=20))]
    assert len(set(near)) == 1


def test_correct_drive_equals_the_best_of_all_paths():
    """Compare with all combinations, including left-out frames."""
    generator = np.random.default_rng(1)
    for _ in range(8):
        answers = [
            frame(
                n,
                *sorted(
                    zip(*generator.uniform(-400, 400, (2, 3)), generator.uniform(0.5, 0.8, 3), strict=True),
                    key=lambda row: -row[2],
                ),
            )
            for n in range(4)
        ]
        motion = Motion(top_speed=20, left_out=2.0)
        picks = list(itertools.product([None, 0, 1, 2], repeat=4))[1:]
        best = min(picks, key=lambda way: _cost(answers, way, motion))
        found = correct_drive(answers, np.arange(4.0), motion)
        assert [a.places[0].tile_id if a.known else None for a in found] == [
            None if pick is None else answers[n].places[pick].tile_id for n, pick in enumerate(best)
        ]


def _cost(answers, way, motion):
    kept = [n for n, pick in enumerate(way) if pick is not None]
    total = motion.left_out * (len(way) - len(kept))
    for n in kept:
        total += SHARPNESS * (answers[n].places[0].score - answers[n].places[way[n]].score)
    for a, b in itertools.pairwise(kept):
        one, other = answers[a].places[way[a]], answers[b].places[way[b]]
        reach = motion.top_speed * (b - a) + one.uncertainty_m + other.uncertainty_m
        total += max(0.0, great_circle_m(one.lat, one.lon, other.lat, other.lon) / reach - 1)
    return total


def test_correct_drive_skips_unreadable_frames_and_takes_an_empty_drive():
    answers = [frame(0, (0, 0, 0.8)), Answer("broken.jpg", error="cut off"), frame(2, (20, 0, 0.8))]
    assert correct_drive(answers, np.arange(3.0), Motion()) == answers
    alone = [replace(answers[1], photo=str(n)) for n in range(3)]
    assert correct_drive(alone, np.arange(3.0), Motion()) == alone and correct_drive([], [], Motion()) == []


def test_correct_drive_of_a_long_drive_is_fast():
    answers = [frame(n, *((15.0 * n + 400 * rank, 0, 0.8 - 0.001 * rank) for rank in range(20))) for n in range(300)]
    mended = correct_drive(answers, np.arange(300.0), Motion())
    assert all(answer.known for answer in mended)


def test_order_frames_sorts_by_time_and_keeps_unreadable_frames_in_place():
    start = datetime(2024, 7, 9, 3, 27, 33, 500_000)
    timed = {second: replace(frame(second), time=start + timedelta(seconds=second)) for second in (0, 8, 16)}
    broken = Answer("broken.jpg", error="cut off")
    answers, seconds = order_frames([timed[16], timed[0], broken, timed[8]], 1.0)
    assert answers == [timed[0], broken, timed[8], timed[16]] and seconds.tolist() == [0, 0, 8, 16]
    answers, seconds = order_frames([broken, timed[8], timed[0]], 1.0)
    assert answers == [timed[0], broken, timed[8]] and seconds.tolist() == [0, 8, 8]
    for given in ([timed[8], frame(3), timed[0]], [broken, broken], []):  # a frame without time, or no frames
        answers, seconds = order_frames(given, 2.0)
        assert answers == given and seconds.tolist() == [2.0 * n for n in range(len(given))]


def test_motion_of_invalid_values_raises_an_error():
    for wrong in ({"top_speed": 0}, {"interval_s": -1}, {"interval_s": float("inf")}, {"left_out": float("nan")}):
        with pytest.raises(GenGeoError, match=f"{next(iter(wrong))} of a drive must be a positive number, found"):
            Motion(**wrong)


@pytest.fixture
def drive(tmp_path):
    """Twelve tiles along a street, 100 m apart, with a photo of each; the fifth photo shows a distant tile."""
    street, far = ListSource(count=12), ListSource(count=12, name="far", seed=5, lat=61.0)
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, image in enumerate(street.images):
        pixels = np.asarray(image, dtype=float)
        if number == 5:  # mostly a distant tile, and a little of the true one
            pixels = 0.52 * np.asarray(far.images[0], dtype=float) + 0.48 * pixels
        exif = Image.Exif()
        exif[271] = "a car"  # PNG drops EXIF data whose first level is empty
        inside = exif.get_ifd(34665)
        inside[36867] = (datetime(2026, 5, 1, 12) + timedelta(seconds=8 * number)).strftime("%Y:%m:%d %H:%M:%S")
        Image.fromarray(pixels.astype(np.uint8)).resize((32, 32), 0).save(folder / f"{99 - number}.png", exif=exif)
    return street, far, folder


def test_locate_of_a_directory_of_frames_as_a_drive(drive, encoder, tmp_path):
    street, far, folder = drive
    index = GeoIndex.build(encoder, street, tmp_path / "idx")
    index.add(encoder, far)
    localizer = GeoLocalizer(encoder, index)
    photos = sorted(folder.iterdir())
    single = {answer.photo: answer for answer in localizer.locate_many(photos, merge=False)}
    assert single[str(folder / "94.png")].places[0].tile_id == "far-0"
    answers = localizer.locate(photos, sequence=True, top=2, merge=False)
    # The order is that of the EXIF times, not of the names.
    assert [answer.places[0].tile_id for answer in answers] == [f"noise-{n}" for n in range(12)]
    assert "place" in answers[5].notes[0] and all(len(answer.places) <= 2 for answer in answers)
    lat, lon = street.table["lat"].to_numpy(), street.table["lon"].to_numpy()
    gaps = [great_circle_m(*at, lat[n], lon[n]) for n, at in enumerate(drive_line(answers))]
    assert max(gaps) < 1
    # An unreadable file does not change the times: with 1 s between frames, few would be within reach.
    (folder / "95z.png").write_bytes(b"cut off")
    mended = localizer.locate(sorted(folder.iterdir()), sequence=True, top=2, merge=False)
    assert [a.places[0].tile_id for a in mended if a.places] == [f"noise-{n}" for n in range(12)]
    assert all(a.known for a in mended) and sum(bool(a.error) for a in mended) == 1


def known(answers):
    return correct_drive(answers, np.arange(float(len(answers))), Motion())


def with_gap(before, astray, after):
    """Frames along a street, with distant frames, each at another location, between those before and after."""
    good = [frame(n, (15.0 * n, 0, 0.8)) for n in range(before + astray + after)]
    bad = [frame(n, (50_000.0 * (n + 1), 70_000.0 * n, 0.9)) for n in range(len(good))]
    return [*good[:before], *bad[before : before + astray], *good[before + astray :]]


@pytest.mark.parametrize(("before", "after"), [(3, 3), (0, 6), (6, 0)])
def test_correct_drive_leaves_out_at_most_four_frames_in_a_row(before, after):
    found = [answer.known for answer in known(with_gap(before, 4, after))]
    assert found == [True] * before + [False] * 4 + [True] * after
    assert sum(not answer.known for answer in known(with_gap(before, 5, after))) != 5


def test_correct_drive_without_confidences_keeps_a_changed_frame_known_only_without_a_threshold():
    answers = [frame(n, (15.0 * n, 0, 0.8)) for n in range(5)]
    answers[2] = frame(2, (5000, 0, 0.81), (30, 0, 0.78))
    found = [correct_drive(answers, np.arange(5.0), Motion(), *given)[2] for given in ((), (0.5,))]
    assert [answer.known for answer in found] == [True, False]
    assert found[0].notes == ("place 2 by score; first in the drive",)


def test_correct_drive_of_a_changed_frame_with_the_confidence_of_the_threshold_is_known():
    answers = [frame(n, (15.0 * n, 0, 0.8)) for n in range(5)]
    astray = frame(2, (5000, 0, 0.81), (30, 0, 0.78))
    answers[2] = replace(astray, places=[replace(p, confidence=0.25) for p in astray.places])
    assert correct_drive(answers, np.arange(5.0), Motion(), threshold=0.25)[2].known


@pytest.mark.parametrize("behind, left_out", [(0.19, False), (0.21, True)])
def test_correct_drive_leaves_out_a_frame_whose_reachable_place_scores_lower_by_more_than_a_fifth(behind, left_out):
    """Leaving a frame out costs 4, as does a cosine that is lower by 0.2."""
    answers = [frame(n, (15.0 * n, 0, 0.8)) for n in range(5)]
    answers[2] = frame(2, (50_000, 0, 0.8), (30, 0, 0.8 - behind))
    assert known(answers)[2].known is not left_out


@pytest.mark.parametrize(
    ("speed", "seconds", "radii", "reach"),
    [
        (20.0, 2.5, (30.0, 7.0), 87.0),
        (20.0, 2.5, (30.0, None), 80.0),
        (20.0, 0.0, (None, 37.0), 37.0),
        (0.1, 1.0, (None, 5.0), 10.0),  # the reach is at least 10 m
    ],
)
def test_correct_drive_takes_a_distant_place_unless_its_step_costs_more_than_its_score(speed, seconds, radii, reach):
    """A step costs (distance - reach) / reach, where reach is speed x time + both radii."""
    motion = Motion(top_speed=speed, left_out=1000.0)
    first = replace(place(1, 0, 0, 0.9), uncertainty_m=radii[0])
    far, near = (replace(place(n, east, 0, 0.9), uncertainty_m=radii[1]) for n, east in ((1, 3 * reach), (2, 0)))
    cost = great_circle_m(first.lat, first.lon, far.lat, far.lon) / reach - 1
    for share, chosen in ((0.999, near), (1.001, far)):
        lower = replace(near, score=far.score - share * float(cost) / SHARPNESS)
        answers = [Answer("first.jpg", [first]), Answer("second.jpg", [far, lower])]
        found = correct_drive(answers, [0.0, seconds], motion)
        assert [answer.places[0].tile_id for answer in found] == [first.tile_id, chosen.tile_id]


def test_order_frames_of_a_video_takes_its_seconds():
    video = [replace(frame(n), video_s=seconds) for n, seconds in enumerate((0.0, 2.5, 2.5, 7.0))]
    answers, seconds = order_frames(video, 1.0)
    assert answers == video and seconds.tolist() == [0.0, 2.5, 2.5, 7.0]
    for given in (video[::-1], [video[0], frame(5), video[3]]):  # two videos, or a photo among the frames
        answers, seconds = order_frames(given, 3.0)
        assert answers == given and seconds.tolist() == [3.0 * n for n in range(len(given))]


def test_order_frames_of_times_with_and_without_a_time_zone_keeps_the_given_order():
    photo = replace(frame(0), time=datetime(2024, 7, 9, 12))
    video = replace(frame(1), time=datetime(2024, 7, 9, 9, tzinfo=UTC), video_s=0.0)
    answers, seconds = order_frames([photo, video], 5.0)
    assert answers == [photo, video] and seconds.tolist() == [0.0, 5.0]


def test_order_frames_with_one_timed_frame_among_unreadable_ones_uses_its_time():
    timed = replace(frame(0), time=datetime(2024, 7, 9))
    broken = Answer("broken.jpg", error="cut off")
    answers, seconds = order_frames([timed, broken], 5.0)
    assert answers == [timed, broken] and seconds.tolist() == [0.0, 0.0]


def test_motion_defaults_are_20_metres_per_second_and_one_second():
    assert Motion() == Motion(top_speed=20.0, interval_s=1.0, left_out=4.0)


def test_motion_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Motion().top_speed = 3.0
