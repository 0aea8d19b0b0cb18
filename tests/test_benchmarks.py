"""Test the benchmark report: every section runs at small sizes, and values are compared with their goals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def measuring(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measuring

    return measuring


def test_measuring_exponents_goals_and_turns_are_correct(measuring):
    assert measuring.exponent([10, 100, 1000], [0.02, 2, 200]) == pytest.approx(2)
    assert measuring.Figure("s", "w", 1.31, "x", goal="<= 1.3").met is False
    assert measuring.Figure("s", "w", 2.4, "x", goal=">= 2.3").met is True
    assert measuring.Figure("s", "w", 2.4, "x").met is None
    calls = []
    turns = measuring.in_turns(
        {"first": lambda: calls.append("a"), "second": lambda: calls.append("b") or sum(range(3_000_000))}, rounds=2
    )
    assert calls == ["a", "b", "a", "b", "a"]  # the much slower function runs only once after the warm-up
    assert len(turns.cpu["second"]) == 1 and len(turns.cpu["first"]) == 2
    assert turns.times_as_fast("first", "second") > 3


def test_merge_of_similar_tokens_averages_them_and_keeps_the_weighted_sum(measuring):
    import token_merging
    import torch

    tokens = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    tokens[:, 2] = tokens[:, 3] * 2  # same direction: this pair must be merged first
    sizes = torch.ones(2, 7, 1)
    merged, weights = token_merging.merge(tokens, sizes, 1)
    assert merged.shape == (2, 6, 5) and torch.allclose((merged * weights).sum(1), tokens.sum(1), atol=1e-5)
    assert torch.equal(weights.sum(1), sizes.sum(1))
    mean = (tokens[:, 2] + tokens[:, 3]) / 2
    assert torch.isclose(merged, mean[:, None], atol=1e-6).all(-1).any(1).all()


@pytest.mark.slow
def test_run_with_small_sizes_writes_every_section(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    report = json.loads((tmp_path / "bench.json").read_text())
    sections = {
        "start",
        "extraction",
        "answer",
        "int8",
        "input scale",
        "head",
        "sampler",
        "mining",
        "ranks",
        "search",
        "world",
    }
    assert sections <= set(report["sections"])
    for name in sections - {"start", "answer", "int8", "input scale", "head"}:
        assert any(row["unit"] == "exponent" for row in report["sections"][name]), name
    cosines = [row["value"] for row in report["sections"]["extraction"] if row["unit"] == "lowest cosine to it"]
    assert len(cosines) >= 2 and min(cosines) > 0.9
    text = (tmp_path / "bench.md").read_text()
    assert "**Small sizes" in text and "| gengeo --help |" in text and str(Path.home()) not in text
    one_section = [*command, "--only", "sampler"]
    result = subprocess.run(one_section, capture_output=True, text=True)
    assert result.returncode == 0 and sections <= set(json.loads((tmp_path / "bench.json").read_text())["sections"])
