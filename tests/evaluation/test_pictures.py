"""Strips and crops: positions, sizes and colours of what is drawn, in finished pixels.

`coverage` gives the part of each pixel that a colour covers, so that sums are lengths and areas in pixels.
"""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation import pictures

GAP, SIDE = 14, 100
BLUE, BLACK, WHITE = (0, 0, 255), (0, 0, 0), (255, 255, 255)
BORDER, RADIUS, INNER_RADIUS = 5, 10, 6  # of a framed tile
ROUNDED = 1 - np.pi / 4  # part of the square of the radius that a rounded corner leaves out


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) if isinstance(colour, str) else colour


def coverage(pixels, colour, other):
    """How far each pixel lies between two colours: 1 is `colour`, 0 is `other`."""
    a, b = np.array(rgb(colour), float), np.array(rgb(other), float)
    return np.clip((np.asarray(pixels)[..., :3] - b) @ (a - b) / ((a - b) @ (a - b)), 0, 1)


def left_out(part):
    """Area that a colour does not cover; differences below 0.1, which reducing the size causes, do not count."""
    return np.where(part < 0.9, 1 - part, 0).sum()


def strip(labels, *, photo=(100, 20), tile=BLACK, **more):
    """Strip with a blue photo and black tiles, as float pixels."""
    given = Image.new("RGB", photo, BLUE), [Image.new("RGB", (40, 40), tile)] * len(labels), labels
    return np.asarray(pictures.strip(*given, **({"tile_side": SIDE} | more)), float)


def extent(mask):
    """First and last column and row of a mask."""
    rows, columns = np.nonzero(mask)
    return columns.min(), columns.max(), rows.min(), rows.max()


def is_blue(pixels):
    return (pixels[..., 2] > 128) & (pixels[..., :2] < 90).all(axis=-1)


@pytest.mark.parametrize(
    ("photo", "wide", "high"),
    [((100, 20), 260, 52), ((30, 60), 50, 100), ((260, 100), 260, 100), ((25, 10), 250, 100)],
)
def test_strip_fits_the_photo_to_the_side_of_a_tile_and_centres_it_vertically(photo, wide, high):
    pixels = strip(["right", ""], photo=photo)
    assert pixels.shape[:2] == (SIDE + 2 * GAP, GAP + wide + 2 * GAP + 2 * (SIDE + GAP))
    top = GAP + (SIDE - high) // 2
    assert extent(is_blue(pixels)) == (GAP, GAP + wide - 1, top, top + high - 1)
    corner = coverage(pixels[top : top + 13, GAP : GAP + 13], BLUE, WHITE)
    assert left_out(corner) == pytest.approx(ROUNDED * 6**2, abs=1)


@pytest.mark.parametrize(("photo", "size"), [((2000, 1), (260, 0.5)), ((1, 2000), (0.5, 100))])
def test_strip_of_a_thin_photo_draws_at_least_one_pixel(photo, size):
    pixels = strip([], photo=photo)  # half a finished pixel, since figures are drawn at twice their size
    part = coverage(pixels, BLUE, WHITE)
    assert (part.sum(axis=1).max() if photo[0] > 1 else part.sum(axis=0).max()) > 0
    assert part.sum() == pytest.approx(size[0] * size[1], rel=0.25)


