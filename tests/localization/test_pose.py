"""Localisation with poses: position, heading and radii inside the tiles of an index."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from gengeo_hf.common.camera import CameraView
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer
from gengeo_hf.localization.fusion import FusionWeights
from gengeo_hf.localization.pose import PoseSettings
from gengeo_hf.pose.fitting import FitSettings, fit_head
from tests.pose.toy import toy_pairs

PANORAMA = CameraView(fov=360.0, heading=0.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A checkpoint with a head for a known heading, an index, and unseen photos with their true positions."""
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
    from tests.conftest import TINY, TINY_SIZES

    root = tmp_path_factory.mktemp("scene")
    torch.manual_seed(0)
    config = GenGeoConfig(**TINY, position_init_std=0.5, ground_camera="panorama")
    encoder = Encoder(GenGeoModel(config), GenGeoImageProcessor(view_sizes=TINY_SIZES))
    encoder.model.save_pretrained(root / "model")
    encoder.processor.save_pretrained(root / "model")
    settings = FitSettings(steps=200, views=4, batch_size=64, held_out=30, other_share=0, narrow_share=0)
    fit_head(encoder, toy_pairs(160), root / "model" / "pose" / "known", settings)
    test = toy_pairs(24, seed=9, shift_m=14)
    GeoIndex.build(encoder, test, root / "idx")
    photos = [row["bytes"] for row in test.queries.cast_column("ground", _undecoded())["ground"]]
    truth = list(zip(test.queries["lat"], test.queries["lon"], strict=True))
    tiles = list(zip(test.gallery["lat"], test.gallery["lon"], strict=True))
    return root, photos, truth, tiles


def _undecoded():
    import datasets

    return datasets.Image(decode=False)


def near(position):
    return (*position, 100.0)


def located(scene, pose, count=24, camera=PANORAMA):
    root, photos, _, tiles = scene
    localizer = GeoLocalizer.from_pretrained(root / "model", root / "idx", pose=pose, backend="torch")
    return [
        localizer.locate(photo, camera=camera, near=near(tile), top=1)
        for photo, tile in zip(photos[:count], tiles[:count], strict=True)
    ]


def test_pose_is_nearer_than_the_tile_centre(scene):
    _, _, truth, tiles = scene
    answers = located(scene, True)
    assert all(answer.best.pose == "fitted" for answer in answers)
    errors = [great_circle_m(a.best.lat, a.best.lon, *t) for a, t in zip(answers, truth, strict=True)]
    centres = [great_circle_m(*tile, *t) for tile, t in zip(tiles, truth, strict=True)]
    assert np.median(errors) < 0.6 * np.median(centres)
    best = answers[0].best
    assert best.tile_id == "place-000" and best.bounds.contains(*tiles[0])
    assert 0 < best.radius_68_m < best.radius_95_m or best.radius_95_m is None
    assert best.heading == pytest.approx(0, abs=1e-6)


def test_locate_without_pose_equals_retrieval(scene):
    plain = located(scene, None, 1)[0].best
    assert plain.pose is None and plain.heading is None and plain.radius_68_m is None


def test_stated_heading_of_a_rolled_panorama_gives_the_same_position(scene):
    root, photos, _, tiles = scene
    localizer = GeoLocalizer.from_pretrained(root / "model", root / "idx", pose=True, backend="torch")
    image = Image.open(io.BytesIO(photos[0]))
    rolled = Image.fromarray(np.roll(np.asarray(image), -28, axis=1))  # the heading of its centre is 90 degrees larger
    straight = localizer.locate(image, camera=PANORAMA, near=near(tiles[0]), top=1).best
    found = localizer.locate(rolled, camera=CameraView(fov=360.0, heading=90.0), near=near(tiles[0]), top=1).best
    assert great_circle_m(straight.lat, straight.lon, found.lat, found.lon) < 0.5
    assert found.heading == pytest.approx(90, abs=1e-6)


def test_locate_without_a_head_names_it(scene):
    with pytest.raises(GenGeoError, match=r"has no pose head pose/180, .* gengeo pose fit --heading-prior 180"):
        located(scene, True, 1, CameraView(fov=360.0))


def test_locate_by_search_needs_no_head(scene):
    answer = located(scene, PoseSettings("search"), 1)[0]
    assert answer.best.pose == "search" and any("rough" in note for note in answer.notes)


