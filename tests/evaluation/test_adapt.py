"""Evaluation with centring or mirror images: ranks, and the name in the result."""

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.adaptation import AdaptedEncoder
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation import evaluate
from gengeo_hf.evaluation.adapt import adapt_encoder
from tests.data.helpers import toy_dataset


@pytest.fixture
def places():
    return toy_dataset(32)  # 111 m apart


@pytest.fixture
def encoder(tiny_model, tiny_processor):
    return Encoder(tiny_model, tiny_processor, device="cpu")


def test_evaluate_with_centring_or_flip_names_the_adaptation_in_the_result(encoder, places):
    plain, adapted = evaluate(encoder, places), evaluate(encoder, places, centering="queries", flip=True)
    assert adapted.summary["model"]["name"].endswith("(centering=photos flip)")
    assert adapted.summary["model"]["fingerprint"] != plain.summary["model"]["fingerprint"]
    assert "(" not in plain.summary["model"]["name"]
    assert adapted.summary["model"]["descriptor_dim"] == 2 * encoder.dim


def test_centring_subtracts_the_means_of_the_chosen_images(encoder, places):
    gallery = adapt_encoder(encoder, places, "gallery", False)
    assert gallery.adaptation.means["ground"] is not None and gallery.adaptation.centering == "gallery"
    assert adapt_encoder(encoder, places, "queries", False).adaptation.images == 32
    assert adapt_encoder(encoder, places, None, False) is encoder
    assert isinstance(adapt_encoder(encoder, places, None, True), AdaptedEncoder)
    with pytest.raises(GenGeoError, match="expected gallery or queries"):
        adapt_encoder(encoder, places, "photos", False)
    with pytest.raises(GenGeoError, match="adapted already"):
        adapt_encoder(gallery, places, None, True)
