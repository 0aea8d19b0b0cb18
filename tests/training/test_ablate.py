"""Tables of ablations: what is trained, what is not trained twice, and what the table says."""

import csv
import json
import statistics

import pytest

import ablate
from ablate_table import Row, compare
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.training.settings import CONFIGS

PLAN = """
base: base.yaml
budget: [optimisation.epochs=2]
test: {near: {}, far: {}}
pretrain: {other: [data.name=world-rural]}
tables:
  one:
    - {name: full, paper: [98, 71]}
    - {name: smaller, set: [model.config.num_clusters=4], paper: [97, 67]}
  two:
    - {name: again the full one}
    - {name: started elsewhere, pretrained: other}
"""


@pytest.fixture
def ablation(tmp_path, monkeypatch):
    """Run the command with training and testing replaced: a run's recall follows from its keys."""
    plan, runs = tmp_path / "plan.yaml", []
    plan.write_text(PLAN)
    (tmp_path / "base.yaml").write_text("data: {name: world-urban}\noptimisation: {epochs: 30}")

    def train(plan, config, folder, keys):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "keys.json").write_text(json.dumps(keys))
        runs.append(keys)

    def test(model, plan):
        keys = json.loads((model / "keys.json").read_text())
        base = 0.2 if "model.config.num_clusters=4" in keys else 0.5
        recall = base + 0.01 * ("seed=1" in keys)
        return {name: {"recall@1": recall, "recall@5": 2 * recall} for name in ("near", "far")}

    monkeypatch.setattr(ablate, "train", train)
    monkeypatch.setattr(ablate, "test", test)
    monkeypatch.setattr(ablate, "pretrained", lambda out, name, *more: out / name)

    def run(*arguments):
        runs.clear()
        ablate.main([*arguments, "--rows", str(plan), "--out", str(tmp_path / "out")])
        return list(runs)

    return run


def test_all_rows_are_trained_once_and_the_table_is_their_mean(ablation, tmp_path):
    runs = ablation("all", "--seeds", "2", "optimisation.learning_rate=1e-3", "data.train={num_pairs: 9}")
    assert len(runs) == 6, "two of the three rows with two seeds are the same in both tables"
    assert all(keys[0] == "optimisation.epochs=2" and "optimisation.learning_rate=1e-3" in keys for keys in runs)
    assert ["seed=0" in keys for keys in runs] == [True] * 3 + [False] * 3
    assert f"model.init={tmp_path / 'out' / 'other'}" in runs[2]
    text = (tmp_path / "out" / "one.md").read_text()
    assert "--seeds 2 optimisation.learning_rate=1e-3 'data.train={num_pairs: 9}'`" in text  # to be copied to a shell
    assert "| full | 50.5 ± 0.7 | 98.00 |  | 50.5 ± 0.7 | 71.00 |  | 2 |" in text
    assert "| smaller | 20.5 ± 0.7 | 97.00 | agrees | 20.5 ± 0.7 | 67.00 | agrees | 2 |" in text
    rows = list(csv.reader((tmp_path / "out" / "one.csv").open()))
    assert rows[0] == ["row", "seed", "near recall@1", "near recall@5", "far recall@1", "far recall@5"]
    assert len(rows) == 5
    assert (tmp_path / "out" / "one.png").read_bytes()[1:4] == b"PNG"


def test_a_finished_run_is_not_repeated_and_a_new_seed_is_added(ablation, tmp_path):
    assert len(ablation("one", "--seeds", "1")) == 2
    assert "±" in (tmp_path / "out" / "one.md").read_text().splitlines()[0]  # only in the heading
    assert ablation("one", "--seeds", "1") == []
    assert [keys[-1] for keys in ablation("one", "--seeds", "2")] == ["seed=1"] * 2


def test_a_changed_base_file_is_another_run(ablation, tmp_path):
    assert len(ablation("one", "--seeds", "1")) == 2
    (tmp_path / "base.yaml").write_text("data: {name: world-urban}\nsampling: {random_share: 0.5}")
    assert len(ablation("one", "--seeds", "1")) == 2
    assert ablation("one", "--seeds", "1", "--root", "world=elsewhere") == [], "the same run wherever the data lie"


