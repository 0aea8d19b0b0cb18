"""Incomplete checkpoints and unknown settings are refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    ConvNextBackbone,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersBackbone,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    DINOv3ViTBackbone,
)

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.model.backbones import read_tokens, run_backbone
from tests.conftest import TINY

SMALL = {key: value for key, value in TINY["backbone_config"].items() if key != "model_type"}
CLASSIFIERS = {
    "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4)),
    "dinov2": lambda: Dinov2ForImageClassification(Dinov2Config(**SMALL)),
    "dinov2_with_registers": lambda: Dinov2WithRegistersForImageClassification(
        Dinov2WithRegistersConfig(**SMALL, num_register_tokens=2)
    ),
}
DINOV3 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
}


def assert_same_weights(model, backbone):
    expected = backbone.state_dict()
    found = model.backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:a checkpoint of the backbone alone")
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_from_pretrained_classifier_or_backbone_fills_backbone(kind, tmp_path):
    classifier = CLASSIFIERS[kind]()
    classifier.save_pretrained(tmp_path / "classifier")
    assert_same_weights(GenGeoModel.from_pretrained(tmp_path / "classifier", num_clusters=4), classifier.base_model)
    classifier.base_model.save_pretrained(tmp_path / "bare")
    assert_same_weights(GenGeoModel.from_pretrained(tmp_path / "bare", num_clusters=4), classifier.base_model)


def test_from_pretrained_dinov3_fills_backbone(tmp_path):
    backbone = AutoModel.from_config(AutoConfig.for_model("dinov3_vit", **DINOV3))
    backbone.save_pretrained(tmp_path)
    assert_same_weights(GenGeoModel.from_pretrained(tmp_path, num_clusters=4), backbone)


CONVNEXT = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4}


@pytest.mark.filterwarnings("ignore:a checkpoint of the backbone alone")
@pytest.mark.parametrize(
    "backbone",
    [
        lambda: Dinov2Backbone(Dinov2Config(**SMALL, out_features=["stage1"])),
        lambda: Dinov2WithRegistersBackbone(Dinov2WithRegistersConfig(**SMALL, num_register_tokens=2)),
        lambda: DINOv3ViTBackbone(AutoConfig.for_model("dinov3_vit", **DINOV3)),
    ],
)
def test_from_pretrained_backbone_class_fills_backbone(backbone, tmp_path):
    backbone = backbone()
    backbone.save_pretrained(tmp_path)
    assert_same_weights(GenGeoModel.from_pretrained(tmp_path, num_clusters=4), backbone)


@pytest.mark.parametrize("stages", [["stage4"], ["stage2", "stage4"]])
def test_from_pretrained_convnext_backbone_has_tokens_of_last_feature_map(stages, tmp_path):
    backbone = ConvNextBackbone(ConvNextConfig(**CONVNEXT, out_features=stages)).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter)
    backbone.save_pretrained(tmp_path)
    model, pixels = GenGeoModel.from_pretrained(tmp_path, num_clusters=4).eval(), torch.randn(1, 3, 64, 96)
    expected = backbone(pixels).feature_maps[-1].flatten(2).transpose(1, 2)
    tokens, _ = read_tokens(model.backbone, run_backbone(model.backbone, pixels))
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


def test_from_pretrained_convnext_backbone_without_last_norm_is_refused(tmp_path):
    ConvNextBackbone(ConvNextConfig(**CONVNEXT, out_features=["stage2"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks backbone\.layernorm\.bias .* with the last stage in out_features$"):
        GenGeoModel.from_pretrained(tmp_path, num_clusters=4)


def change_weights(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name", ["heads.shared.projection.weight", "backbone.encoder.layer.0.norm1.weight", "logit_scale"]
)
def test_from_pretrained_missing_weight_is_refused_by_name(tiny_checkpoint, name):
    change_weights(tiny_checkpoint, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"lacks {name}"):
        GenGeoModel.from_pretrained(tiny_checkpoint)
    GenGeoModel.from_pretrained(tiny_checkpoint, allow_missing=True)


def test_from_pretrained_missing_head_is_refused(tiny_checkpoint):
    def drop(tensors):
        for name in [name for name in tensors if name.startswith("heads.")]:
            tensors.pop(name)

    change_weights(tiny_checkpoint, drop)
    with pytest.raises(ValueError, match=r"lacks heads\.shared"):
        GenGeoModel.from_pretrained(tiny_checkpoint)


def test_from_pretrained_unknown_weight_and_nan_are_refused_by_name(tiny_checkpoint):
    change_weights(tiny_checkpoint, lambda tensors: tensors.update({"heads.other.weight": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"unknown weight heads\.other\.weight"):
        GenGeoModel.from_pretrained(tiny_checkpoint)
    change_weights(tiny_checkpoint, lambda tensors: tensors.pop("heads.other.weight"))
    change_weights(tiny_checkpoint, lambda tensors: tensors["heads.shared.projection.bias"].fill_(float("nan")))
    with pytest.raises(ValueError, match=r"heads\.shared\.projection\.bias contains values that are not finite"):
        GenGeoModel.from_pretrained(tiny_checkpoint)


def test_from_pretrained_weight_of_another_shape_is_refused_by_name(tiny_checkpoint):
    with pytest.raises(ValueError, match=r"has heads\.shared\.aggregator\S+ of shape \(4,\), .* expect \(5,\)"):
        GenGeoModel.from_pretrained(tiny_checkpoint, num_clusters=5)
    GenGeoModel.from_pretrained(tiny_checkpoint, num_clusters=5, ignore_mismatched_sizes=True)
    change_weights(tiny_checkpoint, lambda tensors: tensors.update({"logit_scale": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"has logit_scale of shape \(3,\), .* expect \(\)"):
        GenGeoModel.from_pretrained(tiny_checkpoint)


def test_from_pretrained_directory_without_config_is_refused(tiny_checkpoint):
    (tiny_checkpoint / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        GenGeoModel.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"descriptor_dim": "24"}, r"'descriptor_dim': TypeError: .*expected int|with value '24'"),
        ({"num_clusters": 5}, r"^the checkpoint \S+ has heads\.\S+ of shape"),
    ],
)
def test_encoder_invalid_config_is_refused_by_field(tiny_checkpoint, change, message):
    file = tiny_checkpoint / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(GenGeoError, match=message):
        Encoder.from_pretrained(tiny_checkpoint)


def test_misspelt_arguments_of_encoder_and_processor_are_refused(tiny_checkpoint):
    for wrong in ({"back_end": "torch"}, {"num_cluster": 9}):
        with pytest.raises(GenGeoError, match=f"^GenGeoModel.*unexpected keyword argument '{next(iter(wrong))}'$"):
            Encoder.from_pretrained(tiny_checkpoint, **wrong)
    for wrong, right in (("veiw", "view"), ("view_size", "view_sizes"), ("do_resise", "do_resize")):
        with pytest.raises(TypeError, match=f"no setting '{wrong}'; did you mean '{right}'"):
            GenGeoImageProcessor(**{wrong: "aerial"})


def test_from_pretrained_explicit_state_dict_is_not_checked(tiny_checkpoint, tiny_model):
    tensors = tiny_model.state_dict()
    tensors.pop("heads.shared.projection.bias")
    GenGeoModel.from_pretrained(None, config=tiny_model.config, state_dict=tensors)


def test_from_pretrained_config_of_other_weights_is_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match=r"lacks heads\.aerial"):
        GenGeoModel.from_pretrained(tiny_checkpoint, share_aggregator=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_cluster": 9}, "no setting 'num_cluster'; did you mean 'num_clusters'"),
        ({"agregator": "gem"}, "did you mean 'aggregator'"),
        ({"aggregator": "sald"}, "expected one of salad, netvlad"),
        ({"label_smoothing": 2.0}, "label_smoothing is 2.0"),
        ({"label_smoothing": -1}, "label_smoothing is -1"),
        ({"logit_scale_init_value": float("nan")}, "logit_scale_init_value"),
        ({"position_init_std": -1.0}, "position_init_std"),
        ({"backbone_config": {**SMALL, "image_size": [70, 140]}}, r"image_size is \[70, 140\]"),
        ({"backbone_config": {**SMALL, "patch_size": [14, 7]}}, r"patch_size is \[14, 7\]"),
        ({"backbone_config": {"model_type": "resnet"}}, "model_type 'resnet'"),
    ],
)
def test_config_invalid_setting_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        GenGeoConfig(**{**TINY, **wrong})


def test_config_unknown_setting_is_warned_about():
    with pytest.warns(UserWarning, match="does not know zebra"):
        GenGeoConfig(**TINY, zebra=1)


def test_forward_misspelt_argument_is_refused(tiny_model, tiny_processor):
    pixels = torch.randn(1, 3, 28, 56)
    with pytest.raises(TypeError, match="no argument 'veiw'; did you mean 'view'"):
        tiny_model(pixels, veiw="aerial")
    for size in ({"height": 0, "width": 14}, {"height": -14, "width": 14}, {"height": 14}):
        with pytest.raises(ValueError, match="view_sizes of 'ground'"):
            tiny_processor(torch.zeros(3, 28, 28, dtype=torch.uint8), view_sizes={"ground": size})


def test_set_trainable_does_not_change_quantised_weights(tiny_model):
    from gengeo_hf.model.backbones import set_trainable

    layer = tiny_model.backbone.encoder.layer[1].mlp.fc1
    layer.weight = torch.nn.Parameter(torch.ones(layer.weight.shape, dtype=torch.int8), requires_grad=False)
    set_trainable(tiny_model.backbone, 1)
    set_trainable(tiny_model.backbone, None)
    assert not layer.weight.requires_grad and layer.bias.requires_grad


def test_trainer_reports_the_evaluation_loss(tiny_model, tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{"pixel_values": torch.randn(3, 28, 56), "aerial_pixel_values": torch.randn(3, 56, 56)} for _ in range(4)]
    arguments = TrainingArguments(tmp_path, use_cpu=True, per_device_eval_batch_size=4, report_to=[])
    found = Trainer(tiny_model, arguments, eval_dataset=rows).evaluate()
    assert found["eval_loss"] > 0


def test_save_backbone_alone_warns_about_lost_interpolation(tiny_model, tmp_path):
    with pytest.warns(UserWarning, match="position_interpolation='hub'"):
        tiny_model.backbone.save_pretrained(tmp_path)


def test_from_pretrained_single_value_that_is_not_finite_is_refused(tiny_checkpoint):
    change_weights(tiny_checkpoint, lambda tensors: tensors["heads.shared.projection.weight"][3, 2].fill_(torch.inf))
    with pytest.raises(ValueError, match=r"heads\.shared\.projection\.weight contains values that are not finite"):
        GenGeoModel.from_pretrained(tiny_checkpoint)


@pytest.mark.filterwarnings("ignore:a checkpoint of the backbone alone")
def test_from_pretrained_unknown_weight_of_backbone_or_gengeo_is_refused(tiny_model, tiny_checkpoint, tmp_path):
    tiny_model.backbone.save_pretrained(tmp_path / "backbone")
    change_weights(tmp_path / "backbone", lambda tensors: tensors.update({"extra.weight": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"has the unknown weight extra\.weight \(1 in all\)"):
        GenGeoModel.from_pretrained(tmp_path / "backbone", num_clusters=4)
    # A classifier belongs to the checkpoint of a backbone, not to that of a GenGeo.
    change_weights(tiny_checkpoint, lambda tensors: tensors.update({"classifier.weight": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"has the unknown weight classifier\.weight"):
        GenGeoModel.from_pretrained(tiny_checkpoint)


def test_from_pretrained_without_final_norm_advises_to_fetch_the_checkpoint_again(tiny_checkpoint):
    names = ("backbone.layernorm.bias", "backbone.layernorm.weight")
    change_weights(tiny_checkpoint, lambda tensors: [tensors.pop(name) for name in names])
    with pytest.raises(ValueError, match=r"lacks backbone\.layernorm\.bias \(2 in all\): fetch or save"):
        GenGeoModel.from_pretrained(tiny_checkpoint)
