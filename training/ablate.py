"""Run ablations: train every row of a table with the same budget and several seeds, and write the table.

    python training/ablate.py rates --data world                 # once: a learning rate for each kind of row
    python training/ablate.py all --data world --jobs 2
    python training/ablate.py table7 --data world --seeds 2 --add my_rows.yaml
    python training/ablate.py table7 --data cvusa --root cvusa=/data/CVUSA --root cvact=/data/CVACT
    python training/ablate.py rivals --data world                # compare methods at equal steps and equal CPU time

Each run is a training of `training/train.py` with some settings changed. A finished run is not repeated, an interrupted
one is resumed, and equal rows of two tables are trained once. After each run `<table>.md`, `.csv`, `.json` and `.png`
are updated: the recall in the training domain and in others, the difference to the first row with a 95 % interval, and
the numbers of the paper. `rates` selects the learning rate of each kind of row by the validation recall with another
seed; without it, the learning rate of the plan is used. `--add` takes a YAML file with `tables:` of the same form; its
rows are added to those of the plan.
"""

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import re
import shlex
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import ablate_cost
import pretrain
from ablate_table import Row, write_table
from gengeo_hf.common.errors import GenGeoError, UsageError, exit_on_error
from gengeo_hf.common.files import write_json, write_text
from gengeo_hf.data.registry import parse_data
from gengeo_hf.training.settings import as_dict, find_config, load_settings

HERE = Path(__file__).resolve().parent
RESULT = "ablation.json"
RATES = "rates.json"
Recalls = dict[str, dict[str, float]]
Plan = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, run the rows, write the tables."""
    given = parse(arguments)
    _digest.cache_clear()  # configurations may have changed since the last call in this process
    plan = read_plan(given.rows or HERE / "ablations" / f"{given.data}.yaml", given.add)
    for name, root in (item.split("=", 1) for item in given.root):
        plan["roots"][name] = root
    if given.table not in ("all", "rates", *plan["tables"]):
        raise UsageError(f"the plan has no table {given.table!r}; it has all, rates, {', '.join(plan['tables'])}")
    if given.table == "rates":
        print(search_rates(given, plan))
        return
    plan["found_rates"] = read_rates(given.out)
    tables = list(plan["tables"]) if given.table == "all" else [given.table]
    source = f"--rows {given.rows.name}" if given.rows else f"--data {given.data}"  # without directories
    added = [f"--add {path.name}" for path in given.add]
    options = [given.table, source, f"--seeds {given.seeds}", *added, *map(shlex.quote, given.overrides)]
    command = " ".join(["python training/ablate.py", *options])
    for name in sorted({row["stand_in"] for table in tables for row in plan["tables"][table]} - {None}):
        make_stand_in(given.out, name, plan)
    for seed in range(given.seeds):  # seed by seed, so that an interruption leaves complete tables of fewer seeds
        rows = [row for table in tables for row in plan["tables"][table]]
        for _ in run_rows(given, rows, seed, plan):
            for table in tables:
                collect(given, plan, table, command)
        for table, twin in equal_time_tables(given, plan, tables):
            for _ in run_rows(given, plan["tables"][twin], seed, plan):
                collect(given, plan, twin, command, f"Each row has the CPU time of the first row of {table}.")
    twins = [plan["equal_time"][table] for table in tables if table in plan["equal_time"]]
    print(join_tables(given.out, [*tables, *twins]))


def equal_time_tables(given: argparse.Namespace, plan: Plan, tables: list[str]) -> Iterable[tuple[str, str]]:
    """Add tables whose rows train for the CPU time of the first row, from the costs of the runs with seed 0.

    Yields:
        Name of the table at equal steps, and name of the table at equal time.
    """
    for table, twin in plan["equal_time"].items():
        if table not in tables:
            continue
        rows = plan["tables"][table]
        folders = [folder_of(given.out, row, keys_of(row, 0, plan, given.overrides), plan) for row in rows]
        spent = [ablate_cost.cost_in(folder / RESULT).get("train_cpu_s") for folder in folders]
        keys = [*keys_of(rows[0], 0, plan, given.overrides), "output=unused"]
        epochs = load_settings(config_of(rows[0], plan), keys).optimisation.epochs
        plan["tables"][twin] = ablate_cost.equal_time_rows(rows, spent, epochs)
        yield table, twin


def run_rows(given: argparse.Namespace, rows: list[dict[str, Any]], seed: int, plan: Plan) -> Iterable[None]:
    """Run rows in sequence, or `--jobs` at a time, and yield after each row."""
    different = {folder_of(given.out, row, keys_of(row, seed, plan, given.overrides), plan): row for row in rows}
    if given.jobs == 1:
        for row in different.values():
            run_row(given.out, row, seed, plan, given.overrides)
            yield
        return
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    os.environ |= {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}  # inherited by the worker processes
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run_row, given.out, row, seed, plan, given.overrides) for row in different.values()]
        try:
            for finished in as_completed(waiting):
                finished.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


def join_tables(out: Path, tables: list[str]) -> str:
    """Join all tables to one page, write it to `ablations.md`, and return it."""
    page = "\n".join(f"## {table}\n\n{(out / f'{table}.md').read_text(encoding='utf-8')}" for table in tables)
    write_text(out / "ablations.md", page)
    return page


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="Table of the plan, for example table7; all; or rates.")
    parser.add_argument("--data", default="world", help="Name of a plan in training/ablations (default: world).")
    parser.add_argument("--rows", type=Path, help="Path of another plan (see training/ablations/world.yaml).")
    parser.add_argument("--add", type=Path, action="append", default=[], help="YAML file of more rows; repeatable.")
    parser.add_argument("--seeds", type=int, default=5, help="Runs per row (default: 5); intervals need at least 2.")
    parser.add_argument("--jobs", type=int, default=1, help="Parallel runs, which share the cores (default: 1).")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/ablations"), help="Directory of runs and tables (default: %(default)s)."
    )
    parser.add_argument(
        "--root", action="append", default=[], metavar="DATASET=DIRECTORY", help="Directory of a data set; repeatable."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Overrides of the settings of every row.")
    given = parser.parse_intermixed_args(arguments)  # key=value may follow options
    for name in ("seeds", "jobs"):
        if getattr(given, name) < 1:
            raise UsageError(f"--{name} must be at least 1, found {getattr(given, name)}")
    for item in (*given.root, *given.overrides):
        if "=" not in item:
            raise UsageError(f"expected key=value, found {item!r}")
    return given


def read_plan(path: Path, added: Iterable[Path] = ()) -> Plan:
    """Read a plan, fill in the default fields of its rows, and add the rows of other files.

    Raises:
        UsageError: The file does not exist.
        GenGeoError: The file is not a plan, or an added file has no tables.
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (HERE / "ablations").glob("*.yaml")))
        raise UsageError(f"there is no plan {path}; --data accepts {known}")
    plan: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(plan, dict) or not {"base", "test", "tables"} <= plan.keys():
        raise GenGeoError(f"{path} is not a plan of ablations: it needs base, test and tables")
    defaults: dict[str, Any] = {"budget": [], "stand_in": None, "note": ""}
    defaults |= {name: {} for name in ("roots", "stand_ins", "rates", "found_rates", "equal_time")}
    plan = {**defaults, **plan, "home": path.parent}
    for extra in added:
        more: Any = OmegaConf.to_container(OmegaConf.load(extra)) if extra.is_file() else None
        if not isinstance(more, dict) or not isinstance(more.get("tables"), dict):
            raise GenGeoError(f"{extra} is not a file of rows: it needs tables, each a list of rows with a name")
        for table, rows in more["tables"].items():
            plan["tables"].setdefault(table, []).extend(rows)
    default = {"set": [], "paper": None, "stand_in": plan["stand_in"], "kind": "usual", "note": "", **ablate_cost.PARTS}
    for table, rows in plan["tables"].items():
        if any("name" not in row for row in rows):
            raise GenGeoError(f"a row of table {table} does not have a name")
        costly = table in plan["equal_time"]
        plan["tables"][table] = [{**default, "cost": costly, **row} for row in rows]
    return plan


