"""Indexes whose compressed structures an earlier version wrote: RaBitQ codes after a random rotation."""

from dataclasses import replace

import faiss
import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import sha256_of
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.contents import with_totals
from gengeo_hf.index.manifest import FileRecord, Scan, read_manifest, write_manifest
from gengeo_hf.index.scan import KIND, measure_depth, sample_queries
from tests.stubs import ListSource, StubEncoder

EARLIER = "RR,RaBitQfs"  # what its manifest calls the structure, and FAISS builds from


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index of 600 tiles with the structure of the earlier version."""
    monkeypatch.setattr("gengeo_hf.index.search.FLAT_LIMIT", 10)
    monkeypatch.setattr("gengeo_hf.index.search.EXACT_LIMIT", 20)
    monkeypatch.setattr("gengeo_hf.index.search.LEAST_DEPTH", 10)
    path = GeoIndex.build(StubEncoder(), ListSource(600), tmp_path / "idx").path
    manifest = read_manifest(path)
    (segment,) = manifest.segments
    halves = np.load(path / segment.name / "descriptors.npy")
    vectors = halves.astype(np.float32)
    structure = faiss.index_factory(vectors.shape[1], EARLIER, faiss.METRIC_INNER_PRODUCT)
    structure.train(vectors)
    structure.add(vectors)
    (name,) = segment.scan.files
    file = path / segment.name / name
    file.unlink()
    faiss.write_index(structure, str(file))
    files = segment.files | {name: FileRecord(file.stat().st_size, sha256_of(file))}
    scan = Scan(EARLIER, [name], **measure_depth(halves, [structure], samples=100))
    write_manifest(path, with_totals(replace(manifest, segments=[replace(segment, files=files, scan=scan)])))
    return GeoIndex.load(path)


def exact(index, queries, k):
    """Tiles of a full comparison with the live descriptors."""
    ids = np.array(index.tiles["tile_id"].to_pylist())
    scores = queries @ np.asarray(index.descriptors, np.float32).T
    return ids[np.argsort(-scores, axis=1, kind="stable")[:, :k]].tolist()


def found(index, queries, k):
    return [[hit.tile_id for hit in hits] for hits in index.search(queries, k)]


def recall(index, queries, k=10):
    pairs = zip(found(index, queries, k), exact(index, queries, k), strict=True)
    return np.mean([len(set(one) & set(other)) / k for one, other in pairs])


def test_index_with_rabitq_codes_is_searched(index):
    queries = sample_queries(np.asarray(index.descriptors), 40)
    assert index.manifest.segments[0].scan.depth < 500  # the codes do choose the candidates
    assert recall(index, queries) > 0.98 and found(index, queries, 1) == exact(index, queries, 1)
    assert "compressed scan" in index.report()


def test_index_with_rabitq_codes_can_be_edited(index):
    """An added segment has the current structure; both kinds are searched together."""
    index.add(StubEncoder(), ListSource(100, "more", seed=1, lat=61.0))
    index.remove([f"noise-{number}" for number in range(50)])
    again = GeoIndex.load(index.path)
    assert sorted(segment.scan.factory for segment in again.manifest.segments) == sorted([EARLIER, KIND])
    queries = np.asarray(again.descriptors, np.float32)
    assert len(again) == 650 and recall(again, sample_queries(again.descriptors, 40)) > 0.98
    assert found(again, queries[[0, 649]], 1) == exact(again, queries[[0, 649]], 1)


def test_rabitq_codes_of_another_rotation_raise_an_error(index):
    """Structures of other kinds raise a one-line error."""
    manifest = read_manifest(index.path)
    (segment,) = manifest.segments
    file = index.path / segment.name / segment.scan.files[0]
    plain = faiss.index_factory(index.manifest.dim, "RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    faiss.write_index(plain, str(file))
    files = segment.files | {file.name: FileRecord(file.stat().st_size, sha256_of(file))}
    write_manifest(index.path, with_totals(replace(manifest, segments=[replace(segment, files=files)])))
    with pytest.raises(GenGeoError, match="unexpected kind of search structure; make the index again"):
        GeoIndex.load(index.path)
