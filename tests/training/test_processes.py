"""Two CPU processes, started by the commands of training/README.md, have the losses of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from gengeo_hf.training import loop as train
from accelerate.state import PartialState
from gengeo_hf.training.settings import parse
from tests.training.random_pairs import load_random_pairs
train.load_pairs = load_random_pairs
train.main(parse())
assert PartialState().num_processes == int(os.environ.get("WORLD_SIZE", 1)), "unexpected number of processes"
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCH = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


CONFIG = f"""
data: {{name: random, workers: 0, ground_size: [28, 112], aerial_size: [56, 56]}}
model: {{config: {json.dumps({**TINY, "head_dropout": 0.0})}}}
sampling: {{batch_size: 16, neighbours: 8, pool: 16, gps_epochs: 1, mining_every: 1, mining_direction: both}}
optimisation: {{epochs: 3, learning_rate: 0.003, warmup: 0.1}}
log_every: 1
"""


@pytest.fixture
def run(tmp_path):
    """Train on random pairs with a launcher and overrides; gives the losses of all steps."""
    program, config = tmp_path / "program.py", tmp_path / "tiny.yaml"
    program.write_text(PROGRAM)
    config.write_text(CONFIG)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def train(name, launcher, *more):
        command = [sys.executable, *launcher, str(program), "--config", str(config), f"output={tmp_path / name}", *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1100, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return losses(tmp_path / name)

    return train


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("micro_batch", ["null", "4"])
@pytest.mark.parametrize("start", [TORCHRUN, LAUNCH], ids=["torchrun", "accelerate"])
def test_training_with_two_processes_equals_one(run, start, micro_batch):
    one = run("one", [], f"sampling.micro_batch={micro_batch}")
    assert len(one) == 9
    assert run("two", start, f"sampling.micro_batch={micro_batch}") == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "training" / "launch").glob("*.yaml")), ids=lambda p: p.stem)
def test_launch_configs_are_valid_for_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
