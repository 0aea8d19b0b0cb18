"""The synthetic world: procedurally generated regions, rendered from the street and from above as a `CrossViewDataset`.

Training, indexing and evaluation can run on it without a download.
"""

from gengeo_hf.world.dataset import WORLD_VERSION, build_world
from gengeo_hf.world.domains import DOMAINS, TILE_METRES
from gengeo_hf.world.ground_material import CLASS_NAMES

__all__ = ["CLASS_NAMES", "DOMAINS", "TILE_METRES", "WORLD_VERSION", "build_world"]
