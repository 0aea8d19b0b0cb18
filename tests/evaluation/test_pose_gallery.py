"""Retrieval and pose together: nearest tiles, errors in metres and the fused map."""

import numpy as np
import pytest
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import offset
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation import pose_gallery
from gengeo_hf.evaluation.pose_gallery import Candidates, evaluate_gallery, find_candidates, fused_answer
from gengeo_hf.localization.fusion import FusionWeights, TilePosterior
from gengeo_hf.pose.estimate import errors_of_head
from gengeo_hf.pose.head import PoseConfig, PoseHead
from gengeo_hf.pose.samples import PosePairs
from gengeo_hf.pose.tokens import encoder_fingerprint
from tests.pose.toy import toy_pairs

LAT, LON = 60.0, 25.0


def at(east, north):
    return np.stack(offset(LAT, LON, np.asarray(east, float), np.asarray(north, float)), axis=-1)


def tile(east, north, cosine, evidence, peak):
    """Candidate tile with its mass at one of two positions, 10 m east or 10 m south of its centre."""
    lat, lon = at(east, north)
    positions = np.array([[10.0, 0.0], [0.0, -10.0]])
    return TilePosterior(lat, lon, cosine, evidence, positions, np.eye(2)[peak])


PHOTO = [tile(0, 0, 0.5, 0.0, 0), tile(300, 0, 0.4, 2.0, 1), tile(0, 300, 0.1, 5.0, 0)]


def candidates_of(photos, centre, best, truth, gallery=None, positives=None):
    """Candidates in a gallery of one tile, or of the given centres."""
    gallery = at([0], [0]) if gallery is None else gallery
    return Candidates(
        photos, centre, best, truth, 1.0, gallery, np.array([0] * len(photos) if positives is None else positives)
    )


def test_evaluate_gallery_counts_photos_whose_true_tile_is_nearest_to_the_answer():
    gallery = at([0, 40, 80, 0], [0, 0, 0, 40])
    centre, best = gallery[[0, 1, 1, 3]], at([19.9, 60.1, 20.1, -300], [0, 0, 0, 19.9])
    truth = at([0, 70, 40, 0], [0, 0, 0, 0])
    found = evaluate_gallery(candidates_of([PHOTO] * 4, centre, best, truth, gallery, [0, 2, 1, 1]), FusionWeights())
    assert found["centre_recall_1"] == 50  # tiles 0, 1, 1 and 3
    assert found["best_tile_recall_1"] == found["fused_recall_1"] == 75  # tiles 0, 2, 1 and 0


def test_evaluate_gallery_counts_errors_at_a_limit_as_within_it():
    truth = np.repeat(at([0], [0]), 4, axis=0)
    centre, best = at([4.999, 9.999, 0, 0], [0, 0, 24.999, 40]), at([0, 3, 0, 100], [0, 4.1, 10.1, 0])
    found = evaluate_gallery(candidates_of([PHOTO] * 4, centre, best, truth), FusionWeights())
    assert found["photos"] == 4 and found["weights"]["enabled"] is False
    assert [found[f"centre_within_{m}_m"] for m in (5, 10, 25)] == [25, 50, 75]
    assert [found[f"best_tile_within_{m}_m"] for m in (5, 10, 25)] == [25, 50, 75]
    assert found["fused_within_10_m"] == 50 and found["fused_median_m"] == found["best_tile_median_m"]
    assert found["centre_median_m"] == pytest.approx(17.5, rel=0.01)
    assert found["best_tile_median_m"] == pytest.approx((np.hypot(3, 4.1) + 10.1) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("weights", "answer"),
    [
        (FusionWeights(cosine=1.0, evidence=0.0, scale=50.0, enabled=True), (10, 0)),  # the most similar tile
        (FusionWeights(cosine=0.0, evidence=1.0, tiles=2, enabled=True), (300, -10)),  # the most evidence of two
        (FusionWeights(cosine=0.0, evidence=1.0, tiles=3, enabled=True), (10, 300)),  # the most evidence of three
    ],
)
def test_fused_answer_is_the_peak_of_the_weighted_tiles(weights, answer):
    found = np.array(fused_answer(PHOTO, weights))
    np.testing.assert_allclose(found, at(*answer), atol=2e-5)
    result = evaluate_gallery(candidates_of([PHOTO], at([0], [0]), at([9], [9]), at([answer[0]], [answer[1]])), weights)
    assert result["fused_within_5_m"] == 100 and result["best_tile_within_5_m"] == 0


