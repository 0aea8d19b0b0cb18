"""Reading of images: supported files give upright RGB images, all others a one-line error."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import BACKGROUND, open_image, read_metadata
from tests.data.helpers import encoded, flat


def photo_position_of(source):
    return read_metadata(source).position


def gradient(height=20, width=30):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 8, np.full_like(x, 40)], axis=-1).astype(np.uint8)


def saved(image, fmt, **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def test_open_image_path_bytes_and_file_are_equal(tmp_path):
    data = encoded(gradient())
    (tmp_path / "a.png").write_bytes(data)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), data, io.BytesIO(data)):
        image = open_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_open_image_exif_orientation_is_applied(orientation):
    # Independent of Pillow: EXIF 2.3 defines where the stored row 0 and column 0 are displayed.
    shown = gradient()
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown, 1),
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(data)), shown)


def test_open_image_transparent_pixels_show_background():
    rgba = np.dstack([gradient(), np.full((20, 30), 255, np.uint8)])
    rgba[:5, :, 3] = 0
    out = np.asarray(open_image(encoded(rgba)))
    assert (out[:5] == BACKGROUND).all()
    np.testing.assert_array_equal(out[5:], gradient()[5:])
    assert (np.asarray(open_image(encoded(rgba), background=(1, 2, 3)))[:5] == (1, 2, 3)).all()


def test_open_image_transparent_palette_and_grey_are_rgb():
    palette = Image.fromarray(flat((200, 10, 10), 16, 16)).quantize(4)
    palette.info["transparency"] = int(np.asarray(palette)[0, 0])
    assert (np.asarray(open_image(saved(palette, "PNG"))) == BACKGROUND).all()
    grey = np.dstack([np.full((16, 16), 77, np.uint8), np.full((16, 16), 255, np.uint8)])
    assert (np.asarray(open_image(saved(Image.fromarray(grey, "LA"), "PNG"))) == 77).all()


def test_open_image_cmyk_jpeg_keeps_colour():
    red = Image.fromarray(flat((220, 30, 20), 16, 16)).convert("CMYK")
    out = np.asarray(open_image(saved(red, "JPEG", quality=95))).astype(int)
    assert np.abs(out - (220, 30, 20)).max() <= 6


@pytest.mark.parametrize(("peak", "bits"), [(65535, 16), (4000, 12), (900, 10)])
def test_open_image_16_bit_grey_is_scaled_by_bit_depth(peak, bits):
    values = np.linspace(0, peak, 20 * 30).reshape(20, 30).astype(np.uint16)
    out = np.asarray(open_image(saved(Image.fromarray(values), "PNG"))).astype(float)
    assert np.abs(out[..., 0] - values * 255.0 / (2**bits - 1)).max() <= 0.51
    assert (out[..., 0] == out[..., 2]).all()


def test_open_image_near_infrared_band_is_dropped(shared_data):
    for name in ("santa_monica_2018_0.tif", "santa_monica_2020_0.tif"):
        path = shared_data / "naip_chips" / name
        with Image.open(path) as image:
            bands = np.asarray(image)[..., :3]
        np.testing.assert_array_equal(np.asarray(open_image(path)), bands)


def test_open_image_tiff_mask_is_transparency():
    rgba = np.dstack([gradient(), np.full((20, 30), 255, np.uint8)])
    rgba[:5, :, 3] = 0
    assert (np.asarray(open_image(saved(Image.fromarray(rgba), "TIFF")))[:5] == BACKGROUND).all()


def test_open_image_heic_keeps_colour():
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(flat((40, 90, 160), 64, 64))).save(file, quality=90)
    assert np.abs(np.asarray(open_image(file.getvalue())).astype(int) - (40, 90, 160)).max() <= 8


def test_open_image_invalid_source_is_one_line_error(tmp_path):
    (tmp_path / "text.jpg").write_text("hello, this is not a photo")
    (tmp_path / "empty.jpg").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    whole = encoded(noise, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.png").write_bytes(encoded(noise)[:3000])
    (tmp_path / "dot.png").write_bytes(encoded(flat(0, 1, 1)))
    expected = {
        "missing.jpg": "there is no image",
        "text.jpg": "not an image",
        "empty.jpg": "is empty",
        "cut.jpg": "cut off",
        "cut.png": "cut off",
        "dot.png": "1 x 1 pixels",
        ".": "is a directory",
    }
    for name, message in expected.items():
        with pytest.raises(GenGeoError, match=message) as caught:
            open_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(GenGeoError, match="web address"):
        open_image("https://example.org/a.jpg")
    with pytest.raises(GenGeoError, match="not an image"):
        open_image(b"0123456789abcdef")


def test_open_image_decompression_bomb_is_refused(monkeypatch):
    data = encoded(flat(0, 40, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(GenGeoError, match=r"2400 pixels.*GeoTIFF") as caught:
        open_image(data)
    assert "\n" not in str(caught.value)


def test_metadata_position_of_real_photos(shared_data):
    nikon = photo_position_of(shared_data / "exif" / "DSCN0010.jpg")
    assert nikon.lat == pytest.approx(43 + 28 / 60 + 2.814 / 3600)
    assert nikon.lon == pytest.approx(11 + 53 / 60 + 6.456 / 3600)
    assert nikon.heading is None
    htc = photo_position_of(shared_data / "exif" / "gpsimgdirection_htc_16px.jpg")
    assert htc.heading == 1.0
    assert photo_position_of(shared_data / "exif" / "landscape_6.jpg") is None
    assert open_image(shared_data / "exif" / "landscape_6.jpg").size == (600, 450)


def photo_with(**tags):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({getattr(ExifTags.GPS, name): value for name, value in tags.items()})
    image = Image.fromarray(flat(9, 16, 16))
    return saved(image, "JPEG", exif=exif)


def test_metadata_implausible_position_is_none():
    good = {
        "GPSLatitudeRef": "S",
        "GPSLatitude": (33.0, 30.0, 0.0),
        "GPSLongitudeRef": "W",
        "GPSLongitude": (70.0, 0.0, 36.0),
        "GPSImgDirectionRef": "M",
        "GPSImgDirection": 10.0,
        "GPSHPositioningError": 4.5,
    }
    found = photo_position_of(photo_with(**good))
    assert (found.lat, found.lon) == pytest.approx((-33.5, -70.01))
    # The declination near Santiago de Chile is about -3 degrees (NOAA, WMM2025) and depends on the date.
    assert found.error_m == 4.5 and abs((found.heading - 10.0 + 180) % 360 - 180) < 6
    bad = [
        {"GPSLatitude": (0.0, 0.0, 0.0), "GPSLongitude": (0.0, 0.0, 0.0)},
        {"GPSLatitude": (95.0, 0.0, 0.0)},
        {"GPSLatitudeRef": ""},
    ]
    for change in bad:
        assert photo_position_of(photo_with(**{**good, **change})) is None
    image = Image.open(io.BytesIO(photo_with(**good)))
    image.getexif().get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (float("nan"), 0.0, 0.0)
    assert photo_position_of(image) is None


def test_open_image_eps_is_refused_without_ghostscript(tmp_path, monkeypatch):
    """Pillow runs Ghostscript, an interpreter, on EPS files, which must not happen for untrusted uploads."""
    from PIL import EpsImagePlugin

    path = tmp_path / "photo.jpg"
    Image.new("RGB", (64, 64), "red").save(path, "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    for source in (path, path.read_bytes()):
        with pytest.raises(GenGeoError, match="is not an image"):
            open_image(source)


@pytest.mark.parametrize(
    ("orientation", "target", "decoded"),
    [
        (1, (100, 200), (300, 400)),  # 1/8 would be 200 pixels wide, less than twice the target
        (1, (70, 90), (150, 200)),
        (1, (150, 210), (600, 800)),
        (6, (200, 100), (400, 300)),  # rotated by 90 degrees; the target is upright
        (1, (400, 500), (1200, 1600)),
        (1, None, (1200, 1600)),
    ],
)
def test_open_image_large_jpeg_is_decoded_at_reduced_size(orientation, target, decoded):
    y, x = np.mgrid[:1200, :1600]
    waves = [128 + 100 * np.sin(x / 60 + y / 90), 128 + 100 * np.cos(x / 40), 128 + 100 * np.sin(y / 50)]
    picture = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(picture, "JPEG", quality=95, exif=exif)
    image = open_image(data, target_size=target)
    assert image.size == decoded[::-1] and image.mode == "RGB"
    small = (200, 100) if target is None else target[::-1]
    whole = np.asarray(open_image(data).resize(small, Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(np.asarray(image.resize(small, Image.Resampling.BICUBIC)) - whole).max() <= 3
    assert open_image(saved(picture, "PNG"), target_size=target).size == picture.size  # PNG has no reduced decoding


@pytest.mark.parametrize("read", [open_image, read_metadata], ids=["pixels", "metadata"])
def test_damaged_tiff_that_pillow_does_not_know_is_one_line(read):
    pytest.importorskip("rasterio")
    with pytest.raises(GenGeoError, match=r"damaged|not an image") as error:
        read(b"II*\0" + (10**6).to_bytes(4, "little") + bytes(64))  # its directory lies behind the end of the file
    assert "\n" not in str(error.value)
