"""Behaviour that transformers expects of a model: initialisation, outputs, attention, checkpointing, dtypes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from tests.conftest import TINY
from tests.model.test_aggregators import KINDS, build


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 28, 112, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["salad", "learned dustbin", "netvlad", "gem", "not shared"])
def test_allow_missing_initialises_only_missing_parameters(kind, tmp_path):
    torch.manual_seed(0)
    build(kind).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    own = [name for name in weights if not name.startswith("backbone.")]
    for name in own:
        marked = {key: torch.full_like(value, 0.123) for key, value in weights.items() if key != name}
        save_file(marked, tmp_path / "model.safetensors", metadata={"format": "pt"})
        torch.empty(10**6).fill_(-2e9)  # fills memory, so that parameters without initialisation have large values
        model, report = GenGeoModel.from_pretrained(tmp_path, output_loading_info=True, allow_missing=True)
        assert report["missing_keys"] == {name}
        for key, value in model.state_dict().items():
            if key == name:
                assert torch.isfinite(value).all() and value.abs().max() < 10, key
            else:
                assert (value == 0.123).all(), key
    expected = {"dust_bin": 1.0, "exponent": 3.0, "logit_scale": np.log(1 / 0.07)}
    for name, value in build(kind).state_dict().items():
        if name.split(".")[-1] in expected:
            assert value.item() == pytest.approx(expected[name.split(".")[-1]])


def test_forward_returns_hidden_states_and_attentions(tiny_checkpoint, pixels):
    model = GenGeoModel.from_pretrained(tiny_checkpoint, attn_implementation="eager")
    output = model(pixels, output_hidden_states=True, output_attentions=True)
    assert [tuple(x.shape) for x in output.hidden_states] == [(3, 17, 32)] * 3
    assert [tuple(x.shape) for x in output.attentions] == [(3, 2, 17, 17)] * 2
    normed = model.backbone.layernorm(output.hidden_states[-1])
    assert torch.allclose(normed, output.last_hidden_state)
    assert isinstance(model(pixels, return_dict=False), tuple)


@pytest.mark.parametrize("kind", ["salad", "registers", "dinov3"])
def test_sdpa_equals_eager_and_can_be_switched(kind, tmp_path):
    model = build(kind)
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 32, 128) if kind == "dinov3" else torch.randn(2, 3, 28, 112)
    eager = GenGeoModel.from_pretrained(tmp_path, attn_implementation="eager")
    sdpa = GenGeoModel.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert eager.backbone.config._attn_implementation == "eager"
    assert torch.allclose(eager(pixels).pooler_output, sdpa(pixels).pooler_output, atol=1e-5)
    sdpa.set_attn_implementation("eager")
    assert sdpa.backbone.config._attn_implementation == "eager"
    assert torch.equal(eager(pixels).pooler_output, sdpa(pixels).pooler_output)


def test_activation_checkpointing_gives_same_gradients(pixels):
    gradients = []
    for checkpointing in (False, True):
        model = build("salad", head_dropout=0).train()
        if checkpointing:
            # renamed in transformers 5.21
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model(pixels, aerial_pixel_values=torch.ones(3, 3, 56, 56)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][k], gradients[1][k], atol=1e-6) for k in gradients[0])


def test_training_changes_every_trainable_weight_and_lowers_loss(pixels):
    torch.manual_seed(0)
    model = build("salad", trainable_blocks=1, head_dropout=0).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    aerial, losses = torch.randn(3, 3, 56, 56), []
    for _ in range(8):
        loss = model(pixels, aerial_pixel_values=aerial).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    inert = {"heads.shared.aggregator.dust_bin", "heads.shared.aggregator.score.3.bias"}
    for name, parameter in model.named_parameters():
        if name not in inert:
            assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("kind", ["convnext salad", "dinov3", "registers", "netvlad"])
def test_half_precision_weights_accept_float32_images(kind):
    model = build(kind)
    pixels = torch.randn(2, 3, 64, 128) if kind in ("convnext salad", "dinov3") else torch.randn(2, 3, 28, 112)
    expected = model(pixels).pooler_output
    found = model.to(torch.bfloat16)(pixels).pooler_output
    assert found.dtype == torch.float32 and (found * expected).sum(1).min() > 0.97


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_auto_loads_saved_dtype(tiny_model, tmp_path, pixels, dtype):
    expected = tiny_model(pixels).pooler_output
    tiny_model.to(dtype).save_pretrained(tmp_path)
    loaded = GenGeoModel.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == loaded.backbone.dtype == dtype
    found = loaded(pixels).pooler_output
    assert found.dtype == torch.float32 and (found * expected).sum(1).min() > 0.99
    assert GenGeoModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_device_map_with_offloading_gives_same_descriptors(tiny_model, tiny_checkpoint, pixels, tmp_path):
    expected = tiny_model(pixels).pooler_output
    everything = GenGeoModel.from_pretrained(tiny_checkpoint, device_map="auto")
    assert torch.allclose(everything(pixels).pooler_output, expected, atol=1e-6)
    small = {"cpu": 120_000}  # bytes: most of the model is offloaded to disk
    offloaded = GenGeoModel.from_pretrained(
        tiny_checkpoint, device_map="auto", max_memory=small, offload_folder=tmp_path / "offload"
    )
    assert "disk" in offloaded.hf_device_map.values()
    assert torch.allclose(offloaded(pixels).pooler_output, expected, atol=1e-6)


def test_torch_export_runs_with_another_batch_size(tiny_model, pixels):
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(tiny_model, (pixels,), dynamic_shapes={"pixel_values": {0: batch}}, strict=False)
    other = torch.randn(5, 3, 28, 112)
    found = program.module()(other).pooler_output
    assert torch.allclose(found, tiny_model(other).pooler_output, atol=1e-6)


@pytest.mark.slow
def test_compiles_without_graph_breaks_at_two_sizes(tiny_model, pixels):
    # Without code generation, for which a C++ compiler takes minutes.
    compiled = torch.compile(tiny_model, fullgraph=True, backend="aot_eager")
    sizes = (pixels, torch.randn(2, 3, 56, 56))
    expected = [tiny_model(x, output_hidden_states=True) for x in sizes]  # transformers hooks the layers in eager mode
    for x, eager in zip(sizes, expected, strict=True):
        assert torch.allclose(compiled(x).pooler_output, eager.pooler_output, atol=1e-5)
        found = compiled(x, output_hidden_states=True, output_assignment=True)
        assert torch.allclose(found.hidden_states[1], eager.hidden_states[1], atol=1e-5)
    assert found.token_grid == (4, 4) and found.assignment.shape == (2, 5, 16)


def test_config_round_trip_keeps_every_field(tmp_path):
    for kind, changes in KINDS.items():
        config = GenGeoConfig(**{**TINY, **changes, "truncate_dim": 8, "matryoshka_dims": [4, 8]})
        config.save_pretrained(tmp_path)
        assert GenGeoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict(), kind
    changed = GenGeoConfig.from_pretrained(tmp_path, backbone_config={"layer_norm_eps": 0.1})
    assert changed.backbone_config.layer_norm_eps == 0.1
    assert changed.backbone_config.hidden_sizes == config.backbone_config.hidden_sizes


def test_processor_equals_pil_within_one_grey_level():
    processor = GenGeoImageProcessor()
    views = (("ground", (154, 770), (224, 1232, 3)), ("aerial", (392, 392), (750, 750, 3)))
    for view, (height, width), shape in views:
        photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
        grey = processor(photo, view=view, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
        assert grey.dtype == torch.uint8 and grey.shape == (1, 3, height, width)
        expected = np.array(photo.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.abs(grey[0].numpy().astype(int) - expected).max() <= 1
        scaled = processor(photo, view=view, return_tensors="np")["pixel_values"][0]
        mean, std = (np.array(x)[:, None, None] for x in (processor.image_mean, processor.image_std))
        assert np.allclose(scaled, (grey[0].numpy() / 255 - mean) / std, atol=1e-5)


def test_processor_accepts_pil_arrays_and_tensors():
    processor = GenGeoImageProcessor(view="aerial")
    array = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    expected = processor(Image.fromarray(array), return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 3, 392, 392)
    for same in (array, torch.from_numpy(array).permute(2, 0, 1), [array], Image.fromarray(array).convert("RGBA")):
        assert torch.equal(processor(same, return_tensors="pt")["pixel_values"], expected)
    grey = Image.fromarray(array).convert("L")
    assert processor([grey, Image.fromarray(array)], return_tensors="pt")["pixel_values"].shape == (2, 3, 392, 392)
    assert processor(array, size={"height": 14, "width": 28}, return_tensors="pt")["pixel_values"].shape[2:] == (14, 28)
    with pytest.raises(ValueError, match="neither crops"):
        processor(array, do_center_crop=True)
    with pytest.raises(TypeError):
        processor(array, sight="aerial")


def test_processor_round_trip_with_overrides(tmp_path):
    GenGeoImageProcessor(view_sizes={"ground": {"height": 14, "width": 28}}).save_pretrained(tmp_path)
    assert "size" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    loaded = GenGeoImageProcessor.from_pretrained(tmp_path)
    photo = np.zeros((5, 5, 3), dtype=np.uint8)
    assert loaded(photo, return_tensors="np")["pixel_values"].shape == (1, 3, 14, 28)
    with pytest.raises(ValueError, match="unknown view 'aerial'"):
        loaded(photo, view="aerial")
