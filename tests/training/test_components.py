"""Components of a run: model, processor, augmentation and source of pairs from the settings."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.utils import logging as library_logging

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import PairSource
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.training import components
from gengeo_hf.training.components import (
    ModelEma,
    build_augmentation,
    build_config,
    build_model,
    build_pairs,
    build_processor,
    check_backends,
    check_smallest_images,
    count_operations,
    start_head,
)
from gengeo_hf.training.settings import Settings
from tests.conftest import TINY
from tests.training.random_pairs import random_pairs
from tests.training.settings_with import settings_with

LAYOUT = {**TINY, "aggregator": "layout", "share_aggregator": False}


def some(**groups):
    sizes = {"data__ground_size": [28, 112], "data__aerial_size": [56, 56]}
    return settings_with(**{**sizes, "model__config": dict(TINY), **groups})


@pytest.mark.parametrize("values", [{}, {"tracker": "tensorboard"}, {"tracker": "all"}])
def test_check_backends_present_ones_are_accepted(monkeypatch, values):
    monkeypatch.setattr(components, "get_available_trackers", lambda: ["tensorboard"])
    for backend in (None, "inductor", "aot_eager"):
        check_backends(some(**values, optimisation__compile=backend))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tracker": "wandb"}, "tracker=wandb is not installed: pip install wandb, or use tensorboard"),
        ({"tracker": "paper"}, "tracker=paper is unknown; Accelerate knows all, .*wandb"),
        ({"optimisation__compile": "fast"}, "compile=fast is unknown; torch.compile knows .*inductor"),
    ],
)
def test_check_backends_others_are_refused(monkeypatch, values, message):
    monkeypatch.setattr(components, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(GenGeoError, match=message):
        check_backends(some(**values))


def test_build_config_token_counts_follow_image_sizes():
    """Patches of 14 pixels: 30 x 115 pixels hold 2 x 8 of them, 59 x 43 hold 4 x 3."""
    sizes = {"data__ground_size": [30, 115], "data__aerial_size": [59, 43]}
    assert build_config(some(model__config=LAYOUT, **sizes)).token_counts == {"ground": 16, "aerial": 12}
    given = {"ground": 5, "aerial": 6}
    assert build_config(some(model__config={**LAYOUT, "token_counts": given}, **sizes)).token_counts == given
    assert build_config(some(**sizes)).token_counts == GenGeoConfig(**TINY).token_counts  # SALAD takes any number
    config = {**LAYOUT, "backbone_config": {**TINY["backbone_config"], "patch_size": 7}}
    assert build_config(some(model__config=config, **sizes)).token_counts == {"ground": 4 * 16, "aerial": 8 * 6}


@pytest.mark.parametrize(("blocks", "fits"), [(None, True), (1, True), (2, True), (3, False)])
def test_build_model_trains_at_most_all_blocks(blocks, fits):
    settings = some(model__config={**TINY, "trainable_blocks": blocks})
    if fits:
        assert build_model(settings).config.trainable_blocks == blocks
        return
    with pytest.raises(GenGeoError, match="trainable_blocks=3, but the backbone has 2 blocks"):
        build_model(settings)


CONVNEXT = {
    "model_type": "convnext",
    "num_stages": 2,
    "depths": [1, 1],
    "hidden_sizes": [8, 16],
    "patch_size": 4,
    "image_size": 56,
}


@pytest.mark.parametrize("stated", [True, False])
def test_build_model_with_all_stages_of_a_checkpoint_loads_its_head(tmp_path, stated):
    """Also if the settings state the same number of stages as the checkpoint has."""
    fields = {**TINY, "aggregator": "mean", "backbone_config": CONVNEXT}
    torch.manual_seed(1)
    trained = build_model(some(model__config=fields))
    trained.save_pretrained(tmp_path)
    torch.manual_seed(2)
    wanted = fields if stated else {"descriptor_dim": 24}
    again = build_model(some(model__config=wanted, model__init=str(tmp_path)))
    for name, value in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_build_model_token_counts_are_of_the_patch_of_the_checkpoint(tmp_path):
    """Patches of 28 pixels in the checkpoint; those of the default backbone have 14."""
    fields = {**LAYOUT, "backbone_config": {**TINY["backbone_config"], "patch_size": 28, "image_size": 140}}
    settings = some(model__config=fields, data__ground_size=[56, 112], data__aerial_size=[56, 84])
    build_model(settings).save_pretrained(tmp_path)
    settings.model.config = {"aggregator": "layout", "share_aggregator": False}
    settings.model.init = str(tmp_path)
    assert build_model(settings).config.token_counts == {"ground": 2 * 4, "aerial": 2 * 3}


@pytest.mark.parametrize("own", [True, False])
def test_build_model_reports_of_transformers_are_hidden_for_own_checkpoints(monkeypatch, tmp_path, tiny_model, own):
    """Of a plain backbone, the report states which weights are new."""
    saved = tiny_model if own else tiny_model.backbone
    if own:
        saved.save_pretrained(tmp_path)
    else:
        with pytest.warns(UserWarning, match="a checkpoint of the backbone alone"):
            saved.save_pretrained(tmp_path)
    before, during = library_logging.get_verbosity(), []
    monkeypatch.setattr(
        GenGeoModel,
        "from_pretrained",
        lambda *_, **__: during.append(library_logging.get_verbosity()) or tiny_model,
    )
    build_model(some(model__init=str(tmp_path)))
    assert during == [library_logging.ERROR if own else before] and library_logging.get_verbosity() == before


@pytest.mark.parametrize(
    ("enabled", "options", "factor"),
    [
        (True, {}, 1.0),
        (True, {"flip": True}, 1.0),
        (True, {"input_scales": [1.0, 0.5]}, 0.625),  # mean of 1 and 1/4 of the pixels
        (False, {"input_scales": [1.0, 0.5]}, 1.0),
    ],
)
def test_count_operations_follow_input_scales(monkeypatch, enabled, options, factor):
    monkeypatch.setattr(components, "training_flops", lambda *_: 1000.0)
    settings = some(augment__enabled=enabled, augment__options=options)
    assert count_operations(None, None, None, settings) == pytest.approx(1000 * factor)


class Pairs:
    """A source of pairs without images, which records the rows that are read."""

    def __init__(self, count):
        self.count, self.reads = count, []

    def __len__(self):
        return self.count

    def __getitems__(self, rows):
        self.reads.append(rows)
        return {view: torch.zeros(len(rows), 3, 14, 14) for view in ("ground", "aerial")}


@pytest.mark.parametrize(("count", "rows"), [(1000, 250), (100, 100)])
def test_start_head_reads_250_pairs_over_the_whole_table(monkeypatch, tiny_processor, count, rows):
    batches = []
    monkeypatch.setattr(components, "start_netvlad", lambda model, images, **_: batches.extend(images))
    model, pairs = SimpleNamespace(config=SimpleNamespace(aggregator="netvlad", share_aggregator=True)), Pairs(count)
    assert start_head(model, some(), pairs, tiny_processor) is True
    read = np.concatenate(pairs.reads)
    assert len(read) == rows and read[0] == 0 and read[-1] == count - 1 and (np.diff(read) > 0).all()
    assert all(0 < len(part) <= 25 for part in pairs.reads)  # images in memory
    assert len(batches) == 2 * len(pairs.reads) and sum(len(batch) for batch in batches) == 2 * rows


def test_start_head_of_a_checkpoint_without_netvlad_is_initialised(monkeypatch, tmp_path, tiny_model, tiny_processor):
    tiny_model.save_pretrained(tmp_path)
    heads = []
    monkeypatch.setattr(components, "start_netvlad", lambda model, images, **given: heads.append(given.get("view")))
    model = SimpleNamespace(config=SimpleNamespace(aggregator="netvlad", share_aggregator=False))
    assert start_head(model, some(model__init=str(tmp_path)), Pairs(30), tiny_processor) is True
    assert heads == ["ground", "aerial"]


def test_build_processor_has_sizes_and_transforms_of_settings():
    plain = build_processor(some(data__aerial_size=[56, 84]))
    assert plain.view_sizes == {"ground": {"height": 28, "width": 112}, "aerial": {"height": 56, "width": 84}}
    assert plain.view_transforms is None
    assert build_processor(some(data__aerial_view="polar:56x84")).view_transforms == {"aerial": "polar:56x84"}
    with pytest.raises(GenGeoError, match=r"^data: "):
        build_processor(some(data__auxiliary_view="upside-down:3"))


def with_bounds(data):
    def around(row):
        bounds = {"west": row["lon"] - 1e-4, "east": row["lon"] + 3e-4}
        return {**bounds, "south": row["lat"] - 1e-4, "north": row["lat"] + 3e-4}

    return dataclasses.replace(data, gallery=data.gallery.map(around, features=data.gallery.features))


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({}, False),
        ({"position": None}, True),
        ({"position": {"weight": 1.0}}, True),
        ({"position": {"centred": False}}, True),
        ({"position": {"centred": True}}, False),
        ({"counterfactual": {}}, False),
    ],
)
def test_build_pairs_have_positions_if_a_term_needs_them(tiny_processor, terms, expected):
    pairs = build_pairs(some(loss__terms=terms), with_bounds(random_pairs(2)), tiny_processor)
    batch = pairs.__getitems__([1, 0])
    assert ("position" in batch) == expected and "auxiliary" not in batch
    if expected:
        torch.testing.assert_close(batch["position"], torch.tensor([[0.25, 0.75]] * 2), atol=1e-3, rtol=0)


def test_build_pairs_auxiliary_view_has_its_own_size(tiny_processor):
    settings = some(data__auxiliary_view="bev:56:0.5:2:70", data__auxiliary_size=[42, 56])
    batch = build_pairs(settings, random_pairs(2), tiny_processor).__getitems__([0, 1])
    assert batch["auxiliary"].shape == (2, 3, 42, 56) and "position" not in batch


def test_build_augmentation_follows_views_and_options():
    options = {"flip": False, "colour": 0.15}
    plain = build_augmentation(some(augment__options=options))
    assert (plain.flip, plain.rotate, plain.colour, plain.multiple_of) == (False, True, 0.15, 14)
    assert (plain.ground_is_map, plain.aerial_is_polar) == (False, False)
    ground = build_augmentation(some(augment__options=options, data__ground_view="bev:56:0.5:2:70"))
    assert (ground.ground_is_map, ground.aerial_is_polar) == (True, False)
    aerial = build_augmentation(some(augment__options=options, data__aerial_view="polar:56x84"))
    assert (aerial.ground_is_map, aerial.aerial_is_polar) == (False, True)
    for values in ({}, {"augment__options": options, "augment__enabled": False}):
        assert build_augmentation(some(**values)) is None


def test_build_augmentation_auxiliary_view_needs_known_headings():
    auxiliary = {"data__auxiliary_view": "bev:56:0.5:2:70"}
    assert build_augmentation(some(augment__options={"flip": True}, **auxiliary)).flip
    with pytest.raises(GenGeoError, match="needs whole panoramas: leave fov and unknown_heading out"):
        build_augmentation(some(augment__options={"unknown_heading": True}, **auxiliary))
    assert build_augmentation(some(augment__options={"unknown_heading": True})).unknown_heading


@pytest.mark.parametrize(("decay", "fits"), [(-0.1, False), (0.0, False), (1e-6, True), (0.999, True), (1.0, False)])
def test_model_ema_decay_lies_between_0_and_1(decay, fits):
    layer = torch.nn.Linear(1, 1)
    if fits:
        assert ModelEma(layer, decay).decay == decay
        return
    with pytest.raises(GenGeoError, match="must lie between 0 and 1"):
        ModelEma(layer, decay)


def test_model_ema_forgets_initial_weights_early():
    """Weights of 0, then of 1: the decay of the first two steps is 2 / 11 and 3 / 12, below the limit of 0.9."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    ema = ModelEma(layer, 0.9)
    torch.nn.init.ones_(layer.weight)
    ema.update(1)
    assert ema.values["weight"].item() == pytest.approx(9 / 11)
    ema.update(2)
    assert ema.values["weight"].item() == pytest.approx(1 - 2 / 11 * 3 / 12)
    torch.nn.init.zeros_(layer.weight)
    ema.update(1000)
    assert ema.values["weight"].item() == pytest.approx(0.9 * (1 - 2 / 11 * 3 / 12))


