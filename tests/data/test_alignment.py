"""Alignment of panoramas with north when the images of a data set are read."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.data import load_pairs
from gengeo_hf.data.loading import GroundImages, PairSource
from gengeo_hf.data.preview import write_sheet

HEADINGS = [0.0, 45.0, 200.0, 306.429]


@pytest.fixture
def two_tables(tmp_path):
    """The same panoramas in two tables: aligned with north, and rolled with the heading in a column."""
    rng = np.random.default_rng(0)
    rows = {"aligned": [], "rolled": []}
    for number, heading in enumerate(HEADINGS):
        panorama = rng.integers(0, 255, (28, 112, 3), np.uint8)
        tile = Image.fromarray(rng.integers(0, 255, (56, 56, 3), np.uint8))
        tile.save(tmp_path / f"tile{number}.png")
        shift = round(heading / 360 * 112)
        for kind, image in (("aligned", panorama), ("rolled", np.roll(panorama, -shift, axis=1))):
            Image.fromarray(image).save(tmp_path / f"{kind}{number}.png")
            stated = heading if kind == "rolled" else 0.0
            rows[kind].append(f"{kind}{number}.png,tile{number}.png,60.{number},24.9,{stated},360,test")
    for kind, lines in rows.items():
        table = "\n".join(["ground,aerial,lat,lon,heading,fov,split", *lines])
        (tmp_path / f"{kind}.csv").write_text(table)
    return [load_pairs("table", tmp_path / f"{kind}.csv", "test") for kind in rows]


def test_ground_images_rolled_panoramas_with_heading_are_aligned_with_north(two_tables, tiny_processor, tmp_path):
    aligned, rolled = two_tables
    for one, other in zip(GroundImages(aligned), GroundImages(rolled), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    batches = [PairSource(data, tiny_processor).__getitems__([0, 1, 2, 3])["ground"] for data in two_tables]
    np.testing.assert_array_equal(*batches)
    sheets = [np.asarray(Image.open(write_sheet(data, tmp_path / "s.png")), int) for data in two_tables]
    assert np.abs(sheets[0] - sheets[1])[30:].max() == 0 or sheets[0].shape == sheets[1].shape


def test_ground_images_without_heading_in_table_use_heading_of_file(tmp_path):
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 255, (4, 16, 3), np.uint8)).resize((112, 28))
    xmp = b'<x GPano:FullPanoWidthPixels="112" GPano:CroppedAreaImageWidthPixels="112" GPano:PoseHeadingDegrees="90"/>'
    Image.fromarray(np.roll(np.asarray(small), -28, axis=1)).save(tmp_path / "p.jpg", quality=95, xmp=xmp)
    small.save(tmp_path / "t.png")
    (tmp_path / "a.csv").write_text("ground,aerial,fov\np.jpg,t.png,360\n")
    (tmp_path / "b.csv").write_text("ground,aerial,fov,heading\np.jpg,t.png,360,0\n")  # the table has priority
    one, other = (GroundImages(load_pairs("table", tmp_path / f"{name}.csv", "all"))[0] for name in "ab")
    assert np.abs(np.asarray(one, int) - np.asarray(small)).mean() < 12
    assert np.abs(np.asarray(other, int) - np.asarray(small)).mean() > 25


def test_ground_images_ordinary_photos_are_not_rolled(tmp_path):
    Image.effect_noise((64, 32), 80).convert("RGB").save(tmp_path / "p.png")
    (tmp_path / "a.csv").write_text("ground,aerial,fov,heading\np.png,p.png,60,90\n")
    data = load_pairs("table", tmp_path / "a.csv", "all")
    np.testing.assert_array_equal(np.asarray(GroundImages(data)[0]), np.asarray(Image.open(tmp_path / "p.png")))
    assert data.ground_camera() == ("photo", None)


def test_ground_camera_states_kind_and_vertical_fov_of_images(two_tables):
    assert two_tables[0].ground_camera() == ("panorama", None)
    queries = two_tables[0].queries.add_column("vertical_fov", [90.0] * len(HEADINGS))
    assert type(two_tables[0])("x", queries, two_tables[0].gallery).ground_camera() == ("panorama", 90.0)
