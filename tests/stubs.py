"""Stub encoder, source of noise tiles, and fixtures of both; they need no weights and no files."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.geo import bounds_around, offset
from gengeo_hf.encoding.inputs import is_single_image
from gengeo_hf.imagery.tiles import tile_table


class StubEncoder:
    """Encoder whose descriptors are 8 x 8 thumbnails, so similar images of either view have similar descriptors."""

    dim = 64
    truncate_dim = None
    batch_size = 8
    patch = 1
    view_sizes = {"ground": {"height": 64, "width": 64}, "aerial": {"height": 64, "width": 64}}  # noqa: RUF012
    ground_camera = None
    ground_vertical_fov = None
    preprocessing = {}  # noqa: RUF012
    computed_by = "thumbnails"
    choice_reason = ""

    def __init__(self, name: str = "stub") -> None:
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()
        self.training_record = {}
        self.encoded = 0

    def encode(self, images, view, *, resize=True):
        if is_single_image(images):
            return self.encode([images], view)[0]
        self.encoded += len(images)
        thumbnails = [np.asarray(image.convert("L").resize((8, 8)), dtype=np.float32).ravel() for image in images]
        vectors = np.stack(thumbnails) - 128 + 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class ListSource:
    """Source of noise tiles 100 m apart, from a position to the east; a tile is 150 m wide, so neighbours overlap."""

    def __init__(self, count=12, name="noise", seed=0, lat=60.17, lon=24.94, area="", broken=(), empty=()):
        self.name, self.broken, self.empty = name, set(broken), set(empty)
        rng = np.random.default_rng(seed)
        self.images = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)) for _ in range(count)]
        lats, lons = offset(lat, lon, np.arange(count) * 100.0, 0.0)
        bounds = [bounds_around(a, b, 150, 150) for a, b in zip(lats, lons, strict=True)]
        self.table = tile_table([f"{name}-{n}" for n in range(count)], lats, lons, bounds, area=area, source=name)
        self.reads = 0

    def read(self, row):
        from gengeo_hf.common.errors import GenGeoError

        self.reads += 1
        if row in self.broken:
            raise GenGeoError(f"tile {row} is damaged")
        return None if row in self.empty else self.images[row]


def encode_shards(monkeypatch, source, path):
    """Encode all shards of a build, and interrupt it before they are assembled to an index."""
    from gengeo_hf.index import build

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "read_states", interrupt)
        build.build_index(StubEncoder(), source, path)


@pytest.fixture
def encoder():
    return StubEncoder()


@pytest.fixture
def source():
    return ListSource()


@pytest.fixture
def index(encoder, source, tmp_path):
    from gengeo_hf.index import GeoIndex

    return GeoIndex.build(encoder, source, tmp_path / "idx")


@pytest.fixture
def photo(source, tmp_path):
    """Path of a photo that equals the tile noise-4."""
    source.images[4].save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
