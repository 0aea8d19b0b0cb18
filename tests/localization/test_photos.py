"""Field of view, heading and time of photos, and the prepared pictures."""

import math
from datetime import datetime

import numpy as np
import pytest
from PIL import ExifTags, Image

from gengeo_hf.common.camera import CameraView, parse_camera
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.projection import PanoramaCanvas, crop_or_pad_rows, project_photo
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer
from gengeo_hf.localization.photos import camera_notes, panorama_canvas, pictures, read_photo
from tests.stubs import ListSource

PANORAMA = PanoramaCanvas(28, 112)  # of the small model
CVUSA = 360 * 224 / 1232  # degrees of elevation of its published crops


@pytest.fixture
def panorama_model(tiny_model):
    tiny_model.config.ground_camera = "panorama"
    return tiny_model


def jpeg(path, size=(300, 200), focal=None, time=None, subsec=None, xmp=None):
    image = Image.new("RGB", size, (90, 120, 60))
    exif = Image.Exif()
    inside = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, value in (("FocalLengthIn35mmFilm", focal), ("DateTimeOriginal", time), ("SubsecTimeOriginal", subsec)):
        if value is not None:
            inside[getattr(ExifTags.Base, tag)] = value
    image.save(path, exif=exif, **({"xmp": xmp} if xmp else {}))
    return path


@pytest.mark.parametrize(
    ("size", "focal", "degrees"),
    [
        ((300, 200), 18, 90.0),  # a full frame of 36 mm behind 18 mm
        ((200, 300), 18, 67.38),  # upright, 24 mm
        ((400, 300), 26, 67.3),  # the main camera of many phones: 34.6 mm wide on the diagonal of 43.3 mm
    ],
)
def test_field_of_view_follows_from_the_focal_length(tmp_path, size, focal, degrees):
    assert read_photo(jpeg(tmp_path / "a.jpg", size, focal)).metadata.camera.fov == pytest.approx(degrees, abs=0.1)


def test_field_of_view_of_a_real_camera(shared_data):
    assert read_photo(shared_data / "exif" / "DSCN0010.jpg").metadata.camera.fov == pytest.approx(
        17.6, abs=0.1
    )  # 112 mm
    panorama = next((shared_data / "panoramas").glob("06129dab*"))
    assert read_photo(panorama).metadata.camera.fov == 360.0
    assert read_photo(shared_data / "helsinki" / "111050484379850.jpg").metadata.camera.fov is None


