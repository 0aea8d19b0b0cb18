"""`CameraView`: precedence and ranges; metadata of EXIF and GPano; kinds of images."""

import io
from datetime import datetime

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from gengeo_hf.common.camera import CameraView, parse_camera, table_cameras
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import find_images, open_image, read_image, read_metadata
from gengeo_hf.common.metadata import magnetic_declination

HELSINKI = {
    "GPSLatitudeRef": "N",
    "GPSLatitude": (60.0, 10.0, 12.0),
    "GPSLongitudeRef": "E",
    "GPSLongitude": (24.0, 56.0, 24.0),
}


def photo(xmp=b"", size=(256, 128), **gps):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({getattr(ExifTags.GPS, name): value for name, value in gps.items()})
    file = io.BytesIO()
    Image.new("RGB", size, (90, 120, 60)).save(file, "JPEG", exif=exif, xmp=xmp)
    return file.getvalue()


def test_completed_by_precedence_is_option_table_file():
    option, table, file = CameraView(heading=1.0), CameraView(fov=90.0, heading=2.0), CameraView(heading=3.0, roll=4.0)
    assert option.completed_by(table).completed_by(file) == CameraView(90.0, 1.0, roll=4.0)
    stated = CameraView(None, "unknown").completed_by(file)
    assert stated.heading == "unknown" and stated.bearing is None
    whole = CameraView(360.0, vertical_fov=70.0, projection="equirectangular")
    assert CameraView(60.0).completed_by(whole) == CameraView(60.0)  # the vertical extent belongs to 360 degrees


def test_camera_view_value_out_of_range_is_refused():
    for wrong in ({"fov": 0}, {"fov": 361}, {"pitch": 91}, {"roll": np.nan}, {"projection": "fish"}, {"heading": "up"}):
        with pytest.raises(GenGeoError):
            CameraView(**wrong)
    with pytest.raises(GenGeoError, match="unknown"):
        parse_camera(None, "left")
    rows = table_cameras({"fov": [360.0, None, np.nan], "heading": [10.0, None, 20.0]}, 3)
    assert rows == [CameraView(360.0, 10.0), CameraView(), CameraView(heading=20.0)]


def test_metadata_heading_without_position_is_read():
    found = read_metadata(photo(GPSImgDirection=90.0, GPSImgDirectionRef="T"))
    assert found.camera.heading == 90.0 and found.position is None and not found.notes


def test_metadata_magnetic_heading_is_corrected_by_declination():
    found = read_metadata(photo(**HELSINKI, GPSImgDirection=123.45, GPSImgDirectionRef="M"))
    # Finnish Meteorological Institute: about 10 degrees east in Helsinki in the middle of the 2020s.
    assert 9.0 < found.camera.heading - 123.45 < 12.0 and "magnetic" in found.notes[0]
    lost = read_metadata(photo(GPSImgDirection=10.0, GPSImgDirectionRef="M"))
    assert lost.camera.heading is None and "not used" in lost.notes[0]
    # NOAA's published test values of WMM2025 (2025.0, height 0): 80 N, 0 E -> 1.28 degrees.
    assert magnetic_declination(80.0, 0.0, datetime(2025, 1, 1)) == pytest.approx(1.28, abs=0.02)
    past = [magnetic_declination(60.0, 25.0, datetime(year, 1, 1)) for year in (1999, 2010)]
    assert past[0] == past[1]  # 2010 is the first year of the models


def test_metadata_contradictory_position_is_not_used():
    west = {**HELSINKI, "GPSLongitudeRef": "W", "GPSLongitude": (86.0, 30.0, 0.0)}
    assert read_metadata(photo(**west)).position.lon == -86.5
    for change in ({"GPSLatitude": (60.0, 75.0, 0.0)}, {"GPSLongitude": (24.0, 10.0, 99.0)}):
        found = read_metadata(photo(**{**HELSINKI, **change}))
        assert found.position is None and "contradicts itself" in found.notes[0]


def test_metadata_negative_degrees_with_hemisphere_keep_sign():
    from gengeo_hf.common.metadata import parse_metadata

    gps = {getattr(ExifTags.GPS, name): value for name, value in HELSINKI.items()}
    gps |= {ExifTags.GPS.GPSLongitudeRef: "W", ExifTags.GPS.GPSLongitude: (-86.0, 30.0, 0.0)}
    assert parse_metadata(gps, {}, b"", (9, 9)).position.lon == -86.5
    gps |= {ExifTags.GPS.GPSLongitudeRef: "E"}
    found = parse_metadata(gps, {}, b"", (9, 9))
    assert found.position is None and found.notes


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"GPSLatitudeRef": None}, "is incomplete"),
        ({"GPSLongitudeRef": None, "GPSLongitude": None}, "is incomplete"),
        ({"GPSLatitude": (TiffImagePlugin.IFDRational(60, 0), 0.0, 0.0)}, "is incomplete"),
        ({"GPSLatitude": (0.0, 0.0, 0.0), "GPSLongitude": (0.0, 0.0, 0.0)}, "cannot be right"),
        ({"GPSLatitude": (95.0, 0.0, 0.0)}, "cannot be right"),
    ],
)
def test_metadata_unusable_position_is_noted(change, note):
    tags = {name: value for name, value in {**HELSINKI, **change}.items() if value is not None}
    found = read_metadata(photo(**tags))
    assert found.position is None and len(found.notes) == 1 and note in found.notes[0]


