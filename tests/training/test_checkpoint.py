"""Checkpoints of a small layer: what they contain, what a resumed run reads, which ones are refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gengeo_hf.common import files
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.training import checkpoint
from gengeo_hf.training.checkpoint import Progress
from gengeo_hf.training.settings import as_dict
from tests.training.settings_with import settings_with

IDS = (["photo-a", "photo-b", "photo-c"], ["tile-0", "tile-1", "tile-2", "tile-3"])
TABLE = np.array([[0, 3], [1, -1], [2, 0]], dtype=np.int32)


class Scaler:
    """State of a gradient scaler of float16."""

    def __init__(self, scale):
        self.state = {"scale": scale}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def process(count=1, scaler=None, is_main=True):
    """Return what checkpoints use of an accelerator."""
    return SimpleNamespace(
        num_processes=count, scaler=scaler, is_main_process=is_main, print=print, wait_for_everyone=lambda: None
    )


def trained(steps=2, width=3):
    """Return a layer after some steps of AdamW."""
    torch.manual_seed(steps)
    layer = torch.nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(steps):
        layer(torch.ones(1, width)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return layer, optimizer


def settings(**values):
    return as_dict(settings_with(**values))


@pytest.fixture
def save(tmp_path):
    def write(progress, accelerator=None, steps=2, given=None, ema=None):
        accelerator = accelerator or process()
        tables = {"visual": TABLE}
        layer, optimizer = trained(steps)
        checkpoint.save(tmp_path, accelerator, layer, optimizer, progress, given or settings(), tables, IDS, ema)
        return layer, optimizer

    return write


@pytest.fixture
def resume(tmp_path):
    def read(accelerator=None, given=None, ids=IDS, ema=None, width=3):
        layer, optimizer = trained(0, width)
        progress, tables = checkpoint.resume(
            tmp_path, accelerator or process(), layer, optimizer, given or settings(), ids, ema
        )
        return progress, tables, layer, optimizer

    return read


def test_resume_gives_the_saved_state(save, resume, tmp_path, capsys):
    layer, optimizer = save(Progress(epoch=1, step=7, batch=2, best_recall=0.5, best_epoch=1))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00001-0000002"]
    progress, tables, again, other = resume()
    assert progress == Progress(1, 7, 2, 0.5, 1)
    assert tables.keys() == {"visual"} and tables["visual"].dtype == np.int32
    np.testing.assert_array_equal(tables["visual"], TABLE)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in layer.state_dict().items())
    for one, two in zip(layer.parameters(), again.parameters(), strict=True):
        state, found = optimizer.state[one], other.state[two]
        assert state.keys() == found.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert found["step"] == 2 and all(torch.equal(value, found[key]) for key, value in state.items())
    assert capsys.readouterr().out == ""  # nothing to report about an unchanged run


def test_resume_rows_of_tables_follow_the_order_of_tiles(save, resume):
    save(Progress(epoch=1, step=3))
    _, tables, _, _ = resume(ids=(IDS[0], IDS[1][::-1]))
    assert tables["visual"].tolist() == [[3, 0], [2, -1], [1, 3]]


def test_resume_without_checkpoint_starts_at_zero(resume):
    progress, tables, _, _ = resume()
    assert (progress.epoch, progress.step, progress.batch, progress.best_epoch, tables) == (0, 0, 0, 0, {})
    assert progress.best_recall < 0, "the first evaluation is better, also with a recall of 0"


def test_save_keeps_the_last_two_checkpoints(save, resume, tmp_path):
    for progress in (Progress(0, 2, 2), Progress(1, 3), Progress(1, 4, 1), Progress(2, 6)):
        save(progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00001-0000001", "checkpoint-00002"]
    assert resume()[0] == Progress(2, 6)


def test_resume_damaged_checkpoints_are_skipped_in_order(save, resume, tmp_path, capsys):
    save(Progress(1, 3))
    save(Progress(2, 6))
    (tmp_path / "checkpoint-00002" / "optimizer.safetensors").write_bytes(b"short")
    assert resume()[0] == Progress(1, 3)
    output = capsys.readouterr().out
    assert "checkpoint-00002 cannot be read" in output and output.endswith("; trying the previous one\n")
    (tmp_path / "checkpoint-00001" / "state.json").write_text("{")
    assert resume()[0] == Progress()
    newest, oldest = capsys.readouterr().out.splitlines()
    assert newest.endswith("; trying the previous one")
    assert oldest.startswith("checkpoint-00001 ") and oldest.endswith("; the run starts again")


def test_resume_checkpoint_without_checksums_is_read(save, resume, tmp_path):
    """Earlier versions wrote none."""
    save(Progress(1, 3))
    path = tmp_path / "checkpoint-00001" / "state.json"
    state = json.loads(path.read_text())
    assert set(state.pop("sha256")) == {
        "state",
        "model.safetensors",
        "optimizer.safetensors",
        "neighbours-visual.parquet",
    }
    path.write_text(json.dumps(state))
    assert resume()[0] == Progress(1, 3)


def test_resume_changed_state_is_not_trusted(save, resume, tmp_path, capsys):
    save(Progress(1, 3))
    path = tmp_path / "checkpoint-00001" / "state.json"
    path.write_text(path.read_text().replace('"step": 3', '"step": 4'))
    assert resume()[0] == Progress()
    assert "a file was changed after it was written" in capsys.readouterr().out


@pytest.mark.parametrize(("count", "named"), [(1, False), (2, True)])
def test_resume_with_other_number_of_processes_is_reported(save, resume, capsys, count, named):
    save(Progress(1, 3))
    assert resume(process(count))[0] == Progress(1, 3)
    assert ("was written by 1 processes and there are 2 now" in capsys.readouterr().out) == named


@pytest.mark.parametrize(("saved", "present", "expected"), [(8.0, 2.0, 8.0), (None, 2.0, 2.0), (8.0, None, None)])
def test_resume_restores_the_gradient_scaler(save, resume, saved, present, expected):
    save(Progress(1, 3), process(scaler=None if saved is None else Scaler(saved)))
    scaler = None if present is None else Scaler(present)
    assert resume(process(scaler=scaler))[0] == Progress(1, 3)
    assert (scaler and scaler.state["scale"]) == expected


def test_resume_restores_moving_average(save, resume):
    save(Progress(1, 3), ema={"weight": torch.full((2, 3), 5.0)})
    values = {"weight": torch.zeros(2, 3)}
    resume(ema=values)
    assert (values["weight"] == 5).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimisation__epochs": 79}, r"contains a run with optimisation\.epochs=80, not 79"),
        ({"optimisation__learning_rate": 1e-3}, r"with optimisation\.learning_rate=0\.0001, not 0\.001"),
        ({"model__config": {"num_clusters": 8}}, r"with model\.config\.num_clusters=None, not 8"),
        ({"seed": 1}, "with seed=0, not 1"),
    ],
)
def test_resume_other_settings_are_refused_by_name(save, resume, change, message):
    save(Progress(1, 3))
    with pytest.raises(GenGeoError, match=message):
        resume(given=settings(**change))


@pytest.mark.parametrize(("epochs", "extended"), [(80, False), (81, True)])
def test_resume_with_more_epochs_extends_the_run(save, resume, capsys, epochs, extended):
    save(Progress(1, 3))
    free = {"log_every": 7, "evaluate_every": 1, "save_every": 3, "checkpoint_every": 5, "output": "moved"}
    free |= {"data__root": "elsewhere", "data__workers": 0, "data__in_memory": True, "sampling__keep_frozen": False}
    assert resume(given=settings(optimisation__epochs=epochs, **free))[0] == Progress(1, 3)
    assert ("a run of 80 epochs, which is extended" in capsys.readouterr().out) == extended


def test_resume_other_data_or_model_are_refused(save, resume, tmp_path):
    save(Progress(1, 3))
    for ids in ((["photo-a", "photo-b", "photo-x"], IDS[1]), (IDS[0], [*IDS[1], "tile-4"])):
        with pytest.raises(GenGeoError, match="contains a run on other training data"):
            resume(ids=ids)
    model, optimizer = torch.nn.Sequential(torch.nn.Linear(3, 2)), None
    with pytest.raises(GenGeoError, match="contains the weights of another model"):
        checkpoint.resume(tmp_path, process(), model, optimizer, settings(), IDS)


def test_save_on_another_process_writes_nothing(save, tmp_path):
    save(Progress(1, 3), process(is_main=False))
    assert list(tmp_path.iterdir()) == []


def test_resume_restores_model_after_kill_between_renames(tmp_path):
    old = tmp_path / f".model{files.OLD}x" / "model"  # moved aside by `atomic_folder` without an exchange
    old.mkdir(parents=True)
    (old / "weights").write_text("best")
    (tmp_path / f".model{files.NEW}y").mkdir()
    model = torch.nn.Linear(1, 1)
    progress, _ = checkpoint.resume(tmp_path, process(), model, torch.optim.AdamW(model.parameters()), {}, ([], []))
    assert progress.epoch == 0 and [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "best"
