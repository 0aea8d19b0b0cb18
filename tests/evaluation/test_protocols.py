"""`evaluate` by every published protocol, on directories with the benchmarks' layout and placeholder images."""

import pytest

from gengeo_hf.data import load_pairs
from gengeo_hf.evaluation.compare import choose_checkpoint
from gengeo_hf.evaluation.protocols import find_protocol, protocol_names
from gengeo_hf.evaluation.run import evaluate as evaluate_model
from gengeo_hf.evaluation.tables import build_table, render
from tests.data.folders import make_cvact, make_cvusa, make_vigor

MAKERS = {"cvusa": make_cvusa, "cvact": lambda root: make_cvact(root)[0], "vigor": make_vigor}
SIZES = {
    "cvusa": (20, 20),
    "cvact-val": (12, 12),
    "cvact-test": (32, 32),
    "vigor-same": (68, 192),
    "vigor-cross": (70, 96),
}
BENCHMARKS = [name for name in protocol_names() if find_protocol(name).dataset.split("-")[0] in MAKERS]
QUICK = ("cvusa-to-cvact", "cvact-test", "vigor-cross")


@pytest.fixture
def evaluate(tiny_checkpoint, tmp_path):
    def run(protocol, out=None, **more):
        rules = find_protocol(protocol)
        family = rules.dataset.split("-")[0]
        root = tmp_path / family
        if not root.exists():
            MAKERS[family](root)
        file = tmp_path / (out or f"{protocol}.json")
        result = evaluate_model(tiny_checkpoint, f'{rules.dataset} "{root}"', protocol, device="cpu", **more)
        return result.summary, result.save(file)

    return run


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BENCHMARKS]
)
def test_evaluate_by_a_published_protocol_uses_its_queries_and_gallery(evaluate, name):
    summary, file = evaluate(name)
    protocol = find_protocol(name)
    key = protocol.dataset if protocol.dataset in SIZES else f"cvact-{protocol.split}"
    assert (summary["dataset"]["queries"], summary["dataset"]["gallery"]) == SIZES[key]
    assert summary["dataset"]["complete"] is False and "NOT COMPARABLE" in render(table_of(name, file))
    assert ("hit_rate_code" in summary["metrics"]) == protocol.dataset.startswith("vigor")
    assert ("recall_5m@1" in summary["metrics"]) == (name == "cvact-test")
    if protocol.dataset.startswith("vigor"):
        assert len(summary["areas"]) == {"vigor-same": 4, "vigor-cross": 2}[protocol.dataset]


def table_of(name, file):
    number = next(
        n for n in (2, 3, 4, 5) if any(g in (name, name.rpartition("-")[0]) for g, _ in build_table(n).groups)
    )
    return build_table(number, [file])


@pytest.mark.parametrize("dataset", ["cvusa", pytest.param("vigor-same", marks=pytest.mark.slow)])
def test_choose_checkpoint_uses_the_validation_split(evaluate, dataset, tmp_path):
    first, path = evaluate(f"{dataset}@validation", out="a.json")
    _, other = evaluate(f"{dataset}@validation", name="other", out="b.json")
    root = tmp_path / find_protocol(dataset).dataset.split("-")[0]
    training = set(load_pairs(dataset, root, split="train").queries["query_id"])
    picked_on = load_pairs(dataset, root, split="validation").queries["query_id"][:]
    assert first["dataset"]["queries"] == len(picked_on) and not training & set(picked_on)
    text = choose_checkpoint([path, other])
    assert "within the noise of the best" in text and text.endswith(f"best by recall@1: {path}")
    assert "Left out" in render(build_table(2, [path]))