def rate_of(row: dict[str, Any], plan: Plan) -> float | None:
    """Return the learning rate of the kind of a row: that of `rates`, or of the plan; None for the configuration's."""
    found = plan["found_rates"].get(row["kind"], {}).get("chosen")
    rate = found if found is not None else plan["rates"].get(row["kind"])
    return None if rate is None else float(rate)


def keys_of(row: dict[str, Any], seed: int, plan: Plan, overrides: list[str], rate: float | None = None) -> list[str]:
    """Return the overrides of a run: everything on which its result depends, except the directory of the data."""
    rate = rate_of(row, plan) if rate is None else rate
    rates = [] if rate is None else [f"optimisation.learning_rate={rate:g}"]
    return [*plan["budget"], *rates, *row["set"], *overrides, f"seed={seed}"]


def folder_of(out: Path, row: dict[str, Any], keys: list[str], plan: Plan) -> Path:
    """Return the directory of a run, named by the overrides and a hash of all settings, which equal rows share."""
    if row["fuse"]:
        names = [folder_of(out, part, keys, plan).name for part in ablate_cost.parts_of(row)]
        return out / "runs" / f"fused-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:10]}"
    stand_in = plan["stand_ins"].get(row["stand_in"])
    start = json.dumps([stand_in, row["after"]] if row["after"] else stand_in, sort_keys=True)
    digest = _digest(config_of(row, plan), tuple(keys), start)
    config = [Path(row["config"]).stem] if row.get("config") else []
    changed = [*config, *(key.rpartition(".")[2] for key in row["set"])] or ["full"]
    return out / "runs" / f"{re.sub(r'[^a-z0-9]+', '-', '-'.join(changed).lower())[:60]}-{digest}"


