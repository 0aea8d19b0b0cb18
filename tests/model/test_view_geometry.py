"""View transforms, compared pixel by pixel with the papers' formulas and with exact geometry."""

import math

import numpy as np
import pytest
import torch

from gengeo_hf.model.view_transforms import downward_view, ground_bev, padded_sphere, polar_tile, sampled


def bilinear(image, row, column, wrap):
    """Bilinear interpolation of an image (H, W) at one position."""
    height, width = image.shape
    if wrap:
        row, column = min(max(row, 0), height - 1), column % width
    top, left = math.floor(row), math.floor(column)
    total = 0.0
    for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - abs(row - y)) * (1 - abs(column - x))
        if wrap:
            x %= width
        if weight > 0 and 0 <= y < height and 0 <= x < width:
            total += weight * image[y, x]
    return total


def sample_slowly(image, size, where, wrap):
    return np.array([[bilinear(image, *where(i, j), wrap) for j in range(size[1])] for i in range(size[0])])


def noise(height, width):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize(("side", "size"), [(30, (11, 28)), (41, (16, 21))])
def test_polar_tile_matches_published_formula(side, size):
    def where(i, j):
        radius = side / 2 * (size[0] - 1 - i) / size[0]
        theta = 2 * math.pi * j / size[1]
        return side / 2 + radius * math.cos(theta), side / 2 - radius * math.sin(theta)

    tiles = noise(side, side)
    out = polar_tile(tiles, size)
    assert out.shape == (2, 3, *size)
    np.testing.assert_allclose(out[1, 2], sample_slowly(tiles[1, 2].numpy(), size, where, False), atol=2e-5)


def test_polar_tile_north_is_in_centre_column():
    tile = torch.zeros(1, 1, 41, 41)
    tile[..., :6, 18:23] = 1.0  # bright pixels in the north
    out = polar_tile(tile, (20, 40))[0, 0]
    assert out.sum(0).argmax() == 20 and out.sum(1).argmax() < 6  # the centre column, near the top


def test_ground_bev_matches_published_formula():
    height, width, side, scale = 24, 48, 14, 0.3

    def where(i, j):
        c = side / 2 - 0.5
        rho = math.sqrt((i - c) ** 2 + (j - c) ** 2)
        az = (math.atan2(i - c, j - c) - math.pi / 2) % (2 * math.pi)
        return height * math.atan2(rho * scale, -1.5) / math.pi, width * az / (2 * math.pi)

    panorama = noise(height, width)
    out = ground_bev(panorama, side, scale)
    np.testing.assert_allclose(out[0, 1], sample_slowly(panorama[0, 1].numpy(), (side, side), where, True), atol=2e-5)


def test_downward_view_matches_published_formula():
    height, width, size, fov = 24, 48, (12, 16), 150.0

    def where(u, v):
        f = size[1] / 2 / math.tan(math.radians(fov) / 2)
        x, y, z = size[0] / 2 - u, size[1] / 2 - v, -f
        row = height * (1 - (math.atan2(z, math.hypot(x, y)) + math.pi / 2) / math.pi)
        return row, width * (1 - (math.atan2(y, x) + math.pi) / (2 * math.pi))

    panorama = noise(height, width)
    out = downward_view(panorama, size, fov)
    np.testing.assert_allclose(out[1, 0], sample_slowly(panorama[1, 0].numpy(), size, where, True), atol=2e-5)


@pytest.mark.parametrize("view", [lambda p: ground_bev(p, 33, 0.2), lambda p: downward_view(p, (33, 33), 140.0)])
def test_birds_eye_views_north_is_up(view):
    panorama = torch.zeros(1, 1, 60, 120)
    panorama[..., 30:, 58:63] = 1.0  # below the horizon, in the centre column
    out = view(panorama)[0, 0]
    assert out[:12].sum() > 5 * out[12:].sum() - 25 and out[:12, 12:21].sum() > 0.9 * out[:12].sum()


def test_polar_tile_with_pixel_centres_quarter_turn_equals_roll():
    """A quarter turn of the tile equals a roll by a quarter of the width, but not about the published centre."""
    tiles = noise(32, 32)
    turned = torch.rot90(tiles, 1, dims=(-2, -1))
    exact, published = (
        (
            polar_tile(turned, (12, 40), pixel_centres=exact)
            - polar_tile(tiles, (12, 40), pixel_centres=exact).roll(-10, -1)
        )
        .abs()
        .mean()
        for exact in (True, False)
    )
    assert exact < 1e-5 < 0.05 < published


