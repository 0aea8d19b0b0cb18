"""Conversion of checkpoints: random weights with the published names, against a forward pass from those names."""

import pickle

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import AutoModel

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.hub.convert import convert
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

WIDTH, LAYERS, PATCH, GRID = 64, 2, 14, 5


def random(*shape):
    return torch.randn(*shape) * 0.2


def linear(state, name, out, into):
    state[f"{name}.weight"], state[f"{name}.bias"] = random(out, into), random(out)


def norm(state, name, width):
    state[f"{name}.weight"], state[f"{name}.bias"] = 1 + random(width), random(width)


def hub_dinov2(registers=0, gated=False, width=WIDTH, layers=LAYERS, grid=GRID):
    torch.manual_seed(0)
    state = {"cls_token": random(1, 1, width), "pos_embed": random(1, grid * grid + 1, width)}
    state["mask_token"] = random(1, width)
    if registers:
        state["register_tokens"] = random(1, registers, width)
    state["patch_embed.proj.weight"], state["patch_embed.proj.bias"] = random(width, 3, PATCH, PATCH), random(width)
    for i in range(layers):
        block = f"blocks.{i}"
        norm(state, f"{block}.norm1", width)
        linear(state, f"{block}.attn.qkv", 3 * width, width)
        linear(state, f"{block}.attn.proj", width, width)
        state[f"{block}.ls1.gamma"] = random(width)
        norm(state, f"{block}.norm2", width)
        if gated:
            hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
            linear(state, f"{block}.mlp.w12", 2 * hidden, width)
            linear(state, f"{block}.mlp.w3", width, hidden)
        else:
            linear(state, f"{block}.mlp.fc1", 4 * width, width)
            linear(state, f"{block}.mlp.fc2", width, 4 * width)
        state[f"{block}.ls2.gamma"] = random(width)
    norm(state, "norm", width)
    return state


