"""Checkpoints as encoders: shortened descriptors, and what an index remembers of them."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.encoder import Encoder
from gengeo_hf.errors import GenGeoError
from gengeo_hf.places import GeoIndex, GeoLocalizer
from tests.test_hub import pairs, photo


def test_shortened_descriptors_are_those_of_the_model_told_to_shorten(tiny_checkpoint, tiny_model, tmp_path):
    whole = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    images = [photo(seed) for seed in range(3)]
    prefix = whole.encode(images, "aerial")[:, :8]
    before = whole.fingerprint
    short = Encoder.from_pretrained(tiny_checkpoint, device="cpu", truncate_dim=8)
    assert short.dim == short.truncate_dim == 8 and short.fingerprint != before
    assert np.allclose(
        short.encode(images, "aerial"), prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-6
    )
    # A checkpoint whose own config shortens gives the same, and may be told another width.
    short.model.save_pretrained(tmp_path / "short")
    short.processor.save_pretrained(tmp_path / "short")
    stored = Encoder.from_pretrained(tmp_path / "short", device="cpu")
    assert stored.dim == 8 and stored.fingerprint == short.fingerprint
    stored.truncate(24)
    assert stored.dim == 24 and np.allclose(stored.encode(images, "aerial"), whole.encode(images, "aerial"), atol=1e-6)
    with pytest.raises(GenGeoError, match="have 24 values: they cannot be cut to 25"):
        whole.truncate(25)
    whole.truncate(24)
    assert whole.fingerprint == before


def test_an_index_of_shortened_descriptors_shortens_those_of_photos(tiny_checkpoint, tmp_path):
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu", truncate_dim=8)
    index = GeoIndex.build(encoder, pairs(), tmp_path / "short.gengeo")
    assert index.descriptors.shape == (3, 8)
    localizer = GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "short.gengeo", device="cpu")
    assert localizer.encoder.dim == 8
    assert len(localizer.locate(Image.new("RGB", (112, 28)), top=3)) >= 1
    with pytest.raises(GenGeoError, match="another model"):
        GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "short.gengeo", device="cpu", truncate_dim=4)


def test_what_cannot_encode_is_refused_in_one_line(tiny_checkpoint, tiny_model, tiny_processor):
    with pytest.raises(GenGeoError, match="batch_size=0"):  # it would give back memory that nobody wrote to
        Encoder(tiny_model, tiny_processor, device="cpu", batch_size=0)
    for word in ("gpu", "cuda:99"):
        with pytest.raises(GenGeoError, match=f"device {word} cannot be used here"):
            Encoder(tiny_model, tiny_processor, device=word)
    (tiny_checkpoint / "gengeo_training.json").write_text('{"synthetic": tr')
    with pytest.raises(GenGeoError, match="no training record"):
        Encoder.from_pretrained(tiny_checkpoint, device="cpu")


def test_configuration_weights_and_preprocessing_come_from_one_revision(tiny_checkpoint, monkeypatch):
    from transformers import AutoConfig

    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

    asked = {}
    for part in (AutoConfig, GenGeoModel, GenGeoImageProcessor):

        def load(name, _load=part.from_pretrained, _part=part.__name__, **kwargs):
            asked[_part] = (kwargs.pop("revision", None), kwargs.pop("token", None))
            return _load(name, **kwargs)

        monkeypatch.setattr(part, "from_pretrained", load)
    Encoder.from_pretrained(tiny_checkpoint, revision="v1", token="mine")
    assert asked == dict.fromkeys(("AutoConfig", "GenGeoModel", "GenGeoImageProcessor"), ("v1", "mine"))
