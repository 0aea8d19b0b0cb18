"""Training state on disk: safetensors, JSON and Parquet, so that nothing that is loaded can run code.

A checkpoint is a directory `checkpoint-<epoch>` or, inside of an epoch, `checkpoint-<epoch>-<batch>`, whole or absent,
from which the loop continues with the same bits. Random numbers need no state: each step has its own seed.
`Accelerator.save_state` would pickle the optimizer; that is why this file exists.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, digest_of, sweep_all
from gengeo_hf.training.settings import Settings, as_dict

Ids = tuple[list[str], list[str]]  # of a table's photos and tiles, in order
KEPT = 2  # the newest and the one before, should the newest be damaged


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished optimizer steps
    batch: int = 0  # finished batches of the next epoch, where a run stands inside of one
    best_recall: float = -1.0
    best_epoch: int = 0

    @property
    def name(self) -> str:
        """Name of its checkpoint; the order of names is that of time."""
        return f"checkpoint-{self.epoch:05d}" + (f"-{self.batch:07d}" if self.batch else "")


def save(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict[str, Any],
    tables: dict[str, np.ndarray],
    ids: Ids,
    average: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint on the main process and remove all but the last two.

    A checkpoint that cannot be written (a full disk) is given up with a message, and the training goes on: the one
    before stays.

    Args:
        folder: the run's folder.
        accelerator: for the process group and the gradient scaler.
        model: unwrapped.
        optimizer: its state is stored by the parameters' names.
        progress: what is finished.
        settings: a resumed run must have the same.
        tables: by name, neighbour rows (queries, K); stored by id.
        ids: of the training data.
        average: averaged weights by name, where the run keeps them.
    """
    if accelerator.is_main_process:
        state = {
            "progress": vars(progress),
            "settings": settings,
            "processes": accelerator.num_processes,
            "data": digest(ids),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
        }
        try:
            with atomic_folder(folder / progress.name) as target:
                save_file({k: v.contiguous() for k, v in model.state_dict().items()}, target / "model.safetensors")
                save_file(_optimizer_tensors(model, optimizer), target / "optimizer.safetensors")
                if average is not None:
                    save_file({k: v.contiguous() for k, v in average.items()}, target / "average.safetensors")
                for name, rows in tables.items():
                    _save_table(target / f"neighbours-{name}.parquet", rows, *ids)
                state["sha256"] = _sums(target, state)
                (target / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            for old in sorted(folder.glob("checkpoint-*"))[:-KEPT]:
                shutil.rmtree(old)
        except (OSError, SafetensorError) as error:
            whole = sorted(path.name for path in folder.glob("checkpoint-*"))
            accelerator.print(
                f"{progress.name} could not be written ({error}); training goes on, and a restart "
                f"would begin {'after ' + whole[-1] if whole else 'anew'}. Free some space on the disk of {folder}"
            )
    accelerator.wait_for_everyone()


def resume(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    ids: Ids,
    average: dict[str, torch.Tensor] | None = None,
) -> tuple[Progress, dict[str, np.ndarray]]:
    """Go on from the newest readable checkpoint, or start at zero.

    Returns:
        Progress and the neighbour tables in rows of the present tables.

    Raises:
        GenGeoError: the run's folder was made with other settings or other data.
    """
    if accelerator.is_main_process:
        sweep_all(folder)  # a `model` that was moved aside goes back: it holds the best weights of the run
    accelerator.wait_for_everyone()
    candidates = sorted(folder.glob("checkpoint-*"), reverse=True)
    for candidate in candidates:
        try:
            state, tensors, tables = _read(candidate, settings, ids, average is not None)
        except GenGeoError:
            raise
        except Exception as error:  # truncated or damaged: each reader has its own errors
            then = "the run begins anew" if candidate == candidates[-1] else "trying the one before"
            accelerator.print(f"{candidate.name} cannot be read ({error}); {then}")
            continue
        if state["processes"] != accelerator.num_processes:
            accelerator.print(
                f"{candidate.name} was written by {state['processes']} processes and there are "
                f"{accelerator.num_processes} now: dropout and augmentation will differ from the unbroken run"
            )
        own, weights = model.state_dict(), tensors["model"]
        if own.keys() != weights.keys():
            raise GenGeoError(f"{candidate} holds another model's weights; give another output=...")
        model.load_state_dict(weights)
        _restore_optimizer(model, optimizer, tensors["optimizer"])
        if average is not None:
            for name, value in tensors["average"].items():
                average[name].copy_(value)
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        found = state["settings"]["optimisation"]["epochs"]
        if found < settings["optimisation"]["epochs"]:
            accelerator.print(
                f"{folder} holds a run of {found} epochs, which is made longer: from here on the learning rate follows "
                f"the schedule of {settings['optimisation']['epochs']} epochs"
            )
        return Progress(**state["progress"]), tables
    return Progress(), {}


def _read(
    candidate: Path, settings: dict[str, Any], ids: Ids, averaged: bool
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]], dict[str, np.ndarray]]:
    """State, tensors by the name of their file, and neighbour tables in rows of the present tables.

    Raises:
        GenGeoError: it is of a run with other settings or data; taken for a damaged one, it would be overwritten.
        Exception: it is damaged; each reader has its own errors.
    """
    state = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
    stated = state.pop("sha256", None)  # checkpoints of earlier versions state none
    if stated is not None and stated != _sums(candidate, state):
        raise ValueError("a file of it was changed after it was written")
    _refuse_other_settings(candidate.parent, state["settings"], settings)
    if state["data"] != digest(ids):
        raise GenGeoError(f"{candidate.parent} holds a run on other training data; give another output=...")
    names = ["model", "optimizer", *(["average"] if averaged else [])]
    tensors = {name: load_file(candidate / f"{name}.safetensors") for name in names}
    tables = {
        path.stem.removeprefix("neighbours-"): _load_table(path, *ids)
        for path in sorted(candidate.glob("neighbours-*.parquet"))
    }
    return state, tensors, tables