def test_model_ema_equals_recursion_and_keeps_weights():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    ema = ModelEma(model, 0.9)
    expected = model.weight.detach().double().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert list(ema.values) == ["weight"]
    trained = model.weight.detach().clone()
    with ema.applied():
        torch.testing.assert_close(model.weight.detach().double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(model.weight, trained)
    with pytest.raises(GenGeoError, match="between 0 and 1"):
        ModelEma(model, 1.0)


def test_build_augmentation_unknown_option_is_one_line():
    settings = some(augment__options={"blur": 0.3})
    with pytest.raises(GenGeoError, match="no 'blur'; expected one of flip"):
        build_augmentation(settings)


def test_build_augmentation_widths_are_multiples_of_patch():
    settings = Settings(output="x")
    settings.augment.options = {"fov": [90, 90]}
    augment = build_augmentation(settings, patch=16)
    batch = {"ground": torch.zeros(2, 3, 160, 768), "aerial": torch.zeros(2, 3, 64, 64)}
    assert augment(batch, seed=(0, 0, 0))["ground"].shape[-1] % 16 == 0


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"fov": [60, 360]}, "ground images as small as 28 x 14 pixels, 2 tokens, and the head needs at least 4"),
        ({"input_scales": [0.5, 1]}, "aerial images as small as 14 x 14 pixels, 1 tokens"),
        ({"fov": [90, 360], "input_scales": [1]}, None),
    ],
)
def test_check_smallest_images_too_few_tokens_are_refused(options, refused):
    settings = some(data__ground_size=[28, 112], data__aerial_size=[28, 28])
    settings.model.config, settings.augment.options = {**TINY, "num_clusters": 3}, options
    model, processor, augment = build_model(settings), build_processor(settings), build_augmentation(settings)
    batch = {"ground": torch.zeros(1, 3, 28, 112), "aerial": torch.zeros(1, 3, 28, 28)}
    for view in ("ground", "aerial"):  # `smallest` is the smallest size that occurs
        least = min(tuple(augment(batch, seed=(0, step))[view].shape[-2:]) for step in range(40))
        assert augment.smallest(view, *batch[view].shape[-2:]) == least
    if refused is None:
        check_smallest_images(augment, model, processor)
    else:
        with pytest.raises(GenGeoError, match=refused):
            check_smallest_images(augment, model, processor)


@pytest.mark.parametrize("shared", [True, False])
def test_start_head_initialises_new_netvlad_only(shared, tmp_path):
    settings = some(data__ground_size=[28, 112], data__aerial_size=[56, 56])
    settings.model.config = {**TINY, "aggregator": "netvlad", "share_aggregator": shared}
    processor = build_processor(settings)
    pairs = PairSource(random_pairs(30), processor)
    torch.manual_seed(0)
    model = build_model(settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_head(model, settings, pairs, processor)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    heads = ["shared"] if shared else ["ground", "aerial"]
    assert {name.split(".")[1] for name in changed if "centroids" in name} == set(heads)
    assert all(name.startswith("heads.") for name in changed)
    model.save_pretrained(tmp_path)
    settings.model.init = str(tmp_path)
    trained = build_model(settings)
    assert not start_head(trained, settings, pairs, processor)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in trained.state_dict().items())
    settings.model.config = {**TINY}
    settings.model.init = None
    assert not start_head(build_model(settings), settings, pairs, processor)