def test_photo_without_field_of_view_has_no_pose_and_a_note(scene, tmp_path):
    root, _, _, tiles = scene
    Image.effect_noise((90, 60), 50).convert("RGB").save(tmp_path / "photo.png")
    localizer = GeoLocalizer.from_pretrained(root / "model", root / "idx", pose=True, backend="torch")
    answer = localizer.locate(tmp_path / "photo.png", near=near(tiles[0]))
    assert answer.best.pose is None and any("no pose" in note and "--fov" in note for note in answer.notes)


def test_heading_out_of_range_raises_an_error(scene):
    with pytest.raises(GenGeoError, match=r"lies in 0\.\.360 degrees clockwise from north, found 400"):
        located(scene, True, 1, CameraView(fov=360.0, heading=400.0))


def test_photo_of_limited_view_gets_a_pose(scene):
    root, photos, _, tiles = scene
    localizer = GeoLocalizer.from_pretrained(root / "model", root / "idx", pose=True, backend="torch")
    image = Image.open(io.BytesIO(photos[0]))
    part = image.crop((0, 0, 84, image.height))  # 270 degrees round 315
    camera = CameraView(fov=270.0, heading=315.0, projection="equirectangular")
    best = localizer.locate(part, camera=camera, near=near(tiles[0]), top=1).best
    assert best.pose == "fitted" and best.heading == pytest.approx(315, abs=1e-6)
    assert best.bounds.contains(best.lat, best.lon)


def test_fused_tiles_give_the_same_place_as_the_deciding_tile(scene):
    weights = FusionWeights(cosine=1.0, evidence=1.0, scale=10.0, tiles=5, enabled=True)
    joined = located(scene, PoseSettings(fusion=weights), 4)
    single = located(scene, True, 4)
    for one, other in zip(joined, single, strict=True):
        assert great_circle_m(one.best.lat, one.best.lon, other.best.lat, other.best.lon) < 6
        assert 0 < one.best.pose_probability <= 1 + 1e-6


def test_stored_features_give_the_same_pose_without_pixels(scene):
    from gengeo_hf.imagery.dataset import DatasetTiles
    from gengeo_hf.localization.pose_features import store_features

    root, photos, _, tiles = scene
    test = toy_pairs(24, seed=9, shift_m=14)
    encoder = Encoder.from_pretrained(root / "model")
    GeoIndex.build(encoder, test, root / "bare", thumbnail_pixels=0)
    plain = GeoLocalizer.from_pretrained(root / "model", root / "bare", pose=True, backend="torch")
    with pytest.raises(GenGeoError, match="neither pose features"):
        plain.locate(photos[0], camera=PANORAMA, near=near(tiles[0]), top=1)
    assert store_features(encoder, root / "model", GeoIndex.load(root / "bare"), DatasetTiles(test)) == {"known": 24}
    localizer = GeoLocalizer.from_pretrained(root / "model", root / "bare", pose=True, backend="torch")
    found = localizer.locate(photos[0], camera=PANORAMA, near=near(tiles[0]), top=1).best
    seen = located(scene, True, 1)[0].best  # from thumbnails, which are compressed
    assert great_circle_m(found.lat, found.lon, seen.lat, seen.lon) < 3
    assert (root / "bare.pose" / "known.parquet").stat().st_size < 24 * 16 * 16 * 2 + 10_000


def test_pose_calibration_fits_radii_and_fusion(scene, tmp_path):
    from gengeo_hf.localization.pose_calibration import PoseCalibration, fit_pose_calibration

    root, photos, truth, _ = scene
    localizer = GeoLocalizer.from_pretrained(root / "model", root / "idx", pose=True, backend="torch")
    fitted = fit_pose_calibration(localizer, photos * 3, truth * 3, PANORAMA)
    fitted.save(tmp_path / "c.pose.json")
    again = PoseCalibration.load(tmp_path / "c.pose.json")
    assert again == fitted and again.photos == 72
    (tmp_path / "c.pose.json").write_text((tmp_path / "c.pose.json").read_text().replace("72", "73"))
    with pytest.raises(GenGeoError, match="is damaged or was changed"):
        PoseCalibration.load(tmp_path / "c.pose.json")


