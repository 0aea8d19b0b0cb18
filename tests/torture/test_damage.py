"""A flipped bit or a missing end in any file that is read: refused or of no effect, never another answer."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from tests.stubs import ListSource, StubEncoder
from tests.torture import making
from tests.torture.conftest import ROUNDS
from tests.torture.damage import tried

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 * ROUNDS)]


def check(kind, files, read, counts, count, truth=None):
    """Damage each of some files and sum up."""
    if truth is None:
        truth = read()
        assert read() == truth, "what is read must be the same twice"
    total = [tried(file, read, truth, count * ROUNDS) for file in files]
    trials, refused, unharmed = (sum(found[name] for found in total) for name in ("trials", "refused", "unharmed"))
    wrong, unclear = ([line for found in total for line in found[name]] for name in ("wrong", "unclear"))
    counts(f"damage: {kind}", trials, wrong=len(wrong), unclear=len(unclear), refused=refused, unharmed=unharmed)
    assert not wrong and not unclear, json.dumps({"wrong": wrong[:10], "unclear": unclear[:10]}, indent=1)


def answers(path):
    """All that an index says: rows, scores of queries, thumbnails, the report."""
    index = GeoIndex.load(path)
    queries = np.random.default_rng(0).standard_normal((4, index.manifest.dim)).astype(np.float32)
    hits = index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), 5)
    index.check_model(StubEncoder())
    index.report()
    names = index.tiles["tile_id"].to_pylist()
    left_out = index.left_out.to_pydict()
    return hits, index.tiles.to_pydict(), index.thumbnails(names[:50]), left_out, index.descriptors.tobytes()


@pytest.mark.parametrize("kind", ["exact", "compressed"])
def test_index_files(tmp_path, counts, monkeypatch, kind):
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
    check(f"index, {kind} search", files, lambda: answers(index.path), counts, 60)


def test_weights_and_configuration_of_a_checkpoint(tmp_path, counts):
    """The index knows the fingerprint of its model: other weights, or another preprocessing, are not its model's."""
    from gengeo_hf.encoding.encoder import Encoder

    model, picture = making.model(tmp_path / "model"), making.picture(np.random.default_rng(5))
    GeoIndex.build(Encoder.from_pretrained(model, device="cpu"), ListSource(20), tmp_path / "idx")

    def read():
        encoder = Encoder.from_pretrained(model, device="cpu")
        index = GeoIndex.load(tmp_path / "idx")
        index.check_model(encoder)
        return [hit.tile_id for hit in index.search(encoder.encode([picture], "ground"), 5)[0]]

    check("checkpoint", sorted(model.iterdir()), read, counts, 40)


def test_results(tmp_path, counts):
    from tests.evaluation.test_tables import result

    _, path = result(tmp_path)

    def read():
        from gengeo_hf.evaluation.results import Result

        result = Result.load(path)
        return result.summary, result.queries.to_pydict()

    check("result", [path, path.with_suffix(".queries.parquet")], read, counts, 300)


def test_stored_worlds(tmp_path, counts):
    pytest.importorskip("embreex", reason="the world is drawn with embreex")
    from gengeo_hf.world import build_world

    def read():
        data = build_world("urban", "test", 6, ground_size=(8, 32), aerial_size=(8, 8), cache_dir=tmp_path, workers=1)
        return [
            hashlib.sha256(repr(table.with_format("arrow")[:].to_pydict()).encode()).hexdigest()
            for table in (data.queries, data.gallery)
        ]

    read()
    check("world", [path for path in tmp_path.rglob("*") if path.is_file()], read, counts, 150)


def test_calibrations(tmp_path, counts):
    from gengeo_hf.localization.confidence import Calibration

    path = tmp_path / "calibration.json"
    Calibration(-3.0, 5.0, 2.0, 25.0, "f" * 64, 1000, 200, 0.03, ((0.1, 0.2, 10),), ((0.5, 0.4, 0.9),)).save(path)
    check("calibration", [path], lambda: Calibration.load(path), counts, 400)


def test_work_that_a_build_left(tmp_path, counts, monkeypatch):
    """Shards of an interrupted build: a damaged one is made again."""
    from gengeo_hf.index import build

    source, partial = ListSource(300), tmp_path / "idx.partial"
    with monkeypatch.context() as patch:
        patch.setattr(build._Assembly, "write", lambda *_: (_ for _ in ()).throw(GenGeoError("stopped")))
        with pytest.raises(GenGeoError, match="stopped"):
            build.build_index(StubEncoder(), source, tmp_path / "idx")
    shutil.copytree(partial, tmp_path / "kept")

    def read():
        damaged = {file.relative_to(partial): file.read_bytes() for file in partial.rglob("*") if file.is_file()}
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", partial)
        for name, content in damaged.items():
            (partial / name).write_bytes(content)
        build.build_index(StubEncoder(), source, tmp_path / "idx", overwrite=True)
        index = GeoIndex.load(tmp_path / "idx")
        shutil.copytree(tmp_path / "kept", partial)
        return index.descriptors.tobytes(), index.tiles.to_pydict(), index.thumbnails(["noise-0", "noise-299"])

    read()
    truth = read()
    check("shards of a build", sorted(partial.glob("*/shard-*.parquet")), read, counts, 40, truth)
