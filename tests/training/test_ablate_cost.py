"""Rows of several trainings, costs, and tables at equal CPU time."""

from types import SimpleNamespace

import pytest

import ablate
import ablate_cost
from ablate import HERE, read_plan
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.training.settings import load_settings

PLAN = """
base: base.yaml
budget: [optimisation.epochs=8]
test: {near: {}, far: {}}
rates: {usual: 1.0e-3, zoom: 1.0e-4}
equal_time: {rivals: rivals_equal_time}
tables:
  rivals:
    - {name: first, config: base.yaml}
    - {name: second, config: other.yaml, skip: [far]}
    - {name: both, fuse: [base.yaml, other.yaml]}
    - {name: staged, config: third.yaml, after: other.yaml, kind: zoom}
"""


@pytest.fixture
def ablation(tmp_path, monkeypatch):
    """Run the command with replaced training, testing and fusing; the CPU seconds of a run depend on its name."""
    plan, runs, clock = tmp_path / "plan.yaml", [], [0.0]
    plan.write_text(PLAN)
    for name, share in (("base", 0.5), ("other", 0.25), ("third", 0.125)):
        text = f"data: {{name: world-urban}}\nsampling: {{random_share: {share}}}\noptimisation: {{epochs: 30}}"
        (tmp_path / f"{name}.yaml").write_text(text)

    def train(plan, config, folder, keys):
        epochs = load_settings(config, [*keys, f"output={folder}"]).optimisation.epochs
        (folder / "model").mkdir(parents=True)
        clock[0] += {"base": 10, "other": 40, "third": 5}[config.stem]
        runs.append((config.stem, epochs, [key for key in keys if key.startswith(("model.init", "optimisation.l"))]))

    monkeypatch.setattr(ablate, "train", train)
    monkeypatch.setattr(
        ablate, "test", lambda model, plan: {name: {"recall@1": 0.5, "median_error_m": 7.0} for name in plan["test"]}
    )
    monkeypatch.setattr(ablate_cost, "time", SimpleNamespace(process_time=lambda: clock[0]))
    monkeypatch.setattr(
        ablate_cost, "encoding_cost", lambda model: {"dim": 256, "ground_cpu_ms": 2.0, "aerial_cpu_ms": 1.0}
    )

    def fuse(models, out, overwrite):
        assert all(model.is_dir() for model in models)
        out.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr("gengeo_hf.encoding.fusion.fuse", fuse)

    def run(*arguments):
        runs.clear()
        ablate.main([*arguments, "--rows", str(plan), "--out", str(tmp_path / "out")])
        return list(runs)

    return run


def test_ablate_trains_parts_once_and_equal_time_shortens_slow_rows(ablation, tmp_path):
    runs = ablation("rivals", "--seeds", "1")
    steps = [run[:2] for run in runs]
    assert steps[:3] == [("base", 8), ("other", 8), ("third", 8)], "the fused row trains nothing further"
    (init,) = [key for key in runs[2][2] if key.startswith("model.init")]
    assert "other" in init and "optimisation.learning_rate=0.0001" in runs[2][2]
    # 10 s for the first; 40, 50 and 45 s for the others: 1/4, 1/5 and 2/9 of 8 epochs, rounded.
    assert sorted(steps[3:]) == [("base", 2), ("other", 2), ("third", 2)]
    equal = (tmp_path / "out" / "rivals_equal_time.md").read_text()
    assert "second: 2 of 8 epochs" in equal and "the CPU time of the first row of rivals" in equal
    assert ablation("rivals", "--seeds", "1") == []
    text = (tmp_path / "out" / "rivals.md").read_text()
    assert "| second | 7 |  | 2.0 | 1.0 | 51 | 40 |" in text, "metres, CPU ms of a photo and a tile, MB, CPU s"
    assert "| both | 7 | 7 | 2.0 | 1.0 | 51 | 50 |" in text
    assert "| staged | 7 | 7 | 2.0 | 1.0 | 51 | 45 |" in text


def test_equal_time_rows_unknown_time_is_refused():
    rows = [{"name": "first", "set": []}, {"name": "old", "set": []}]
    with pytest.raises(GenGeoError, match="the CPU time of old is not known: remove its run"):
        ablate_cost.equal_time_rows(rows, [10.0, None], 5)
    assert ablate_cost.equal_time_rows(rows, [10.0, 500.0], 5)[1]["set"] == ["optimisation.epochs=1"]


def test_count_cpu_time_adds_up_over_interruptions(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), ablate_cost.count_cpu_time(tmp_path):
            raise KeyboardInterrupt
    first = ablate_cost.spent_in(tmp_path)
    assert not ablate_cost.is_finished(tmp_path)
    with ablate_cost.count_cpu_time(tmp_path):
        sum(range(200_000))
    assert 0 <= first < ablate_cost.spent_in(tmp_path) and ablate_cost.is_finished(tmp_path)


def test_plan_of_world_has_all_rivals():
    plan = read_plan(HERE / "ablations" / "world.yaml")
    names = [row["config"] for row in plan["tables"]["rivals"] if row.get("config")]
    assert {"sample4geo_world", "auxgeo_world", "transgeo_world", "transgeo_world_zoom", "geodtr_world"} <= set(names)
    assert all(row["cost"] for row in plan["tables"]["rivals"])
