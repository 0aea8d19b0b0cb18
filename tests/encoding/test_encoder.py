"""Encoders of checkpoints: truncated descriptors, input scale, and indexes with them."""

import json

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder, training_record
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer
from tests.hub.test_hub import pairs, photo
from tests.stubs import ListSource


def test_truncate_equals_a_model_with_truncate_dim(tiny_checkpoint, tiny_model, tmp_path):
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
    assert (
        stored.fingerprint == before and stored.truncate_dim is None
    )  # full width has the same fingerprint in every case
    with pytest.raises(GenGeoError, match="have 24 values: they cannot be truncated to 25"):
        whole.truncate(25)
    whole.truncate(24)
    assert whole.fingerprint == before


def test_index_of_truncated_descriptors_truncates_those_of_photos(tiny_checkpoint, tmp_path):
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu", truncate_dim=8)
    index = GeoIndex.build(encoder, pairs(), tmp_path / "short.gengeo")
    assert index.descriptors.shape == (3, 8)
    localizer = GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "short.gengeo", device="cpu")
    assert localizer.encoder.dim == 8
    assert len(localizer.locate(Image.new("RGB", (112, 28)), top=3).places) >= 1
    with pytest.raises(GenGeoError, match="another model"):
        GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "short.gengeo", device="cpu", truncate_dim=4)


def test_encode_of_a_pil_photo_equals_its_file(tiny_checkpoint, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    photo().save(tmp_path / "photo.png", exif=exif)
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    file, opened, lying = encoder.encode(
        [tmp_path / "photo.png", Image.open(tmp_path / "photo.png"), np.array(photo())], "aerial"
    )
    assert np.allclose(opened, file, atol=1e-6) and not np.allclose(lying, file, atol=1e-3)


def test_encoder_with_invalid_arguments_raises_one_line(tiny_checkpoint, tiny_model, tiny_processor):
    with pytest.raises(GenGeoError, match="batch_size is 0"):  # it would give back memory that nobody wrote to
        Encoder(tiny_model, tiny_processor, device="cpu", batch_size=0)
    with pytest.raises(GenGeoError, match="runs exported graphs"):  # it would compute with torch
        Encoder(tiny_model, tiny_processor, backend="onnx")
    for word in ("gpu", "cuda:99"):
        with pytest.raises(GenGeoError, match=f"device {word} cannot be used here"):
            Encoder(tiny_model, tiny_processor, device=word)
    (tiny_checkpoint / "gengeo_training.json").write_text('{"synthetic": tr')
    with pytest.raises(GenGeoError, match="not a training record"):
        Encoder.from_pretrained(tiny_checkpoint, device="cpu")


def test_scale_input_gives_smaller_images_and_another_fingerprint(tiny_checkpoint):
    plain = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    small = Encoder.from_pretrained(tiny_checkpoint, device="cpu", input_scale=0.75)
    assert small.view_sizes == {"ground": {"height": 28, "width": 84}, "aerial": {"height": 42, "width": 42}}
    assert plain.view_sizes["aerial"] == {"height": 56, "width": 56}
    assert small.fingerprint != plain.fingerprint and "at input scale 0.75" in small.computed_by
    assert Encoder.from_pretrained(tiny_checkpoint, device="cpu", input_scale=1.0).fingerprint == plain.fingerprint
    photo = ListSource(count=1).images[0]
    expected = plain.processor([photo], view="aerial", size={"height": 42, "width": 42}, return_tensors="pt")
    assert np.allclose(small.encode(photo, "aerial"), plain.encode_pixels(expected["pixel_values"], "aerial")[0])
    small.truncate(8)  # the two together are as in the other order
    other = Encoder.from_pretrained(tiny_checkpoint, device="cpu", truncate_dim=8, input_scale=0.75)
    assert other.fingerprint == small.fingerprint
    for scale, message in ((1.5, "expected 0.1 to 1"), (0.25, "needs at least")):
        with pytest.raises(GenGeoError, match=message):
            plain.scale_input(scale)


def test_scale_input_fast_of_a_model_trained_with_one_size_raises_an_error(tiny_checkpoint):
    with pytest.raises(GenGeoError, match="not trained with images of several sizes"):
        Encoder.from_pretrained(tiny_checkpoint, device="cpu", input_scale="fast")
    record = tiny_checkpoint / "gengeo_training.json"
    for augment, is_ready in (
        ({"enabled": True, "options": {"input_scales": [1.0, 0.75]}}, True),
        ({"enabled": True, "options": {"input_scales": [1.0, 0.85]}}, False),
        ({"enabled": False, "options": {"input_scales": [1.0, 0.5]}}, False),
    ):
        record.write_text(json.dumps({"settings": {"augment": augment}}))
        if is_ready:
            fast = Encoder.from_pretrained(tiny_checkpoint, device="cpu", input_scale="fast")
            assert fast.input_scale == 0.75 and "at input scale 0.75" in fast.computed_by
        else:
            with pytest.raises(GenGeoError, match="not trained with images of several sizes"):
                Encoder.from_pretrained(tiny_checkpoint, device="cpu", input_scale="fast")


def test_photos_are_encoded_at_the_input_scale_of_the_index(tiny_checkpoint, tmp_path):
    small = Encoder.from_pretrained(tiny_checkpoint, device="cpu", input_scale=0.75)
    GeoIndex.build(small, ListSource(count=5), tmp_path / "small.gengeo")
    localizer = GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "small.gengeo", device="cpu")
    assert localizer.encoder.input_scale == 0.75
    assert "at input scale 0.75" in GeoIndex.load(tmp_path / "small.gengeo").report()
    with pytest.raises(GenGeoError, match=r"made at input scale 0.75, this model encodes at 1:"):
        GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "small.gengeo", device="cpu", input_scale=1.0)


def test_from_pretrained_loads_all_parts_with_one_revision_and_token(tiny_checkpoint, monkeypatch):
    from transformers import AutoConfig, utils

    from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel

    asked, where = {}, {"revision": "v1", "token": "mine", "cache_dir": "here"}
    for part in (AutoConfig, GenGeoModel, GenGeoImageProcessor):

        def load(name, _load=part.from_pretrained, _part=part.__name__, **kwargs):
            asked[_part] = tuple(kwargs.pop(word, None) for word in where)
            return _load(name, **kwargs)

        monkeypatch.setattr(part, "from_pretrained", load)

    def cached_file(_name, file, **kwargs):
        asked[file] = tuple(kwargs.get(word) for word in where)

    monkeypatch.setattr(utils, "cached_file", cached_file)
    Encoder.from_pretrained(tiny_checkpoint, **where)
    training_record("someone/model", **where)  # of a directory it is read from there
    parts = ("AutoConfig", "GenGeoModel", "GenGeoImageProcessor", "gengeo_training.json")
    assert asked == dict.fromkeys(parts, tuple(where.values()))
