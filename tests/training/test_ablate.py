"""Ablations: trained rows, reused runs, and content of the tables."""

import csv
import json
import statistics

import pytest

import ablate
from ablate_table import Row, give_verdicts, markdown
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.evaluation.seeds import paired_differences
from gengeo_hf.training.settings import CONFIGS

PLAN = """
base: base.yaml
budget: [optimisation.epochs=2]
test: {near: {}, far: {}}
stand_ins: {other: {seed: 3}}
rate_search: {seed: 100, values: [1e-3, 1e-2]}
tables:
  one:
    - {name: full, paper: [98, 71]}
    - {name: smaller, set: [model.config.num_clusters=4], paper: [97, 67]}
  two:
    - {name: again the full one}
    - {name: started elsewhere, stand_in: other, kind: started}
"""


@pytest.fixture
def ablation(tmp_path, monkeypatch):
    """Run the command with replaced training and testing: the recall of a run depends on its settings."""
    plan, runs = tmp_path / "plan.yaml", []
    plan.write_text(PLAN)
    (tmp_path / "base.yaml").write_text("data: {name: world-urban}\noptimisation: {epochs: 30}")

    def train(plan, config, folder, keys):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "keys.json").write_text(json.dumps(keys))
        recall = 0.6 if "optimisation.learning_rate=0.01" in keys else 0.5
        (folder / "model" / "gengeo_training.json").write_text(json.dumps({"results": {"recall@1": recall}}))
        runs.append(keys)

    def test(model, plan):
        keys = json.loads((model / "keys.json").read_text())
        base = 0.2 if "model.config.num_clusters=4" in keys else 0.5
        recall = base + 0.01 * ("seed=1" in keys)
        return {name: {"recall@1": recall, "recall@5": 2 * recall} for name in ("near", "far")}

    monkeypatch.setattr(ablate, "train", train)
    monkeypatch.setattr(ablate, "test", test)
    monkeypatch.setattr(ablate, "make_stand_in", lambda out, name, plan: out / name)

    def run(*arguments):
        runs.clear()
        ablate.main([*arguments, "--rows", str(plan), "--out", str(tmp_path / "out")])
        return list(runs)

    return run


def test_ablate_trains_rows_once_and_table_has_means(ablation, tmp_path):
    runs = ablation("all", "--seeds", "2", "optimisation.learning_rate=1e-3", "data.train={num_pairs: 9}")
    assert len(runs) == 6, "two of the three rows with two seeds are the same in both tables"
    assert all(keys[0] == "optimisation.epochs=2" and "optimisation.learning_rate=1e-3" in keys for keys in runs)
    assert ["seed=0" in keys for keys in runs] == [True] * 3 + [False] * 3
    assert f"model.init={tmp_path / 'out' / 'other'}" in runs[2]
    text = (tmp_path / "out" / "one.md").read_text()
    assert "--seeds 2 optimisation.learning_rate=1e-3 'data.train={num_pairs: 9}'`" in text  # valid in a shell
    assert "| full | 50.5 ± 0.7 |  | 98.00 |  | 50.5 ± 0.7 |  | 71.00 |  |  | 2 |" in text
    assert (
        "| smaller | 20.5 ± 0.7 | -30.0 ± 0.0 | 97.00 | agrees | 20.5 ± 0.7 | -30.0 ± 0.0 | 67.00 | agrees |  | 2 |"
        in text
    )
    rows = list(csv.reader((tmp_path / "out" / "one.csv").open()))
    assert rows[0] == ["row", "seed", "near recall@1", "near recall@5", "far recall@1", "far recall@5"]
    assert len(rows) == 5
    assert (tmp_path / "out" / "one.png").read_bytes()[1:4] == b"PNG"


def test_ablate_finished_run_is_not_repeated_and_seed_is_added(ablation, tmp_path):
    assert len(ablation("one", "--seeds", "1")) == 2
    assert "±" in (tmp_path / "out" / "one.md").read_text().splitlines()[0]
    assert ablation("one", "--seeds", "1") == []
    assert [keys[-1] for keys in ablation("one", "--seeds", "2")] == ["seed=1"] * 2


def test_ablate_changed_base_file_is_another_run(ablation, tmp_path):
    assert len(ablation("one", "--seeds", "1")) == 2
    (tmp_path / "base.yaml").write_text("data: {name: world-urban}\nsampling: {random_share: 0.5}")
    assert len(ablation("one", "--seeds", "1")) == 2
    assert ablation("one", "--seeds", "1", "--root", "world=elsewhere") == [], (
        "the directory of the data is not a part of a run"
    )


def test_ablate_results_of_another_plan_are_refused(ablation, tmp_path):
    ablation("one", "--seeds", "1")
    table = (tmp_path / "out" / "one.md").read_bytes()
    (tmp_path / "plan.yaml").write_text(PLAN.replace("{near: {}, far: {}}", "{elsewhere: {}}"))
    with pytest.raises(GenGeoError, match="tested on near, far, and the plan tests on elsewhere: give another --out"):
        ablation("one", "--seeds", "1")
    assert (tmp_path / "out" / "one.md").read_bytes() == table


def test_ablate_failed_run_keeps_finished_ones_in_table(ablation, tmp_path, monkeypatch):
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
    ("arguments", "message"),
    [
        (["table10"], "no table 'table10'; it has all, rates, one, two"),
        (["one", "--seeds", "0"], "at least 1"),
        (["one", "epochs"], "expected key=value"),
    ],
)
def test_ablate_invalid_arguments_are_one_line(ablation, arguments, message):
    with pytest.raises(GenGeoError, match=message):
        ablation(*arguments)


