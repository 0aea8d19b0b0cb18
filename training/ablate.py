"""Train every row of a table at equal budget, with several seeds, and write the table as it grows.

    python training/ablate.py table7 --data world --seeds 2
    python training/ablate.py all --data world --seeds 2 --out runs/ablations
    python training/ablate.py table7 --data cvusa --root cvusa=/data/CVUSA --root cvact=/data/CVACT

Each run is `training/train.py` with a few keys changed, in a process of its own. A finished run is not repeated, a
killed one goes on, and rows that are the same in two tables are trained once. After each run `<table>.md`, `.csv`,
`.json` and `.png` are written anew: mean and spread of the recall in the training domain and in one never seen, beside
the paper's numbers, with a word on whether the difference to the full model agrees with the paper's.
"""

import argparse
import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ablate_table import Row, write_table
from gengeo_hf.common.errors import GenGeoError, told_in_one_line
from gengeo_hf.common.files import atomic_folder, write_json, write_text
from gengeo_hf.training.settings import as_dict, find_config, load_settings

HERE = Path(__file__).resolve().parent
RESULT = "ablation.json"


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, write."""
    given = parse(arguments)
    plan = read_plan(given.rows or HERE / "ablations" / f"{given.data}.yaml")
    for name, root in (item.split("=", 1) for item in given.root):
        plan["roots"][name] = root
    if given.table != "all" and given.table not in plan["tables"]:
        raise GenGeoError(f"the plan has no table {given.table!r}; it has all, {', '.join(plan['tables'])}")
    tables = list(plan["tables"]) if given.table == "all" else [given.table]
    source = f"--rows {given.rows.name}" if given.rows else f"--data {given.data}"  # folders are left out
    command = " ".join(
        ["python training/ablate.py", given.table, source, f"--seeds {given.seeds}", *map(shlex.quote, given.overrides)]
    )
    for seed in range(given.seeds):  # seed by seed, so that a run that is stopped has whole tables of fewer seeds
        for table in tables:
            for row in plan["tables"][table]:
                run_row(given.out, row, seed, plan, given.overrides)
                collect(given, plan, table, command)
    print(together(given.out, tables))


def together(out: Path, tables: list[str]) -> str:
    """All tables on one page, which is also written: `ablations.md`."""
    page = "\n".join(f"## {table}\n\n{(out / f'{table}.md').read_text(encoding='utf-8')}" for table in tables)
    write_text(out / "ablations.md", page)
    return page


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a table of the plan, for example table7, or all")
    parser.add_argument("--data", default="world", help="plan of training/ablations: world or cvusa")
    parser.add_argument("--rows", type=Path, help="a plan of your own instead (see training/ablations/world.yaml)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row; the spread needs at least two")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder of runs and tables")
    parser.add_argument("--root", action="append", default=[], metavar="DATASET=FOLDER", help="where a data set lies")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="laid over every row")
    given = parser.parse_intermixed_args(arguments)  # key=value may come after the options
    if given.seeds < 1:
        raise GenGeoError(f"--seeds must be at least 1, found {given.seeds}")
    for item in (*given.root, *given.overrides):
        if "=" not in item:
            raise GenGeoError(f"expected key=value, found {item!r}")
    return given


def read_plan(path: Path) -> dict[str, Any]:
    """A file of tables, with the names of its rows filled in.

    Raises:
        GenGeoError: there is no such file, or it is not a plan.
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (HERE / "ablations").glob("*.yaml")))
        raise GenGeoError(f"there is no plan {path}; --data knows {known}")
    plan: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(plan, dict) or not {"base", "test", "tables"} <= plan.keys():
        raise GenGeoError(f"{path} is no plan of ablations: it needs base, test and tables")
    plan = {"budget": [], "roots": {}, "pretrain": {}, **plan, "home": path.parent}
    for table, rows in plan["tables"].items():
        plan["tables"][table] = [{"set": [], "paper": None, "pretrained": None, **row} for row in rows]
    return plan


def keys_of(row: dict[str, Any], seed: int, plan: dict[str, Any], overrides: list[str]) -> list[str]:
    """What a run's settings differ in from the base: everything that its result depends on but the data's folder."""
    return [*plan["budget"], *row["set"], *overrides, f"seed={seed}"]


def folder_of(out: Path, row: dict[str, Any], keys: list[str], plan: dict[str, Any]) -> Path:
    """Named after what the row changes, with a hash of all its settings: equal rows of two tables share a run."""
    settings = as_dict(load_settings(config_of(row, plan), [*keys, "output=unused"]))
    settings["data"].pop("root")  # the same run wherever the data lie
    mark = hashlib.sha256(json.dumps([row["pretrained"], settings], sort_keys=True).encode()).hexdigest()[:10]
    config = [Path(row["config"]).stem] if row.get("config") else []
    changed = [*config, *(key.rpartition(".")[2] for key in row["set"])] or ["full"]
    return out / "runs" / f"{re.sub(r'[^a-z0-9]+', '-', '-'.join(changed).lower())[:60]}-{mark}"


