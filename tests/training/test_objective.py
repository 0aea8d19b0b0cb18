"""Losses, terms and sharpness-aware steps, compared with slow formulas and plain runs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.registry import Registry
from gengeo_hf.data.augment import Augmentation
from gengeo_hf.data.view_checks import positions_in_tiles
from gengeo_hf.learning import Pairs, symmetric_info_nce
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.training import objective
from gengeo_hf.training.components import build_augmentation, build_model, build_pairs, build_processor
from gengeo_hf.training.objective import Objective, Term, build_objective, model_weights
from gengeo_hf.training.settings import Settings, load_settings
from gengeo_hf.training.step import backward_pass, build_optimizer
from tests.conftest import TINY, TINY_SIZES
from tests.training.random_pairs import load_random_pairs, random_pairs

SIZES = ["data.ground_size=[28,112]", "data.aerial_size=[56,56]", "data.auxiliary_size=[56,56]", "output=unused"]
BEV = "data.auxiliary_view=bev:56:0.5:2:70"


def some(*keys, config=None):
    path = config or Path(__file__).with_name("no_such.yaml")
    settings = load_settings(path, [*SIZES, *keys]) if config else Settings(output="unused")
    if not config:
        settings.data.ground_size, settings.data.aerial_size = [28, 112], [56, 56]
    return settings


def model_of(**changes):
    torch.manual_seed(0)
    return GenGeoModel(GenGeoConfig(**{**TINY, "head_dropout": 0.0, **changes}))


def batch_of(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"ground": (28, 112), "aerial": (56, 56), "auxiliary": (56, 56)}
    batch = {view: torch.randint(0, 256, (count, 3, *size), generator=generator) for view, size in shapes.items()}
    return {**batch, "position": torch.rand(count, 2, generator=generator), "query_row": torch.arange(count)}


def gradients(settings, micro_batch=None, **changes):
    """Return loss and gradients of one step, and the model, which is in training mode."""
    model = model_of(**changes).train()
    settings.sampling.micro_batch = micro_batch
    objective = build_objective(model, settings)
    processor = GenGeoImageProcessor(view_sizes=TINY_SIZES)
    pairs = Pairs(np.arange(6), np.full((6, 1), -1))
    torch.manual_seed(1)
    loss = backward_pass(batch_of(), Accelerator(cpu=True), model, model, processor, settings, pairs, objective)
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model


def with_terms(**terms):
    settings = some()
    settings.loss.terms, settings.data.auxiliary_view = terms, "bev:56:0.5:2:70"
    return settings


def test_objective_with_auxiliary_view_and_position_equals_formula():
    settings = with_terms(auxiliary_view={"weight": 0.1}, position={"weight": 0.05, "grids": [4, 2]})
    loss, found, model = gradients(settings, aggregator="mean", descriptor_dim=None)
    batch, processor = batch_of(), GenGeoImageProcessor(view_sizes=TINY_SIZES)
    mean, std = (torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std))
    outputs = {
        name: model((batch[name] / 255 - mean) / std, view="aerial" if name == "aerial" else "ground")
        for name in ("ground", "aerial", "auxiliary")
    }
    g, a, b = (outputs[name].pooler_output for name in ("ground", "aerial", "auxiliary"))
    scale = torch.tensor(math.log(1 / 0.07))
    expected = symmetric_info_nce(g, a, model.logit_scale, label_smoothing=0.1)
    for pair in ((g, b), (b, a)):
        expected = expected + 0.1 * symmetric_info_nce(*pair, scale, label_smoothing=0.1)
    cells, errors = outputs["aerial"].last_hidden_state[:, 1:].unflatten(1, (4, 4)), []
    for image in range(6):
        for query in (g[image], b[image]):
            for grid in (4, 2):
                step = 4 // grid
                pooled = cells[image].unflatten(0, (grid, step)).unflatten(2, (grid, step)).mean(dim=(1, 3))
                cosine = torch.nn.functional.cosine_similarity(pooled, query, dim=-1)
                share = (cosine.flatten() / 0.05).softmax(0).reshape(grid, grid)
                expected_cell = torch.stack(
                    [(share.sum(0) * torch.arange(grid)).sum(), (share.sum(1) * torch.arange(grid)).sum()]
                )
                errors.append((expected_cell - (batch["position"][image] * grid - 0.5)).norm())
    expected = expected + 0.05 * torch.stack(errors).sum() / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert {"objective.terms.auxiliary_view.ground_scale", "logit_scale"} <= found.keys()


@pytest.mark.parametrize(
    ("terms", "changes"),
    [
        ({"auxiliary_view": {}, "position": {"grids": [4]}}, {}),
        ({"pose": {"wrong_tiles": 2}}, {}),
        (
            {"counterfactual": {}},
            {
                "aggregator": "layout",
                "token_counts": {"ground": 16, "aerial": 16},
                "share_backbone": False,
                "share_aggregator": False,
            },
        ),
    ],
    ids=["auxiliary view and position", "pose", "counterfactual"],
)
def test_objective_micro_batches_give_gradient_of_batch(terms, changes):
    settings = with_terms(**terms)
    if "counterfactual" in terms:
        settings.loss.pair = "soft_triplet"
    whole, expected, _ = gradients(settings, **changes)
    parts, found, _ = gradients(settings, micro_batch=3, **changes)
    if "counterfactual" in terms:  # random layouts are drawn part by part
        assert parts.item() == pytest.approx(whole.item(), rel=0.05)
        assert expected.keys() - found.keys() == set()
        return
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_model_weights_exclude_parameters_of_objective(tmp_path):
    settings = with_terms(auxiliary_view={}, position={"grids": [4]})
    plain, trained = model_of().eval(), model_of()
    build_objective(trained, settings)
    assert any(name.startswith("objective.") for name in trained.state_dict())
    trained.save_pretrained(tmp_path, state_dict=model_weights(trained))
    again = GenGeoModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 28, 56)
    assert torch.equal(again(pixels).pooler_output, plain(pixels).pooler_output)
    assert again.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("adaptive", [True, False])
def test_sharpness_aware_step_equals_formula(adaptive):
    settings = some()
    settings.optimisation.sharpness, settings.optimisation.sharpness_adaptive = 0.3, adaptive
    layer = torch.nn.Linear(3, 2)
    optimizer, around = build_optimizer(layer, settings)
    inputs = torch.randn(5, 3)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    layer(inputs).square().sum().backward()
    grads = {name: p.grad.clone() for name, p in layer.named_parameters()}
    size = {name: value.abs() if adaptive else torch.ones_like(value) for name, value in before.items()}
    norm = torch.cat([(size[name] * grads[name]).flatten() for name in grads]).norm()
    around.first_step(zero_grad=True)
    for name, value in layer.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.3 * size[name] ** 2 * grads[name] / norm)
    layer(inputs).square().sum().backward()
    there = {name: p.grad.clone() for name, p in layer.named_parameters()}
    around.second_step()
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(before)
    for name, parameter in twin.named_parameters():
        parameter.grad = there[name]
    plain, _ = build_optimizer(twin, some())
    for group in plain.param_groups:
        group["lr"] = 0.01
    plain.step()
    for name, value in layer.named_parameters():
        torch.testing.assert_close(value, dict(twin.named_parameters())[name], msg=name)


@pytest.mark.slow
def test_sharpness_zero_equals_adamw(tmp_path, monkeypatch):
    from gengeo_hf.training import loop

    monkeypatch.setattr(loop, "load_pairs", load_random_pairs)
    weights = []
    for name in ("plain", "sharp"):
        settings = some()
        settings.output, settings.data.name, settings.data.workers = str(tmp_path / name), "random", 0
        settings.model.config = {**TINY, "head_dropout": 0.2}
        settings.sampling.batch_size, settings.sampling.first_phase, settings.sampling.mining_every = 16, "random", 0
        settings.sampling.neighbours, settings.optimisation.epochs = 0, 1
        settings.optimisation.sharpness = 0.0 if name == "sharp" else None
        loop.main(settings)
        weights.append(GenGeoModel.from_pretrained(tmp_path / name / "model").state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_augmentation_moves_position_with_image():
    """A bright pixel in the tile and in the bird's-eye view stays at the stated position."""
    batch = {"ground": torch.zeros(8, 3, 8, 8), "aerial": torch.zeros(8, 3, 8, 8), "auxiliary": torch.zeros(8, 3, 8, 8)}
    rows, columns = torch.arange(8), torch.tensor([5, 1, 2, 0, 7, 4, 3, 6])
    for view in ("ground", "aerial", "auxiliary"):
        batch[view][torch.arange(8), :, rows, columns] = 1.0
    batch["position"] = torch.stack([(columns + 0.5) / 8, (rows + 0.5) / 8], dim=1)
    seen = set()
    for seed in range(6):
        after = Augmentation(ground_is_map=True)(batch, (seed,))
        for view in ("ground", "aerial", "auxiliary"):
            spot = after[view][:, 0].flatten(1).argmax(dim=1)
            position = torch.stack([(spot % 8 + 0.5) / 8, (spot // 8 + 0.5) / 8], dim=1)
            torch.testing.assert_close(after["position"], position)
        seen |= {tuple(x) for x in after["position"].tolist()}
    assert len(seen) > 20, "pairs were rotated and mirrored"


def test_augmentation_rolls_polar_tiles_with_panoramas():
    generator = torch.Generator().manual_seed(0)
    views = torch.rand(8, 3, 4, 16, generator=generator)
    after = Augmentation(aerial_is_polar=True)({"ground": views, "aerial": views.clone()}, (3,))
    assert torch.equal(after["ground"], after["aerial"]) and not torch.equal(after["ground"], views)


def with_bounds(data):
    """Return the data with tiles around their photos, each photo at another position in its tile."""

    def around(row):
        aside = 2e-4 * int(row["tile_id"].rpartition("-")[2])
        west, south = row["lon"] - 1e-4 - aside, row["lat"] - 2e-4
        return {"west": west, "east": west + 1e-3, "south": south, "north": south + 1e-3}

    return type(data)(data.name, data.queries, data.gallery.map(around, features=data.gallery.features))


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        ("pbev_world", ["augment.options.fov=[90,90]"], "bird's-eye views and polar tiles need whole panoramas"),
        ("geodtr_world", ["augment.options.unknown_heading=true"], "fov and unknown_heading crop and roll panoramas"),
        ("auxgeo_world", ["augment.options.fov=[90,90]"], "needs whole panoramas: leave fov"),
        (
            "geodtr_vigor_same",
            ["augment.options.fov=[90,90]"],
            "which is fixed for the layout aggregator: leave fov out",
        ),
    ],
)
def test_build_augmentation_incompatible_options_are_refused(config, keys, message):
    with pytest.raises(GenGeoError, match=message):
        build_augmentation(load_settings(config, keys))


@pytest.mark.parametrize(
    ("config", "domain", "message"),
    [
        ("pbev_world", "photos", r"the view bev:70:0\.45:2\.0:70 needs panoramas, and 4 of 4 ground images"),
        ("auxgeo_world", "photos", "are ordinary photos or have an unknown field of view"),
        ("world_anywhere", "photos", r"loss\.terms\.pose needs panoramas, and 4 of 4 photos are none"),
        ("geodtr_world", "offcenter", "needs photos in the centre of their tiles, and"),
    ],
)
def test_build_pairs_data_without_required_views_are_refused(config, domain, message):
    data = random_pairs(4)
    if domain == "photos":
        queries = data.queries.map(lambda row: {"fov": 70.0}, features=data.queries.features)
        data = type(data)(data.name, queries, data.gallery)
    else:
        data = with_bounds(data)
    keys = ["loss.terms.pose={}"] if config == "world_anywhere" else ["loss.terms.position.centred=true"]
    settings = load_settings(config, keys)
    with pytest.raises(GenGeoError, match=message) as caught:
        build_pairs(settings, data, build_processor(settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair": "triplets"}, r"unknown pair loss 'triplets'.*did you mean 'soft_triplet'"),
        ({"pair": "soft_triplet", "options": {"margin": 1}}, "loss.options: .*margin"),
        ({"terms": {"positions": {}}}, "unknown term of the loss 'positions'"),
        ({"terms": {"position": {"grid": 3}}}, "loss.terms.position: .*grid"),
        ({"terms": {"position": {"grids": [12]}}}, "an aerial image has 4 x 4 tokens, and a grid cannot be finer"),
        ({"terms": {"counterfactual": {}}}, "needs an aggregator with a layout, such as layout; found salad"),
        ({"terms": {"auxiliary_view": {}}}, "set data.auxiliary_view"),
        ({"terms": {"pose": {"wrong_tiles": -1}}}, r"loss\.terms\.pose\.wrong_tiles must be at least 0, found -1"),
        ({"terms": {"pose": {"tile_m": 0}}}, r"loss\.terms\.pose\.tile_m must be positive, found 0"),
    ],
)
def test_objective_invalid_loss_settings_are_refused(change, message):
    settings = some()
    for name, value in change.items():
        setattr(settings.loss, name, value)
    with pytest.raises(GenGeoError, match=message):
        Objective(model_of(), settings)


def test_build_model_aerial_keep_without_init_is_refused():
    settings = load_settings("transgeo_world_zoom", ["model.init=null"])
    with pytest.raises(GenGeoError, match="needs a trained guide: set model"):
        build_model(settings)


def test_positions_in_tiles_follow_bounds():
    data = with_bounds(random_pairs(3))
    found, rows = positions_in_tiles(data), data.positive_rows()
    for query, row in enumerate(rows):
        photo, tile = data.queries[query], data.gallery[int(row)]
        x = (photo["lon"] - tile["west"]) / (tile["east"] - tile["west"])
        y = (tile["north"] - photo["lat"]) / (tile["north"] - tile["south"])
        assert found[query].tolist() == pytest.approx([x, y], abs=1e-4) and 0 <= min(x, y) <= max(x, y) <= 1


class Constant(Term):
    """A term of value 3 for every batch."""

    def encode(self, encode, model, part, outputs):
        return {}

    def loss(self, columns, pair_loss):
        return torch.tensor(3.0)


@pytest.mark.parametrize(("options", "weight"), [(None, 1.0), ({}, 1.0), ({"weight": 0.25}, 0.25)])
def test_objective_adds_weighted_terms_of_plugins(monkeypatch, options, weight):
    monkeypatch.setattr(objective, "TERMS", Registry("term of the loss", {"constant": Constant}))
    settings = some()
    settings.loss.terms = {"constant": options}
    two = {view: torch.eye(2, 24) for view in ("ground", "aerial")}
    scale = torch.tensor(math.log(4.0))
    plain = Objective(model_of(), some()).loss(two, scale, {}).item()
    # 1 - 0.1 / 2 of the target on the pair, logits 4 and 0
    assert plain == pytest.approx(math.log(1 + math.exp(-4)) + 0.05 * 4)
    assert Objective(model_of(), settings).loss(two, scale, {}).item() == pytest.approx(plain + 3 * weight)


@pytest.mark.parametrize("pair", ["info_nce", "soft_triplet"])
def test_objective_of_temperature_one_has_finite_gradient(pair):
    """A loss without temperature leaves it a gradient of zero."""
    settings = some()
    settings.loss.pair = pair
    scale = torch.zeros((), requires_grad=True)
    loss = Objective(model_of(), settings).loss({v: torch.eye(3, 24) for v in ("ground", "aerial")}, scale, {})
    loss.backward()
    assert math.isfinite(loss.item()) and (scale.grad == 0) == (pair == "soft_triplet")


def test_build_objective_without_parameters_adds_no_module():
    model = model_of()
    build_objective(model, some())
    assert not hasattr(model, "objective")
