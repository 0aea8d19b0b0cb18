"""Orthophoto mosaics of regions of the synthetic world, and photos taken there.

A mosaic is one GeoTIFF of a whole region from directly above on one day, from which tiles of any size and overlap can
be cut. The tiles of the data set do not allow that, because each is rendered around one camera.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.raster import RasterTiles
from gengeo_hf.index import GeoIndex
from gengeo_hf.world.domains import DOMAINS
from gengeo_hf.world.light import make_day
from gengeo_hf.world.regions import Region

PANORAMA = (42, 168)  # height and width of a photo in pixels, as in the training configurations
MARGIN_M = 100.0  # imagery around the square that contains the cameras


@dataclass(frozen=True)
class RegionPhotos:
    """Photos of one or more regions.

    Args:
        images: Panoramas, north in the middle column.
        lat, lon: True positions in degrees, each (photos,).
    """

    images: list[Image.Image]
    lat: np.ndarray
    lon: np.ndarray

    @property
    def truth(self) -> list[tuple[float, float]]:
        """(lat, lon) of each photo."""
        return list(zip(self.lat.tolist(), self.lon.tolist(), strict=True))

    def distances(self, row: int, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """Metres from one photo to positions in degrees."""
        return np.asarray(great_circle_m(lat, lon, self.lat[row], self.lon[row]))


def draw_photos(regions: list[Region], count: int) -> RegionPhotos:
    """Render panoramas at the first camera positions of regions.

    Args:
        regions: Each has an equal share of the photos.
        count: Total number of photos, at most `Domain.pairs_per_region` for each region.
    """
    images, lats, lons = [], [], []
    for region in regions:
        for place in region.camera_positions(-(-count // len(regions))):
            images.append(Image.fromarray(region.draw_ground(place, PANORAMA, 1).image))
            lat, lon = region.scene.frame.to_degrees(place.x, place.y)
            lats.append(float(lat))
            lons.append(float(lon))
    return RegionPhotos(images, np.array(lats), np.array(lons))


def draw_mosaic(region: Region, path: Path, gsd_m: float = 0.9) -> Path:
    """Write the orthophoto of a region as a GeoTIFF in degrees.

    Args:
        region: Region to render.
        path: File to write.
        gsd_m: Metres per pixel.
    """
    import rasterio
    from rasterio.transform import from_bounds

    side = DOMAINS[region.domain].core + 2 * MARGIN_M
    pixels = round(side / gsd_m)
    day = make_day("aerial", np.random.default_rng([region.seed, region.number, 5]))
    image = region.renderer.tile(day, 0.0, 0.0, (pixels, pixels), sides=(side, side), samples=1).image
    box = region.scene.frame.bounds(0.0, 0.0, side / 2, side / 2)
    profile = {"driver": "GTiff", "width": pixels, "height": pixels, "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(path, "w", transform=from_bounds(*box, pixels, pixels), **profile) as dataset:
        dataset.write(np.moveaxis(image, -1, 0))
    return path


def draw_mosaics(regions: list[Region], folder: Path, gsd_m: float = 0.9) -> list[Path]:
    """Write one GeoTIFF for each region, see `draw_mosaic`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [draw_mosaic(region, folder / f"{region.area}.tif", gsd_m) for region in regions]


def index_mosaics(
    encoder: EncoderProtocol, paths: list[Path], out: Path, *, tile_m: float = 65.0, overlap: float = 0.5
) -> GeoIndex:
    """Build the index of some mosaics like `gengeo index DIRECTORY --tile 65m --overlap 50%`."""
    return GeoIndex.build(encoder, RasterTiles([str(path) for path in paths], tile_m, overlap), out)