@pytest.mark.parametrize(
    "change",
    [
        {"GPSLatitudeRef": "North", "GPSLongitudeRef": "east"},
        {"GPSLatitude": (60.17,), "GPSLongitude": (24.94,)},
        {"GPSLatitude": (60.0, 10.2), "GPSLongitude": (24.0, 56.4, 0.0)},
        {"GPSAltitude": 17.5, "GPSAltitudeRef": b"\x01", "GPSMapDatum": "WGS-84"},
    ],
)
def test_metadata_position_notations_are_read(change):
    found = read_metadata(photo(**{**HELSINKI, **change}))
    assert (found.position.lat, found.position.lon) == pytest.approx((60.17, 24.94)) and not found.notes


def test_metadata_heading_out_of_range_or_other_datum_is_noted():
    for value in (655.35, 400.0):
        found = read_metadata(photo(GPSImgDirection=value))
        assert found.camera.heading is None and "expected 0..360" in found.notes[0]
    found = read_metadata(photo(**HELSINKI, GPSMapDatum="TOKYO"))
    assert found.position is not None and "datum TOKYO: taken as WGS84" in found.notes[0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_metadata_gpano_without_exif_is_read(kind):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description GPano:PoseHeadingDegrees="-15.5" GPano:PosePitchDegrees="95"/></rdf:RDF></x:xmpmeta>'
    )
    file = io.BytesIO()
    image, options = Image.new("RGB", (256, 128), (90, 120, 60)), {"xmp": xmp}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": info}
    image.save(file, kind, **options)
    found = read_metadata(file.getvalue())
    assert found.camera.heading == 344.5 and found.camera.pitch is None and found.position is None
    assert "PosePitchDegrees is 95" in found.notes[0]


def test_metadata_gpano_of_crop_shifts_heading_and_horizon():
    tags = {
        "FullPanoWidthPixels": 1000,
        "CroppedAreaImageWidthPixels": 250,
        "CroppedAreaLeftPixels": 0,
        "FullPanoHeightPixels": 500,
        "CroppedAreaImageHeightPixels": 100,
        "CroppedAreaTopPixels": 100,
        "PoseHeadingDegrees": 90,
        "PosePitchDegrees": 5,
        "PoseRollDegrees": -3,
    }
    text = "".join(f"<GPano:{name}>{value}</GPano:{name}>" for name, value in tags.items())  # as elements
    camera = read_metadata(photo(text.encode())).camera
    # The crop's centre column is column 125 of 1000, 375 left of the centre: 135 degrees; its middle row is row 150.
    assert (camera.fov, camera.heading, camera.vertical_fov, camera.middle_elevation) == (90.0, 315.0, 36.0, 36.0)
    assert (camera.pitch, camera.roll, camera.projection) == (5.0, -3.0, "equirectangular")


def test_read_image_unreadable_exif_keeps_pixels(tmp_path):
    for kind in ("PNG", "WEBP", "JPEG"):
        path = tmp_path / f"a.{kind.lower()}"
        Image.new("RGB", (40, 20), (9, 90, 9)).save(path, kind, exif=b"Exif\x00\x00NOT-A-TIFF-HEADER")
        assert read_image(path).image.size == (40, 20), kind


def test_find_images_skips_hidden_and_macos_files(tmp_path):
    for name in ("a/x.JPG", "a/y.avif", "a/z.jfif", "a/._x.jpg", "__MACOSX/x.jpg", ".hidden/x.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "dir.jpg").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["x.JPG", "y.avif", "z.jfif"]


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_open_image_12_bit_colour_keeps_brightness(tmp_path, kind):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    values = np.random.default_rng(0).integers(0, 4096, (3, 20, 30), np.uint16)
    path = tmp_path / f"deep.{kind.lower()}"
    driver = {"TIFF": "GTiff", "PNG": "PNG"}[kind]
    with rasterio.open(path, "w", driver=driver, width=30, height=20, count=3, dtype="uint16") as file:
        file.write(values)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        shown = np.asarray(open_image(source), dtype=float)
        assert np.abs(shown - np.moveaxis(values, 0, -1) * 255.0 / 4095).max() <= 0.51


def test_open_image_tiff_unsupported_by_pillow_is_opened(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    values = np.random.default_rng(0).random((5, 20, 30)).astype(np.float32)
    options = {"driver": "GTiff", "width": 30, "height": 20, "dtype": "float32"}
    for count in (3, 5):
        with rasterio.open(tmp_path / "f.tif", "w", count=count, **options) as file:
            file.write(values[:count])
        shown = np.asarray(open_image(tmp_path / "f.tif"), dtype=float)
        assert np.abs(shown - np.moveaxis(values[:3], 0, -1) * 255).max() <= 0.51


def test_open_image_jpeg_above_pixel_limit_is_decoded_at_reduced_size(monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (400, 200), (9, 90, 9)).save(file, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert open_image(file.getvalue(), target_size=(20, 40)).size == (100, 50)
    with pytest.raises(GenGeoError, match="80000 pixels"):
        open_image(file.getvalue())
