"""Training data of `pretrain.py`: single images of the synthetic world with classes and depths.

Images of both views of all domains are rendered once and cached as NumPy arrays. They do not contain the pairing of
panoramas and tiles.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, write_json
from gengeo_hf.world import CLASS_NAMES, DOMAINS, WORLD_VERSION
from gengeo_hf.world.regions import CameraPosition, Region

VIEWS = ("ground", "aerial")
FAR_METRES = 300.0  # distance of the sky, and maximum distance


@dataclass(frozen=True)
class Images:
    """Images of one view.

    Attributes:
        pixels: RGB images, uint8 (N, 3, H, W).
        classes: Indices of `gengeo_hf.world.CLASS_NAMES`, uint8 (N, H, W).
        depths: Depths, float16 (N, H, W). Ground: natural logarithm of 1 + distance in metres. Aerial: height above the
            lowest tenth of the tile in units of 10 m.
    """

    pixels: torch.Tensor
    classes: torch.Tensor
    depths: torch.Tensor


def load_images(
    split: str, places: int, *, seed: int, sizes: dict[str, tuple[int, int]], cache_dir: Path, progress: bool = True
) -> dict[str, Images]:
    """Read images from the cache, or render and store them.

    Args:
        split: Split `train` or `validation`, with disjoint regions.
        places: Number of camera positions of each domain.
        seed: Seed of the world.
        sizes: Height and width in pixels by view.
        cache_dir: Directory of the cache.
        progress: Whether to show a progress bar.

    Returns:
        Images by view, domain after domain.

    Raises:
        GenGeoError: A file of the cache is damaged.
    """
    (height, width), (side, _) = sizes["ground"], sizes["aerial"]
    folder = cache_dir / f"single-{split}-seed{seed}-v{WORLD_VERSION}-{places}-{height}x{width}-{side}"
    if not folder.is_dir():
        drawn = [_draw(domain, split, places, seed, sizes, progress) for domain in DOMAINS]
        with atomic_folder(folder) as target:
            for view in VIEWS:
                for kind in ("pixels", "classes", "depths"):
                    np.save(target / f"{view}-{kind}.npy", np.concatenate([part[view, kind] for part in drawn]))
            write_json(target / "classes.json", list(CLASS_NAMES))
    try:
        arrays = {
            (view, kind): torch.from_numpy(np.load(folder / f"{view}-{kind}.npy", allow_pickle=False))
            for view in VIEWS
            for kind in ("pixels", "classes", "depths")
        }
    except (OSError, ValueError) as error:
        raise GenGeoError(f"{folder} is damaged ({error}): delete it and run the same command again") from error
    return {view: Images(arrays[view, "pixels"], arrays[view, "classes"], arrays[view, "depths"]) for view in VIEWS}


def _draw(
    domain: str, split: str, places: int, seed: int, sizes: dict[str, tuple[int, int]], progress: bool
) -> dict[tuple[str, str], np.ndarray]:
    """Render the images of both views of one domain."""
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    per_region, left, number = DOMAINS[domain].pairs_per_region, places, 0
    with tqdm(total=places, desc=f"drawing {domain}", disable=not progress, leave=False) as bar:
        while left > 0:
            region = Region(domain, split, seed, number)
            for position in region.camera_positions(min(per_region, left)):
                for key, value in _draw_position(region, position, sizes).items():
                    rows.setdefault(key, []).append(value)
                bar.update()
            left, number = left - per_region, number + 1
    return {key: np.stack(values) for key, values in rows.items()}


def _draw_position(
    region: Region, position: CameraPosition, sizes: dict[str, tuple[int, int]]
) -> dict[tuple[str, str], np.ndarray]:
    """Render both views of a camera position with classes and depths."""
    pictures = {
        "ground": region.draw_ground(position, sizes["ground"], 1, with_labels=True),
        "aerial": region.draw_aerial(position.tiles[0], sizes["aerial"], 1, with_labels=True),
    }
    values = {}
    for view, picture in pictures.items():
        assert picture.kinds is not None and picture.depth is not None  # because of with_labels=True
        depth = np.minimum(picture.depth, FAR_METRES)
        depth = np.log1p(depth) if view == "ground" else (np.quantile(depth, 0.9) - depth) / 10
        values[view, "pixels"] = picture.image.transpose(2, 0, 1)
        values[view, "classes"] = picture.kinds
        values[view, "depths"] = depth.astype(np.float16)
    return values
