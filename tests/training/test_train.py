"""The training loop on random pairs: learning, exact resume, error messages."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import TRAINING_RECORD, Encoder
from gengeo_hf.training import checkpoint
from gengeo_hf.training import loop as train
from gengeo_hf.training.settings import load_settings
from tests.conftest import TINY
from tests.training.random_pairs import load_random_pairs


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_pairs", load_random_pairs)
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"""
output: {tmp_path}/run
data: {{name: random, workers: 0, ground_size: [28, 112], aerial_size: [56, 56]}}
model: {{config: {json.dumps({**TINY, "head_dropout": 0.3})}}}
augment: {{options: {{flip: true, rotate: true}}}}
sampling: {{batch_size: 16, neighbours: 8, pool: 16, gps_epochs: 1, mining_every: 1}}
optimisation: {{epochs: 4, learning_rate: 0.003, warmup: 0.1}}
evaluate_every: 2
"""
    )

    def make(*overrides):
        return load_settings(config, list(overrides))

    return make


def weights(folder):
    return load_file(sorted(folder.glob("checkpoint-*"))[-1] / "model.safetensors")


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_train_writes_model_and_log(settings, tmp_path):
    result = train.main(settings("log_every=1"))
    folder = tmp_path / "run"
    assert 0 <= result["recall@1"] <= 1
    assert len(losses(folder)) == 12  # 4 epochs of 48 // 16 steps
    encoder = Encoder.from_pretrained(folder / "model", device="cpu")
    assert encoder.training_record["trained_on"] == "random/train"
    assert encoder.training_record["synthetic"] is False
    assert len(list(folder.glob("checkpoint-*"))) == checkpoint.KEPT
    assert json.loads((folder / "model" / TRAINING_RECORD).read_text())["settings"]["sampling"]["batch_size"] == 16
    assert not list(folder.rglob("*.pkl")) and not list(folder.rglob("*.bin")), "something could run code when loaded"


def test_train_lowers_loss(settings, tmp_path):
    train.main(settings("log_every=1", "optimisation.epochs=25", "evaluate_every=25", "augment.enabled=false"))
    curve = losses(tmp_path / "run")
    assert sum(curve[-5:]) / 5 < 0.75 * sum(curve[:5]) / 5


@pytest.mark.parametrize("stop_after", [(1, 0), (3, 0), (0, 2), (2, 1)], ids=str)
def test_train_resumed_run_gives_same_bits(settings, tmp_path, monkeypatch, stop_after):
    """Interrupted after an epoch, or after a batch inside an epoch with geographic or with mined neighbours."""
    train.main(settings(f"output={tmp_path}/whole", "log_every=1"))
    save = checkpoint.save

    def save_and_stop(*arguments):
        save(*arguments)
        if (arguments[4].epoch, arguments[4].batch) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train.main(settings(f"output={tmp_path}/broken", "log_every=1", "checkpoint_every=1"))
    monkeypatch.setattr(checkpoint, "save", save)
    train.main(settings(f"output={tmp_path}/broken", "log_every=1", "checkpoint_every=1"))
    for name, expected in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "broken")[name], expected), name
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    steps = [
        [(line["step"], line.get("epoch")) for line in map(json.loads, (tmp_path / run / "log.jsonl").open())]
        for run in ("whole", "broken")
    ]
    assert steps[0] == steps[1]


def test_train_finished_run_can_be_extended_not_shortened(settings, tmp_path, capsys):
    train.main(settings("optimisation.epochs=2", "log_every=1"))
    before = losses(tmp_path / "run")
    train.main(settings("optimisation.epochs=3", "log_every=1"))
    assert "a run of 2 epochs, which is extended" in capsys.readouterr().out
    assert losses(tmp_path / "run")[:6] == before and len(losses(tmp_path / "run")) == 9
    with pytest.raises(GenGeoError, match=r"contains a run with optimisation\.epochs=3, not 2"):
        train.main(settings("optimisation.epochs=2"))


def test_train_last_line_has_recall_in_percent(settings, capsys):
    result = train.main(settings("optimisation.epochs=1"))
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last.endswith(f"R@1 {100 * result['recall@1']:.1f}%")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.ground_size=[50,112]", "data.ground_size, data.aerial_size: "),
        ("data.aerial_size=[14,14]", "data.ground_size, data.aerial_size: "),
        ("model.init=/nonexistent/model", "model.init: there is no directory /nonexistent/model"),
        ("model.init={empty}", "cannot be loaded"),
        ("tracker=foo", "tracker=foo is unknown; Accelerate knows all, "),
        ("optimisation.compile=foo", "optimisation.compile=foo is unknown"),
        ("model.config.trainable_blocks=9", "trainable_blocks=9, but the backbone has"),
    ],
)
def test_train_invalid_settings_are_one_line(settings, tmp_path, override, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenGeoError) as caught:
        train.main(settings(override.format(empty=tmp_path / "empty")))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "offset"),
    [("optimizer.safetensors", -1000), ("model.safetensors", 20_000), ("neighbours-visual.parquet", 40)],
)
def test_resume_damaged_checkpoint_uses_previous_one(settings, tmp_path, capsys, name, offset):
    train.main(settings())
    expected = {
        key: value.clone() for key, value in weights(tmp_path / "run").items()
    }  # copies, since the file is memory-mapped
    newest = sorted((tmp_path / "run").glob("checkpoint-*"))[-1]
    file = newest / name
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content if offset > 0 else content[:offset])  # one changed bit, or a truncated file
    train.main(settings())
    assert f"{newest.name} cannot be read" in capsys.readouterr().out
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(value, expected[name])


def test_resume_other_settings_are_refused(settings, tmp_path):
    train.main(settings("optimisation.epochs=1"))
    with pytest.raises(GenGeoError, match="contains a run with sampling"):
        train.main(settings("optimisation.epochs=1", "sampling.batch_size=8"))


def test_resume_other_tiles_are_refused(settings, tmp_path, monkeypatch):
    """The same photos with new imagery: the stored neighbour tables contain tiles that do not exist."""
    train.main(settings("optimisation.epochs=1"))
    load = train.load_pairs

    def load_others(*arguments, **options):
        data = load(*arguments, **options)
        queries = data.queries.map(lambda row: {"positive": f"new-{row['positive']}"})
        return dataclasses.replace(
            data, queries=queries, gallery=data.gallery.map(lambda row: {"tile_id": f"new-{row['tile_id']}"})
        )

    monkeypatch.setattr(train, "load_pairs", load_others)
    with pytest.raises(GenGeoError, match="contains a run on other training data"):
        train.main(settings("optimisation.epochs=1"))


def test_resume_other_data_are_refused(settings, tmp_path, monkeypatch):
    """Also with random batches, for which no neighbour table with ids is stored."""
    options = [
        "optimisation.epochs=1",
        "sampling.neighbours=0",
        "sampling.mining_every=0",
        "sampling.first_phase=random",
    ]
    train.main(settings(*options))
    load = train.load_pairs

    def load_others(*arguments, **options):
        data = load(*arguments, **options)
        renamed = data.queries.map(lambda row: {"query_id": f"other-{row['query_id']}"})
        return dataclasses.replace(data, queries=renamed)

    monkeypatch.setattr(train, "load_pairs", load_others)
    with pytest.raises(GenGeoError, match="contains a run on other training data"):
        train.main(settings(*options))


def test_train_micro_batches_give_same_losses(settings, tmp_path):
    still = ["augment.enabled=false", "model.config.head_dropout=0.0", "log_every=1", "optimisation.epochs=2"]
    train.main(settings(f"output={tmp_path}/plain", *still))
    train.main(settings(f"output={tmp_path}/parts", "sampling.micro_batch=4", *still))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)


@pytest.mark.parametrize("log_every", [1, 1000])
def test_train_diverging_run_stops_and_saves_nothing(settings, tmp_path, log_every):
    """Also if the run ends before it writes a line to the log."""
    with pytest.raises(GenGeoError, match=r"lower optimisation\.learning_rate"):
        train.main(settings(f"log_every={log_every}", "optimisation.learning_rate=1e30", "optimisation.clip_norm=null"))
    assert not (tmp_path / "run" / "model").exists() and not list((tmp_path / "run").glob("checkpoint-*"))


def test_resume_ignores_partial_checkpoints(settings, tmp_path):
    train.main(settings("optimisation.epochs=2"))
    whole = sorted((tmp_path / "run").glob("checkpoint-*"))[-1]
    shutil.copytree(whole, whole.with_name(f".{whole.name}-abc"))
    train.main(settings("optimisation.epochs=2"))
    assert sorted((tmp_path / "run").glob("checkpoint-*"))[-1] == whole