def test_read_photo_of_a_sideways_image_in_memory_equals_its_file(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.effect_noise((100, 200), 80).convert("RGB").save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        found, expected = read_photo(image), read_photo(tmp_path / "a.png")
    assert np.array_equal(np.asarray(found.image), np.asarray(expected.image))
    assert found.image.size == (200, 100) and found.metadata.camera.fov == expected.metadata.camera.fov == 360.0


def test_camera_of_a_street_view_panorama_is_read_from_its_metadata(tmp_path):
    xmp = b'<x GPano:FullPanoWidthPixels="8000" GPano:CroppedAreaImageWidthPixels="4000" PoseHeadingDegrees="24.9"/>'
    photo = read_photo(jpeg(tmp_path / "a.jpg", (400, 100), xmp=xmp))
    camera = photo.metadata.camera
    assert (camera.fov, camera.heading, camera.projection) == (180.0, 24.9, "equirectangular")


@pytest.mark.parametrize(
    "metadata",
    [
        b'GPano:PoseHeadingDegrees="-"',
        b'GPano:PoseHeadingDegrees="1.2.3"',
        b'GPano:PoseHeadingDegrees="' + b"9" * 400 + b'"',
        b'GPano:FullPanoWidthPixels="800" GPano:CroppedAreaImageWidthPixels="0"',
        b'GPano:FullPanoWidthPixels="0" GPano:CroppedAreaImageWidthPixels="800"',
        b'GPano:FullPanoWidthPixels="1" GPano:CroppedAreaImageWidthPixels="' + b"9" * 5000 + b'"',
    ],
)
def test_camera_of_invalid_panorama_metadata_is_unknown(tmp_path, metadata):
    photo = read_photo(jpeg(tmp_path / "a.jpg", xmp=metadata))
    camera = photo.metadata.camera
    assert photo.image is not None and (camera.fov, camera.heading) == (None, None)
    assert len(pictures(photo, CameraView(), PANORAMA)) == 1


@pytest.mark.parametrize("focal", [0, None])
def test_camera_without_metadata_is_unknown_and_noted(tmp_path, focal):
    photo = read_photo(jpeg(tmp_path / "a.jpg", focal=focal))
    assert photo.metadata.camera.fov is None and photo.time is None
    assert "--fov" in " ".join(camera_notes(photo, CameraView(), PANORAMA)) and not camera_notes(
        photo, CameraView(fov=70), PANORAMA
    )
    assert not camera_notes(photo, CameraView(), None)


def test_camera_view_outside_its_range_raises_an_error():
    for wrong in ({"fov": 0}, {"fov": 400}, {"heading": "left"}, {"heading": math.nan}):
        with pytest.raises(GenGeoError):
            CameraView(**wrong)


def test_project_photo_shows_the_directions_of_the_photo():
    """A photo whose colour encodes azimuth (red) and elevation (green), by the pinhole equations."""
    fov, size = 80.0, PanoramaCanvas(70, 360)  # one pixel a degree
    width, height = 800, 600
    focal = width / 2 / math.tan(math.radians(fov / 2))
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    azimuth = np.degrees(np.arctan(x / focal))
    elevation = np.degrees(np.arctan(-y / np.hypot(x, focal)))
    wall = np.stack([azimuth + 128, elevation + 128, 0 * azimuth], axis=-1)
    photo = Image.fromarray(np.rint(wall).astype(np.uint8))
    strip = np.asarray(project_photo(photo, CameraView(fov), size), dtype=float)
    assert strip.shape == (70, 80, 3)
    seen_azimuth = strip[35, :, 0] - 128
    assert np.abs(seen_azimuth - (np.arange(80) - 39.5)).max() < 1.5
    assert np.abs(strip[3:67, 40, 1] - 128 - (34.5 - np.arange(70))[3:67]).max() < 1.5
    # The frame is 64 degrees high in its middle, and less towards its sides: 29 degrees up are beyond it at the edge.
    assert strip[5, 0].tolist() == [124, 116, 104] and strip[5, 40, 2] == 0 and strip[2, 40, 2] == 104


def test_project_photo_has_a_width_of_whole_patches_up_to_a_panorama():
    photo = Image.new("RGB", (640, 480))
    assert project_photo(photo, CameraView(60), PanoramaCanvas(154, 770), 14).size == (126, 154)
    assert project_photo(photo, CameraView(359), PANORAMA, 14).width == 112
    assert project_photo(photo, CameraView(1), PANORAMA, 14).width == 14
    # The scale stays that of the model: 28 columns are 90 degrees, of which the photo shows the 75 in the middle.
    shown = (np.asarray(project_photo(photo, CameraView(75), PANORAMA, 14))[14] == 0).all(axis=-1)
    assert shown.tolist() == [False] * 2 + [True] * 24 + [False] * 2


def smooth_panorama(width=1440):
    """A smooth equirectangular panorama, and a function from directions in radians to its colours."""

    def colours(azimuth, elevation):
        waves = [np.sin(3 * azimuth + 2 * elevation), np.cos(2 * azimuth - 5 * elevation), np.sin(7 * elevation)]
        return 128 + 100 * np.stack(waves, axis=-1)

    azimuth = (np.arange(width) + 0.5 - width / 2) * 2 * np.pi / width
    elevation = (width / 4 - np.arange(width // 2) - 0.5) * 2 * np.pi / width
    grid = np.meshgrid(azimuth, elevation)
    return Image.fromarray(np.rint(colours(*grid)).astype(np.uint8)), colours


@pytest.mark.parametrize("rise", [180.0, CVUSA, 70.0])
def test_project_photo_equals_the_same_part_of_a_panorama(rise):
    """Compare a pinhole photo of a sphere with the same part of the panorama of training."""
    sphere, colours = smooth_panorama()
    canvas, fov = PanoramaCanvas(56, 280, rise), 90.0
    x, y = np.meshgrid((np.arange(900) + 0.5 - 450) / 450, (np.arange(700) + 0.5 - 350) / 450)
    photo = Image.fromarray(np.rint(colours(np.arctan(x), np.arctan(-y / np.hypot(x, 1)))).astype(np.uint8))
    rows = round(720 * rise / 180)
    cropped = sphere.crop((0, (720 - rows) // 2, 1440, (720 - rows) // 2 + rows))  # the crop of a data set
    learned = np.asarray(cropped.resize((280, 56)), dtype=float)[:, 105:175]
    seen = np.asarray(project_photo(photo, CameraView(fov), canvas, 14), dtype=float)
    shown = (seen != [124, 116, 104]).any(axis=-1)
    assert seen.shape == learned.shape and shown.mean() > min(0.95, 60 / rise)
    inner = shown[1:-1, 1:-1] & shown[:-2, 1:-1] & shown[2:, 1:-1]
    assert np.abs(seen - learned)[1:-1, 1:-1][inner].max() < 8
    part = sphere.crop((540, 260, 900, 460))  # of an equirectangular panorama: 90 x 50 degrees
    again = np.asarray(project_photo(part, CameraView(fov, projection="equirectangular"), canvas, 14), dtype=float)
    shown = (again != [124, 116, 104]).any(axis=-1)
    inner = shown[1:-1, 1:-1] & shown[:-2, 1:-1] & shown[2:, 1:-1]
    assert np.abs(again - learned)[1:-1, 1:-1][inner].max() < 8 and inner.mean() > 0.9 * min(1, 50 / rise) - 0.05


def test_panorama_gets_the_rows_of_the_model():
    sphere, _ = smooth_panorama()
    cut = crop_or_pad_rows(sphere, PanoramaCanvas(154, 770, CVUSA))
    assert cut.size == (1440, 262) and cut.getpixel((9, 0)) == sphere.getpixel((9, 229))
    crop = sphere.crop((0, 229, 1440, 491))
    assert crop_or_pad_rows(crop, PanoramaCanvas(154, 770, CVUSA)) is crop  # 5.5:1 is CVUSA's own
    filled = crop_or_pad_rows(crop, PanoramaCanvas(154, 770, 180.0))
    assert filled.size == sphere.size and filled.getpixel((9, 229)) == sphere.getpixel((9, 229))
    assert filled.getpixel((9, 0)) == (124, 116, 104)
    for canvas in (PanoramaCanvas(154, 770), PanoramaCanvas(294, 588, 180.0), PanoramaCanvas(70, 140, 70.0)):
        assert crop_or_pad_rows(sphere, canvas) is sphere  # unknown extent, or already the shape of the canvas


def test_panorama_canvas_equals_that_of_the_checkpoint(tiny_model, tiny_processor, tmp_path):
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.world.render import panorama_rays
    from gengeo_hf.world.shards import VERTICAL_FOV

    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    before = encoder.fingerprint
    assert panorama_canvas(encoder) is None  # independent of the shape of its ground images
    tiny_model.config.ground_camera, tiny_model.config.ground_vertical_fov = "panorama", VERTICAL_FOV
    tiny_model.save_pretrained(tmp_path / "m")
    tiny_processor.save_pretrained(tmp_path / "m")
    encoder = Encoder.from_pretrained(tmp_path / "m", device="cpu")
    canvas = panorama_canvas(encoder)
    assert canvas == PanoramaCanvas(28, 112, VERTICAL_FOV) and encoder.fingerprint == before
    rays = panorama_rays((canvas.height, canvas.width), (0.5, 0.5)).reshape(canvas.height, canvas.width, 3)
    elevation = np.arcsin(rays[:, 0, 2] / np.linalg.norm(rays[:, 0], axis=-1))
    np.testing.assert_allclose(-np.diff(elevation), canvas.pixel[0], rtol=1e-3)
    np.testing.assert_allclose(elevation[0], (canvas.height - 1) / 2 * canvas.pixel[0], rtol=1e-3)
    tiny_model.config.ground_camera = "photo"
    assert panorama_canvas(Encoder(tiny_model, tiny_processor, device="cpu")) is None


def test_pictures_of_a_panorama_are_rolled_to_north(tmp_path):
    image = Image.fromarray(np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (60, 1, 3)))
    image.save(tmp_path / "p.png")
    photo = read_photo(tmp_path / "p.png")
    assert photo.metadata.camera.fov == 360.0
    (picture,) = pictures(photo, CameraView(heading=90), PANORAMA)
    # The centre column faces east, so north is a quarter of the width to the left.
    assert np.asarray(picture.image)[0, 60, 0] == np.asarray(image)[0, 60 - 30, 0]
    turns = pictures(photo, CameraView(heading="unknown"), PANORAMA)
    assert [turn.heading for turn in turns] == [45.0 * n for n in range(8)]
    assert pictures(photo, CameraView(), PANORAMA)[0].image is photo.image
    assert "no heading" in " ".join(camera_notes(photo, CameraView(), PANORAMA))
    assert len(pictures(photo, CameraView(heading="unknown"), None)) == 1  # a model of ordinary photos


def test_photo_time_is_read_from_exif(tmp_path):
    first = read_photo(jpeg(tmp_path / "a.jpg", time="2024:07:09 03:27:33", subsec="5")).time
    assert first == datetime(2024, 7, 9, 3, 27, 33, 500_000)
    assert read_photo(jpeg(tmp_path / "b.jpg", time="0000:00:00 00:00:00")).time is None


def test_locate_with_a_model_of_panoramas_finds_photos_and_rolled_panoramas(panorama_model, tiny_processor, tmp_path):
    from gengeo_hf.encoding.encoder import Encoder

    encoder = Encoder(panorama_model, tiny_processor, device="cpu", batch_size=4)
    assert panorama_canvas(encoder) == PANORAMA
    index = GeoIndex.build(encoder, ListSource(count=6), tmp_path / "idx")
    localizer = GeoLocalizer(encoder, index)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 255, (90, 120, 3), np.uint8)).save(tmp_path / "photo.png")
    whole, wide, again = (
        localizer.locate(tmp_path / "photo.png", camera=camera).places
        for camera in (None, CameraView(180), CameraView(180))
    )
    assert [p.score for p in wide] == [p.score for p in again] != [p.score for p in whole]
    panorama = np.asarray(Image.effect_noise((224, 112), 90).convert("RGB"))
    names = []
    for turn in (0, 56):  # two headings a quarter turn apart
        names.append(tmp_path / f"{turn}.png")
        Image.fromarray(np.roll(panorama, -turn, axis=1)).save(names[-1])
    a, b = (localizer.locate(name, camera=CameraView(heading="unknown"), merge=False).places for name in names)
    assert [p.tile_id for p in a] == [p.tile_id for p in b]
    np.testing.assert_allclose([p.score for p in a], [p.score for p in b], atol=1e-4)
    assert (b[0].heading - a[0].heading) % 360 == 90 and whole[0].heading is None
    both = localizer.locate([tmp_path / "photo.png", names[0]], camera=CameraView(heading="unknown"))
    assert "--fov" in both[0].notes[0] and not both[1].notes


def test_locate_of_a_narrow_photo_widens_it_or_gives_one_line(panorama_model, tiny_processor, tmp_path, monkeypatch):
    from gengeo_hf.encoding.encoder import Encoder

    encoder = Encoder(panorama_model, tiny_processor, device="cpu")
    index = GeoIndex.build(encoder, ListSource(count=3), tmp_path / "idx")
    Image.new("RGB", (90, 60)).save(tmp_path / "photo.png")
    narrow = {"photo": tmp_path / "photo.png", "camera": CameraView(fov=20)}
    widened = GeoLocalizer(encoder, index).locate(narrow["photo"], camera=narrow["camera"])
    assert widened.places and [note for note in widened.notes if "times its width by its mirror image" in note]
    assert not GeoLocalizer(encoder, index).locate(narrow["photo"], camera=CameraView(fov=180)).notes
    monkeypatch.setattr("gengeo_hf.localization.photos.WIDEST", 1)
    answer = GeoLocalizer(encoder, index).locate(narrow["photo"], camera=narrow["camera"])
    assert "too narrow" in answer.error and not answer.places
    # In a batch only this photo has an error.
    jpeg(tmp_path / "tele.jpg", focal=400)
    Image.new("RGB", (112, 28), (9, 90, 9)).save(tmp_path / "wide.png")
    names = [tmp_path / name for name in ("wide.png", "tele.jpg", "wide.png")]
    wide, tele, again = GeoLocalizer(encoder, index).locate_many(names)
    assert "too narrow" in tele.error and not tele.places
    assert wide.places and wide.places == again.places and not wide.error


def test_locate_of_a_photo_with_too_few_rows_among_others_answers_the_others(panorama_model, tiny_processor, tmp_path):
    """A file of 20 x 10 pixels is readable, but only five rows are within the model's field of view."""
    from gengeo_hf.encoding.encoder import Encoder

    panorama_model.config.ground_vertical_fov = 90.0
    encoder = Encoder(panorama_model, tiny_processor, device="cpu")
    localizer = GeoLocalizer(encoder, GeoIndex.build(encoder, ListSource(count=3), tmp_path / "idx"))
    Image.new("RGB", (20, 10)).save(tmp_path / "small.png")
    Image.new("RGB", (112, 28), (9, 90, 9)).save(tmp_path / "large.png")
    names = [tmp_path / name for name in ("large.png", "small.png", "large.png")]
    first, small, last = localizer.locate_many(names, camera=CameraView(fov=360))
    assert "expected at least 8 on each side" in small.error and not small.places
    assert first.places and first.places == last.places and not first.error
    assert localizer.search_photo(names[1], CameraView(fov=360), 3) is None


def street(azimuth, elevation):
    """Colours of directions in radians, smooth and different everywhere."""
    waves = [np.sin(azimuth) + np.sin(elevation), np.cos(azimuth) - np.sin(elevation), np.cos(2 * azimuth)]
    return np.rint(127 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def tilted_panorama(pitch, roll, width=720):
    """Image of a tilted panorama camera, by rotation matrices (an independent formula)."""
    azimuth, elevation = np.meshgrid(
        (np.arange(width) + 0.5 - width / 2) * 2 * np.pi / width,
        (width / 4 - np.arange(width // 2) - 0.5) * 2 * np.pi / width,
    )
    p, r = np.radians(pitch), np.radians(roll)
    forward = np.array([0, np.cos(p), np.sin(p)])
    up = np.array([0, -np.sin(p), np.cos(p)])
    axes = np.cos(r) * np.eye(3)[0] - np.sin(r) * up, forward, np.sin(r) * np.eye(3)[0] + np.cos(r) * up
    own = [np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)]
    world = sum(component[..., None] * axis for component, axis in zip(own, axes, strict=True))
    return street(np.arctan2(world[..., 0], world[..., 1]), np.arcsin(np.clip(world[..., 2], -1, 1)))


def gpano(**values):
    tags = " ".join(f'GPano:{name}="{value}"' for name, value in values.items())
    return f"<x {tags}/>".encode()


FULL = {"FullPanoWidthPixels": 720, "CroppedAreaImageWidthPixels": 720}


def test_pictures_of_a_tilted_panorama_are_levelled(tmp_path):
    canvas = PanoramaCanvas(28, 112, 70.0)
    level = tilted_panorama(0, 0)
    tilted = tilted_panorama(25, -12)
    xmp = gpano(**FULL, PoseHeadingDegrees=90, PosePitchDegrees=25, PoseRollDegrees=-12)
    Image.fromarray(tilted).save(tmp_path / "t.jpg", quality=98, xmp=xmp)
    Image.fromarray(level).save(tmp_path / "l.jpg", quality=98, xmp=gpano(**FULL, PoseHeadingDegrees=90))
    photo, right = read_photo(tmp_path / "t.jpg"), read_photo(tmp_path / "l.jpg")
    (found,), (expected,) = (pictures(p, CameraView(), canvas) for p in (photo, right))
    assert found.heading == expected.heading == 90.0 and found.image.size == expected.image.size
    apart = np.abs(np.asarray(found.image, float) - np.asarray(expected.image, float))
    assert apart.max() < 8
    assert np.abs(tilted.astype(float) - level).max() > 60  # levelling is not the identity
    assert "levelled" in " ".join(camera_notes(photo, CameraView(), canvas))
    assert "not used" in " ".join(camera_notes(photo, CameraView(), None))


def test_pictures_of_a_cylindrical_panorama_use_its_projection(tmp_path):
    azimuth, height = np.meshgrid((np.arange(720) - 359.5) * np.pi / 360, (89.5 - np.arange(180)) * np.pi / 360)
    Image.fromarray(street(azimuth, np.arctan(height))).save(
        tmp_path / "c.jpg", quality=98, xmp=gpano(**FULL, ProjectionType="cylindrical")
    )
    (found,) = pictures(read_photo(tmp_path / "c.jpg"), CameraView(), PanoramaCanvas(28, 112, 60.0))
    rows = found.image.height
    elevation = np.radians(60.0) * (0.5 - (np.arange(rows) + 0.5) / rows)
    expected = street(*np.meshgrid((np.arange(720) - 359.5) * np.pi / 360, elevation))
    assert np.abs(np.asarray(found.image, float) - expected)[1:-1].max() < 8


def test_pictures_of_an_unevenly_cropped_panorama_keep_the_horizon(tmp_path):
    sphere = tilted_panorama(0, 0)
    box = {"FullPanoHeightPixels": 360, "CroppedAreaImageHeightPixels": 160, "CroppedAreaTopPixels": 40}
    Image.fromarray(sphere[40:200]).save(tmp_path / "c.jpg", quality=98, xmp=gpano(**FULL, **box))
    (found,) = pictures(read_photo(tmp_path / "c.jpg"), CameraView(), PanoramaCanvas(28, 112, 30.0))
    expected = sphere[150:210]  # 30 degrees about the true horizon, of which 5 below are not shown
    assert np.abs(np.asarray(found.image, float)[:48] - expected[:48]).max() < 8


def test_camera_notes_name_metadata_that_is_not_used(tmp_path):
    fish = read_photo(jpeg(tmp_path / "f.jpg", (400, 200), xmp=gpano(**FULL, ProjectionType="fisheye")))
    assert "fisheye" in " ".join(camera_notes(fish, CameraView(), None)) and fish.metadata.camera.fov is None
    steep = read_photo(jpeg(tmp_path / "s.jpg", focal=24, xmp=gpano(PosePitchDegrees=80)))
    assert "too large" in " ".join(camera_notes(steep, CameraView(), PANORAMA))
    wrong = read_photo(jpeg(tmp_path / "w.jpg", xmp=gpano(PoseRollDegrees=400)))
    assert "PoseRollDegrees" in " ".join(camera_notes(wrong, CameraView(), None))


def test_camera_option_overrides_the_metadata_of_the_file(tmp_path):
    photo = read_photo(jpeg(tmp_path / "p.jpg", (400, 200), xmp=gpano(**FULL, PoseHeadingDegrees=45)))
    assert pictures(photo, parse_camera(None, "exif"), PANORAMA)[0].heading == 45.0
    assert pictures(photo, parse_camera(None, "10"), PANORAMA)[0].heading == 10.0
    assert len(pictures(photo, parse_camera(None, "unknown"), PANORAMA)) == 8
    assert camera_notes(photo, CameraView(), PANORAMA) == []
