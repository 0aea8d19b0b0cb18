"""Options of the training loop."""

import json
import math

import pytest
from accelerate.state import AcceleratorState

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.training import loop as train
from gengeo_hf.training.settings import load_settings
from tests.conftest import TINY
from tests.training.random_pairs import load_random_pairs


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train on random pairs and give the lines of the log."""
    monkeypatch.setattr(train, "load_pairs", load_random_pairs)
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"""
data: {{name: random, workers: 0, in_memory: true, ground_size: [28, 112], aerial_size: [56, 56]}}
model: {{config: {json.dumps({**TINY, "head_dropout": 0.3})}}}
sampling: {{batch_size: 16, neighbours: 8, pool: 16, gps_epochs: 1, mining_every: 1}}
optimisation: {{epochs: 2, learning_rate: 0.003, warmup: 0.1}}
evaluate_every: 2
log_every: 1
"""
    )

    def run(name, *overrides):
        AcceleratorState._reset_state(reset_partial_state=True)  # otherwise later runs have the precision of the first
        train.main(load_settings(config, [f"output={tmp_path / name}", *overrides]))
        return [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(lines):
    return [line["loss"] for line in lines if "loss" in line]


def test_gradient_checkpointing_gives_same_losses(run):
    plain = losses(run("plain"))
    assert losses(run("kept", "optimisation.gradient_checkpointing=true")) == pytest.approx(plain, abs=1e-5)


@pytest.mark.slow
def test_compile_gives_same_losses_and_plain_weights(run, tmp_path):
    still = "model.config.head_dropout=0.0"
    plain = losses(run("plain", still))
    assert losses(run("compiled", still, "optimisation.compile=aot_eager")) == pytest.approx(plain, abs=1e-3)
    assert Encoder.from_pretrained(tmp_path / "compiled" / "model", device="cpu").dim == TINY["descriptor_dim"]


def test_mixed_precision_bf16_has_finite_loss(run):
    assert all(math.isfinite(loss) for loss in losses(run("half", "optimisation.mixed_precision=bf16")))


def test_log_contains_shares_of_tables_and_throughput(run, capsys):
    lines = run(
        "dial",
        "sampling.random_share=0.25",
        "sampling.geographic_share=0.5",
        "sampling.mining_direction=both",
        "sampling.first_phase=random",
        "optimisation.learning_rate_batch=64",
    )
    first, second = ({k: v for k, v in line.items() if "batches/" in k} for line in lines if "batches/batches" in line)
    assert not any("share" in key for key in first), "the first phase is random"
    shares = {key: value for key, value in second.items() if "batches/share_" in key}
    assert set(shares) == {f"batches/share_{name}" for name in ("geographic", "visual", "visual_reverse")}
    assert shares["batches/share_geographic"] > max(shares["batches/share_visual"], 0)
    assert -1 <= second["batches/hardest_negative"] <= 1 and second["batches/nearest_negative_m"] > 0
    assert all(line["pairs_per_second"] > 0 and line["mfu"] > 0 for line in lines if "loss" in line)
    output = capsys.readouterr().out
    assert "batch_size is 16 and the learning rate 0.003 is for 64: it becomes 0.0015 (sqrt rule" in output
    assert "MFU (peak: " in output


def test_published_rules_and_tracker_run(run, tmp_path):
    lines = run("published", "sampling.protocol=sample4geo", "sampling.legacy_degrees=true", "tracker=tensorboard")
    assert len(losses(lines)) == 6
    assert list((tmp_path / "published").rglob("events.out.tfevents*"))


@pytest.mark.slow
def test_keep_frozen_gives_same_losses(run, capsys):
    few = ["model.config.trainable_blocks=1", "augment.options={flip: true, rotate: false}"]
    each = losses(run("each", *few, "sampling.keep_frozen=false"))
    assert "frozen blocks run once" not in capsys.readouterr().out
    assert losses(run("once", *few)) == pytest.approx(each, abs=1e-5)
    assert "frozen blocks run once" in capsys.readouterr().out
    parts = losses(run("parts", *few, "sampling.micro_batch=8"))
    assert parts == pytest.approx(
        losses(run("each-parts", *few, "sampling.micro_batch=8", "sampling.keep_frozen=false"))
    )