@functools.cache  # every table is updated after each run and needs the directories of all rows
def _digest(config: Path, keys: tuple[str, ...], start: str) -> str:
    settings = as_dict(load_settings(config, [*keys, "output=unused"]))
    settings["data"].pop("root")  # the result does not depend on the directory of the data
    return hashlib.sha256(json.dumps([start, settings], sort_keys=True).encode()).hexdigest()[:10]


def config_of(row: dict[str, Any], plan: Plan) -> Path:
    """Return the configuration of a row, or else of the plan: a file beside the plan, or one of the package."""
    name = row.get("config") or plan["base"]
    beside: Path = plan["home"] / name
    return beside if beside.is_file() else find_config(name)


def run_row(out: Path, row: dict[str, Any], seed: int, plan: Plan, overrides: list[str]) -> Recalls:
    """Train and test one row with one seed, unless the result exists; return the recalls on each test set."""
    keys = keys_of(row, seed, plan, overrides)
    folder = folder_of(out, row, keys, plan)
    if not (folder / RESULT).is_file():
        print(f"{row['name']}, seed {seed}: {folder}", flush=True)
        spent = train_row(out, row, seed, plan, overrides)
        wanted = {name: options for name, options in plan["test"].items() if name not in row["skip"]}
        recalls: Recalls = {name: {} for name in plan["test"]}
        recalls |= test(folder / "model", {**plan, "test": wanted})
        cost = {"train_cpu_s": spent, **ablate_cost.encoding_cost(folder / "model")} if row["cost"] else {}
        write_json(folder / RESULT, {"keys": keys, "recalls": recalls, "cost": cost})
    return recalls_in(folder, plan)


def train_row(out: Path, row: dict[str, Any], seed: int, plan: Plan, overrides: list[str]) -> float | None:
    """Train the models of a row that do not exist; return the CPU seconds of all of them, None if unknown."""
    keys = keys_of(row, seed, plan, overrides)
    folder, parts = folder_of(out, row, keys, plan), ablate_cost.parts_of(row)
    spent = [train_row(out, part, seed, plan, overrides) for part in parts]
    folders = [folder_of(out, part, keys_of(part, seed, plan, overrides), plan) for part in parts]
    if row["fuse"]:
        from gengeo_hf.encoding.fusion import fuse

        fuse([part / "model" for part in folders], folder / "model", overwrite=True)
    else:
        init = [f"model.init={folders[0] / 'model'}"] if row["after"] else start_of(out, row, plan)
        if not ablate_cost.is_finished(folder):
            with ablate_cost.count_cpu_time(folder):
                train(plan, config_of(row, plan), folder, [*keys, *init])
        spent.append(ablate_cost.spent_in(folder))
    return None if None in spent else sum(x for x in spent if x is not None)


def recalls_in(folder: Path, plan: Plan) -> Recalls:
    """Read the recalls of a finished run.

    Raises:
        GenGeoError: The recalls are of another plan that wrote to the same directory.
    """
    recalls: Recalls = json.loads((folder / RESULT).read_text(encoding="utf-8"))["recalls"]
    if recalls.keys() != plan["test"].keys():
        tested, planned = ", ".join(recalls), ", ".join(plan["test"])
        raise GenGeoError(f"{folder} was tested on {tested}, and the plan tests on {planned}: give another --out")
    return recalls


def start_of(out: Path, row: dict[str, Any], plan: Plan) -> list[str]:
    """Return the override that initialises a run from its stand-in for a foundation model, which is made if missing."""
    return [f"model.init={make_stand_in(out, row['stand_in'], plan)}"] if row["stand_in"] else []


def make_stand_in(out: Path, name: str, plan: Plan) -> Path:
    """Return the directory of a pretrained backbone, which is trained if it does not exist.

    Raises:
        GenGeoError: The plan has no stand-in of this name.
    """
    if name not in plan["stand_ins"]:
        raise GenGeoError(f"the plan has no stand-in {name!r}; it has {', '.join(plan['stand_ins']) or 'none'}")
    options = pretrain.Plan(**plan["stand_ins"][name])
    digest = hashlib.sha256(json.dumps([plan["base"], asdict(options)], sort_keys=True).encode()).hexdigest()[:10]
    folder = out / f"stand-in-{name}-{digest}"
    if not folder.is_dir():
        print(f"pretraining the stand-in {name}: {folder}", flush=True)
        settings = load_settings(config_of({}, plan), [*plan["budget"], f"output={folder}", "model.init=null"])
        root = plan["roots"].get("world")
        print(pretrain.format_record(pretrain.pretrain(settings, options, folder, Path(root) if root else None)))
    return folder


