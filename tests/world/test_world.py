import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation import recall_at
from gengeo_hf.evaluation.baseline import histogram_ranks
from gengeo_hf.world import build_world


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return build_world("urban", "test", 12, cache_dir=tmp_path_factory.mktemp("world"), workers=1).validate()


def pictures(world):
    return [np.asarray(image) for image in [*world.queries["ground"], *world.gallery["aerial"]]]


def test_build_world_has_requested_sizes_and_schema(small):
    assert small.name == "world/urban/test"
    assert small.queries[0]["ground"].size == (168, 42) and small.gallery[0]["aerial"].size == (70, 70)
    assert set(small.queries["fov"][:]) == {360.0} and set(small.queries["heading"][:]) == {0.0}


def test_build_world_is_determined_by_seed(small, tmp_path):
    again = build_world("urban", "test", 12, cache_dir=tmp_path / "a", workers=1)
    other = build_world("urban", "test", 12, seed=1, cache_dir=tmp_path / "b", workers=1)
    assert all(np.array_equal(a, b) for a, b in zip(pictures(small), pictures(again), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(pictures(small), pictures(other), strict=True))


def test_build_world_tiles_are_65_m_with_camera_in_centre(small):
    for query, tile in zip(small.queries.remove_columns("ground"), small.gallery.remove_columns("aerial"), strict=True):
        metres = np.radians(1) * 6_371_008.8
        assert (tile["north"] - tile["south"]) * metres == pytest.approx(65, rel=0.01)
        width = (tile["east"] - tile["west"]) * metres * np.cos(np.radians(tile["lat"]))
        assert width == pytest.approx(65, rel=0.01)
        assert (query["lat"], query["lon"]) == pytest.approx((tile["lat"], tile["lon"]), abs=5e-5)  # a few metres


def test_build_world_tile_m_keeps_names_and_centres(small, tmp_path):
    wide = build_world("urban", "test", 12, cache_dir=tmp_path, workers=1, tile_m=100)
    assert wide.name == "world/urban/test[tile_m=100]" and wide.gallery["tile_id"][:] == small.gallery["tile_id"][:]
    rows = zip(small.gallery, wide.gallery, strict=True)
    for narrow, tile in rows:
        assert (tile["lat"], tile["lon"]) == (narrow["lat"], narrow["lon"])
        assert (tile["north"] - tile["south"]) == pytest.approx(100 / 65 * (narrow["north"] - narrow["south"]))
        inner = tile["aerial"].crop((12.25, 12.25, 57.75, 57.75)).resize((70, 70))  # same ground, lower resolution
        colours = [np.asarray(image, float).mean(axis=(0, 1)) for image in (inner, narrow["aerial"])]
        assert np.abs(colours[0] - colours[1]).max() < 12
    with pytest.raises(GenGeoError, match="tile_m must lie in"):
        build_world("urban", "test", 12, cache_dir=tmp_path, workers=1, tile_m=500)


def test_build_world_splits_are_far_apart(small, tmp_path):
    train = build_world("urban", "train", 4, cache_dir=tmp_path, workers=1)
    gap = np.abs(np.array(train.queries["lat"][:])[:, None] - np.array(small.queries["lat"][:])[None])
    gap_lon = np.abs(np.array(train.queries["lon"][:])[:, None] - np.array(small.queries["lon"][:])[None])
    assert (np.hypot(gap, gap_lon) * 111_000).min() > 2000


def test_build_world_offcenter_has_semi_positives(tmp_path):
    world = build_world("offcenter", "test", 8, cache_dir=tmp_path, workers=1).validate()
    assert len(world.gallery) > len(world.queries)
    assert all(world.queries["semi_positives"][:])


def test_build_world_larger_world_starts_with_smaller_one(small, tmp_path):
    first = build_world("urban", "test", 3, cache_dir=tmp_path, workers=1)
    for table in ("queries", "gallery"):
        assert getattr(first, table)[:] == getattr(small, table)[:3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"domain": "moon"}, "'moon'; the world has urban, rural, offcenter"),
        ({"split": "testing"}, "'testing'; the world has train, validation, test"),
        ({"num_pairs": 0}, "1..240000, found 0"),
        ({"seed": -1}, "0 or more, found -1"),
        ({"workers": 0}, "1 or more, found 0"),
        ({"aerial_size": (70,)}, "aerial_size must be"),
        ({"ground_size": (42, 7)}, "ground_size must be"),
    ],
)
def test_build_world_invalid_argument_is_refused(given, message, tmp_path):
    with pytest.raises(GenGeoError, match=re.escape(message)):
        build_world(**{"domain": "urban", "split": "test", "num_pairs": 4, "cache_dir": tmp_path} | given)


TWO_REGIONS = {"num_pairs": 151, "ground_size": (8, 32), "aerial_size": (8, 8)}


def test_build_world_workers_write_same_bytes_as_one_process(tmp_path):
    for workers in (1, 2):
        build_world("urban", "test", **TWO_REGIONS, cache_dir=tmp_path / str(workers), workers=workers)
    one, two = (
        {path.relative_to(tmp_path / workers): path.read_bytes() for path in (tmp_path / workers).rglob("*.*")}
        for workers in "12"
    )
    assert len(one) == 6 and one == two


def test_build_world_without_main_guard_is_explained(tmp_path):
    script = tmp_path / "script.py"
    options = f"cache_dir={str(tmp_path)!r}, workers=2, **{TWO_REGIONS}"
    script.write_text(f"from gengeo_hf.world import build_world\nbuild_world('urban', 'test', {options})\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "GenGeoError: a worker process that rendered world/urban/test ended early" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("lower_half", [False, True])
def test_histogram_baseline_recall_in_world_is_low(lower_half, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "histogram-world"
    world = build_world("urban", "test", 500, cache_dir=folder)
    assert recall_at(histogram_ranks(world, lower_half), 1) < 0.05


def test_colour_histogram_finds_identical_tile(small):
    """Each tile is its own nearest neighbour by colour."""
    from gengeo_hf.evaluation.baseline import colour_histogram

    histograms = np.stack([colour_histogram(image) for image in small.gallery["aerial"]])
    assert (histograms @ histograms.T).argmax(axis=1).tolist() == list(range(len(histograms)))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    assert colour_histogram(Image.open(buffer)).sum() == pytest.approx(1)


def test_build_world_killed_parent_leaves_no_worker_and_no_partial_region(tmp_path):
    """Two workers render two regions; their parent process is killed during the work."""
    import multiprocessing
    import time

    import psutil

    options = {"ground_size": (42, 168), "aerial_size": (70, 70), "cache_dir": tmp_path, "workers": 2}
    parent = multiprocessing.get_context("spawn").Process(
        target=build_world, args=("urban", "test", 300), kwargs=options
    )
    parent.start()
    workers = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        workers = [p for p in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        time.sleep(0.1)
    assert len(workers) == 2
    time.sleep(2)
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert not [folder for folder in tmp_path.glob("*/region-*-150") if not (folder / "shard.json").is_file()]
