"""Training and evaluation on directories with the layout of the benchmarks."""

import json

import pytest

from gengeo_hf import evaluate
from gengeo_hf.evaluation.protocols import find_protocol
from gengeo_hf.training import loop as train
from gengeo_hf.training.settings import CONFIGS, load_settings
from tests.conftest import TINY, TINY_SIZES
from tests.data import folders

MAKERS = {
    "cvusa": folders.make_cvusa,
    "cvact": lambda root: folders.make_cvact(root)[0],
    "vigor_same": folders.make_vigor,
    "vigor_cross": lambda root: folders.make_vigor(root, layout="sample4geo"),
}
PROTOCOLS = {"cvusa": "cvusa", "cvact": "cvact-val", "vigor_same": "vigor-same", "vigor_cross": "vigor-cross"}
# A grid of 350 m is one or two blocks: no part of it can be set aside by area.
BY_ID = "{validation_share: 0.2, validation_by: id}"


def small(output, root, name):
    model = json.dumps({**TINY, "head_dropout": 0.0})
    sizes = {view: [size["height"], size["width"]] for view, size in TINY_SIZES.items()}
    options = BY_ID if name.startswith("vigor") else "{validation_share: 0.2}"
    return load_settings(
        CONFIGS / f"{name}.yaml",
        [
            f"output={output}",
            f"data.root={root}",
            "data.workers=0",
            f"data.train={options}",
            f"data.validation={options}",
            f"data.ground_size={sizes['ground']}",
            f"data.aerial_size={sizes['aerial']}",
            "model.init=null",
            f"model.config={model}",
            "sampling.batch_size=16",
            "sampling.neighbours=4",
            "sampling.pool=8",
            "optimisation.epochs=1",
            'optimisation.mixed_precision="no"',
            "log_every=1",
        ],
    )


@pytest.mark.parametrize(
    "name", ["cvusa", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cvact", "vigor_same", "vigor_cross"))]
)
def test_train_and_evaluate_on_benchmark_directories(tmp_path, name):
    root = MAKERS[name](tmp_path / "data")
    result = train.main(small(tmp_path / "run", root, name))
    assert 0 <= result["recall@1"] <= 1
    steps = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert sum("loss" in line for line in steps) >= 2
    protocol = PROTOCOLS[name]
    data = f"{find_protocol(protocol).dataset} {root}"
    summary = evaluate(tmp_path / "run/model", data, protocol, device="cpu").summary
    assert summary["protocol"]["name"] == protocol and summary["dataset"]["complete"] is False
    if name.startswith("vigor"):
        assert "hit_rate_code" in summary["metrics"]