def hub_forward(state, pixels):
    """DINOv2 at its native size, from torch hub names: tokens after the final norm, (B, 1 + registers + n, C)."""

    def fc(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def ln(x, name):
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat((state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), 1) + state["pos_embed"]
    if "register_tokens" in state:
        x = torch.cat((x[:, :1], state["register_tokens"].expand(len(x), -1, -1), x[:, 1:]), 1)
    for i in range(LAYERS):
        block = f"blocks.{i}"
        qkv = fc(ln(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(*x.shape[:2], 3, 1, WIDTH).permute(2, 0, 3, 1, 4)
        attended = ((qkv[0] @ qkv[1].transpose(-1, -2)) * WIDTH**-0.5).softmax(-1) @ qkv[2]
        attended = attended.transpose(1, 2).reshape(x.shape)
        x = x + fc(attended, f"{block}.attn.proj") * state[f"{block}.ls1.gamma"]
        y = ln(x, f"{block}.norm2")
        if f"{block}.mlp.w12.weight" in state:
            gate, up = fc(y, f"{block}.mlp.w12").chunk(2, -1)
            y = fc(F.silu(gate) * up, f"{block}.mlp.w3")
        else:
            y = fc(F.gelu(fc(y, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        x = x + y * state[f"{block}.ls2.gamma"]
    return ln(x, "norm")


def holds(model, tensors):
    """Whether each source tensor, or each part of a fused one, is equal to a tensor of the model."""
    values = {}
    for value in model.state_dict().values():
        values.setdefault(value.numel(), []).append(value.flatten())
    for name, tensor in tensors.items():
        parts = 3 if ".qkv." in name else 2 if ".w12." in name else 1
        for part in tensor.reshape(-1).chunk(parts):
            if not any(torch.equal(part, value) for value in values.get(part.numel(), [])):
                return False
    return True


@pytest.mark.parametrize(("registers", "gated"), [(0, False), (4, False), (0, True), (4, True)])
def test_convert_dinov2_gives_outputs_of_source(registers, gated, tmp_path):
    state = hub_dinov2(registers, gated)
    torch.save(state, tmp_path / "hub.pth")
    convert("dinov2", tmp_path / "hub.pth", tmp_path / "out")
    backbone = AutoModel.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert holds(backbone, state) and backbone.config.image_size == PATCH * GRID
    pixels = torch.randn(2, 3, 70, 70)
    assert torch.allclose(backbone(pixels).last_hidden_state, hub_forward(state, pixels), atol=2e-5)
    model = GenGeoModel.from_pretrained(tmp_path / "out", num_clusters=4, attn_implementation="eager")
    assert torch.equal(model(pixels).last_hidden_state, backbone(pixels).last_hidden_state)


def salad_head(prefix, clusters, width, token_dim, hidden=48, into=WIDTH):
    head = {f"{prefix}dust_bin": torch.tensor(0.7)}
    linear(head, f"{prefix}token_features.0", hidden, into)
    linear(head, f"{prefix}token_features.2", token_dim, hidden)
    for name, out in (("cluster_features", width), ("score", clusters)):
        linear(head, f"{prefix}{name}.0", hidden, into)
        linear(head, f"{prefix}{name}.3", out, hidden)
        for layer in (0, 3):
            head[f"{prefix}{name}.{layer}.weight"] = head[f"{prefix}{name}.{layer}.weight"][:, :, None, None]
    return head


def dino_salad(**sizes):
    backbone = {f"backbone.model.{name}": t for name, t in hub_dinov2(**sizes).items()}
    return backbone | salad_head("aggregator.", 6, 10, 12, into=sizes.get("width", WIDTH))


@pytest.mark.parametrize("lightning", [False, True])
def test_convert_dino_salad_gives_descriptors_of_source(lightning, tmp_path):
    state = dino_salad()
    torch.save({"state_dict": state, "epoch": 3} if lightning else state, tmp_path / "dino_salad.ckpt")
    convert("dino-salad", tmp_path / "dino_salad.ckpt", tmp_path / "out")
    model = GenGeoModel.from_pretrained(tmp_path / "out", attn_implementation="eager")
    assert holds(model, state) and model.config.position_interpolation == "hub"
    processor = GenGeoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.view_sizes["aerial"] == {"height": 322, "width": 322}
    assert processor.resample == Image.Resampling.BILINEAR  # as SALAD is evaluated
    pixels = torch.randn(2, 3, 70, 70)
    tokens = hub_forward({k.removeprefix("backbone.model."): v for k, v in state.items()}, pixels)
    grid = tokens[:, 1:].transpose(1, 2).reshape(2, WIDTH, 5, 5)

    def on_map(name):
        x = F.conv2d(grid, state[f"aggregator.{name}.0.weight"], state[f"aggregator.{name}.0.bias"])
        return F.conv2d(x.relu(), state[f"aggregator.{name}.3.weight"], state[f"aggregator.{name}.3.bias"]).flatten(2)

    scores = torch.cat((on_map("score"), torch.full((2, 1, 25), 0.7)), 1)
    mass = torch.tensor([1.0] * 6 + [19.0])
    columns = torch.zeros(2, 25)
    for _ in range(3):
        rows = mass.log() - torch.logsumexp(scores + columns[:, None], 2)
        columns = -torch.logsumexp(scores + rows[:, :, None], 1)
    plan = (scores + rows[:, :, None] + columns[:, None]).exp()[:, :-1]
    clusters = F.normalize(torch.einsum("bmn,bln->blm", plan, on_map("cluster_features")), dim=1)
    hidden = F.linear(tokens[:, 0], *(state[f"aggregator.token_features.0.{x}"] for x in ("weight", "bias"))).relu()
    summary = F.linear(hidden, *(state[f"aggregator.token_features.2.{x}"] for x in ("weight", "bias")))
    expected = F.normalize(torch.cat((F.normalize(summary, dim=1), clusters.flatten(1)), 1), dim=1)
    assert model(pixels).pooler_output.shape == (2, 12 + 60)
    assert torch.allclose(model(pixels).pooler_output, expected, atol=1e-5)


def test_convert_dino_salad_of_released_size_fits_188_tensors():
    with torch.device("meta"):
        state = dino_salad(width=768, layers=12, grid=37)
        assert len(state) == 175 + 13
        from gengeo_hf.hub.convert import dinov2_settings, rename_dinov2

        backbone = {k.removeprefix("backbone.model."): v for k, v in state.items() if k.startswith("backbone.")}
        model = GenGeoModel(GenGeoConfig(backbone_config=dinov2_settings(backbone), descriptor_dim=None))
        renamed, unknown = rename_dinov2(backbone)
    expected = {name: t.shape for name, t in model.backbone.state_dict().items()}
    assert not unknown and {name: t.shape for name, t in renamed.items()} == expected


def test_convert_megaloc_without_mask_token_gives_descriptors_of_source(tmp_path):
    backbone = {f"backbone.{name}": t for name, t in hub_dinov2().items() if name != "mask_token"}
    state = backbone | salad_head("aggregator.agg.", 6, 10, 12)
    linear(state, "aggregator.linear", 20, 72)
    save_file(state, tmp_path / "model.safetensors")
    convert("megaloc", tmp_path / "model.safetensors", tmp_path / "out")
    model = GenGeoModel.from_pretrained(tmp_path / "out")
    assert holds(model, state)
    output = model(torch.randn(1, 3, 70, 84), output_assignment=True)
    expected = F.linear(output.unprojected, state["aggregator.linear.weight"], state["aggregator.linear.bias"])
    assert torch.allclose(output.pooler_output, F.normalize(expected, dim=1), atol=1e-6)


DEPTHS, WIDTHS = (1, 2, 1, 1), (8, 16, 24, 32)


def timm_convnext(prefix):
    torch.manual_seed(0)
    state = {"stem.0.weight": random(8, 3, 4, 4), "stem.0.bias": random(8)}
    norm(state, "stem.1", 8)
    for s, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        if s:
            norm(state, f"stages.{s}.downsample.0", WIDTHS[s - 1])
            state[f"stages.{s}.downsample.1.weight"] = random(width, WIDTHS[s - 1], 2, 2)
            state[f"stages.{s}.downsample.1.bias"] = random(width)
        for b in range(depth):
            block = f"stages.{s}.blocks.{b}"
            state[f"{block}.conv_dw.weight"], state[f"{block}.conv_dw.bias"] = random(width, 1, 7, 7), random(width)
            norm(state, f"{block}.norm", width)
            linear(state, f"{block}.mlp.fc1", 4 * width, width)
            linear(state, f"{block}.mlp.fc2", width, 4 * width)
            state[f"{block}.gamma"] = random(width)
    norm(state, "head.norm", WIDTHS[-1])
    return {prefix + name: t for name, t in state.items()}


def convnext_forward(state, pixels):
    """The descriptor of Sample4Geo from timm's names: average of the last map, LayerNorm, length 1."""

    def weights(name):
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def ln(x, name):
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), *weights(name), eps=1e-6).permute(0, 3, 1, 2)

    x = ln(F.conv2d(pixels, *weights("stem.0"), stride=4), "stem.1")
    for s, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
        if s:
            downsample = f"stages.{s}.downsample"
            x = F.conv2d(ln(x, f"{downsample}.0"), *weights(f"{downsample}.1"), stride=2)
        for b in range(depth):
            block = f"stages.{s}.blocks.{b}"
            y = F.conv2d(x, *weights(f"{block}.conv_dw"), padding=3, groups=width)
            y = F.linear(ln(y, f"{block}.norm").permute(0, 2, 3, 1), *weights(f"{block}.mlp.fc1"))
            y = F.linear(F.gelu(y), *weights(f"{block}.mlp.fc2")) * state[f"{block}.gamma"]
            x = x + y.permute(0, 3, 1, 2)
    pooled = F.layer_norm(x.mean((2, 3)), (WIDTHS[-1],), *weights("head.norm"), eps=1e-6)
    return F.normalize(pooled, dim=1)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_convert_sample4geo_gives_descriptors_of_source(prefix, tmp_path):
    state = timm_convnext(prefix) | {"logit_scale": torch.tensor(3.5)}
    torch.save(state, tmp_path / "weights.pth")
    convert("sample4geo", tmp_path / "weights.pth", tmp_path / "out")
    model = GenGeoModel.from_pretrained(tmp_path / "out")
    assert holds(model, state) and model.logit_scale.item() == 3.5
    pixels = torch.randn(2, 3, 140, 96)  # 140, the published ground height, is not a multiple of 32
    expected = convnext_forward(timm_convnext(""), pixels)
    assert torch.allclose(model(pixels).pooler_output, expected, atol=1e-5)


class RunsCode:
    def __reduce__(self):
        return (print, ("code from the file ran",))


def test_convert_of_wrong_file_raises_one_line_and_runs_no_code(tmp_path, capsys):
    (tmp_path / "code.pth").write_bytes(pickle.dumps(RunsCode()))
    torch.save({"code": RunsCode()}, tmp_path / "code.ckpt")
    torch.save({"epoch": 3}, tmp_path / "empty.ckpt")
    torch.save(hub_dinov2() | {"blocks.0.extra": random(3)}, tmp_path / "extra.pth")
    torch.save({k: v for k, v in hub_dinov2().items() if "blocks.1.ls1" not in k}, tmp_path / "missing.pth")
    torch.save(hub_dinov2() | {"norm.bias": random(3)}, tmp_path / "shape.pth")
    torch.save({k: v for k, v in hub_dinov2().items() if ".mlp." not in k}, tmp_path / "no-mlp.pth")
    torch.save(hub_dinov2() | {"patch_embed.proj.weight": random(3, 4)}, tmp_path / "flat.pth")
    for name, message in {
        "absent.pth": "is not a file",
        "code.pth": "cannot be read as tensors alone",
        "code.ckpt": "cannot be read as tensors alone",
        "empty.ckpt": "holds no tensors",
        "extra.pth": "has the unknown blocks.0.extra",
        "missing.pth": "misses encoder.layer.1.layer_scale1",
        "no-mlp.pth": "blocks.0.mlp.fc1.weight is missing",
        "flat.pth": "patch_embed.proj.weight has 2 axes, expected 4",
        "shape.pth": r"layernorm.bias has the shape \(3,\), expected \(64,\)",
    }.items():
        with pytest.raises(GenGeoError, match=message) as error:
            convert("dinov2", tmp_path / name, tmp_path / "out")
        assert "\n" not in str(error.value)
    for kind in ("dino-salad", "megaloc", "sample4geo"):
        with pytest.raises(GenGeoError, match=r"missing|misses|unknown"):
            convert(kind, tmp_path / "shape.pth", tmp_path / "out")
    torch.save(hub_dinov2() | {"aggregator.linear.bias": random(3)}, tmp_path / "half.pth")
    with pytest.raises(GenGeoError, match=r"misses aggregator\.linear\.weight"):
        convert("megaloc", tmp_path / "half.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists() and "ran" not in capsys.readouterr().out
    with pytest.raises(GenGeoError, match="unknown kind"):
        convert("resnet", tmp_path / "shape.pth", tmp_path / "out")


def test_convert_command_writes_checkpoint(tmp_path):
    from typer.testing import CliRunner

    from gengeo_hf.cli import gengeo

    torch.save(hub_dinov2(), tmp_path / "hub.pth")
    result = CliRunner().invoke(gengeo, ["convert", "dinov2", str(tmp_path / "hub.pth"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "config.json").is_file()
