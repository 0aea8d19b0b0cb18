"""Records of a run: the log, the summary, the exported model, the watch for a plateau."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.training import records
from gengeo_hf.training.checkpoint import Progress
from gengeo_hf.training.records import Log, PlateauWatch, export, run_lock, run_summary, training_record
from gengeo_hf.training.settings import Settings
from tests.training.random_pairs import random_pairs


def summary(epoch=0, **values):
    settings = Settings(output="run")
    settings.sampling.batch_size = values.pop("batch_size", 256)
    for name, value in values.items():
        setattr(settings.optimisation, name, value)
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    accelerator = SimpleNamespace(num_processes=4, device="cuda:0")
    return run_summary(settings, random_pairs(5), model, accelerator, 7, epoch)


def test_run_summary_counts_pairs_parameters_and_steps():
    expected = "random/train: 5 pairs, 5 tiles; 6 of 8 parameters are trained; 80 epochs of 7 steps on 4 x cuda:0"
    assert summary() == summary(learning_rate_batch=256) == expected
    assert summary(epoch=3) == f"{expected}; resuming after epoch 3"


def test_run_summary_names_learning_rate_of_another_batch_size():
    _, line = summary(batch_size=64, learning_rate_batch=16).splitlines()  # twice the learning rate
    assert line.startswith("batch_size is 64 and the learning rate 0.0001 is for 16: it becomes 0.0002 (sqrt rule")


def test_log_lines_have_step_time_and_values(tmp_path, monkeypatch):
    monkeypatch.setattr(records.time, "time", lambda: 1234.56)
    path = tmp_path / "new" / "run" / "log.jsonl"
    log = Log(path, Accelerator(cpu=True), Progress(step=4))
    log.write({"epoch": 1})
    log.write({"loss": 0.5}, step=5)
    log.write({"recall": 1.0})
    assert path.read_text() == (
        '{"step": 4, "time": 1234.6, "epoch": 1}\n'
        '{"step": 5, "time": 1234.6, "loss": 0.5}\n'
        '{"step": 5, "time": 1234.6, "recall": 1.0}\n'
    )
    Log(path, Accelerator(cpu=True), Progress(epoch=1, step=4))  # a directory that exists
    assert len(path.read_text().splitlines()) == 1


def test_log_of_another_process_is_not_written(tmp_path):
    other = SimpleNamespace(is_main_process=False, log=lambda values, step: None)
    Log(tmp_path / "log.jsonl", other, Progress()).write({"loss": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_plateau_watch_counts_consecutive_epochs():
    level = math.log(16)
    watch = PlateauWatch(16)
    stuck = [level - 0.01, level + 1]
    messages = [watch.after_epoch(losses) for losses in (stuck, [level - 0.1], stuck, stuck, stuck, [], stuck, stuck)]
    assert [message is not None for message in messages] == [False, False, False, True, False, False, False, True]
    assert "ln(batch) = 2.77 for two epochs" in messages[3]


def test_plateau_watch_limit_is_99_percent():
    watch = PlateauWatch(16)
    assert [watch.after_epoch([0.99 * math.log(16)]) for _ in range(2)] == [None, None]


@pytest.fixture
def group():
    """Two processes of which this one does not write; gives what the other one reports in a list."""
    other = [1.0]
    return other, SimpleNamespace(
        is_main_process=False,
        device=torch.device("cpu"),
        gather=lambda own: torch.cat([torch.tensor(other), own]),
        print=print,
    )


@pytest.mark.parametrize("written", [True, False])
def test_export_result_is_the_same_on_all_processes(group, tmp_path, written):
    other, accelerator = group
    other[0] = float(written)
    assert export(tmp_path / "model", accelerator, None, None, {}) is written
    assert not list(tmp_path.iterdir())


def test_export_to_an_unwritable_directory_is_reported(tiny_model, tiny_processor, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "model"
    assert export(target, Accelerator(cpu=True), tiny_model, tiny_processor, {}) is False
    assert f"{target} could not be written" in capsys.readouterr().out
    assert export(tmp_path / "model", Accelerator(cpu=True), tiny_model, tiny_processor, {"epochs": 2}) is True
    assert json.loads((tmp_path / "model" / records.TRAINING_RECORD).read_text()) == {"epochs": 2}


def test_training_record_has_data_settings_and_results():
    settings = Settings(output="run")
    settings.data.name = "table"
    result = {"recall@1": 0.5, "gallery_size": 5, "protocol": "all", "ranks": [1, 2]}
    record = training_record(settings, random_pairs(3), "random/validation", result, 2)
    assert record["trained_on"] == "random/train" and record["validated_on"] == "random/validation"
    assert record["epochs"] == 2 and record["synthetic"] is False
    assert record["results"] == {"recall@1": 0.5, "gallery_size": 5, "protocol": "all"}
    assert record["settings"]["sampling"]["batch_size"] == 256 and record["training_pairs"]


def test_log_with_truncated_lines_continues(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3}\n{"step": 2, "lo{"step": 3, "loss": 2}\n{"step": 4, "loss": 1}\n{"step": 9}\n{"st'
    )
    log = Log(path, Accelerator(cpu=True), Progress(step=4))
    log.write({"loss": 0.5}, step=5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 4, 5]


@pytest.mark.parametrize(
    ("progress", "kept"),
    [
        (Progress(epoch=1, step=3), [1, 2, 3]),  # the line of epoch 2 is written again
        (Progress(epoch=1, step=4, batch=1), [1, 2, 3, "epoch 2", 4]),
        (Progress(), []),
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
    level = math.log(16)
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
