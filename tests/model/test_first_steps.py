"""Loading, saving, freezing, Auto classes and the pipeline."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, BertConfig, Dinov2Config, Dinov2Model, pipeline

from gengeo_hf.encoding.fingerprint import fingerprint
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from tests.conftest import TINY

HEAD = {key: TINY[key] for key in ("num_clusters", "cluster_dim", "token_dim", "head_hidden_dim", "descriptor_dim")}


def images(count, height=28, width=112, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_auto_classes_load_saved_checkpoint_with_same_descriptors(tiny_model, tiny_checkpoint):
    loaded, report = AutoModel.from_pretrained(tiny_checkpoint, output_loading_info=True)
    assert isinstance(loaded, GenGeoModel)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(loaded(images(2)).pooler_output, tiny_model(images(2)).pooler_output)
    processor = AutoImageProcessor.from_pretrained(tiny_checkpoint)
    assert isinstance(processor, GenGeoImageProcessor) and processor.view_sizes["ground"]["width"] == 112


def test_pooler_output_is_first_float32_and_normalised(tiny_model):
    output = tiny_model(images(3))
    assert torch.equal(output[0], output.pooler_output) and output[0].dtype == torch.float32
    assert torch.allclose(output[0].norm(dim=1), torch.ones(3))


def test_pipeline_returns_descriptor_of_view(tiny_checkpoint, tiny_model, tiny_processor):
    pipe = pipeline("image-feature-extraction", model=str(tiny_checkpoint), trust_remote_code=False)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 200, 3), dtype=np.uint8))
    for view in ("ground", "aerial"):
        result = np.array(pipe(photo, image_processor_kwargs={"view": view}))
        expected = tiny_model(**tiny_processor(photo, view=view, return_tensors="pt")).pooler_output
        assert np.allclose(result, expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pretrained_dinov2_fills_whole_backbone(tmp_path, dtype):
    backbone = Dinov2Model(Dinov2Config(**TINY["backbone_config"])).to(dtype)
    backbone.save_pretrained(tmp_path)
    model, report = GenGeoModel.from_pretrained(tmp_path, trainable_blocks=1, output_loading_info=True, **HEAD)
    assert all(key.startswith(("heads.", "logit_scale")) for key in report["missing_keys"])
    expected = backbone.state_dict()
    assert set(expected) == set(model.backbone.state_dict())
    assert all(torch.equal(value, expected[key]) for key, value in model.backbone.state_dict().items())
    assert model.logit_scale.item() == pytest.approx(np.log(1 / 0.07), abs=0.01)


def test_from_pretrained_other_model_type_is_refused_in_one_line(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert', not a GenGeo") as error:
        GenGeoModel.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("blocks", "trained"), [(0, set()), (1, {1}), (2, {0, 1}), (9, {0, 1})])
def test_trainable_blocks_selects_last_blocks_and_norm(tmp_path, blocks, trained):
    model = GenGeoModel(GenGeoConfig(**{**TINY, "trainable_blocks": blocks}))
    model.save_pretrained(tmp_path)
    for candidate in (model, GenGeoModel.from_pretrained(tmp_path)):
        names = {name for name, parameter in candidate.named_parameters() if parameter.requires_grad}
        blocks_found = {int(name.split(".")[3]) for name in names if ".encoder.layer." in name}
        assert blocks_found == trained
        assert any("backbone.layernorm" in name for name in names) == bool(trained)
        assert not any("embeddings" in name for name in names)
        assert {"logit_scale", "heads.shared.projection.weight"} <= names


def test_trainable_blocks_none_trains_all_but_mask_token(tiny_model):
    frozen = {name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"backbone.embeddings.mask_token"}


def test_forward_side_not_multiple_of_patch_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"30 x 112 pixels.*multiples of the patch, 14 x 14"):
        tiny_model(images(1, 30, 112))


def test_forward_too_few_tokens_for_clusters_is_refused(tiny_model):
    with pytest.raises(ValueError, match="28 x 28 pixels gives 4 tokens for 4 clusters"):
        tiny_model(images(1, 28, 28))


def test_config_unknown_types_and_values_are_refused():
    with pytest.raises(Exception, match="num_clusters"):
        GenGeoConfig(num_clusters="many")
    with pytest.raises(ValueError, match="resnet"):
        GenGeoConfig(backbone_config={"model_type": "resnet"})
    with pytest.raises(ValueError, match="no transformer blocks"):
        GenGeoConfig(backbone_config={"model_type": "convnext"})


def test_position_init_std_sets_initial_spread(tmp_path):
    def spread(model):
        return model.backbone.embeddings.position_embeddings.std().item()

    model = GenGeoModel(GenGeoConfig(**TINY, position_init_std=0.5))
    assert spread(model) == pytest.approx(0.5, rel=0.1)
    model.backbone.embeddings.position_embeddings.data.fill_(0.25)
    model.save_pretrained(tmp_path)
    assert spread(GenGeoModel.from_pretrained(tmp_path)) == 0  # stored weights are not initialised again
    assert spread(GenGeoModel(GenGeoConfig(**TINY))) == pytest.approx(0.02, rel=0.2)


def test_head_is_initialised_by_fan_in_and_stored_weights_are_kept(tmp_path):
    def layers(model):
        return [layer for layer in model.heads.modules() if isinstance(layer, torch.nn.Linear)]

    wide = {**TINY, "head_hidden_dim": 256, "descriptor_dim": 256, "dustbin_mass": "learned"}
    model = GenGeoModel(GenGeoConfig(**wide))
    for layer in layers(model):
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(layer.in_features**-0.5, rel=0.1)
        assert not layer.bias.any()
    assert not model.heads["shared"].aggregator.dustbin_shift.weight.any()
    model.save_pretrained(tmp_path / "whole")
    loaded = GenGeoModel.from_pretrained(tmp_path / "whole")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    model.backbone.save_pretrained(tmp_path / "backbone")
    fresh = GenGeoModel.from_pretrained(tmp_path / "backbone", **{k: v for k, v in wide.items() if k in HEAD})
    assert fresh.heads["shared"].projection.weight.std().item() == pytest.approx(40**-0.5, rel=0.1)
    assert torch.equal(fresh.backbone.layernorm.weight, model.backbone.layernorm.weight)
    narrow = GenGeoModel(GenGeoConfig(**{**wide, "initializer_range": 0.02}))
    assert narrow.heads["shared"].projection.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_fingerprint_depends_only_on_settings_of_descriptors(tiny_model, tiny_processor, tiny_checkpoint):
    first = fingerprint(tiny_model, tiny_processor)
    loaded = GenGeoModel.from_pretrained(tiny_checkpoint, trainable_blocks=0, head_dropout=0.5)
    processor = GenGeoImageProcessor.from_pretrained(tiny_checkpoint, view="aerial")
    assert fingerprint(loaded, processor) == first
    loaded.logit_scale.data += 1
    assert fingerprint(loaded, processor) == first
    other_sizes = {"ground": {"height": 28, "width": 56}, "aerial": {"height": 56, "width": 56}}
    other = GenGeoModel.from_pretrained(tiny_checkpoint, sinkhorn_iterations=4)
    touched = GenGeoModel.from_pretrained(tiny_checkpoint)
    touched.heads["shared"].projection.bias.data[0] += 1e-6
    changed = {
        fingerprint(tiny_model, GenGeoImageProcessor(view_sizes=other_sizes)),
        fingerprint(other, tiny_processor),
        fingerprint(touched, tiny_processor),
    }
    assert first not in changed and len(changed) == 3 and len(json.dumps(first)) == 66


LOAD = "m = AutoModel.from_pretrained(r'{}'); assert type(m).__name__ == 'GenGeoModel'"


@pytest.mark.parametrize(
    "imports",
    [
        "import gengeo_hf, sys; assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "from transformers import AutoModel",
        "from transformers import AutoModel; import gengeo_hf",
    ],
)
def test_auto_classes_load_gengeo_in_new_process(tiny_checkpoint, imports):
    code = imports + "\n" + LOAD.format(tiny_checkpoint)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
