"""A synthetic city for a rehearsal: photos and entities of the photo service, and an orthophoto of the same ground.

Panoramas are full spheres with random headings, which the entities state; the world renders 70 degrees of elevation.
"""

import json

import numpy as np
from PIL import Image

from gengeo_hf.common.geo import Bounds
from gengeo_hf.world.regions import Region

WIDTH, HEIGHT = 256, 128  # of a panorama; the drawn band is 70 of 180 degrees
BAND = 50
REACH_M = 300.0  # from the middle of a region to the border of its area
PIXEL_M = 0.5


def write_city(folder, regions, photos=150):
    """Write photos and entities for the test double, `ortho/*.tif` and `area.geojson`.

    Args:
        folder: Output directory.
        regions: Number of regions of the urban world.
        photos: Number of photos in each region.

    Returns:
        Number of photos.
    """
    entities, shapes = [], []
    (folder / "ortho").mkdir(parents=True)
    for number in range(regions):
        region = Region("urban", "train", 11, number)
        frame = region.scene.frame
        for place in region.camera_positions(photos):
            name = str((number + 1) * 10_000_000_000_000_000 + place.number)
            heading = float(np.random.default_rng(place.number).uniform(0, 360))
            write_panorama(folder / f"{name}.jpg", region, place, heading)
            lat, lon = (float(value) for value in frame.to_degrees(place.x, place.y))
            entities.append(entity(name, lat, lon, heading, f"{number}-{place.number}"))
        write_orthophoto(folder / "ortho" / f"{number}.tif", region)
        box = Bounds(*frame.bounds(0.0, 0.0, REACH_M, REACH_M))
        ring = [[box.west, box.south], [box.east, box.south], [box.east, box.north], [box.west, box.north]]
        shapes.append([[*ring, ring[0]]])
    (folder / "photos.json").write_text(json.dumps(entities))
    (folder / "area.geojson").write_text(json.dumps({"type": "MultiPolygon", "coordinates": shapes}))
    return len(entities)


def entity(name, lat, lon, heading, sequence):
    return {
        "id": name,
        "_file": f"{name}.jpg",
        "geometry": {"type": "Point", "coordinates": [lon, lat]},
        "computed_geometry": {"type": "Point", "coordinates": [lon, lat]},
        "compass_angle": heading,
        "computed_compass_angle": heading,
        "captured_at": 1_690_000_000_000,
        "camera_type": "spherical",
        "is_pano": True,
        "width": WIDTH,
        "height": HEIGHT,
        "sequence": sequence,
        "creator": {"username": "nobody"},
    }


def write_panorama(path, region, place, heading):
    band = region.draw_ground(place, (BAND, WIDTH), 1).image
    top = (HEIGHT - BAND) // 2
    sphere = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    sphere[:top], sphere[top + BAND :] = band[:1], band[-1:]
    sphere[top : top + BAND] = band
    turned = np.roll(sphere, -round(heading * WIDTH / 360), axis=1)  # its middle looks to the heading
    Image.fromarray(turned).save(path, quality=92)


def write_orthophoto(path, region):
    import rasterio
    from rasterio.transform import from_bounds

    half = REACH_M + 40.0
    side = round(2 * half / PIXEL_M)
    pixels = region.renderer.tile(
        region.day("aerial", 0), 0.0, 0.0, (side, side), (2 * half, 2 * half), samples=1
    ).image
    place = from_bounds(*region.scene.frame.bounds(0.0, 0.0, half, half), side, side)
    how = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(path, "w", transform=place, compress="JPEG", photometric="YCBCR", **how) as file:
        file.write(pixels.transpose(2, 0, 1))
