"""Ground truth class of every pixel of an image of the synthetic world, rendered from the id of the image."""

import re

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.world.domains import DOMAINS
from gengeo_hf.world.regions import CameraPosition, Region, Tile


def ground_classes(query_id: str, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel of a panorama.

    Args:
        query_id: Id in the queries of a world, for example `urban-test-0-0000-003-ground`.
        size: Height and width in pixels.

    Returns:
        Indices of `CLASS_NAMES`, uint8 (height, width).

    Raises:
        GenGeoError: The id does not belong to a synthetic world.
    """
    region, numbers = _parse(query_id.removesuffix("-ground"))
    kinds = region.draw_ground(_camera_position(region, numbers), size, 1, with_labels=True).kinds
    assert kinds is not None  # because of with_labels=True
    return kinds


def aerial_classes(tile_id: str, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel of a tile.

    Args:
        tile_id: Id in the gallery of a world.
        size: Height and width in pixels.

    Returns:
        Indices of `CLASS_NAMES`, uint8 (height, width).

    Raises:
        GenGeoError: The id does not belong to a synthetic world.
    """
    region, numbers = _parse(tile_id)
    tile = (
        _grid_tile(region, tile_id) if DOMAINS[region.domain].off_centre else _camera_position(region, numbers).tiles[0]
    )
    kinds = region.draw_aerial(tile, size, 1, with_labels=True).kinds
    assert kinds is not None
    return kinds


def _parse(name: str) -> tuple[Region, list[int]]:
    """Split an id into its region and the numbers after it."""
    found = re.fullmatch(r"([a-z]+)-([a-z]+)-(\d+)-(\d{4})((?:-\d{3})+)", name)
    if found is None or found[1] not in DOMAINS:
        raise GenGeoError(f"{name!r} is not an id of the synthetic world, such as urban-test-0-0000-003-ground")
    numbers = [int(part) for part in found[5].split("-")[1:]]
    return Region(found[1], found[2], int(found[3]), int(found[4])), numbers


def _camera_position(region: Region, numbers: list[int]) -> CameraPosition:
    """Return the camera position of a number."""
    most = DOMAINS[region.domain].pairs_per_region
    if len(numbers) != 1 or numbers[0] >= most:
        found = "-".join(f"{number:03d}" for number in numbers)
        raise GenGeoError(f"region {region.area} has the positions 000 to {most - 1:03d}, found {found}")
    return region.camera_positions(numbers[0] + 1)[numbers[0]]


def _grid_tile(region: Region, tile_id: str) -> Tile:
    """Return a tile of the off-centre domain, whose tiles are on a grid that all positions of a region share."""
    full = region.camera_positions(DOMAINS[region.domain].pairs_per_region)
    for tile in region.tiles(full):
        if tile.name == tile_id:
            return tile
    raise GenGeoError(f"{tile_id!r} is not a tile of its region")
