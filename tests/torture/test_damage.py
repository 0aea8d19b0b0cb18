"""Files with a flipped bit or a missing end are refused or give the same result, never a different one."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from gengeo_hf.index import GeoIndex
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder, encode_shards
from tests.torture import inputs
from tests.torture.conftest import ROUNDS
from tests.torture.damage import count_outcomes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 * ROUNDS)]


def check_damage(kind, files, read, counts, count, expected=None):
    """Damage each file about `count` times; assert that `read` returns the expected value or raises a clear error."""
    if expected is None:
        expected = read()
        assert read() == expected, "reading the same files twice gives different values"
    outcomes = [count_outcomes(file, read, expected, count * ROUNDS) for file in files]
    trials, refused, unharmed = (
        sum(outcome[name] for outcome in outcomes) for name in ("trials", "refused", "unharmed")
    )
    wrong, unclear = ([line for outcome in outcomes for line in outcome[name]] for name in ("wrong", "unclear"))
    counts(f"damage: {kind}", trials, wrong=len(wrong), unclear=len(unclear), refused=refused, unharmed=unharmed)
    assert not wrong and not unclear, json.dumps({"wrong": wrong[:10], "unclear": unclear[:10]}, indent=1)


def read_index(path):
    """All content of an index: search results, rows, thumbnails, tiles that were left out, descriptors."""
    index = GeoIndex.load(path)
    queries = np.random.default_rng(0).standard_normal((4, index.manifest.dim)).astype(np.float32)
    hits = index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), 5)
    index.check_model(StubEncoder())
    index.report()
    names = index.tiles["tile_id"].to_pylist()
    left_out = index.left_out.to_pydict()
    return hits, index.tiles.to_pydict(), index.thumbnails(names[:50]), left_out, index.descriptors.tobytes()


@pytest.mark.parametrize("kind", ["exact", "compressed"])
def test_index_with_damaged_files_is_refused_or_unchanged(tmp_path, counts, monkeypatch, kind):
    if kind == "compressed":
        monkeypatch.setattr("gengeo_hf.index.search.FLAT_LIMIT", 10)
        monkeypatch.setattr("gengeo_hf.index.search.EXACT_LIMIT", 20)
    index = GeoIndex.build(StubEncoder(), ListSource(400, broken=[3]), tmp_path / "idx")
    index.add(StubEncoder(), ListSource(30, "more", seed=1))
    index.remove(["noise-7", "more-3"])
    files = sorted(path for path in index.path.rglob("*") if path.is_file())
    names = {file.name for file in files}
    assert {"descriptors.npy", "tiles.arrow", "blocks.npy", "manifest.json", "thumbnails.parquet"} <= names
    assert any("deleted" in name for name in names) and any("left_out" in name for name in names)
    assert ("scan-0.faiss" in names) == (kind == "compressed")
    check_damage(f"index, {kind} search", files, lambda: read_index(index.path), counts, 60)


def test_checkpoint_with_damaged_files_is_refused_or_unchanged(tmp_path, counts):
    """The index has the fingerprint of its model, so changed weights or preprocessing are refused."""
    from gengeo_hf.encoding.encoder import Encoder

    model, image = inputs.write_model(tmp_path / "model"), inputs.random_image(np.random.default_rng(5))
    GeoIndex.build(Encoder.from_pretrained(model, device="cpu"), ListSource(20), tmp_path / "idx")

    def read():
        encoder = Encoder.from_pretrained(model, device="cpu")
        index = GeoIndex.load(tmp_path / "idx")
        index.check_model(encoder)
        return [hit.tile_id for hit in index.search(encoder.encode([image], "ground"), 5)[0]]

    check_damage("checkpoint", sorted(model.iterdir()), read, counts, 40)


def test_results_with_damaged_files_are_refused_or_unchanged(tmp_path, counts):
    from tests.evaluation.test_tables import result

    _, path = result(tmp_path)

    def read():
        from gengeo_hf.evaluation.results import Result

        result = Result.load(path)
        return result.summary, result.queries.to_pydict()

    check_damage("result", [path, path.with_suffix(".queries.parquet")], read, counts, 300)


def test_stored_world_with_damaged_files_is_refused_or_unchanged(tmp_path, counts):
    pytest.importorskip("embreex", reason="rendering the world needs embreex")
    from gengeo_hf.world import build_world

    def read():
        data = build_world("urban", "test", 6, ground_size=(8, 32), aerial_size=(8, 8), cache_dir=tmp_path, workers=1)
        return [
            hashlib.sha256(repr(table.with_format("arrow")[:].to_pydict()).encode()).hexdigest()
            for table in (data.queries, data.gallery)
        ]

    read()
    check_damage("world", [path for path in tmp_path.rglob("*") if path.is_file()], read, counts, 150)


def test_calibration_with_a_damaged_file_is_refused_or_unchanged(tmp_path, counts):
    from gengeo_hf.localization.confidence import Calibration

    path = tmp_path / "calibration.json"
    Calibration(-3.0, 5.0, 2.0, 25.0, "f" * 64, 1000, 200, 0.03, ((0.1, 0.2, 10),), ((0.5, 0.4, 0.9),)).save(path)
    check_damage("calibration", [path], lambda: Calibration.load(path), counts, 400)


def test_build_after_interruption_with_a_damaged_shard_gives_the_same_index(tmp_path, counts, monkeypatch):
    """Tiles of a damaged shard of an interrupted build are encoded again."""
    source, partial = ListSource(300), tmp_path / "idx.partial"
    encode_shards(monkeypatch, source, tmp_path / "idx")
    shutil.copytree(partial, tmp_path / "kept")

    def read():
        damaged = {file.relative_to(partial): file.read_bytes() for file in partial.rglob("*") if file.is_file()}
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", partial)
        for name, content in damaged.items():
            (partial / name).write_bytes(content)
        build_index(StubEncoder(), source, tmp_path / "idx", overwrite=True)
        index = GeoIndex.load(tmp_path / "idx")
        shutil.copytree(tmp_path / "kept", partial)
        return index.descriptors.tobytes(), index.tiles.to_pydict(), index.thumbnails(["noise-0", "noise-299"])

    read()
    expected = read()
    check_damage("shards of a build", sorted(partial.glob("*/shard-*.parquet")), read, counts, 40, expected)
