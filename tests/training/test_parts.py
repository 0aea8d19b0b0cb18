"""Components of the training loop, compared with formulas and slow counts."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from gengeo_hf.common import files
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import PairSource
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.learning import Pairs
from gengeo_hf.training import checkpoint
from gengeo_hf.training.batches import (
    batch_rules,
    coverage_mask,
    geographic_table,
    last_photo_of_a_tile,
    neighbour_tables,
    table_shares,
    training_pairs,
)
from gengeo_hf.training.components import (
    ModelEma,
    build_augmentation,
    build_model,
    build_processor,
    check_smallest_images,
    start_head,
)
from gengeo_hf.training.descriptors import encode_distributed, gather_parts
from gengeo_hf.training.records import Log, PlateauWatch, run_lock
from gengeo_hf.training.schedule import learning_rate, rate_factor
from gengeo_hf.training.settings import Sampling, Settings
from gengeo_hf.training.step import semi_positive_masks
from gengeo_hf.training.throughput import Meter, card_of, training_flops
from tests.conftest import TINY
from tests.training.random_pairs import random_pairs


def some(**groups):
    settings = Settings(output="unused")
    for key, value in groups.items():
        group, _, name = key.partition("__")
        setattr(getattr(settings, group), name, value)
    return settings


@pytest.mark.parametrize(("rule", "factor"), [("sqrt", 0.5), ("linear", 0.25), ("none", 1.0)])
def test_learning_rate_follows_batch_rule(rule, factor):
    settings = some(
        sampling__batch_size=64,
        optimisation__learning_rate_batch=256,
        optimisation__batch_rule=rule,
        optimisation__warmup=0.1,
    )
    assert rate_factor(settings) == factor
    rates = [learning_rate(step, 100, settings) for step in range(101)]
    assert max(rates) == rates[10] == pytest.approx(1e-4 * factor)
    assert rates[0] == pytest.approx(1e-5 * factor) and rates[55] == pytest.approx(0.5e-4 * factor)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    # In an epoch with fewer batches than possible, a batch counts as more than one step.
    assert max(learning_rate(1.9 * step, 100, settings) for step in range(53)) <= max(rates)
    settings.optimisation.learning_rate_batch = None
    assert rate_factor(settings) == 1


def test_coverage_mask_equals_slow_count():
    rng = np.random.default_rng(0)
    tiles, semi = rng.integers(0, 12, 30), rng.integers(-1, 12, (30, 3))
    rows = rng.permutation(30)[:10]
    mask = coverage_mask(Pairs(tiles, semi), rows)
    for i, photo in enumerate(rows):
        for j, other in enumerate(rows):
            assert mask[i, j] == (tiles[other] == tiles[photo] or tiles[other] in semi[photo])


@pytest.mark.parametrize(
    ("kind", "name"), [("banned", "ignored"), ("ignored", "ignored"), ("positive", "positives"), ("negative", None)]
)
def test_semi_positive_masks_follow_setting(kind, name):
    pairs = Pairs(np.arange(4), np.array([[1], [-1], [3], [-1]]))
    settings = some(sampling__semi_positives=kind)
    masks = semi_positive_masks({"query_row": torch.arange(4)}, Accelerator(cpu=True), settings, pairs)
    assert list(masks) == ([name] if name else [])
    if name:
        expected = torch.eye(4, dtype=torch.bool)
        expected[0, 1] = expected[2, 3] = True
        assert torch.equal(masks[name], expected)
    assert not semi_positive_masks({"query_row": torch.tensor([1, 3])}, Accelerator(cpu=True), settings, pairs)


def test_table_shares_divide_geographic_and_visual():
    names = dict.fromkeys(("geographic", "visual", "visual_reverse"))
    settings = some(sampling__geographic_share=0.2)
    assert table_shares(settings, {"geographic": None}) == [1.0]
    assert table_shares(settings, {"visual": None}) == [1.0]
    assert table_shares(settings, names) == pytest.approx([0.2, 0.4, 0.4])
    assert table_shares(settings, {}) == []


def test_last_photo_of_a_tile_shares_row():
    table = np.arange(8).reshape(4, 2)
    assert last_photo_of_a_tile(Pairs(np.array([0, 1, 0, 1])), table).tolist() == [[4, 5], [6, 7], [4, 5], [6, 7]]


def test_log_with_truncated_lines_continues(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3}\n{"step": 2, "lo{"step": 3, "loss": 2}\n{"step": 4, "loss": 1}\n{"step": 9}\n{"st'
    )
    log = Log(path, Accelerator(cpu=True), checkpoint.Progress(step=4))
    log.write({"loss": 0.5}, step=5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 4, 5]


@pytest.mark.parametrize(
    ("progress", "kept"),
    [
        (checkpoint.Progress(epoch=1, step=3), [1, 2, 3]),  # the line of epoch 2 is written again
        (checkpoint.Progress(epoch=1, step=4, batch=1), [1, 2, 3, "epoch 2", 4]),
        (checkpoint.Progress(), []),
    ],
)
def test_log_after_resume_has_every_line_once(tmp_path, progress, kept):
    path = tmp_path / "log.jsonl"
    lines = [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 3, "epoch": 2}, {"step": 4}, {"step": 5}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    Log(path, Accelerator(cpu=True), progress)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [f"epoch {line['epoch']}" if "epoch" in line else line["step"] for line in found] == kept


def test_plateau_watch_warns_once():
    watch = PlateauWatch(16)
    level = np.log(16)
    assert watch.after_epoch([level, level + 0.1]) is None
    assert "all descriptors are nearly equal" in watch.after_epoch([level]) and watch.after_epoch([level]) is None
    watch = PlateauWatch(16)
    assert [watch.after_epoch([level, level - 0.3]) for _ in range(3)] == [None] * 3


def test_run_lock_second_run_is_refused(tmp_path):
    accelerator = Accelerator(cpu=True)
    with (
        run_lock(tmp_path / "run", accelerator),
        pytest.raises(GenGeoError, match="another run is writing to"),
        run_lock(tmp_path / "run", accelerator),
    ):
        pass
    with run_lock(tmp_path / "run", accelerator):
        pass
    assert not (tmp_path / "run").exists()  # made for the lock, and empty


@pytest.mark.parametrize("start", [100.0, 121.5, 99.0])
def test_clamp_scale_temperature_at_bound_can_decrease(start):
    """With random descriptors the scale must decrease from any initial value."""
    from gengeo_hf.learning import symmetric_info_nce
    from gengeo_hf.learning.loss import MAX_SCALE, clamp_scale

    generator = torch.Generator().manual_seed(0)
    ground, aerial = (torch.nn.functional.normalize(torch.randn(16, 8, generator=generator)) for _ in range(2))
    scale = torch.nn.Parameter(torch.tensor(start).log())
    clamp_scale(scale)
    optimizer = torch.optim.AdamW([scale], lr=0.01, weight_decay=0)
    for _ in range(50):
        optimizer.zero_grad()
        symmetric_info_nce(ground, aerial, scale).backward()
        optimizer.step()
        clamp_scale(scale)
        assert scale.exp() <= MAX_SCALE * (1 + 1e-6)
    assert scale.exp() < 70


def test_seed_step_differs_by_step_and_process_and_repeats():
    from gengeo_hf.training.step import seed_step

    drawn = {}
    for key in ((0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)):
        seed_step(*key)
        drawn[key] = torch.rand(1).item()
        seed_step(*key)
        assert torch.rand(1).item() == drawn[key]
    assert len(set(drawn.values())) == 4


def test_resume_restores_model_after_kill_between_renames(tmp_path):
    old = tmp_path / f".model{files.OLD}x" / "model"  # moved aside by `atomic_folder` without an exchange
    old.mkdir(parents=True)
    (old / "weights").write_text("best")
    (tmp_path / f".model{files.NEW}y").mkdir()
    model = torch.nn.Linear(1, 1)
    progress, _ = checkpoint.resume(
        tmp_path, Accelerator(cpu=True), model, torch.optim.AdamW(model.parameters()), {}, ([], [])
    )
    assert progress.epoch == 0 and [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "best"


def test_batch_rules_too_few_tiles_are_refused():
    settings = Settings(sampling=Sampling(batch_size=4, min_negative_distance_m=10.0))
    with pytest.raises(GenGeoError, match="5 training pairs of 3 tiles cannot fill a batch of 4"):
        batch_rules(settings, Pairs(np.array([0, 0, 1, 2, 2])))
    with pytest.raises(GenGeoError, match="needs the position"):
        batch_rules(settings, Pairs(np.arange(4)))
    assert batch_rules(settings, Pairs(np.arange(4), lat_lon=np.zeros((4, 2)))).batch_size == 4


def test_geographic_table_uses_positions_of_photos():
    data = random_pairs(5)  # positions 0..4 in a row, 0.001 degrees apart
    gallery = data.gallery.map(lambda _: {"lat": None, "lon": None}, features=data.gallery.features)
    data = dataclasses.replace(data, gallery=gallery)
    table = geographic_table(data, training_pairs(data), 2, legacy_degrees=False)
    assert [set(row) for row in table.tolist()] == [{1, 2}, {0, 2}, {1, 3}, {2, 4}, {2, 3}]


@pytest.mark.parametrize("lost", [True, False])
def test_neighbour_tables_without_positions_print_note(lost, capsys):
    data = random_pairs(6)
    nowhere = {"lat": None, "lon": None}
    queries = data.queries.map(lambda _: nowhere, features=data.queries.features)
    gallery = data.gallery.map(lambda _, row: nowhere if row in (1, 4) and lost else {}, with_indices=True)
    data = dataclasses.replace(data, queries=queries, gallery=gallery.cast(data.gallery.features))
    tables = {}
    neighbour_tables(some(sampling__pool=2), 1, data, training_pairs(data), tables, Accelerator(cpu=True), None)
    assert list(tables) == ([] if lost else ["geographic"])
    assert ("2 training tiles and their photos have no position" in capsys.readouterr().out) == lost


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


def slowly(items, seconds):
    for item in items:
        time.sleep(seconds)
        yield item


def test_training_flops_decrease_with_frozen_blocks_and_restore_state(tiny_config):
    from gengeo_hf.model import GenGeoModel

    accelerator, settings = Accelerator(cpu=True), some(data__ground_size=[28, 112], data__aerial_size=[56, 56])
    flops = {}
    for blocks in (None, 1, 0):
        tiny_config.trainable_blocks = blocks
        model = GenGeoModel(tiny_config).eval()
        state = torch.get_rng_state()
        flops[blocks] = training_flops(model, build_processor(settings), accelerator)
        assert torch.equal(torch.get_rng_state(), state) and not model.training
        assert all(parameter.grad is None for parameter in model.parameters())
    assert flops[None] > flops[1] > flops[0]


def test_training_flops_of_linear_model_equal_formula(tiny_processor):
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(3, 8, bias=False), torch.nn.Linear(8, 4, bias=False)

        def forward(self, pixels, view):
            found = self.second(self.first(pixels.flatten(2).mT)).mean(dim=1)
            return type("Output", (), {"pooler_output": found})

    sizes = tiny_processor.view_sizes
    tokens = sum(size["height"] * size["width"] for size in sizes.values())
    expected = tokens * (6 * (3 * 8 + 8 * 4) - 2 * 3 * 8)  # the input needs no gradient
    assert training_flops(Linear(), tiny_processor, Accelerator(cpu=True)) == expected


def test_meter_reads_rate_mfu_and_waiting():
    meter = Meter(1e6, Accelerator(cpu=True))
    meter.pairs = 10
    read = meter.read()
    assert read["share_waiting"] == 0
    assert list(meter.watch(slowly([1, 2], 0.05))) == [1, 2]
    meter.pairs = 2
    assert meter.read()["share_waiting"] > 0.9 and "of the time waiting for images" in meter.summary()
    assert read["mfu"] == pytest.approx(read["pairs_per_second"] * 1e6 / meter.peak)


@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_gather_parts_concatenates_processes_in_order(monkeypatch, count):
    from gengeo_hf.training import descriptors

    monkeypatch.setattr(descriptors, "_GATHERED_ROWS", 3)
    whole, processes = np.arange(2 * count, dtype=np.float32).reshape(count, 2), 3
    share = -(-count // processes)
    parts = [whole[rank * share : (rank + 1) * share] for rank in range(processes)]

    class Group:
        num_processes, device = processes, torch.device("cpu")
        first = 0

        def gather(self, own):
            out = torch.zeros(processes * len(own), 2)
            for rank, part in enumerate(parts):
                some = part[self.first : self.first + len(own)]
                out[rank * len(own) : rank * len(own) + len(some)] = torch.from_numpy(some)
            self.first += len(own)
            return out

    np.testing.assert_array_equal(gather_parts(parts[0], count, share, Group()), whole)


@pytest.mark.parametrize("rows", [[3, 1, 2], list(range(16))])
def test_encode_distributed_rows_equal_encoder(tiny_model, tiny_processor, rows):
    from gengeo_hf.data.loading import AerialImages

    images = AerialImages(random_pairs(16))
    encoder = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=5)
    found = encode_distributed(images, "aerial", Accelerator(cpu=True), encoder, np.array(rows))
    np.testing.assert_allclose(found, encoder.encode([images[row] for row in rows], "aerial"), atol=1e-5)


def test_encode_distributed_broken_image_is_one_line(tiny_model, tiny_processor):
    from gengeo_hf.data.loading import GroundImages

    data = random_pairs(3)
    rows = data.queries.to_list()
    rows[1]["ground"] = {"bytes": b"nothing", "path": None}
    data = dataclasses.replace(data, queries=type(data.queries).from_list(rows, features=data.queries.features))
    encoder = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=2)
    with pytest.raises(GenGeoError, match=r"^ground image of row 1: the image of 7 bytes is not an image"):
        encode_distributed(GroundImages(data), "ground", Accelerator(cpu=True), encoder, np.arange(3))


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti"),
    ],
)
def test_card_of_matches_whole_names(device, card):
    assert card_of(device) == card


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