def test_geojson_map_gpx_and_pairs_show_the_pose(scene):
    import json
    import xml.etree.ElementTree as ElementTree

    from gengeo_hf.localization.answers import to_geojson
    from gengeo_hf.localization.maps import answers_map
    from gengeo_hf.localization.tracks import to_gpx, to_pairs

    root, photos, _, tiles = scene
    localizer = GeoLocalizer.from_pretrained(root / "model", root / "idx", pose=True, backend="torch")
    path = root / "a photo.png"
    path.write_bytes(photos[0])
    answer = localizer.locate(path, camera=CameraView(fov=360.0, heading=90.0), near=near(tiles[0]), top=1)
    features = json.loads(to_geojson([answer]))["features"]
    spot, cone = (next(f for f in features if f["properties"]["kind"] == kind) for kind in ("place", "view"))
    assert spot["properties"]["pose"] == "fitted" and spot["properties"]["radius_68_m"] > 0
    ring = cone["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1] == spot["geometry"]["coordinates"]
    assert all(lon > ring[0][0] for lon, _ in ring[1:-1])  # the cone points east
    area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in itertools.pairwise(ring))
    assert area > 0  # counter-clockwise, as required by RFC 7946
    assert '"view": [[' in answers_map([answer], localizer.index)
    track = ElementTree.fromstring(to_gpx([answer, answer], drive=True))
    points = track.findall(".//{http://www.topografix.com/GPX/1/1}trkpt")
    assert len(points) == 2 and float(points[0].get("lat")) == pytest.approx(answer.best.lat, abs=1e-6)
    assert to_pairs([answer]).split() == ["_".join(str(path).split()), "place-000"]


@pytest.fixture(scope="module")
def drive(scene):
    """A video of five panoramas along a line through the first tile, one per second, with their positions."""
    from tests.pose.toy import field, panorama
    from tests.videos import write_video

    root, _, _, tiles = scene
    colours, easts = field(np.random.default_rng(9)), np.array([-14.0, -7, 0, 7, 14])
    frames = [panorama(colours, east, 0.0) for east in easts]
    write_video(root / "drive.mp4", frames, fps=1, created="2026-05-01T10:00:00Z", quality=1)
    return root / "drive.mp4", easts, tiles[0]


def drive_command(scene, path, *more):
    root = scene[0]
    where = ("--model", root / "model", "--index", root / "idx", "--backend", "torch", "--near", "47,8,100m")
    return ("locate", path, *where, "--pose", "--fov", 360, "--heading", 30, "--top", 1, *more)


def test_video_becomes_a_track_of_poses_with_headings_and_times(scene, drive, gengeo, tmp_path):
    import json
    import xml.etree.ElementTree as ElementTree

    path, easts, (lat, lon) = drive
    gpx, page = tmp_path / "track.gpx", tmp_path / "map.html"
    command = drive_command(scene, path, "--heading", 0, "--every", "1s", "--sequence", "--json")
    code, out, err = gengeo(*command, "--gpx", gpx, "--map", page)
    assert code == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["video_s"] for answer in answers] == [0, 1, 2, 3, 4]
    assert answers[2]["photo"] == f"{path}#t=2" and answers[2]["time"] == "2026-05-01T10:00:02+00:00"
    best = [answer["places"][0] for answer in answers]
    assert {(place["pose"], place["heading"]) for place in best} == {("fitted", 0.0)}
    east = [(place["lon"] - lon) * 111_320 * np.cos(np.radians(lat)) for place in best]
    assert np.corrcoef(east, easts)[0, 1] > 0.7
    points = ElementTree.parse(gpx).findall(".//{http://www.topografix.com/GPX/1/1}trkpt")
    assert [float(point.get("lon")) for point in points] == pytest.approx([p["lon"] for p in best], abs=1e-6)
    assert "2026-05-01T10:00:04+00:00" in gpx.read_text() and "heading 0 degrees" in gpx.read_text()
    assert page.read_text().count("data:image/jpeg") >= 5  # the frames are pictures on the map too


def test_damaged_video_keeps_the_frames_before_the_damage(scene, drive, gengeo, tmp_path):
    from tests.videos import write_video

    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 112, 3), dtype=np.uint8) for _ in range(80)]
    cut = write_video(tmp_path / "cut.mkv", frames)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    code, out, err = gengeo(*drive_command(scene, cut), "--gpx", tmp_path / "t.gpx")
    assert code == 1 and out.count("#t=") >= 3 and (tmp_path / "t.gpx").is_file()
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    assert "cut.mkv is damaged: it ends after" in line


