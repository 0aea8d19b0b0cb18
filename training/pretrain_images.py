"""Single images of the synthetic world with what is known of each patch: the training data of `pretrain.py`.

Images of both views of all domains are drawn once and kept as NumPy arrays. Nothing says which tile belongs to which
panorama.
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
FAR_METRES = 300.0  # the sky counts as this far away


@dataclass(frozen=True)
class Images:
    """Images of one view.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        classes: (N, H, W) uint8, indices into `gengeo_hf.world.CLASS_NAMES`.
        depths: (N, H, W) float16. Ground: natural logarithm of 1 + distance in metres. Aerial: height in units of 10 m
            above the lowest tenth of the tile.
    """

    pixels: torch.Tensor
    classes: torch.Tensor
    depths: torch.Tensor


def load_images(
    split: str, places: int, *, seed: int, sizes: dict[str, tuple[int, int]], cache_dir: Path, progress: bool = True
) -> dict[str, Images]:
    """Read images from the cache, or draw and store them.

    Args:
        split: `train` or `validation`; they lie in disjoint regions.
        places: Number of camera places of each domain.
        seed: Seed of the world.
        sizes: (height, width) in pixels of each view.
        cache_dir: Folder of the cache.
        progress: Show a progress bar.

    Returns:
        The images of each view, mixed over the domains in a fixed order.

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
        raise GenGeoError(f"{folder} is damaged ({error}): delete it and give the same command again") from error
    return {view: Images(arrays[view, "pixels"], arrays[view, "classes"], arrays[view, "depths"]) for view in VIEWS}


def _draw(
    domain: str, split: str, places: int, seed: int, sizes: dict[str, tuple[int, int]], progress: bool
) -> dict[tuple[str, str], np.ndarray]:
    """Draw one domain's images of both views."""
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    per_region, left, number = DOMAINS[domain].pairs_per_region, places, 0
    with tqdm(total=places, desc=f"drawing {domain}", disable=not progress, leave=False) as bar:
        while left > 0:
            region = Region(domain, split, seed, number)
            for place in region.camera_positions(min(per_region, left)):
                for key, value in _draw_place(region, place, sizes).items():
                    rows.setdefault(key, []).append(value)
                bar.update()
            left, number = left - per_region, number + 1
    return {key: np.stack(values) for key, values in rows.items()}


def _draw_place(
    region: Region, place: CameraPosition, sizes: dict[str, tuple[int, int]]
) -> dict[tuple[str, str], np.ndarray]:
    """Both views of a place with classes and depths."""
    pictures = {
        "ground": region.draw_ground(place, sizes["ground"], 1, with_labels=True),
        "aerial": region.draw_aerial(place.tiles[0], sizes["aerial"], 1, with_labels=True),
    }
    values = {}
    for view, picture in pictures.items():
        assert picture.kinds is not None and picture.depth is not None  # with_labels=True gives both
        depth = np.minimum(picture.depth, FAR_METRES)
        depth = np.log1p(depth) if view == "ground" else (np.quantile(depth, 0.9) - depth) / 10
        values[view, "pixels"] = picture.image.transpose(2, 0, 1)
        values[view, "classes"] = picture.kinds
        values[view, "depths"] = depth.astype(np.float16)
    return values
