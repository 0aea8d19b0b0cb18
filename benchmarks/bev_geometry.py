"""Agreement of the bird's-eye view of a panorama with its tile on the synthetic world, for the class road.

    python benchmarks/bev_geometry.py --places 24

For each pair the true classes of the panorama are projected to the ground and compared with the true classes of the
tile, at distances of 3 to 15 m. The exact geometry (`vertical_fov`) is compared with the published geometry on a padded
panorama, and with the exact geometry rotated by 90 degrees, which gives the agreement of unrelated images.
"""

import argparse

import numpy as np
import torch

from gengeo_hf.data.views import ground_bev, padded_sphere
from gengeo_hf.world import CLASS_NAMES, DOMAINS, TILE_METRES
from gengeo_hf.world.regions import Region
from gengeo_hf.world.render import BOTTOM_DEGREES, EYE_METRES, TOP_DEGREES

GROUND, SIDE, SEED = (42, 168), 70, 0
FORMS = ("exact", "published", "exact, turned by 90 degrees")


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=24, help="pairs of each domain")
    given = parser.parse_args()
    print(f"| domain | {' | '.join(FORMS)} |\n| --- | {' | '.join('---:' for _ in FORMS)} |")
    for domain in DOMAINS:
        print(f"| {domain} | {' | '.join(f'{share:.2f}' for share in agreement(domain, given.places))} |")


def agreement(domain: str, places: int) -> list[float]:
    """Share of pixels at 3 to 15 m whose class, road or not, is the same in both views, for each of `FORMS`."""
    region, road, equal = Region(domain, "validation", SEED, 0), CLASS_NAMES.index("road"), []
    for place in region.camera_positions(places):
        panorama = region.draw_ground(place, GROUND, 1, with_labels=True).kinds
        tile = region.draw_aerial(place.tiles[0], (SIDE, SIDE), 1, with_labels=True).kinds
        assert panorama is not None and tile is not None  # set because with_labels=True
        classes = torch.from_numpy((panorama == road).astype(np.float32))[None, None]
        scale = TILE_METRES / SIDE
        exact = ground_bev(classes, SIDE, scale, EYE_METRES, vertical_fov=TOP_DEGREES - BOTTOM_DEGREES)
        published = ground_bev(padded_sphere(classes), SIDE, scale)
        east, north = place.x - place.tiles[0].x, place.y - place.tiles[0].y
        shift = (-round(north / scale), round(east / scale))  # offset of the camera from the tile centre
        offset = (torch.arange(SIDE) - (SIDE - 1) / 2) * scale
        distance = torch.hypot(offset[:, None], offset[None])
        ring = (distance > 3) & (distance < 15)
        truth = torch.from_numpy(tile == road).roll((-shift[0], -shift[1]), (0, 1))
        forms = (exact, published, torch.rot90(exact, 1, (2, 3)))
        equal.append([((form[0, 0] > 0.5) == truth)[ring].float().mean().item() for form in forms])
    return np.mean(equal, axis=0).tolist()


if __name__ == "__main__":
    main()