def test_strip_places_tiles_in_a_row_and_the_true_tile_after_a_line():
    true_tile = Image.new("RGB", (40, 40), BLUE), ""
    pixels = strip(["", "wrong"], true_tile=true_tile, photo=(10, 10), tile=BLACK)
    first = GAP + SIDE + 2 * GAP
    last = first + 2 * (SIDE + GAP) + GAP
    assert pixels.shape[1] == last + SIDE + GAP
    row = pixels[GAP + SIDE // 2]
    black = np.nonzero((row < 20).all(axis=1))[0]
    second = first + SIDE + GAP
    assert list(black) == [*range(first, first + SIDE), *range(second + BORDER, second + SIDE - BORDER)]
    blue = np.nonzero(is_blue(row))[0]
    assert list(blue) == [*range(GAP, GAP + SIDE), *range(last + BORDER, last + SIDE - BORDER)]
    assert coverage(row[last : last + BORDER], pictures.COLOURS["right"], WHITE) == pytest.approx(1, abs=0.1)
    grey = coverage(pixels, pictures.FAINT, WHITE)[:, last - GAP - 3 : last - GAP + 4]
    assert grey[GAP + 1 : GAP + SIDE - 1].sum(axis=1) == pytest.approx(1, abs=0.1)  # one pixel wide
    middle = (grey.sum(axis=0) * np.arange(-3, 4)).sum() / grey.sum()
    assert middle == pytest.approx(0, abs=0.3)
    assert grey.sum(axis=0).max() > 0.85 * SIDE and grey[: GAP - 2].sum() < 0.1
    assert grey[GAP + SIDE + 2 :].sum() < 0.1


def test_strip_has_tiles_of_190_pixels_by_default():
    shown = pictures.strip(Image.new("RGB", (10, 10)), [Image.new("RGB", (9, 9))], [""])
    assert shown.size == (GAP + 190 + 2 * GAP + 190 + GAP, 190 + 2 * GAP)


@pytest.mark.parametrize(
    ("more", "height"),
    [
        ({}, 128),
        ({"title": "q"}, 152),
        ({"captions": ["", "0.9"]}, 152),
        ({"true_tile": (np.zeros((3, 3, 3), np.uint8), "true")}, 152),
        ({"true_tile": (np.zeros((3, 3, 3), np.uint8), "")}, 128),
    ],
)
def test_strip_is_higher_where_there_is_text_below(more, height):
    assert len(strip(["right", "wrong", "semi"], **more)) == height


def ink(shape, text, size, at, anchor="la", scale=1):
    """Dark pixels of a text that is written alone, at `scale` times the size."""
    canvas = Image.new("L", (shape[1] * scale, shape[0] * scale), 255)
    font = ImageFont.load_default(size * scale)
    ImageDraw.Draw(canvas).text((at[0] * scale, at[1] * scale), text, fill=0, font=font, anchor=anchor)
    return np.asarray(canvas.reduce(scale)) < 128


def test_strip_writes_title_and_captions_centred_six_pixels_below_their_images():
    pixels = strip(["", "right"], captions=["HHH", "HOH"], title="HIH", photo=(60, 20))
    dark = 255 - pixels.min(axis=2) > 100
    second = GAP + 260 + 2 * GAP + SIDE + GAP
    texts = {"HIH": (GAP + 130, GAP + 50 + 43 + 6), "HHH": (second - GAP - 50, GAP + SIDE + 6)}
    texts |= {"HOH": (second + 50, GAP + SIDE + 6)}
    for text, (x, y) in texts.items():
        part = slice(y, y + 20), slice(int(x) - 40, int(x) + 40)
        expected = ink(dark.shape, text, 13, (x, y), "ma", 2)
        assert extent(dark[part]) == extent(expected[part]), text


def test_strip_shortens_a_caption_to_the_width_of_its_tile():
    pixels = strip(["", ""], captions=["H" * 60, ""], title="H" * 90)
    dark = 255 - pixels.min(axis=2) > 100
    first = GAP + 260 + 2 * GAP
    left, right, *_ = extent(dark[GAP + SIDE + 2 :, first - GAP :])
    assert GAP - 1 <= left < GAP + 12 and GAP + SIDE - 12 < right <= GAP + SIDE + 1
    left, right, *_ = extent(dark[GAP + 76 + 2 : GAP + 100, : first - GAP])
    assert GAP - 1 <= left < GAP + 12 and GAP + 260 - 12 < right <= GAP + 261


def framed(label):
    """Pixels of one tile with its frame, 100 x 100."""
    pixels = strip([label], photo=(10, 10))
    left = GAP + SIDE + 2 * GAP
    around = pixels[GAP - 1 : GAP + SIDE + 1, left - 1 : left + SIDE + 1].copy()
    around[1:-1, 1:-1] = 255
    assert around.min() > 230  # nothing is drawn around it; reducing the size leaves traces of 15
    return pixels[GAP : GAP + SIDE, left : left + SIDE]


@pytest.mark.parametrize("label", ["right", "semi", "wrong"])
def test_strip_draws_a_frame_of_five_pixels_with_rounded_corners(label):
    pixels, colour = framed(label), pictures.COLOURS[label]
    for line in (pixels[SIDE // 2], pixels[:, SIDE // 2]):
        part = coverage(line, colour, BLACK)
        assert part[: SIDE // 2].sum() == pytest.approx(BORDER, abs=0.3)
        assert part[SIDE // 2 :].sum() == pytest.approx(BORDER, abs=0.3)
    for corner in (pixels, pixels[::-1], pixels[::-1, ::-1]):  # the fourth holds the badge
        parts = corner[:BORDER, :RADIUS], corner[BORDER:RADIUS, :BORDER]  # without the tile
        outside = sum(coverage(part, WHITE, colour).sum() for part in parts)
        assert outside == pytest.approx(ROUNDED * RADIUS**2, abs=2)
        tile = coverage(corner[BORDER : BORDER + 12, BORDER : BORDER + 12], BLACK, colour)
        assert left_out(tile) == pytest.approx(ROUNDED * INNER_RADIUS**2, abs=1)


def test_strip_draws_a_tile_without_a_label_over_its_whole_side():
    pixels = framed("")
    part = coverage(pixels, BLACK, WHITE)
    assert part[SIDE // 2].min() > 0.9 and part[:, SIDE // 2].min() > 0.9
    assert left_out(part) == pytest.approx(4 * ROUNDED * INNER_RADIUS**2, abs=4)


def distance(points, start, end):
    """Distance of points (rows, columns, 2) from a segment."""
    start, along = np.array(start, float), np.subtract(end, start)
    part = np.clip((points - start) @ along / (along @ along), 0, 1)[..., None]
    return np.linalg.norm(points - start - part * along, axis=-1)


ARM = 0.45 * 13
SIGNS = {
    "right": [(-ARM, 0), (-0.2 * ARM, 0.8 * ARM), (1.1 * ARM, -0.8 * ARM)],
    "semi": [(-ARM, 0), (ARM, 0)],
    "wrong": [(-ARM, -ARM), (ARM, ARM), None, (-ARM, ARM), (ARM, -ARM)],
}


@pytest.mark.parametrize("label", list(SIGNS))
def test_strip_draws_a_badge_with_the_sign_of_the_label(label):
    """Tick, bar or cross, 3 pixels wide, in a disc of 13 pixels with a white outline of 2, 19 from top and right."""
    pixels, colour = framed(label), pictures.COLOURS[label]
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    points = np.stack([x - (SIDE - 19), y - 19], axis=-1)
    from_centre = np.linalg.norm(points, axis=-1)
    corners = SIGNS[label]
    lines = [pair for pair in itertools.pairwise(corners) if None not in pair]
    to_sign = np.min([distance(points, *pair) for pair in lines], axis=0)
    shorter = [(np.dot((0.85, 0.15), (a, b)), np.dot((0.15, 0.85), (a, b))) for a, b in lines]  # without the ends
    in_sign = np.min([distance(points, *pair) for pair in shorter], axis=0)
    white = coverage(pixels, WHITE, colour)
    disc = from_centre < 10.3
    assert white[disc & (to_sign > 2.6)].max() < 0.1
    assert white[disc & (in_sign < 0.8)].min() > 0.7
    ring = (from_centre > 11.7) & (from_centre < 12.5)
    assert white[ring].min() > 0.6
    tile = (from_centre > 14.2) & (x > 60) & (x < 94) & (y > 6) & (y < 40) & ((x < 88) | (y > 12))
    assert (pixels[tile] < 60).all()
    assert white[disc].sum() == pytest.approx(white[disc & (to_sign < 2.6)].sum(), abs=2)


def test_strip_draws_the_lines_of_a_badge_three_pixels_wide_and_its_outline_two():
    pixels, x, y = framed("semi"), SIDE - 19, 19
    white = coverage(pixels[y - 16 : y + 17, x], WHITE, pictures.COLOURS["semi"])
    assert white[9:24].sum() == pytest.approx(3, abs=0.5)
    for edge in (white[1:9], white[24:32]):
        assert edge.sum() == pytest.approx(2, abs=0.6)
    across = coverage(pixels[y, x - 10 : x + 11], WHITE, pictures.COLOURS["semi"])
    assert across.sum() == pytest.approx(2 * ARM, abs=1)


def test_stack_puts_strips_under_a_heading_with_a_line_below_each():
    strips = [Image.new("RGB", (200, 30), BLACK), Image.new("RGB", (120, 50), BLUE)]
    pixels = np.asarray(pictures.stack(strips, "HOH", "HIH"), float)
    assert pixels.shape == (56 + 30 + 50, 200, 3)
    grid = (pixels == rgb(pictures.GRID)).all(axis=2)
    assert grid[[85, 135]].sum(axis=1).tolist() == [200 - 2 * 14 + 1] * 2 and grid[:, :14].sum() == 0
    assert (pixels[56:85] == BLACK).all() and (pixels[86:135, :120] == BLUE).all()
    assert (pixels[86:135, 120:] == 255).all() and (pixels[:12] == 255).all()
    for text, size, at in (("HOH", 20, (14, 12)), ("HIH", 13, (14, 38))):
        rows = slice(at[1], at[1] + size + 2)
        assert extent((255 - pixels[rows].min(axis=2)) > 60) == extent(ink(pixels.shape, text, size, at)[rows]), text
    plain = np.asarray(pictures.stack(strips), float)
    assert plain.shape == (80, 200, 3) and (plain[:29] == BLACK).all()
    with pytest.raises(GenGeoError, match="no strips"):
        pictures.stack([])


def test_crop_panorama_of_a_narrow_view_has_at_least_one_column():
    panorama = np.arange(21, dtype=np.uint8)[None, :, None].repeat(3, axis=2)

    def columns(fov, heading):
        return np.asarray(pictures.crop_panorama(panorama, fov, heading))[0, :, 0].tolist()

    assert columns(5, 0.0) == [10]  # the middle, which faces north
    assert columns(5, 180.0) == [20] or columns(5, 180.0) == [0]
    assert columns(120, 0.0) == list(range(7, 14))
    assert columns(360, 120.0) == [(column + 7) % 21 for column in range(21)]


def test_format_distance_changes_to_kilometres_at_a_thousand_metres():
    assert [pictures.format_distance(metres) for metres in (999.4, 1000.0, 1000.6)] == ["999 m", "1.0 km", "1.0 km"]
