import numpy as np
import pytest

from gengeo_hf.learning import mining, similar_photos, similar_tiles


def descriptors(rows, dim, seed):
    out = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_similar_tiles_equals_full_sort_without_true_tile(monkeypatch, block):
    monkeypatch.setattr(mining, "BLOCK", block)
    ground, aerial = descriptors(50, 8, 0), descriptors(40, 8, 1)
    own = np.random.default_rng(2).integers(0, 40, 50)
    found = similar_tiles(ground, aerial, own, 5)
    scores = ground @ aerial.T
    for query in range(50):
        order = [tile for tile in np.argsort(-scores[query]) if tile != own[query]]
        assert found[query].tolist() == order[:5]


def test_similar_tiles_max_similarity_excludes_tiles():
    aerial = np.eye(4, dtype=np.float32)
    ground = np.array([[1, 0.99, 0.5, 0.1]], dtype=np.float32)
    assert similar_tiles(ground, aerial, np.array([0]), 3, max_similarity=0.9).tolist() == [[2, 3, -1]]


def test_similar_tiles_single_tile_is_refused():
    with pytest.raises(ValueError, match="at least two tiles"):
        similar_tiles(np.ones((1, 2)), np.ones((1, 2)), np.array([0]), 4)


@pytest.mark.parametrize("block", [7, 4096])
def test_similar_photos_equals_full_sort(monkeypatch, block):
    monkeypatch.setattr(mining, "BLOCK", block)
    ground, aerial = descriptors(50, 8, 0), descriptors(40, 8, 1)
    tile_of_photo = np.random.default_rng(2).integers(0, 40, 50)
    found = similar_photos(ground, aerial[[3, 9]], tile_of_photo, np.array([3, 9]), 6)
    for row, tile in enumerate([3, 9]):
        order = [photo for photo in np.argsort(-(ground @ aerial[tile])) if tile_of_photo[photo] != tile]
        assert found[row].tolist() == tile_of_photo[order[:6]].tolist()


def test_similar_tiles_of_two_tiles_and_more_neighbours_than_tiles():
    ground, aerial = descriptors(3, 4, 0), descriptors(2, 4, 1)
    assert similar_tiles(ground, aerial, np.array([0, 1, 0]), 10).tolist() == [[1], [0], [1]]


def test_similar_tiles_cosine_equal_to_the_limit_is_excluded():
    aerial = np.eye(4, dtype=np.float32)
    ground = np.array([[1, 0.75, 0.5, 0.25]], dtype=np.float32)
    for limit, expected in ((0.5, [3, -1, -1]), (0.625, [2, 3, -1]), (None, [1, 2, 3])):
        assert similar_tiles(ground, aerial, np.array([0]), 3, max_similarity=limit).tolist() == [expected]


def test_similar_photos_have_the_tile_of_each_photo_and_minus_one():
    ground = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]  # five photos
    tile_of_photo = np.array([7, 5, 6, 7, 4])
    aerial = np.array([[0.9, 0.3, 0.2, 0.1], [0.5, 0.4, 0.75, 0.25]], dtype=np.float32)
    own = np.array([6, 5])
    everything = similar_photos(ground, aerial, tile_of_photo, own, 10)
    assert everything.shape == (2, 4) and everything.dtype == np.int32
    assert sorted(everything[0, :2].tolist()) == [4, 7] and everything[0, 2:].tolist() == [5, 7]
    assert everything[1, 0] == 6 and sorted(everything[1, 1:3].tolist()) == [4, 7] and everything[1, 3] == 7
    few = similar_photos(ground, aerial, tile_of_photo, own, 3, max_similarity=0.5)
    assert few.tolist() == [[5, 7, -1], [7, -1, -1]]
    assert similar_photos(ground[:2], aerial[:1], tile_of_photo[:2], own[:1], 1).tolist() == [[7]]  # the first photo