def test_results_of_another_plan_in_the_same_folder_are_refused(ablation, tmp_path):
    ablation("one", "--seeds", "1")
    table = (tmp_path / "out" / "one.md").read_bytes()
    (tmp_path / "plan.yaml").write_text(PLAN.replace("{near: {}, far: {}}", "{elsewhere: {}}"))
    with pytest.raises(GenGeoError, match="tested on near, far, and the plan says elsewhere: give another --out"):
        ablation("one", "--seeds", "1")
    assert (tmp_path / "out" / "one.md").read_bytes() == table


def test_a_failed_run_leaves_the_finished_ones_in_the_table(ablation, tmp_path, monkeypatch):
    plain = ablate.train

    def fail(plan, config, folder, keys):
        if "model.config.num_clusters=4" in keys:
            raise GenGeoError("out of memory")
        plain(plan, config, folder, keys)

    monkeypatch.setattr(ablate, "train", fail)
    with pytest.raises(GenGeoError, match="out of memory"):
        ablation("one", "--seeds", "2")
    text = (tmp_path / "out" / "one.md").read_text()
    assert "1 of 4 runs are finished" in text and "| smaller | open |" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table10"], "no table 'table10'; it has all, one, two"),
        (["one", "--seeds", "0"], "at least 1"),
        (["one", "epochs"], "expected key=value"),
    ],
)
def test_bad_orders_are_one_line(ablation, arguments, words):
    with pytest.raises(GenGeoError, match=words):
        ablation(*arguments)


def test_missing_and_other_files_are_no_plan(tmp_path):
    with pytest.raises(GenGeoError, match="--data knows cvusa, world"):
        ablate.read_plan(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_text("a: 1")
    with pytest.raises(GenGeoError, match="needs base, test and tables"):
        ablate.read_plan(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["world", "cvusa"])
def test_the_plans_of_the_paper_have_settings_for_every_row(name):
    from gengeo_hf.training.components import build_config
    from gengeo_hf.training.settings import load_settings

    plan = ablate.read_plan(ablate.HERE / "ablations" / f"{name}.yaml")
    assert {"table6", "table7", "table8", "table9"} <= set(plan["tables"])
    for rows in plan["tables"].values():
        assert rows[0]["paper"] is None or rows[0]["paper"] == [98.94, 71.27]
        for row in rows:
            path = ablate.config_of(row, plan)
            build_config(load_settings(path, [*ablate.keys_of(row, 0, plan, []), "data.root=x", "output=x"]))


def test_the_verdict_counts_only_what_exceeds_the_spread():
    random = statistics.NormalDist(0, 1).samples(6, seed=0)

    def row(name, mean, paper):
        return Row(name, [{"x": {"recall@1": (mean + value) / 100}} for value in random], paper)

    rows = [row("full", 50, [90.0]), row("worse", 40, [80.0]), row("better", 60, [80.0]), row("same", 50.1, [80.0])]
    assert compare([*rows, row("ours", 10, None)], 0, "x") == ["", "agrees", "contradicts", "within the spread", ""]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_table_of_the_world_from_end_to_end(tmp_path):
    """Two rows of real runs on a few places; the second start finds both."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"""
base: {CONFIGS / "world_small.yaml"}
budget: [optimisation.epochs=2, evaluate_every=2, data.train.num_pairs=96, data.validation.num_pairs=24]
test: {{world-urban: {{num_pairs: 24}}}}
pretrain: {{urban: []}}
tables:
  tiny:
    - {{name: full}}
    - {{name: frozen, pretrained: urban, set: [model.config.trainable_blocks=0]}}
"""
    )
    order = ["tiny", "--rows", str(plan), "--seeds", "1", "--out", str(tmp_path / "out"), "--root", f"world={tmp_path}"]
    ablate.main(order)
    first = (tmp_path / "out" / "tiny.json").read_bytes()
    result = json.loads(first)
    assert [len(row["runs"]) for row in result["rows"]] == [1, 1]
    assert 0 <= result["rows"][0]["runs"][0]["world-urban"]["recall@1"] <= 1
    ablate.main(order)
    assert (tmp_path / "out" / "tiny.json").read_bytes() == first
