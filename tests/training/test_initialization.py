"""NetVLAD from clusters of tokens: number of tokens, number of clusters, sharpness of the assignment."""

import math

import faiss
import pytest
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.training.initialization import start_netvlad
from tests.conftest import TINY


@pytest.fixture(autouse=True)
def one_thread():
    """Waiting for other threads takes longer than these small problems on a busy machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


def netvlad(clusters, **fields):
    torch.manual_seed(0)
    return GenGeoModel(
        GenGeoConfig(**{**TINY, "aggregator": "netvlad", "cluster_dim": None, "num_clusters": clusters, **fields})
    ).eval()


def images(count, *size):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def test_start_netvlad_clusters_100_tokens_of_each_image(monkeypatch):
    """Images of 9 x 12 = 108 and 5 x 6 = 30 tokens, in two batches: 2 x 100 + 3 x 30 tokens."""
    kmeans, seen = faiss.Kmeans, []

    def recorded(width, clusters, **options):
        found = kmeans(width, clusters, **options)
        train = found.train
        found.train = lambda tokens: (
            seen.append((tokens.shape, clusters, found.cp.niter, found.cp.seed)) or train(tokens)
        )
        return found

    monkeypatch.setattr(faiss, "Kmeans", recorded)
    start_netvlad(netvlad(3), [images(2, 126, 168), images(3, 70, 84)])
    assert seen == [((290, 32), 3, 25, 0)]


@pytest.mark.parametrize("clusters", [2, 5])
def test_start_netvlad_mean_preference_for_nearest_centroid_is_100(clusters):
    model, batch = netvlad(clusters), images(3, 70, 84)
    alpha = start_netvlad(model, [batch])
    with torch.no_grad():
        tokens = torch.nn.functional.normalize(model.backbone(batch).last_hidden_state[:, 1:].flatten(0, 1), dim=1)
        directions = torch.nn.functional.normalize(model.heads["shared"].aggregator.centroids, dim=1)
    similarities = (tokens.double() @ directions.double().T).sort(dim=1, descending=True).values
    assert alpha == pytest.approx(math.log(100) / (similarities[:, 0] - similarities[:, 1]).mean().item(), rel=1e-3)


def test_start_netvlad_needs_more_tokens_than_clusters(capfd):
    with pytest.raises(GenGeoError, match="6 tokens for 6 clusters: give more images"):
        start_netvlad(netvlad(6), [images(1, 28, 42)])
    assert start_netvlad(netvlad(5), [images(1, 28, 42)]) > 0
    assert "WARNING" not in "".join(capfd.readouterr())  # of faiss, about few points
    with pytest.raises(GenGeoError, match="no images were given"):
        start_netvlad(netvlad(2), [])


def test_start_netvlad_equal_tokens_have_finite_sharpness():
    """A uniform image without positions has equal tokens: all centroids are equal, and the gap is zero."""
    model = netvlad(2)
    with torch.no_grad():
        model.backbone.embeddings.position_embeddings.zero_()
    alpha = start_netvlad(model, [torch.zeros(1, 3, 56, 56)])
    assert alpha == pytest.approx(math.log(100) / 1e-6, rel=0.2)


def test_start_netvlad_of_separate_heads_changes_the_head_of_the_view():
    model = netvlad(3, share_aggregator=False)
    before = {view: model.heads[view].aggregator.centroids.clone() for view in ("ground", "aerial")}
    start_netvlad(model, [images(2, 56, 56)], view="aerial")
    assert torch.equal(model.heads["ground"].aggregator.centroids, before["ground"])
    assert not torch.equal(model.heads["aerial"].aggregator.centroids, before["aerial"])
    start_netvlad(model, [images(2, 56, 56)])  # the ground view by default
    assert not torch.equal(model.heads["ground"].aggregator.centroids, before["ground"])