def search_rates(given: argparse.Namespace, plan: Plan) -> str:
    """Train the first row of each kind with each learning rate and a seed that no table uses, and select the best.

    Returns:
        Summary of the learning rates, which are stored in `rates.json` beside the tables.

    Raises:
        GenGeoError: The plan has no `rate_search`, or its seed is used by the tables.
    """
    search = plan.get("rate_search")
    if not search:
        raise GenGeoError("the plan has no rate_search: it needs values and a seed")
    if search["seed"] < given.seeds:
        raise GenGeoError(f"rate_search.seed is {search['seed']}, a seed of the tables: use a larger one")
    first = {row["kind"]: row for rows in reversed(plan["tables"].values()) for row in reversed(rows)}
    found = read_rates(given.out)
    for kind, row in first.items():
        validation = {}
        for rate in map(float, search["values"]):
            keys = keys_of(row, search["seed"], plan, given.overrides, rate)
            folder = folder_of(given.out, row, keys, plan)
            record = folder / "model" / "gengeo_training.json"
            if not (folder / "validated.json").is_file():
                print(f"{kind}, learning rate {rate:g}: {folder}", flush=True)
                train(plan, config_of(row, plan), folder, [*keys, *start_of(given.out, row, plan)])
                results = json.loads(record.read_text(encoding="utf-8"))["results"]
                write_json(folder / "validated.json", {"recall@1": results["recall@1"]})
            stored = json.loads((folder / "validated.json").read_text(encoding="utf-8"))
            validation[f"{rate:g}"] = stored["recall@1"]
        found[kind] = {"chosen": float(max(validation, key=lambda rate: validation[rate])), "validation": validation}
        write_json(given.out / RATES, found)
    return "\n".join(
        f"{kind}: {entry['chosen']:g} ({', '.join(f'{k}: {v:.1%}' for k, v in entry['validation'].items())})"
        for kind, entry in found.items()
    )


def read_rates(out: Path) -> dict[str, Any]:
    """Read the learning rates that `rates` selected in this directory; empty if it has not run."""
    path = out / RATES
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def train(plan: Plan, config: Path, folder: Path, keys: list[str]) -> None:
    """Run or resume one training in this process."""
    from gengeo_hf.training.loop import main as run_training

    names = _data_names(config, keys)
    root = [f"data.root={home}" for name, home in plan["roots"].items() if name in names]
    run_training(load_settings(config, [*keys, *root, f"output={folder}"]))


def _data_names(path: Path, keys: list[str]) -> set[str]:
    """Return the data sets of a run and their families: `--root world=...` applies to all worlds, also in mixtures."""
    data = load_settings(path, [*keys, "output=unused"]).data
    names = {parse_data(part).name for part in data.train.get("parts", [data.name])}
    return names | {name.split("-")[0] for name in names}


def test(model: Path, plan: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Evaluate a trained model on the test split of each data set, with the protocol of the plan or the default one."""
    from gengeo_hf.data import load_pairs
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.evaluation import evaluate
    from gengeo_hf.evaluation.protocols import find_protocol

    encoder = Encoder.from_pretrained(model)
    out = {}
    for name, options in plan["test"].items():
        options = {"split": "test", **options}
        protocol = options.pop("protocol", None)
        data = find_protocol(protocol).dataset if protocol else name
        root = plan["roots"].get(data, plan["roots"].get(data.split("-")[0]))
        result = evaluate(encoder, load_pairs(data, root, **options), protocol).metrics
        kept = ("recall@1", "recall@5", "recall@10", "recall@1%", "median_error_m")
        out[name] = {key: float(result[key]) for key in kept if key in result}
    return out


def collect(given: argparse.Namespace, plan: Plan, table: str, command: str, more: str = "") -> None:
    """Write a table from all finished runs."""
    rows = []
    for row in plan["tables"][table]:
        runs, costs = {}, []
        for seed in range(given.seeds):
            folder = folder_of(given.out, row, keys_of(row, seed, plan, given.overrides), plan)
            if (folder / RESULT).is_file():
                runs[seed] = recalls_in(folder, plan)
                costs.append(ablate_cost.cost_in(folder / RESULT))
        rows.append(Row(row["name"], runs, row["paper"], row["note"], rate_of(row, plan), list(filter(None, costs))))
    searched = "Learning rates were selected on validation, with another seed." if plan["found_rates"] else ""
    if not searched and plan["rates"]:
        searched = "Learning rates are those of the plan; `ablate.py rates` was not run."
    note = " ".join(filter(None, [plan["note"], searched, more]))
    write_table(given.out, table, rows, list(plan["test"]), command, given.seeds, note)


if __name__ == "__main__":
    with exit_on_error("stopped; the same command continues"):
        main()
