"""Parts of other published models: separate backbones, two global tokens, layout masks, selected tokens."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel

from gengeo_hf.encoding.fingerprint import fingerprint
from gengeo_hf.learning.counterfactual import counterfactual_loss
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.model.token_choice import attention_map, choose_tokens, run_chosen
from tests.conftest import TINY

APART = {"share_backbone": False, "share_aggregator": False}
DEIT = {
    "model_type": "deit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}


def build(**changes):
    torch.manual_seed(0)
    return GenGeoModel(GenGeoConfig(**{**TINY, **changes})).eval()


def test_share_backbone_false_shares_no_parameters_and_is_saved(tmp_path):
    model = build(**APART)
    ids = [{id(p) for p in (*model.backbone_of(v).parameters(), *model.heads[v].parameters())} for v in model.heads]
    assert not ids[0] & ids[1] and sum(map(len, ids)) + 1 == len(list(model.parameters()))
    pixels = torch.randn(2, 3, 28, 56)
    output = model(pixels, pixels)
    assert not torch.allclose(output.pooler_output, output.aerial_pooler_output, atol=1e-2)
    assert torch.equal(output.aerial_pooler_output, model(pixels, view="aerial").pooler_output)
    model.save_pretrained(tmp_path)
    again = GenGeoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(pixels, view="aerial").pooler_output, output.aerial_pooler_output)
    with pytest.raises(ValueError, match='pass view="ground" or view="aerial"'):
        model(pixels)
    with pytest.raises(ValueError, match="set share_aggregator to false"):
        GenGeoConfig(**TINY, share_backbone=False)


def test_separate_backbones_are_initialised_from_one_checkpoint(tmp_path, tiny_model):
    with pytest.warns(UserWarning, match="a checkpoint of the backbone alone"):
        tiny_model.backbone.save_pretrained(tmp_path / "backbone")
    model = GenGeoModel.from_pretrained(tmp_path / "backbone", **{**TINY, **APART, "trainable_blocks": 1})
    for name, value in tiny_model.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value)
        assert torch.equal(model.aerial_backbone.state_dict()[name], value)
    trained = [{n for n, p in part.named_parameters() if p.requires_grad} for part in model.backbones]
    assert trained[0] == trained[1] != set() and not any(name.startswith("embeddings") for name in trained[0])


def test_fingerprint_ignores_settings_that_are_none(tiny_model, tiny_processor):
    before = fingerprint(tiny_model, tiny_processor)
    tiny_model.config.guide_size = [28, 28]
    assert fingerprint(tiny_model, tiny_processor) != before
    tiny_model.config.guide_size = None
    assert fingerprint(tiny_model, tiny_processor) == before


def test_cls_of_deit_uses_both_global_tokens(tmp_path):
    model = build(backbone_config=DEIT, aggregator="cls")
    pixels = torch.randn(2, 3, 32, 96)  # another size than that of the position embeddings
    output = model(pixels)
    first, second = model.heads["shared"].projection.weight.split(32, dim=1)
    tokens = normalize(output.last_hidden_state[:, :2].flatten(1))
    expected = tokens[:, :32] @ first.T + tokens[:, 32:] @ second.T
    torch.testing.assert_close(output.pooler_output, normalize(expected), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="salad reads one global token, and a deit has two"):
        GenGeoConfig(**{**TINY, "backbone_config": DEIT})
    AutoModel.from_config(AutoConfig.for_model(**DEIT)).save_pretrained(tmp_path)  # with a pooler, which is not loaded
    assert GenGeoModel.from_pretrained(tmp_path, **{**TINY, "backbone_config": DEIT, "aggregator": "cls"})


def layout_model(**changes):
    return build(aggregator="layout", token_counts={"ground": 8, "aerial": 8}, **changes)


def test_layout_equals_slow_sum_and_uniform_masks_are_mean_pooling():
    model = layout_model(descriptor_dim=None)
    aggregator, tokens = model.heads["shared"].aggregator, torch.randn(2, 8, 32)
    masks = aggregator.layout(tokens)
    assert masks.shape == (2, 4, 8) and (masks > 0).all() and (masks < 1).all()
    slow = torch.stack(
        [torch.cat([sum(masks[b, k, n] * tokens[b, n] for n in range(8)) for k in range(4)]) for b in range(2)]
    )
    torch.testing.assert_close(aggregator(tokens, tokens[:, 0])[0], normalize(slow), atol=1e-5, rtol=0)
    even = aggregator.aggregate(tokens, torch.ones(2, 4, 8))
    copies = normalize(tokens.mean(1)).repeat(1, 4) / 2
    torch.testing.assert_close(even, copies, atol=1e-5, rtol=0)
    same = counterfactual_loss(even, aggregator.aggregate(tokens, torch.full((2, 4, 8), 0.3)))
    assert same.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-5)
    assert (counterfactual_loss(aggregator(tokens, tokens[:, 0])[0], aggregator.counterfactual(tokens)) <= 0.6932).all()


def test_layout_other_number_of_tokens_is_refused(tmp_path):
    model = layout_model()
    model.save_pretrained(tmp_path)
    assert GenGeoModel.from_pretrained(tmp_path).config.token_counts == {"ground": 8, "aerial": 8}
    with pytest.raises(ValueError, match="gives 12 tokens, and the layout masks of this model need 8"):
        model(torch.randn(1, 3, 28, 84))
    with pytest.raises(ValueError, match="a head that both views share needs equal numbers"):
        build(aggregator="layout", token_counts={"ground": 8, "aerial": 9})
    with pytest.raises(ValueError, match="token_counts is None: give the number for ground and aerial"):
        build(aggregator="layout")
    apart = build(aggregator="layout", token_counts={"ground": 8, "aerial": 9}, **APART)
    assert apart(torch.randn(2, 3, 28, 56), torch.randn(2, 3, 42, 42)).aerial_pooler_output.shape == (2, 24)


def test_attention_map_is_last_block_summed_over_heads():
    model = build(aerial_keep=0.5)
    pixels = torch.randn(2, 3, 42, 56)
    output = model.guide(pixels, output_attentions=True)
    slow = sum(output.attentions[-1][:, head, 0, 1:] for head in range(2))
    slow = (slow / slow.amax(1, keepdim=True)).reshape(2, 3, 4)
    torch.testing.assert_close(attention_map(model.guide, pixels), slow)


def test_choose_tokens_selects_most_important():
    importance = torch.rand(3, 4, 5)
    kept = choose_tokens(importance, (4, 5), 0.3)
    for image in range(3):
        best = sorted(range(20), key=lambda n: -importance[image].flatten()[n])[:6]
        assert kept[image].tolist() == sorted(best)
    assert choose_tokens(importance, (20, 20), 0.64).shape == (3, 256)  # numbers of TransGeo
    assert choose_tokens(importance, (25, 25), 0.64).shape == (3, 400)


@pytest.mark.parametrize("backbone", [TINY["backbone_config"], DEIT])
def test_run_chosen_all_tokens_equals_backbone_in_any_order(backbone):
    model = build(backbone_config=backbone, aggregator="mean", aerial_keep=1.0)
    pixels = torch.randn(2, 3, 112, 112)
    plain = model(pixels, view="ground").pooler_output
    torch.testing.assert_close(model(pixels, view="aerial").pooler_output, plain, atol=1e-5, rtol=0)
    kept = torch.stack([torch.randperm(16)[:7] for _ in range(2)])
    outputs = [run_chosen(model.backbone, pixels, some).last_hidden_state for some in (kept, kept.flip(1))]
    first = outputs[0].shape[1] - 7
    torch.testing.assert_close(outputs[0][:, :first], outputs[1][:, :first], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs[0][:, first:], outputs[1][:, first:].flip(1), atol=1e-5, rtol=0)


def test_guide_is_initialised_from_backbone_and_not_trained(tmp_path):
    stage_one = build(aggregator="cls", **APART)
    stage_one.save_pretrained(tmp_path)
    model = GenGeoModel.from_pretrained(tmp_path, aerial_keep=0.5, guide_size=[28, 28])
    for name, value in stage_one.aerial_backbone.state_dict().items():
        assert torch.equal(model.guide.state_dict()[name], value)
    assert not any(p.requires_grad for p in model.guide.parameters())
    pixels = torch.randn(2, 3, 56, 56)
    assert model.chosen_tokens(pixels).shape == (2, 8)
    model.train()
    model(pixels, view="aerial").pooler_output.sum().backward()
    assert model.aerial_backbone.embeddings.position_embeddings.grad is not None
    model.save_pretrained(tmp_path / "two")
    again = GenGeoModel.from_pretrained(tmp_path / "two").eval()
    assert torch.equal(again(pixels, view="aerial").pooler_output, model.eval()(pixels, view="aerial").pooler_output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aerial_keep": 0}, "aerial_keep is 0: it must lie above 0"),
        ({"aerial_keep": 0.5, "guide_size": [28]}, "expected height and width in pixels"),
        ({"aggregator": "layout", "layout_heads": 5}, "the width of a token, 32, must be a multiple"),
    ],
)
def test_config_contradictory_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GenGeoConfig(**{**TINY, **changes})


def test_attention_map_is_that_of_the_last_of_three_blocks():
    model = build(aerial_keep=0.5, backbone_config={**TINY["backbone_config"], "num_hidden_layers": 3})
    pixels = torch.randn(2, 3, 42, 56)
    slow = model.guide(pixels, output_attentions=True).attentions[2][:, :, 0, 1:].sum(1)
    slow = (slow / slow.amax(1, keepdim=True)).reshape(2, 3, 4)
    torch.testing.assert_close(attention_map(model.guide, pixels), slow)


def test_choose_tokens_keeps_at_least_one_and_rounds():
    importance = torch.arange(15.0).reshape(1, 3, 5)
    assert choose_tokens(importance, (3, 5), 0.01).tolist() == [[14]]
    assert choose_tokens(importance, (3, 5), 0.5).shape == (1, 8)


def test_layout_masks_have_a_bottleneck_of_half_the_tokens():
    layers = layout_model().heads["shared"].aggregator.bottlenecks
    assert len(layers) == 4
    assert [[tuple(layer.weight.shape) for layer in pair] for pair in layers] == [[(4, 8), (8, 4)]] * 4
    single = build(aggregator="layout", token_counts={"ground": 1, "aerial": 1}, descriptor_dim=None)
    assert single.heads["shared"].aggregator.bottlenecks[0][0].weight.shape == (1, 1)
    assert single(torch.randn(2, 3, 14, 14)).pooler_output.shape == (2, 4 * 32)


def test_layout_positions_are_added_to_tokens_of_the_same_image():
    aggregator, tokens = layout_model().heads["shared"].aggregator, torch.randn(3, 8, 32)
    assert aggregator.positions.std().item() == pytest.approx(0.02, rel=0.3)
    torch.nn.init.normal_(aggregator.positions)
    masks = aggregator.layout(tokens)
    torch.testing.assert_close(aggregator.layout(tokens[1:2]), masks[1:2], atol=1e-5, rtol=0)
    moved = tokens + aggregator.positions.detach()
    torch.nn.init.zeros_(aggregator.positions)
    torch.testing.assert_close(aggregator.layout(moved), masks, atol=1e-5, rtol=0)
    assert not torch.allclose(aggregator.layout(tokens), masks, atol=1e-3)


def test_layout_with_one_head_is_built_without_warnings(recwarn):
    layout_model(layout_heads=1)
    assert not [str(warning.message) for warning in recwarn if "nested_tensor" in str(warning.message)]


def test_layout_token_counts_of_one_view_are_refused_for_a_shared_head():
    with pytest.raises(ValueError, match="give the number for ground and aerial"):
        build(aggregator="layout", token_counts={"ground": 8})