def config_of(row: dict[str, Any], plan: dict[str, Any]) -> Path:
    """The YAML file that a row changes: its own, or the plan's; beside the plan, or one that the package ships."""
    name = row.get("config") or plan["base"]
    beside: Path = plan["home"] / name
    return beside if beside.is_file() else find_config(name)


def run_row(
    out: Path, row: dict[str, Any], seed: int, plan: dict[str, Any], overrides: list[str]
) -> dict[str, dict[str, float]]:
    """Train and test one row with one seed, unless its result is there; gives the recalls on each test set."""
    keys = keys_of(row, seed, plan, overrides)
    folder = folder_of(out, row, keys, plan)
    if not (folder / RESULT).is_file():
        print(f"{row['name']}, seed {seed}: {folder}", flush=True)
        start = [f"model.init={pretrained(out, row['pretrained'], seed, plan, overrides)}"] if row["pretrained"] else []
        train(plan, config_of(row, plan), folder, [*keys, *start])
        write_json(folder / RESULT, {"keys": keys, "recalls": test(folder / "model", plan)})
    return recalls_in(folder, plan)


def recalls_in(folder: Path, plan: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The recalls of a finished run.

    Raises:
        GenGeoError: they are of another plan, which wrote into the same folder.
    """
    recalls: dict[str, dict[str, float]] = json.loads((folder / RESULT).read_text(encoding="utf-8"))["recalls"]
    if recalls.keys() != plan["test"].keys():
        raise GenGeoError(
            f"{folder} was tested on {', '.join(recalls)}, and the plan says {', '.join(plan['test'])}: "
            "give another --out"
        )
    return recalls


def pretrained(out: Path, name: str, seed: int, plan: dict[str, Any], overrides: list[str]) -> Path:
    """A backbone without a head, trained on other data first: the small world's stand-in for DINOv2's weights."""
    from gengeo_hf.model import GenGeoModel

    row = {"name": f"pretrained {name}", "set": plan["pretrain"][name], "pretrained": None}
    keys = keys_of(row, seed, plan, overrides)
    folder = folder_of(out, row, keys, plan)
    backbone = folder / "backbone"
    if not backbone.is_dir():
        print(f"{row['name']}, seed {seed}: {folder}", flush=True)
        train(plan, config_of(row, plan), folder, keys)
        with atomic_folder(backbone) as target:  # a folder that is there is taken for whole
            GenGeoModel.from_pretrained(folder / "model").backbone.save_pretrained(target)
    return backbone


def train(plan: dict[str, Any], config: Path, folder: Path, keys: list[str]) -> None:
    """One run of train.py; a killed one goes on from its checkpoint."""
    root = [f"data.root={plan['roots'][name]}" for name in plan["roots"] if name in _data_names(config, keys)]
    command = [sys.executable, str(HERE / "train.py"), "--config", str(config), *keys, *root, f"output={folder}"]
    if subprocess.run(command, check=False).returncode:
        raise GenGeoError(f"the run {folder} failed; its output is above. The same command goes on there")


def _data_names(path: Path, keys: list[str]) -> tuple[str, str]:
    """The data set of a run and its family: `--root world=...` is for all worlds."""
    name = load_settings(path, [*keys, "output=unused"]).data.name
    return name, name.split("-")[0]


def test(model: Path, plan: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Recalls of a trained model on the test split of each data set."""
    from gengeo_hf.data import load_pairs
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.evaluation import evaluate

    encoder = Encoder.from_pretrained(model)
    out = {}
    for name, options in plan["test"].items():
        root = plan["roots"].get(name, plan["roots"].get(name.split("-")[0]))
        result = evaluate(encoder, load_pairs(name, root, **{"split": "test", **options})).metrics
        out[name] = {key: float(result[key]) for key in ("recall@1", "recall@5", "recall@10", "recall@1%")}
    return out


def collect(given: argparse.Namespace, plan: dict[str, Any], table: str, command: str) -> None:
    """Write a table from the runs that are finished so far."""
    rows = []
    for row in plan["tables"][table]:
        runs = []
        for seed in range(given.seeds):
            folder = folder_of(given.out, row, keys_of(row, seed, plan, given.overrides), plan)
            if (folder / RESULT).is_file():
                runs.append(recalls_in(folder, plan))
        rows.append(Row(row["name"], runs, row["paper"]))
    write_table(given.out, table, rows, list(plan["test"]), command, given.seeds)


if __name__ == "__main__":
    with told_in_one_line("stopped; the same command goes on where it was"):
        main()
