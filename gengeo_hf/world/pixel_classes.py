"""True class of every pixel of an image of the synthetic world, drawn again from the image's id."""

import re

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.world.domains import DOMAINS
from gengeo_hf.world.places import CameraPlace, Region, Tile


def ground_classes(query_id: str, size: tuple[int, int]) -> np.ndarray:
    """Class of each pixel of a panorama: uint8 (height, width), numbers of `CLASS_NAMES`.

    Args:
        query_id: of a world's `queries`, for example `urban-test-0-0000-003-ground`.
        size: height and width in pixels.

    Raises:
        GenGeoError: it is not an id of a synthetic world.
    """
    region, numbers = _parsed(query_id.removesuffix("-ground"))
    kinds = region.draw_ground(_place(region, numbers), size, 1, truth=True).kinds
    assert kinds is not None  # truth=True gives it
    return kinds


def aerial_classes(tile_id: str, size: tuple[int, int]) -> np.ndarray:
    """Class of each pixel of a tile: uint8 (height, width), numbers of `CLASS_NAMES`.

    Args:
        tile_id: of a world's `gallery`.
        size: height and width in pixels.

    Raises:
        GenGeoError: it is not an id of a synthetic world.
    """
    region, numbers = _parsed(tile_id)
    tile = _grid_tile(region, tile_id) if DOMAINS[region.domain].off_centre else _place(region, numbers).tiles[0]
    kinds = region.draw_aerial(tile, size, 1, truth=True).kinds
    assert kinds is not None
    return kinds


def _parsed(name: str) -> tuple[Region, list[int]]:
    """The region that an id names, and the numbers after it."""
    found = re.fullmatch(r"([a-z]+)-([a-z]+)-(\d+)-(\d{4})((?:-\d{3})+)", name)
    if found is None or found[1] not in DOMAINS:
        raise GenGeoError(f"{name!r} is not an id of the synthetic world, such as urban-test-0-0000-003-ground")
    numbers = [int(part) for part in found[5].split("-")[1:]]
    return Region(found[1], found[2], int(found[3]), int(found[4])), numbers


def _place(region: Region, numbers: list[int]) -> CameraPlace:
    """The camera place of a number."""
    most = DOMAINS[region.domain].pairs_per_region
    if len(numbers) != 1 or numbers[0] >= most:
        named = "-".join(f"{number:03d}" for number in numbers)
        raise GenGeoError(f"region {region.area} has the places 000 to {most - 1:03d}, found {named}")
    return region.places(numbers[0] + 1)[numbers[0]]


def _grid_tile(region: Region, tile_id: str) -> Tile:
    """A tile of the off-centre domain, whose tiles lie on a grid that all of a region's places share."""
    full = region.places(DOMAINS[region.domain].pairs_per_region)
    for tile in region.tiles(full):
        if tile.name == tile_id:
            return tile
    raise GenGeoError(f"{tile_id!r} is not a tile of its region")
