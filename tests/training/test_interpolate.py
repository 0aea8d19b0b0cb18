"""Interpolation between the weights of two models."""

import pytest
import torch

import interpolate
from gengeo_hf.common.errors import GenGeoError, UsageError
from gengeo_hf.encoding.encoder import TRAINING_RECORD, Encoder
from gengeo_hf.model import GenGeoModel


@pytest.fixture
def two(tiny_checkpoint, tmp_path):
    """Return a checkpoint, and a second one of the same architecture with a training record."""
    second = tmp_path / "second"
    model = GenGeoModel.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    model.save_pretrained(second)
    for name in ("preprocessor_config.json",):
        (second / name).write_bytes((tiny_checkpoint / name).read_bytes())
    (second / TRAINING_RECORD).write_text('{"trained_on": "world", "results": {"recall@1": 1.0}}')
    return tiny_checkpoint, second


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_between_is_weighted_mean(two, share):
    first, second = (GenGeoModel.from_pretrained(path).state_dict() for path in two)
    found = interpolate.weights_between(*two, share)
    assert all(torch.allclose(found[key], (1 - share) * first[key] + share * second[key]) for key in first)


def test_interpolate_save_writes_model_without_results(two, tmp_path):
    out = tmp_path / "between"
    interpolate.main([*map(str, two), "--save", "0.5", str(out)])
    assert Encoder.from_pretrained(out, device="cpu").dim == Encoder.from_pretrained(two[0], device="cpu").dim
    record = (out / TRAINING_RECORD).read_text()
    assert '"share_of_second": 0.5' in record and "recall@1" not in record
    with pytest.raises(GenGeoError, match="exists"):
        interpolate.main([*map(str, two), "--save", "0.5", str(out)])


def test_interpolate_invalid_input_is_refused(two, tmp_path):
    with pytest.raises(GenGeoError, match=r"0\.\.1"):
        interpolate.weights_between(*two, 1.5)
    with pytest.raises(UsageError):
        interpolate.main([*map(str, two)])
    with pytest.raises(UsageError, match="found 'half' as the share"):
        interpolate.main([*map(str, two), "--save", "half", str(tmp_path / "x")])
    with pytest.raises(UsageError, match="missing is not a model that a training wrote"):
        interpolate.main([str(two[0]), str(tmp_path / "missing"), "--save", "0.5", str(tmp_path / "x")])
    config = GenGeoModel.from_pretrained(two[0]).config
    config.descriptor_dim = 2 * config.descriptor_dim
    GenGeoModel(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(GenGeoError, match="different architectures"):
        interpolate.weights_between(two[0], tmp_path / "wide", 0.5)