def test_invalid_video_options_are_one_line(scene, drive, gengeo, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    for options, message, expected in (
        ((tmp_path / "bad.mp4",), "cannot be read as a video", 1),
        ((tmp_path / "none.mp4",), "there is no video", 1),
        ((scene[0] / "a.png", "--every", "1s"), "--every is the time between frames of a video", 2),
        ((drive[0], "--every", "0"), "is not a time between frames", 2),
        ((drive[0], scene[0] / "a.png", "--sequence"), "one video, or photos", 2),
    ):
        code, _, err = gengeo(*drive_command(scene, *options))
        assert code == expected and message in err.strip().splitlines()[-1], err


def test_photo_without_its_head_is_answered_among_others(scene, gengeo, tmp_path):
    root, photos, _, _ = scene
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(photos[0])
    where = ("--model", root / "model", "--index", root / "idx", "--backend", "torch", "--pose", "--fov", 360)
    code, out, _ = gengeo("locate", tmp_path / "a.png", tmp_path / "b.png", *where)
    assert code == 0 and out.count("no pose: ") == 2 and "pose/180" in out
    code, _, err = gengeo("locate", tmp_path / "a.png", *where)
    assert code == 1 and "has no pose head pose/180" in err.strip().splitlines()[-1]


def test_heading_of_400_raises_an_error_before_the_model_is_loaded(scene, gengeo):
    code, _, err = gengeo(*drive_command(scene, "photo.jpg", "--heading", 400))
    assert code == 2 and err.strip() == (
        "error: --fov, --heading: a heading lies in 0..360 degrees clockwise from north, found 400"
    )


def test_map_offers_the_posterior_as_a_layer(scene):
    from gengeo_hf.localization.maps import answers_map
    from gengeo_hf.localization.position_map import PositionMap

    found = located(scene, True, 1)[0].best.position_map
    assert found.mass.sum() == pytest.approx(1, abs=1e-5)
    grid = np.array([[-3.0, -3], [0, -3], [3, -3], [-3, 0], [0, 0], [3, 0], [-3, 3], [0, 3], [3, 3]])
    mass = np.eye(9)[2]  # all in the south-east
    picture = np.asarray(Image.open(io.BytesIO(PositionMap(47.0, 8.0, grid, mass).picture())))[..., 3]
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert row > 2 / 3 * picture.shape[0] and column > 2 / 3 * picture.shape[1]
    bounds = PositionMap(47.0, 8.0, grid, mass).bounds
    assert great_circle_m(bounds.south, 8.0, bounds.north, 8.0) == pytest.approx(9, abs=0.01)
    root, photos, _, tiles = scene
    path = root / "one.png"
    path.write_bytes(photos[0])
    for pose, wanted in ((True, True), (None, False)):
        localizer = GeoLocalizer.from_pretrained(root / "model", root / "idx", pose=pose, backend="torch")
        answer = localizer.locate(path, camera=PANORAMA, near=near(tiles[0]))
        page = answers_map([answer], localizer.index)
        assert ('"probability": {"box"' in page) == wanted


def test_service_gives_poses_also_of_a_new_index(scene, tmp_path):
    import shutil

    from gengeo_hf.serving.locator import LocateQuery, Locator

    root, photos, _, tiles = scene
    shutil.copytree(root / "idx", tmp_path / "idx")
    locator = Locator.open(root / "model", tmp_path / "idx", backend="torch", pose=PoseSettings())
    query = LocateQuery(camera=PANORAMA, near=near(tiles[3]), top=1)
    try:
        for _ in range(2):
            with locator.read(photos[3]) as image:
                best = locator.locate(image, query)[0].best
                unposed = locator.locate(image, LocateQuery(camera=CameraView(fov=360.0), near=near(tiles[3])))[0]
            assert unposed.best.pose is None and any("pose/180" in note for note in unposed.notes)
            assert best.pose == "fitted" and best.heading == pytest.approx(0, abs=1e-6) and best.radius_68_m > 0
            old = locator.localizer.pose
            locator.reload()
            assert locator.localizer.pose is not old
    finally:
        locator.close()