def digest(ids: Ids) -> str:
    """Which data: a folder of another root may hold other photos, and a run that draws at random would not notice."""
    return hashlib.sha256("\n".join([*ids[0], "", *sorted(ids[1])]).encode()).hexdigest()


def _sums(folder: Path, state: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of every file and of the state: a flipped bit in the weights would be no error to their reader."""
    sums = {"state": digest_of(state)}
    for path in sorted(folder.iterdir()):
        if path.name != "state.json":
            with path.open("rb") as file:
                sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


# What a restart may change: where things lie and how often something is written.
FREE = {
    "output",
    "evaluate_every",
    "save_every",
    "checkpoint_every",
    "log_every",
    "tracker",
    "data.root",
    "data.workers",
    "data.in_memory",
    "sampling.keep_frozen",
}


def _refuse_other_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """What the weights depend on must not change between two starts."""
    defaults = flat(as_dict(Settings(output="")))  # for a run of an earlier version, which lacks later keys
    found, wanted = defaults | flat(found), flat(json.loads(json.dumps(wanted)))
    for key in sorted((found.keys() | wanted.keys()) - FREE):
        longer = key == "optimisation.epochs" and found.get(key, 0) < wanted[key]
        if found.get(key) != wanted.get(key) and not longer:
            raise GenGeoError(
                f"{folder} holds a run with {key}={found.get(key)}, not {wanted.get(key)}; "
                "give another output=... or remove that folder"
            )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `group.key`, which trackers show as a table."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return out


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's step count and moments, keyed `<parameter name>|<what>`."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return {
        f"{name}|{key}": value.detach().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in inner.state.get(parameter, {}).items()
    }


def _restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    inner = getattr(optimizer, "optimizer", optimizer)
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, what = key.rpartition("|")
        parameter = parameters[name]
        if what == "step":
            inner.state[parameter][what] = value
        else:
            inner.state[parameter].setdefault(what, torch.zeros_like(parameter)).copy_(value)


def _save_table(path: Path, rows: np.ndarray, query_ids: list[str], tile_ids: list[str]) -> None:
    """Neighbour rows as lists of tile ids, dictionary-coded: a row number means nothing in another table."""
    width = rows.shape[1]
    codes = pa.array(rows.ravel().astype(np.int32), mask=rows.ravel() < 0)
    ids = pa.DictionaryArray.from_arrays(codes, pa.array(tile_ids))
    lists = pa.FixedSizeListArray.from_arrays(ids, width)
    pq.write_table(pa.table({"query_id": query_ids, "tile_ids": lists}), path)


def _load_table(path: Path, query_ids: list[str], tile_ids: list[str]) -> np.ndarray:
    """Ids back to rows, int32 (queries, K)."""
    table = pq.read_table(path)
    row_of = {tile: row for row, tile in enumerate(tile_ids)}
    lists = table["tile_ids"].combine_chunks()
    values = lists.flatten().to_pylist()
    rows = np.array([-1 if tile is None else row_of[tile] for tile in values], dtype=np.int32)
    return rows.reshape(len(query_ids), -1)
