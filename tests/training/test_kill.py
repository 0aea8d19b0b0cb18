"""A run that is killed at any time, or whose disk is full, ends with the same bits as an uninterrupted run."""

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gengeo_hf.training import checkpoint
from gengeo_hf.training import loop as train
from gengeo_hf.training.settings import load_settings
from tests.conftest import TINY
from tests.training.random_pairs import load_random_pairs

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = 20


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
output: {tmp_path}/run
data: {{name: random, workers: 0, in_memory: true, ground_size: [28, 112], aerial_size: [56, 56]}}
model: {{config: {json.dumps({**TINY, "head_dropout": 0.3})}}}
augment: {{options: {{flip: true, rotate: true}}}}
sampling: {{batch_size: 16, neighbours: 8, pool: 16, gps_epochs: 3, mining_every: 2, random_share: 0.25}}
optimisation: {{epochs: 6, learning_rate: 0.003, warmup: 0.1, ema: 0.9}}
evaluate_every: 2
log_every: 1
"""
    )
    return path


def outcome(folder):
    """Return the weights of the newest checkpoint and of the exported model, and all losses."""
    newest = sorted(folder.glob("checkpoint-*"))[-1]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return (
        {path.name: load_file(path) for path in sorted(newest.glob("*.safetensors"))},
        load_file(folder / "model" / "model.safetensors"),
        [(line["step"], line["loss"]) for line in lines if "loss" in line],
    )


def assert_same_bits(one, other):
    for name, tensors in one[0].items():
        assert all(torch.equal(tensors[key], other[0][name][key]) for key in tensors), name
    assert all(torch.equal(one[1][key], other[1][key]) for key in one[1])
    assert one[2] == other[2], "other losses"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_resume_after_twenty_kills_gives_same_bits(config, tmp_path):
    """Processes that run the loop are ended by SIGKILL at random times; fork shares their imports."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import os, random, signal, sys, time
            sys.path.insert(0, {str(REPOSITORY)!r})
            import torch
            torch.set_num_threads(1)
            from gengeo_hf.training import loop as train
            from gengeo_hf.training.settings import load_settings
            from tests.training.random_pairs import load_random_pairs
            train.load_pairs = load_random_pairs

            def start(output):
                pid = os.fork()
                if pid == 0:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                    train.main(load_settings({str(config)!r}, ["optimisation.epochs=24", f"output={{output}}"]))
                    os._exit(0)
                return pid

            def ended(pid, seconds):
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        assert status == 0, status
                        return True
                    time.sleep(0.002)
                return False

            began = time.monotonic()
            assert ended(start("{tmp_path}/whole"), 2000)
            whole = time.monotonic() - began
            random.seed(0)
            kills = runs = 0
            while kills < {KILLS}:
                runs += 1
                while True:
                    pid = start(f"{tmp_path}/broken-{{runs}}")
                    if ended(pid, random.uniform(0.02, 0.5) * whole if kills < {KILLS} else 2000):
                        break
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    kills += 1
            print(kills, runs)
            """
        )
    )
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=2900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills, runs = map(int, done.stdout.split())
    assert kills == KILLS
    expected = outcome(tmp_path / "whole")
    for number in range(1, runs + 1):
        assert_same_bits(outcome(tmp_path / f"broken-{number}"), expected)
        assert not list((tmp_path / f"broken-{number}").glob(".*")), "half-written directories were left behind"


def test_save_on_full_disk_skips_checkpoint_and_run_continues(config, tmp_path, monkeypatch, capsys):
    """A limit of the file size makes writes fail in the middle, as on a full disk."""
    monkeypatch.setattr(train, "load_pairs", load_random_pairs)
    train.main(load_settings(config, [f"output={tmp_path}/whole"]))
    save, limits = checkpoint.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(*arguments):
        full = arguments[4].epoch in (2, 5)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if full else limits[0], limits[1]))
        try:
            save(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if arguments[4].epoch == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_on_a_full_disk)
    with pytest.raises(KeyboardInterrupt):
        train.main(load_settings(config, [f"output={tmp_path}/full"]))
    output = capsys.readouterr().out
    assert "checkpoint-00002 could not be written" in output and "would resume from checkpoint-00001" in output
    assert sorted(path.name for path in (tmp_path / "full").glob("*checkpoint-*")) == [
        "checkpoint-00003",
        "checkpoint-00004",
    ]
    monkeypatch.setattr(checkpoint, "save", save)
    train.main(load_settings(config, [f"output={tmp_path}/full"]))
    assert "resuming after epoch 4" in capsys.readouterr().out
    assert_same_bits(outcome(tmp_path / "full"), outcome(tmp_path / "whole"))
