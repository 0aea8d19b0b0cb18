"""Fused models: similarities are means of the branches, in arrays, indexes and evaluations."""

import json

import numpy as np
import pytest
import torch

from gengeo_hf import GenGeoError
from gengeo_hf.encoding.adaptation import Adaptation, AdaptedEncoder
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.encoding.engine import encode_images
from gengeo_hf.encoding.fusion import FUSION, FusedEncoder, fuse
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from tests.conftest import TINY, TINY_SIZES

BEV_SIZES = {"ground": {"height": 42, "width": 42}, "aerial": {"height": 56, "width": 56}}


@pytest.fixture
def branches(tmp_path):
    """Two checkpoints of different widths: one of panoramas, one of their bird's-eye views."""
    folders = []
    views = (TINY_SIZES, None), (BEV_SIZES, {"ground": "bev:42:0.5:2:70"})
    for number, (sizes, transforms) in enumerate(views):
        torch.manual_seed(number)
        folder = tmp_path / f"branch-{number}"
        GenGeoModel(GenGeoConfig(**{**TINY, "descriptor_dim": 24 + 8 * number})).save_pretrained(folder)
        GenGeoImageProcessor(view_sizes=sizes, view_transforms=transforms).save_pretrained(folder)
        folders.append(folder)
    return folders


def pictures(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_fused_similarity_is_the_mean_of_the_branches(branches, tmp_path):
    photos, tiles = pictures(4, 42, 168), pictures(5, 60, 60, 1)
    expected = np.zeros((4, 5))
    for folder in branches:
        encoder = Encoder.from_pretrained(folder)
        ground, aerial = encoder.encode_ground(list(photos)), encoder.encode_aerial(list(tiles))
        for i in range(4):
            for j in range(5):
                expected[i, j] += float(ground[i] @ aerial[j]) / 2
    fused = Encoder.from_pretrained(fuse(branches, tmp_path / "both"))
    assert isinstance(fused, FusedEncoder) and fused.dim == 24 + 32
    ground, aerial = fused.encode_ground(list(photos)), fused.encode_aerial(list(tiles))
    np.testing.assert_allclose(ground @ aerial.T, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(aerial, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(encode_images(fused, list(photos), "ground"), ground, atol=1e-6)
    other_order = FusedEncoder([Encoder.from_pretrained(folder) for folder in reversed(branches)])
    assert len({fused.fingerprint, other_order.fingerprint, fused.branches[0].fingerprint}) == 3


def test_index_with_a_fused_model_is_built_and_searched(branches, tmp_path, gengeo):
    from PIL import Image

    rows, folder = ["image,lat,lon"], tmp_path / "tiles"
    folder.mkdir()
    for number, tile in enumerate(pictures(6, 60, 60)):
        Image.fromarray(tile).save(folder / f"{number}.png")
        rows.append(f"{number}.png,60.{number},25.0")
    (folder / "tiles.csv").write_text("\n".join(rows) + "\n")
    Image.fromarray(pictures(1, 42, 168)[0]).save(tmp_path / "panorama.png")
    code, out, err = gengeo("fuse", *branches, "--out", tmp_path / "both")
    assert code == 0 and "wrote" in out + err
    code, _, err = gengeo("index", folder, "--out", tmp_path / "index", "--model", tmp_path / "both")
    assert code == 0, err
    locate = ("locate", "--index", tmp_path / "index", "--model", tmp_path / "both", "--fov", "360")
    code, out, err = gengeo(*locate, tmp_path / "panorama.png")
    assert code == 0 and "60." in out, err


def test_fused_encoder_of_unsupported_calls_raises_one_line(branches, tmp_path):
    fused = Encoder.from_pretrained(fuse(branches, tmp_path / "both"))
    for call, message in (
        (lambda: fused.model, "computes only descriptors"),
        (lambda: fused.truncate(8), "truncate the models, then fuse them"),
        (lambda: AdaptedEncoder(fused, Adaptation(flip=True)), "cannot compare mirror images"),
        (lambda: fuse([tmp_path / "both", branches[0]], tmp_path / "three"), "is fused already"),
        (lambda: fuse(branches[:1], tmp_path / "one"), "at least two models, found 1"),
        (lambda: fuse(branches, tmp_path / "both"), "add --overwrite"),
        (lambda: Encoder.from_pretrained(tmp_path / "both", truncate_dim=8), "leave truncate_dim"),
        (lambda: fused.encode(list(pictures(1, 28, 56)), "ground", resize=False), "needs full panoramas or tiles"),
    ):
        with pytest.raises(GenGeoError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    record = tmp_path / "both" / FUSION
    record.write_text(json.dumps({**json.loads(record.read_text()), "fingerprint": "0"}))
    with pytest.raises(GenGeoError, match="was changed after it was fused"):
        Encoder.from_pretrained(tmp_path / "both")
    record.write_text("{}")
    with pytest.raises(GenGeoError, match="cannot be read"):
        Encoder.from_pretrained(tmp_path / "both")


def test_fused_encoder_of_a_photo_without_the_needed_view_raises_one_line(branches, tmp_path, gengeo):

    encoder = Encoder.from_pretrained(branches[1])
    with pytest.raises(GenGeoError, match="needs a whole panorama"):
        encoder.encode_ground(pictures(1, 48, 64)[0])
    with pytest.raises(GenGeoError, match="needs a whole panorama"):
        encode_images(encoder, list(pictures(1, 48, 64)), "ground")