@pytest.mark.parametrize("shape", [(42, 168), (30, 200)])
def test_ground_bev_with_vertical_fov_samples_true_ground_position(shape):
    """Colours of the panorama encode distance and direction of the flat ground, which the BEV must reproduce."""
    height, width, fov, eye = *shape, 70.0, 2.0
    down = torch.deg2rad((torch.arange(height) + 0.5 - height / 2) * fov / height)
    distance = eye / torch.tan(down.clamp(min=1e-3))
    azimuth = ((torch.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    panorama = torch.stack(
        [(1 / distance)[:, None].expand(shape), azimuth.sin().expand(shape), azimuth.cos().expand(shape)]
    )[None]
    side, scale = 40, 0.5
    out = ground_bev(panorama, side, scale, eye, vertical_fov=fov)[0]
    offset = (torch.arange(side) - (side - 1) / 2) * scale
    true = torch.hypot(offset[:, None], offset[None])
    seen = true > eye / math.tan(math.radians(fov / 2)) + 0.3
    assert ((1 / out[0])[seen] / true[seen] - 1).abs().max() < 0.06
    bearing = torch.atan2(offset[None].expand(side, side), -offset[:, None].expand(side, side))
    assert (out[1] - bearing.sin())[seen].abs().max() < 0.02 and (out[2] - bearing.cos())[seen].abs().max() < 0.02
    assert not out[:, side // 2, side // 2].any()  # below the last row
    looked = downward_view(panorama, (side, side), 150.0, vertical_fov=fov)[0]
    focal = side / 2 / math.tan(math.radians(75))
    true = torch.hypot(offset[:, None], offset[None]) / scale / focal * eye
    seen = (true > 3.3) & (true < 10)
    assert ((1 / looked[0])[seen] / true[seen] - 1).abs().max() < 0.06


def test_views_padding_and_invalid_arguments():
    assert padded_sphere(torch.ones(1, 3, 224, 1232)).shape == (1, 3, 616, 1232)
    assert padded_sphere(torch.ones(1, 1, 2, 8))[0, 0].sum(1).tolist() == [0, 8, 8, 0]
    for call in (
        lambda: padded_sphere(torch.ones(1, 3, 9, 12)),
        lambda: ground_bev(torch.ones(1, 3, 224, 1232), 64),
        lambda: ground_bev(torch.ones(1, 3, 8, 16), 64, 0.0),
        lambda: downward_view(torch.ones(1, 3, 8, 16), (8, 8), 180.0),
        lambda: polar_tile(torch.ones(1, 3, 8, 9), (8, 8)),
        lambda: ground_bev(torch.ones(1, 3, 8, 40), 8, vertical_fov=0),
    ):
        with pytest.raises(ValueError):  # the six messages differ
            call()


def test_polar_tile_with_pixel_centres_matches_formula():
    side, size = 31, (9, 22)

    def where(i, j):
        radius = side / 2 * (size[0] - i - 0.5) / size[0]
        theta = 2 * math.pi * (j + 0.5) / size[1]
        return (side - 1) / 2 + radius * math.cos(theta), (side - 1) / 2 - radius * math.sin(theta)

    tiles = noise(side, side)
    out = polar_tile(tiles, size, pixel_centres=True)
    np.testing.assert_allclose(out[1, 0], sample_slowly(tiles[1, 0].numpy(), size, where, False), atol=2e-5)


def sample_directions_slowly(panorama, size, direction, fov, horizon):
    """Sample in directions (azimuth, depression) in degrees: the centre column has azimuth 0, other rows are black."""
    height, width = panorama.shape

    def where(i, j):
        azimuth, depression = direction(i, j)
        return horizon + depression * height / fov, (width - 1) / 2 + azimuth * width / 360

    inside = [[-0.5 <= where(i, j)[0] <= height - 0.5 for j in range(size[1])] for i in range(size[0])]
    assert 0 < np.mean(inside) < 1  # the case has ground inside and outside the panorama
    return sample_slowly(panorama, size, where, True) * np.array(inside)


@pytest.mark.parametrize(("fov", "horizon"), [(70.0, None), (100.0, -2.0)])
def test_ground_bev_with_vertical_fov_matches_formula(fov, horizon):
    side, scale, eye = 12, 1.8, 1.7

    def direction(i, j):
        north, east = (5.5 - i) * scale, (j - 5.5) * scale
        return math.degrees(math.atan2(east, north)), math.degrees(math.atan2(eye, math.hypot(north, east)))

    panorama = noise(15, 60)
    out = ground_bev(panorama, side, scale, eye, vertical_fov=fov, horizon_row=horizon)
    middle = 7.0 if horizon is None else horizon
    expected = sample_directions_slowly(panorama[1, 2].numpy(), (side, side), direction, fov, middle)
    np.testing.assert_allclose(out[1, 2], expected, atol=5e-5)


@pytest.mark.parametrize("horizon", [None, 5.5])
def test_downward_view_with_vertical_fov_matches_formula(horizon):
    size, fov = (9, 14), 160.0
    focal = 7 / math.tan(math.radians(80))

    def direction(i, j):
        north, east = 4 - i, j - 6.5
        return math.degrees(math.atan2(east, north)), math.degrees(math.atan2(focal, math.hypot(north, east)))

    panorama = noise(16, 60)
    out = downward_view(panorama, size, fov, vertical_fov=80.0, horizon_row=horizon)
    middle = 7.5 if horizon is None else horizon
    expected = sample_directions_slowly(panorama[0, 1].numpy(), size, direction, 80.0, middle)
    np.testing.assert_allclose(out[0, 1], expected, atol=5e-5)


def test_ground_bev_edges_of_panorama_are_visible():
    """Ground 1 m from a camera of 1 m is 45 degrees below the horizon: exactly the lower or the upper edge."""
    panorama = (torch.arange(9.0) + 1)[None, None, :, None].expand(1, 1, 9, 36)
    lower = ground_bev(panorama, 3, 1.0, 1.0, vertical_fov=90.0)[0, 0]
    assert lower[0, 1] == pytest.approx(9, abs=1e-3) and lower[1, 1] == 0
    upper = ground_bev(panorama, 3, 1.0, 1.0, vertical_fov=90.0, horizon_row=-5.0)[0, 0]
    assert upper[1, 0] == pytest.approx(1, abs=1e-3) and upper[0, 0] == 0


def test_sampled_values_by_hand():
    image = torch.tensor([[0.0, 1, 4, 9], [10, 11, 14, 19], [20, 21, 24, 29]])
    images = torch.stack([image, 2 * image])[:, None]
    rows = torch.tensor([[-0.7, 0.5, 2.9], [1.0, 0.0, 1.0]], dtype=torch.float64)
    columns = torch.tensor([[3.5, -0.25, 1.5], [5.0, 4.0, 1.0]], dtype=torch.float64)
    # Columns wrap around, and rows outside are those of the nearest edge.
    expected = np.array([[4.5, 7.25, 22.5], [11.0, 0.0, 11.0]])
    found = sampled(images, rows, columns, sphere=True)[:, 0]
    np.testing.assert_allclose(found, [expected, 2 * expected], atol=1e-4)
    rows = torch.tensor([[-0.5, 1.0], [1.5, 2.0]], dtype=torch.float64)
    columns = torch.tensor([[1.0, 3.5], [2.0, 4.0]], dtype=torch.float64)
    expected = np.array([[0.5, 9.5], [19.0, 0.0]])  # zeros outside
    np.testing.assert_allclose(sampled(images, rows, columns)[:, 0], [expected, 2 * expected], atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: padded_sphere(torch.ones(1, 3, 10, 12)), "10 x 12 pixels cannot be padded evenly to 6 x 12"),
        (lambda: padded_sphere(torch.ones(1, 3, 3, 8)), "3 x 8 pixels cannot be padded"),
        (lambda: padded_sphere(torch.ones(1, 3, 1, 7)), "1 x 7 pixels cannot be padded"),
        (lambda: ground_bev(torch.ones(1, 3, 8, 16), 8, camera_height_m=0.0), "must be positive"),
        (lambda: downward_view(torch.ones(1, 3, 8, 16), (8, 8), 0.0), "between 0 and 180 degrees, found 0"),
        (lambda: ground_bev(torch.ones(1, 3, 8, 16), 8, vertical_fov=180.5), "0..180 degrees, found 180.5"),
    ],
)
def test_views_value_outside_limits_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_views_values_at_limits_are_accepted():
    panorama = noise(8, 16)
    assert torch.equal(padded_sphere(panorama), panorama)
    assert ground_bev(panorama, 6, 0.9, 0.9).any()
    assert ground_bev(panorama, 6, vertical_fov=180.0).any()
    assert ground_bev(panorama, 6, 90.0, vertical_fov=0.9).shape == (2, 3, 6, 6)
    assert downward_view(panorama, (4, 6), 0.9).any()