@pytest.mark.parametrize(("tiles", "count"), [(3, 3), (40, 7)])
def test_most_similar_tiles_of_each_photo_in_any_block_equal_a_sort(monkeypatch, tiles, count):
    monkeypatch.setattr(pose_gallery, "BLOCK", 4)
    generator = torch.Generator().manual_seed(0)
    ground, aerial = torch.randn(10, 5, generator=generator), torch.randn(7, 5, generator=generator)
    found = list(pose_gallery._most_similar(ground, aerial, tiles))
    assert len(found) == 10
    for photo, (values, rows) in enumerate(found):
        scores = aerial @ ground[photo]
        assert rows.tolist() == scores.argsort(descending=True)[:count].tolist()
        torch.testing.assert_close(values, scores[rows])


def random_head(encoder):
    """Head with random weights for the tokens of an encoder."""
    torch.manual_seed(1)
    size = int(encoder.model.config.backbone_config.hidden_size)
    config = PoseConfig(
        token_dim=size, ground_rows=2, heading_prior="known", tile_m=[40.0, 90.0], encoder=encoder_fingerprint(encoder)
    )
    return PoseHead(config).eval()


def test_find_candidates_gives_the_pose_in_the_most_similar_tile(tiny_model, tiny_processor):
    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    head = random_head(encoder)
    data = toy_pairs(7, seed=3, shift_m=15)
    found = find_candidates(encoder, head, data, tiles=3, batch_size=4)
    whole = find_candidates(encoder, head, data)
    assert [len(photo) for photo in found.photos] == [3] * 7 and [len(photo) for photo in whole.photos] == [7] * 7
    np.testing.assert_allclose(found.best, whole.best)
    lat, lon = (np.array(data.gallery[name][:]) for name in ("lat", "lon"))
    ground, aerial = (encoder.encode(list(data_of[view]), view) for data_of, view in views(data))
    order = np.argsort(-(ground @ aerial.T), axis=1)[:, :3]
    np.testing.assert_allclose(found.centre, np.stack([lat[order[:, 0]], lon[order[:, 0]]], axis=1))
    for photo, tiles in enumerate(found.photos):
        assert [one.lat for one in tiles] == lat[order[photo]].tolist()
        assert [one.cosine for one in tiles] == pytest.approx((ground @ aerial.T)[photo, order[photo]], abs=1e-4)
    np.testing.assert_allclose(found.truth, np.transpose([data.queries["lat"][:], data.queries["lon"][:]]))
    np.testing.assert_allclose(found.gallery, np.stack([lat, lon], axis=1))
    assert found.positives.tolist() == data.positive_rows().tolist()
    assert found.scale == pytest.approx(min(100.0, float(tiny_model.logit_scale.detach().exp())))
    # In the true tile, the error is that of the evaluation without a gallery.
    pairs = PosePairs.of(data, encoder.processor)
    errors = errors_of_head(encoder, head, pairs, np.arange(7), np.random.default_rng(0)).error_m
    near = np.nonzero(order[:, 0] == np.arange(7))[0]
    assert len(near)
    away = evaluate_gallery(
        candidates_of([PHOTO] * len(near), *(a[near] for a in (found.centre, found.best, found.truth))),
        FusionWeights(),
    )
    assert away["best_tile_median_m"] == pytest.approx(np.median(errors[near]), abs=0.2)


def views(data):
    return (data.queries, "ground"), (data.gallery, "aerial")


@pytest.mark.parametrize("fov", [None, 359.9])
def test_find_candidates_of_other_photos_than_panoramas_raises_an_error(monkeypatch, fov):
    monkeypatch.setattr(pose_gallery, "check_head", lambda head, encoder: None)
    data = toy_pairs(3)
    values = [360.0, fov, 360.0]
    data = type(data)(data.name, data.queries.remove_columns("fov").add_column("fov", values), data.gallery)
    with pytest.raises(GenGeoError, match="photos that are not panoramas"):
        find_candidates(None, None, data)
