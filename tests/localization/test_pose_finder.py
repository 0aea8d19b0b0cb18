"""Poses by heads with random weights: choice of the head, headings, radii, fused tiles and the search."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m, offset
from gengeo_hf.common.metadata import PhotoMetadata
from gengeo_hf.localization import pose as pose_module
from gengeo_hf.localization.answers import merge_votes
from gengeo_hf.localization.fusion import FusionWeights, fuse
from gengeo_hf.localization.photos import Photo, panorama_canvas
from gengeo_hf.localization.pose import PoseFinder, PoseSettings, open_finder
from gengeo_hf.localization.pose_calibration import PoseCalibration
from gengeo_hf.pose.head import PoseHead
from gengeo_hf.pose.posterior import Poses
from tests.localization.pose_models import Tiles, small_encoder, small_head, tile_hit

FACTORS = {"0.68": 2.0, "0.95": 3.0}
HITS = [tile_hit(0, 0.9, 0.0), tile_hit(1, 0.8, 100.0, (60.0, 48.0)), tile_hit(2, 0.7, 200.0)]


class Pictures:
    """Pixels of the tiles, which counts the requests."""

    def __init__(self):
        self.tiles, self.requests = Tiles(3).images, []

    def images(self, tile_ids):
        self.requests.append(list(tile_ids))
        return {tile: self.tiles[int(tile[1:])] for tile in tile_ids}


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def models(encoder, tmp_path_factory):
    """Checkpoints by the heads that they have, named by their priors."""
    root = tmp_path_factory.mktemp("models")
    for names in ("known", "45", "180", "known-180", "none"):
        (root / names / "pose").mkdir(parents=True)
        for prior in names.split("-") if names != "none" else ():
            head = small_head(encoder, prior, heading_step=10.0, radius_factors=FACTORS)
            head.save_pretrained(root / names / "pose" / prior)
    return root


@pytest.fixture
def photo():
    return Photo(Image.fromarray(np.random.default_rng(8).integers(0, 255, (28, 112, 3), np.uint8)))


@pytest.fixture
def scored(monkeypatch):
    """Heading prior of the head and candidate headings of each call that scores poses, the outermost first."""
    calls, scores = [], PoseHead.scores

    def recorded(head, *given):
        calls.append((head.config.heading_prior, sorted(given[-1])))
        return scores(head, *given)

    monkeypatch.setattr(PoseHead, "scores", recorded)
    return calls


@pytest.fixture
def searched(monkeypatch):
    """Shapes, tile sizes, reach and steps of each search, which finds 3 m east, 4 m south and 350 degrees."""
    calls = []

    def search_pose(encoder, panorama, tile, size_m, reach, settings):
        calls.append((tuple(panorama.shape), tuple(tile.shape), size_m, reach, settings.moves))
        return Poses(np.array([[3.0, -4.0]]), np.array([350.0]), np.array([5.0]), np.array([0.5]))

    monkeypatch.setattr(pose_module, "search_pose", search_pose)
    return calls


def finder(encoder, model, **settings):
    made = PoseSettings(**({"pictures": Pictures()} | settings))
    return PoseFinder(encoder, model, panorama_canvas(encoder), made)


def refined(found, photo, hits=HITS, heading=0.0):
    places = [merge_votes([hit], rank) for rank, hit in enumerate(hits, 1)]
    return found.refine(photo, CameraView(fov=360.0, heading=heading), hits, places)


def test_pose_settings_of_unknown_values_raise_an_error():
    with pytest.raises(GenGeoError, match="the pose method must be one of auto, fitted, search, found 'x'"):
        PoseSettings("x")
    with pytest.raises(GenGeoError, match="must be one of known, 45, 180, found '90'"):
        PoseSettings(heading_prior="90")
    assert PoseSettings(heading_prior="45").heading_prior == "45"


def test_pose_in_tiles_of_different_sizes_equals_that_in_each_alone(encoder, models, photo):
    found, note = refined(finder(encoder, models / "known"), photo, heading=70.0)
    assert note == "" and [place.pose for place in found] == ["fitted"] * 3
    for row, place in enumerate(found):
        (alone,), _ = refined(finder(encoder, models / "known"), photo, HITS[row : row + 1], heading=70.0)
        assert (place.lat, place.lon) == pytest.approx((alone.lat, alone.lon), abs=1e-9)
        assert place.radius_95_m == pytest.approx(alone.radius_95_m, rel=1e-4)
        assert place.radius_95_m == pytest.approx(1.5 * place.radius_68_m) and place.heading == pytest.approx(70.0)
        assert place.uncertainty_m == place.radius_68_m and 0 < place.pose_probability <= 1
        assert (place.position_map.lat, place.position_map.lon) == (HITS[row].lat, HITS[row].lon)
    assert len({place.pose_probability for place in found}) == 3


def test_radius_factors_of_the_settings_replace_those_of_the_head(encoder, models, photo):
    own, _ = refined(finder(encoder, models / "known"), photo)
    given, _ = refined(finder(encoder, models / "known", radius_factors={"0.68": 4.0}), photo)
    assert given[0].radius_68_m == pytest.approx(2 * own[0].radius_68_m) and given[0].radius_95_m is None


def test_heading_of_a_rolled_panorama_does_not_depend_on_its_roll(encoder, models, photo):
    """A panorama whose pixels are rolled by a quarter, with a heading that is larger by 90 degrees."""
    pixels = np.asarray(photo.image)
    rolled = Photo(Image.fromarray(np.roll(pixels, -28, axis=1)))
    for settings in ({"heading_prior": "180"}, {}):
        model = models / ("180" if settings else "known")
        straight, turned = (
            refined(finder(encoder, model, **settings), one, heading=heading)[0]
            for one, heading in ((photo, 290.0), (rolled, 20.0))
        )
        for one, other in zip(straight, turned, strict=True):
            assert great_circle_m(one.lat, one.lon, other.lat, other.lon) < 0.01
            assert 0 <= other.heading < 360
            assert (other.heading - one.heading) % 360 == pytest.approx(90, abs=1e-4)


@pytest.mark.parametrize(
    ("names", "stated", "used"),
    [
        ("known-180", 0.0, "known"),
        ("known-180", "unknown", "180"),
        ("known", 0.0, "known"),
        ("45", 0.0, "45"),
        ("180", 0.0, "180"),
    ],
)
def test_narrowest_head_that_allows_the_heading_is_used(encoder, models, photo, scored, names, stated, used):
    (place,), _ = refined(finder(encoder, models / names), photo, HITS[:1], heading=stated)
    assert {prior for prior, _ in scored} == {used} and place.pose == "fitted"


@pytest.mark.parametrize(("names", "settings"), [("none", {}), ("known", {"method": "search"})])
def test_finder_without_heads_or_with_the_method_search_uses_no_head(
    encoder, models, photo, scored, searched, names, settings
):
    (place,), _ = refined(finder(encoder, models / names, **settings), photo, HITS[:1])
    assert place.pose == "search" and len(searched) == 1 and not scored


@pytest.mark.parametrize(
    ("names", "settings", "heading", "missing"),
    [
        ("known", {}, "unknown", "no pose head pose/180, which a photo with an unknown heading needs"),
        ("none", {"method": "fitted"}, 0.0, "no pose head pose/known, which a photo with a known heading needs"),
    ],
)
def test_finder_without_a_suitable_head_does_not_search(
    encoder, models, photo, searched, names, settings, heading, missing
):
    places, note = refined(finder(encoder, models / names, **settings), photo, heading=heading)
    assert missing in note and missing in str(photo.refused)
    assert [place.pose for place in places] == [None] * 3 and not searched


@pytest.mark.parametrize("stated", [20.0, 350.0])
@pytest.mark.parametrize(
    ("own", "step", "prior", "count"),
    [
        ("180", 45.0, "180", 8),
        ("180", 45.0, "45", 3),
        ("180", 9.2, "45", 10),  # not 46 degrees
        ("180", 45.0, "known", 1),
        ("45", 15.0, "45", 7),
        ("45", 0.5, "known", 1),
    ],
)
def test_candidate_headings_are_those_of_the_head_within_the_prior_around_the_stated_heading(
    encoder, photo, scored, tmp_path, own, step, prior, count, stated
):
    small_head(encoder, own, heading_step=step).save_pretrained(tmp_path / "pose" / own)
    half = Photo(photo.image.crop((0, 0, 56, 28)))  # not rolled
    camera, found = CameraView(fov=180.0, heading=stated), finder(encoder, tmp_path, heading_prior=prior)
    (place,), _ = found.refine(half, camera, HITS[:1], [merge_votes([HITS[0]], 1)])
    reach = {"known": 0, "45": 45, "180": 180}[prior]
    relative = np.arange(0, 360, step) if own == "180" else np.arange(-45, 45.1, step)
    expected = sorted((stated + gap) % 360 for gap in relative if abs((gap + 180) % 360 - 180) <= reach)
    _, headings = scored[0]  # the head calls itself again for parts
    assert len(headings) == count and headings == pytest.approx(expected, abs=1e-3)
    assert 0 <= place.heading < 360 and abs((place.heading - stated + 180) % 360 - 180) <= reach + 1e-3


def test_fused_heading_of_360_degrees_is_zero(encoder, models, photo):
    weights = FusionWeights(tiles=2, enabled=True)
    assert refined(finder(encoder, models / "known", fusion=weights), photo, heading=360.0)[0][0].heading == 0.0


def test_fused_places_are_the_peaks_of_the_map_of_the_first_tiles(encoder, models, photo):
    weights = FusionWeights(cosine=0.5, evidence=0.25, scale=10.0, tiles=2, enabled=True)
    camera, places = CameraView(fov=360.0, heading=30.0), [merge_votes([HITS[1]], 1), merge_votes([HITS[2]], 2)]
    found = finder(encoder, models / "known", fusion=weights)
    candidates = found.candidates(Photo(photo.image), camera, HITS[:2])
    tiles = [tile for tile, _ in candidates]
    logs = weights.log_weights(np.array([0.9, 0.8]), np.array([tile.evidence for tile in tiles]))
    modes = fuse(tiles, logs, 2)
    fused, note = found.refine(Photo(photo.image), camera, HITS, places)
    assert note == "" and [place.rank for place in fused] == [1, 2] and {mode.tile for mode in modes} == {0, 1}
    for place, mode in zip(fused, modes, strict=True):
        hit = HITS[mode.tile]
        assert (place.lat, place.lon, place.pose_probability) == (mode.lat, mode.lon, mode.probability)
        assert (place.tile_id, place.score, place.bounds, place.licence) == (hit.tile_id, hit.score, hit.bounds, "CC0")
        assert place.radius_68_m == pytest.approx(2 * mode.spread_m) and place.heading == pytest.approx(30.0)
        assert place.votes == 1 and place.position_map.lat == hit.lat
    for other in (replace(weights, enabled=False), None):
        plain, _ = finder(encoder, models / "known", fusion=other).refine(photo, camera, HITS, places)
        assert [place.tile_id for place in plain] == ["t1", "t2"]


def test_fused_places_are_not_used_for_a_heading_that_is_not_known(encoder, models, photo):
    weights = FusionWeights(tiles=2, enabled=True)
    found, _ = refined(finder(encoder, models / "known-180", fusion=weights), photo, heading="unknown")
    assert [place.tile_id for place in found] == ["t0", "t1", "t2"]


def test_search_adds_the_stated_heading_and_the_roll(encoder, models, photo, searched):
    found, note = refined(finder(encoder, models / "none"), photo, heading=70.0)
    assert "rough" in note and [place.pose for place in found] == ["search"] * 3
    assert {place.heading for place in found} == {60.0} and {place.uncertainty_m for place in found} == {5.0}
    for place, hit in zip(found, HITS, strict=True):
        expected = offset(hit.lat, hit.lon, 3.0, -4.0)
        assert (place.lat, place.lon) == pytest.approx((float(expected[0]), float(expected[1])), abs=1e-12)
    assert searched[1][:2] == ((3, 28, 112), (3, 56, 42)) and searched[1][2] == pytest.approx((60.0, 48.0))
    assert [call[3:] for call in searched] == [(0.0, 5)] * 3
    ordinary = PoseFinder(encoder, models / "none", None, PoseSettings(pictures=Pictures()))  # does not roll
    assert {place.heading for place in refined(ordinary, photo, heading=70.0)[0]} == {60.0}
    # A stated "unknown" also discards the heading of the file, so that nothing is added.
    compass = Photo(photo.image, PhotoMetadata(camera=CameraView(heading=80.0)))
    found, _ = refined(finder(encoder, models / "none"), compass, heading="unknown")
    assert {place.heading for place in found} == {350.0} and searched[-1][3:] == (180.0, 7)
    part = Photo(photo.image.crop((0, 0, 56, 28)))
    _, note = finder(encoder, models / "none").refine(
        part, CameraView(fov=180.0, heading=0.0), HITS, [merge_votes([HITS[0]], 1)]
    )
    assert "needs panoramas" in note


class Stored:
    """Stored keys of some tiles."""

    def __init__(self, head, keys):
        self.head, self._keys = head, keys

    def keys(self, tile_ids):
        return {tile: self._keys[tile] for tile in tile_ids if tile in self._keys}


def test_stored_keys_are_used_and_missing_ones_are_computed(encoder, models, photo):
    pictures, head = Pictures(), PoseHead.load(models / "known", "known")
    plain, _ = refined(finder(encoder, models / "known", pictures=pictures), photo)
    stored = Stored(head.checksum, {"t1": np.full((12, 4), 7.0, np.float16)})
    mixed = finder(encoder, models / "known", pictures=pictures, features={"known": stored})
    found, _ = refined(mixed, photo)
    assert pictures.requests == [["t0", "t1", "t2"], ["t0", "t2"]]
    probabilities, own = ([place.pose_probability for place in places] for places in (found, plain))
    assert probabilities[::2] == pytest.approx(own[::2], rel=1e-4)
    assert probabilities[1] != pytest.approx(own[1], rel=0.01)
    stored.head = "other"
    with pytest.raises(GenGeoError, match="belong to another pose head"):
        refined(mixed, photo)
    with pytest.raises(GenGeoError, match="pose needs the pixels of tile 't0'"):
        refined(finder(encoder, models / "known", pictures=None), photo)


def test_candidates_are_empty_without_a_view_a_head_or_hits(encoder, models, photo):
    camera = CameraView(fov=360.0, heading=0.0)
    found = finder(encoder, models / "known")
    assert len(found.candidates(photo, camera, HITS)) == 3 and found.candidates(photo, camera, []) == []
    assert found.candidates(Photo(photo.image), CameraView(heading=0.0), HITS) == []
    assert finder(encoder, models / "none").candidates(photo, camera, HITS) == []
    assert found.refine(photo, camera, HITS, []) == ([], "")


def test_pose_in_a_tile_without_bounds_raises_an_error(encoder, models, photo):
    with pytest.raises(GenGeoError, match="pose needs the size of tile 't0'"):
        refined(finder(encoder, models / "known"), photo, [replace(HITS[0], bounds=None)])


def opened(encoder, models, tmp_path, calibration=None, pose=True, **options):
    index = SimpleNamespace(thumbnails=lambda tiles: {})
    return open_finder(encoder, models / "known", index, tmp_path / "idx", calibration, pose, options)


def test_open_finder_takes_the_pose_calibration_next_to_the_calibration(encoder, models, tmp_path):
    weights = FusionWeights(tiles=7, enabled=True)
    PoseCalibration(encoder.fingerprint, weights, {"0.68": 1.5}, 60).save(tmp_path / "c.pose.json")
    found = opened(encoder, models, tmp_path, tmp_path / "c.json")
    assert found.settings.fusion == weights and found.settings.radius_factors == {"0.68": 1.5}
    assert found.settings.pictures.size == (56, 42)
    own = FusionWeights(tiles=3)
    assert opened(encoder, models, tmp_path, tmp_path / "c.json", PoseSettings(fusion=own)).settings.fusion is own
    for calibration in (None, tmp_path / "other.json"):
        plain = opened(encoder, models, tmp_path, calibration).settings
        assert plain.fusion is None and plain.radius_factors is None
    PoseCalibration("0" * 64, weights, {}, 60).save(tmp_path / "c.pose.json")
    with pytest.raises(GenGeoError, match="belongs to another model"):
        opened(encoder, models, tmp_path, tmp_path / "c.json")


def test_open_finder_loads_heads_with_the_options_of_the_hub(encoder, models, photo, tmp_path, monkeypatch):
    loaded, load = [], PoseHead.load
    monkeypatch.setattr(PoseHead, "load", staticmethod(lambda *given, **where: (loaded.append(where), load(*given))[1]))
    settings = PoseSettings(pictures=Pictures())
    where = {"revision": "main", "token": "t", "cache_dir": "cache"}
    refined(opened(encoder, models, tmp_path, None, settings, **where, device="cpu"), photo)
    assert loaded == [where]


def test_open_finder_keeps_given_pictures_and_features(encoder, models, tmp_path):
    pictures, features = Pictures(), {"known": Stored("head", {})}
    found = opened(encoder, models, tmp_path, pose=PoseSettings(pictures=pictures, features=features)).settings
    assert found.pictures is pictures and found.features is features