def test_read_plan_missing_or_invalid_file_is_refused(tmp_path):
    with pytest.raises(GenGeoError, match=r"--data accepts cvusa, .*scratch, .*world"):
        ablate.read_plan(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_text("a: 1")
    with pytest.raises(GenGeoError, match="needs base, test and tables"):
        ablate.read_plan(tmp_path / "x.yaml")


@pytest.mark.parametrize("path", sorted((ablate.HERE / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_plans_have_settings_for_every_row(path):
    from gengeo_hf.evaluation.protocols import find_protocol
    from gengeo_hf.training.components import build_config
    from gengeo_hf.training.settings import load_settings

    plan = ablate.read_plan(path)
    assert path.stem not in ("world", "cvusa") or {"table6", "table7", "table8", "table9"} <= set(plan["tables"])
    for options in plan["test"].values():
        assert "protocol" not in options or find_protocol(options["protocol"])
    for rows in plan["tables"].values():
        assert rows[0]["paper"] is None or rows[0]["paper"][:2] == [98.94, 71.27]
        for row in rows:
            path = ablate.config_of(row, plan)
            build_config(load_settings(path, [*ablate.keys_of(row, 0, plan, []), "data.root=x", "output=x"]))


def test_search_rates_selects_best_on_validation_with_own_seed(ablation, tmp_path):
    runs = ablation("rates")
    assert len(runs) == 4 and all("seed=100" in keys for keys in runs)
    assert ablation("rates") == []
    found = json.loads((tmp_path / "out" / "rates.json").read_text())
    assert found["usual"] == {"chosen": 0.01, "validation": {"0.001": 0.5, "0.01": 0.6}}
    runs = ablation("all", "--seeds", "1")
    assert all("optimisation.learning_rate=0.01" in keys for keys in runs)
    text = (tmp_path / "out" / "one.md").read_text()
    assert "selected on validation" in text and "| 0.01 | 1 |" in text
    with pytest.raises(GenGeoError, match="a seed of the tables"):
        ablation("rates", "--seeds", "101")


def test_ablate_add_file_adds_rows_to_tables(ablation, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("tables: {one: [{name: mine, set: [model.config.num_clusters=16]}], new: [{name: alone}]}")
    assert len(ablation("all", "--seeds", "1", "--add", str(mine))) == 4
    assert "| mine |" in (tmp_path / "out" / "one.md").read_text()
    assert (tmp_path / "out" / "new.md").is_file()
    mine.write_text("rows: []")
    with pytest.raises(GenGeoError, match="needs tables"):
        ablation("one", "--add", str(mine))


def test_make_stand_in_unknown_name_is_one_line(tmp_path):
    with pytest.raises(GenGeoError, match="no stand-in 'found'; it has none"):
        ablate.make_stand_in(tmp_path, "found", {"stand_ins": {}})


def test_give_verdicts_interval_with_zero_is_undecided():
    shared_noise = statistics.NormalDist(0, 1).samples(6, seed=0)

    def row(name, mean, paper):
        noise = statistics.NormalDist(0, 1).samples(6, seed=len(name))
        values = [mean + shared + own / 5 for shared, own in zip(shared_noise, noise, strict=True)]
        runs = {seed: {"x": {"recall@1": value / 100}} for seed, value in enumerate(values)}
        return Row(name, runs, paper)

    rows = [
        row("full", 50, [90.0]),
        row("worse", 40, [80.0]),
        row("better", 60, [80.0]),
        row("same as", 50, [80.0]),
        row("not in the paper", 40, None),
        Row("open"),
    ]
    differences = paired_differences([x.percents("x") for x in rows])
    verdicts = give_verdicts(rows, 0, differences)
    assert verdicts == ["", "agrees", "contradicts", "undecided", "worse", ""]
    text = "\n".join(markdown(rows, ["x"], "command", 6, {"x": differences}, {"x": verdicts}, "From nothing."))
    assert "4 comparisons" in text and "| open | open |" in text and "From nothing." in text


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_ablate_table_of_world_end_to_end(tmp_path):
    """Train two rows on a few pairs; a second start reuses both."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"""
base: {CONFIGS / "world_small.yaml"}
budget: [optimisation.epochs=2, evaluate_every=2, data.train.num_pairs=96, data.validation.num_pairs=24]
test: {{world-urban: {{num_pairs: 24}}, narrow: {{protocol: world-urban-fov90-unknown, num_pairs: 24}}}}
stand_ins: {{small: {{places: 3, steps: 3, batch_size: 3}}}}
tables:
  tiny:
    - {{name: full}}
    - {{name: frozen, stand_in: small, set: [model.config.trainable_blocks=0]}}
"""
    )
    options = ["--rows", str(plan), "--seeds", "1", "--out", str(tmp_path / "out"), "--root", f"world={tmp_path}"]
    ablate.main(["tiny", *options])
    first = (tmp_path / "out" / "tiny.json").read_bytes()
    result = json.loads(first)
    assert [len(row["runs"]) for row in result["rows"]] == [1, 1]
    assert all(0 <= result["rows"][0]["runs"]["0"][name]["recall@1"] <= 1 for name in ("world-urban", "narrow"))
    ablate.main(["tiny", *options])
    assert (tmp_path / "out" / "tiny.json").read_bytes() == first
