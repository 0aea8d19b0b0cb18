"""The loop: learning rates, log, evaluations and checkpoints of a short run, compared with a list made by hand."""

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.augment import Augmentation
from gengeo_hf.encoding.encoder import TRAINING_RECORD
from gengeo_hf.learning import sampler as sampler_module
from gengeo_hf.training import checkpoint, loop
from gengeo_hf.training.settings import Settings, load_settings
from tests.conftest import TINY
from tests.training.random_pairs import random_pairs


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings of 4 pairs in a batch, three batches in an epoch, and 4 epochs; with overrides."""
    monkeypatch.setattr(
        loop, "load_pairs", lambda name, root, split, **_: random_pairs(12 if split == "train" else 4, split == "train")
    )
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"""
output: {tmp_path}/run
seed: 7
data: {{name: random, in_memory: true, workers: 3, ground_size: [28, 112], aerial_size: [56, 56]}}
model: {{config: {json.dumps({**TINY, "head_dropout": 0.3})}}}
augment: {{options: {{flip: true, rotate: true}}}}
sampling: {{batch_size: 4, neighbours: 2, pool: 4, gps_epochs: 1, mining_every: 2}}
optimisation: {{epochs: 4, learning_rate: 0.002, final_learning_rate: 0.001, warmup: 0.25}}
"""
    )
    yield lambda *overrides: load_settings(config, list(overrides))
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def recalls(monkeypatch):
    """Replace evaluation by given recalls."""
    values = []

    def evaluate(encoder, validation, rules, encode):
        return SimpleNamespace(metrics={"recall@1": values.pop(0), "recall@5": 1.0, "gallery_size": 4})

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return values


@pytest.fixture
def saved(monkeypatch):
    """Record the progress of every checkpoint."""
    save, seen = checkpoint.save, []

    def recorded(*arguments):
        seen.append(dataclasses.astuple(arguments[4]))
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", recorded)
    return seen


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_train_short_run_equals_list_made_by_hand(settings, recalls, saved, tmp_path, monkeypatch, capsys):
    """4 epochs of 3 steps; the second evaluation (epoch 4) has the recall of the first one (epoch 2)."""
    seeds, augment = [], Augmentation.__call__
    monkeypatch.setattr(
        Augmentation, "__call__", lambda self, batch, seed: seeds.append(seed) or augment(self, batch, seed)
    )
    loaders, loader = [], loop.DataLoader
    monkeypatch.setattr(
        loop, "DataLoader", lambda *a, **given: loaders.append(given["num_workers"]) or loader(*a, **given)
    )
    recalls += [0.0, 0.0]
    more = ["log_every=2", "evaluate_every=2", "save_every=3", "checkpoint_every=2"]
    result = loop.main(settings(*more))
    assert result["recall@1"] == 0 and recalls == [] and loaders == [0]  # workers are for images that are not in memory
    assert seeds == [(7, step, 0) for step in range(12)]
    lines = lines_of(tmp_path / "run")
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [2, 4, 6, 8, 10, 12]
    cosine = [math.cos(math.pi * (step - 3) / 9) for step in range(12)]  # after 3 steps of warm-up
    rates = [0.002 * (step + 1) / 3 if step < 3 else 0.0015 + 0.0005 * cosine[step] for step in range(12)]
    assert [line["learning_rate"] for line in losses] == pytest.approx(rates[1::2])
    assert [(line["step"], line["epoch"]) for line in lines if "epoch" in line] == [(0, 1), (2, 2), (6, 3), (8, 4)]
    # (the step of the line before)
    assert [line["step"] for line in lines if "validation/recall@1" in line] == [6, 12]
    assert saved == [  # epoch, step, batch, best recall and its epoch
        (0, 2, 2, -1.0, 0),
        (1, 4, 1, -1.0, 0),
        (2, 8, 2, 0.0, 2),
        (3, 9, 0, 0.0, 2),
        (3, 10, 1, 0.0, 2),
        (4, 12, 0, 0.0, 2),
    ]
    record = json.loads((tmp_path / "run" / "model" / TRAINING_RECORD).read_text())
    assert record["epochs"] == 2, "a model that is as good does not replace the first one"
    out, err = capsys.readouterr()
    assert "epoch 1/4" in err and "None" not in out.splitlines()
    assert "weights of epoch 2, the best of 4, are in" in out


def test_train_rates_follow_the_share_of_a_shortened_epoch(settings, recalls, tmp_path, monkeypatch, capsys):
    """Two of three batches in an epoch: each stands for 1.5 steps of 6; the last epoch is evaluated and saved."""
    plan = sampler_module.plan_epoch

    def plan_with_fewer(*arguments, **options):
        planned = plan(*arguments, **options)
        return dataclasses.replace(planned, batches=planned.batches[:-1])

    monkeypatch.setattr(sampler_module, "plan_epoch", plan_with_fewer)
    monkeypatch.setattr(loop.PlateauWatch, "after_epoch", lambda self, losses: f"{len(losses)} losses")
    recalls += [0.25]
    loop.main(
        settings("optimisation.epochs=2", "optimisation.warmup=0", "log_every=1", "evaluate_every=3", "save_every=3")
    )
    rates = [line["learning_rate"] for line in lines_of(tmp_path / "run") if "loss" in line]
    # One step of warm-up, five of the cosine: steps 0, 1.5, 3 and 4.5 of 6
    expected = [0.002, *(0.0015 + 0.0005 * math.cos(math.pi * (step - 1) / 5) for step in (1.5, 3, 4.5))]
    assert rates == pytest.approx(expected)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00002"]
    assert capsys.readouterr().out.splitlines().count("3 losses") == 2  # of both steps, and again of the last one


def test_train_clips_gradients_to_norm_of_settings(settings, recalls, monkeypatch):
    clipped, clip = [], Accelerator.clip_grad_norm_
    monkeypatch.setattr(
        Accelerator,
        "clip_grad_norm_",
        lambda self, parameters, norm: clipped.append(norm) or clip(self, parameters, norm),
    )
    recalls += [0.25]
    loop.main(settings("optimisation.epochs=1", "optimisation.clip_norm=0.5"))
    assert clipped == [0.5] * 3


def test_train_sharpness_zero_has_the_steps_of_adamw(settings, recalls, tmp_path):
    recalls += [0.25, 0.25]
    for name, radius in (("plain", "null"), ("sharp", "0.0")):
        loop.main(settings(f"output={tmp_path / name}", "optimisation.epochs=1", f"optimisation.sharpness={radius}"))
    plain, sharp = (
        load_file(tmp_path / name / "checkpoint-00001" / "model.safetensors") for name in ("plain", "sharp")
    )
    assert all(torch.equal(value, sharp[name]) for name, value in plain.items())


def test_main_divides_global_batch_over_processes(settings, monkeypatch):
    """Each process gets an equal part of `sampling.batch_size` pairs, and an incomplete batch is not filled up."""
    seen = []
    monkeypatch.setattr(loop, "train", lambda given, accelerator: seen.append(accelerator) or {})
    loop.main(settings())
    assert seen[0].split_batches is True and seen[0].even_batches is False


@pytest.mark.parametrize(
    ("batch", "processes", "kind", "message"),
    [
        (6, 3, DistributedType.MULTI_GPU, None),
        (6, 1, DistributedType.NO, None),
        (6, 4, DistributedType.MULTI_GPU, "batch_size=6 cannot be divided among 4 processes"),
        (6, 3, DistributedType.FSDP, "Accelerate is configured for FSDP"),
        (6, 3, DistributedType.DEEPSPEED, "each device needs the whole model"),
    ],
)
def test_check_processes_need_equal_parts_and_whole_models(batch, processes, kind, message):
    settings = Settings(output="unused")
    settings.sampling.batch_size = batch
    accelerator = SimpleNamespace(num_processes=processes, distributed_type=kind)
    if message is None:
        loop.check_processes(settings, accelerator)
        return
    with pytest.raises(GenGeoError, match=message):
        loop.check_processes(settings, accelerator)
