"""Checkpoints of a training: safetensors, JSON and Parquet, so that loading a checkpoint cannot run code.

A checkpoint is a directory `checkpoint-<epoch>` or, inside an epoch, `checkpoint-<epoch>-<batch>`, written atomically.
A resumed run gives the same bits as an uninterrupted one. The state of random generators is not stored, because each
step has its own seed. `Accelerator.save_state` is not used, because it pickles the optimizer.
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

Ids = tuple[list[str], list[str]]  # ids of photos and tiles, in the order of the tables
KEPT = 2  # number of checkpoints that are kept, in case the newest one is damaged


@dataclass
class Progress:
    """Progress of a run."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished optimizer steps
    batch: int = 0  # finished batches of the next epoch; 0 between epochs
    best_recall: float = -1.0
    best_epoch: int = 0

    @property
    def name(self) -> str:
        """Name of the checkpoint; names sort in order of time."""
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
    ema: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint on the main process and remove all but the last two.

    If a checkpoint cannot be written (for example because the disk is full), a message is printed, the previous
    checkpoint is kept, and training continues.

    Args:
        folder: Directory of the run.
        accelerator: Accelerator with the process group and the gradient scaler.
        model: Unwrapped model.
        optimizer: Optimizer; its state is stored by parameter name.
        progress: Progress of the run.
        settings: Settings of the run; a resumed run must have the same.
        tables: Neighbour tables by name, gallery rows (queries, K); stored by tile id.
        ids: Ids of the training data.
        ema: Exponential moving average of the weights by name; None if the run has none.
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
                if ema is not None:
                    save_file({k: v.contiguous() for k, v in ema.items()}, target / "average.safetensors")
                for name, rows in tables.items():
                    _save_table(target / f"neighbours-{name}.parquet", rows, *ids)
                state["sha256"] = _checksums(target, state)
                (target / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
            for old in sorted(folder.glob("checkpoint-*"))[:-KEPT]:
                shutil.rmtree(old)
        except (OSError, SafetensorError) as error:
            whole = sorted(path.name for path in folder.glob("checkpoint-*"))
            accelerator.print(
                f"{progress.name} could not be written ({error}); training continues, and a restart would resume "
                f"{'from ' + whole[-1] if whole else 'at the start'}. Free some space on the disk of {folder}"
            )
    accelerator.wait_for_everyone()


def resume(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    ids: Ids,
    ema: dict[str, torch.Tensor] | None = None,
) -> tuple[Progress, dict[str, np.ndarray]]:
    """Restore the newest readable checkpoint, or start a new run.

    Args:
        folder: Directory of the run.
        accelerator: Accelerator with the process group and the gradient scaler.
        model: Unwrapped model, changed in place.
        optimizer: Optimizer, changed in place.
        settings: Settings of the run.
        ids: Ids of the training data.
        ema: Exponential moving average of the weights by name, changed in place; None if the run has none.

    Returns:
        Progress, and the neighbour tables as gallery rows of the current tables.

    Raises:
        GenGeoError: The checkpoint is of a run with other settings or other data.
    """
    if accelerator.is_main_process:
        sweep_all(folder)  # also restores a directory `model` that was moved aside, with the best weights of the run
    accelerator.wait_for_everyone()
    candidates = sorted(folder.glob("checkpoint-*"), reverse=True)
    for candidate in candidates:
        try:
            state, tensors, tables = _read(candidate, settings, ids, ema is not None)
        except GenGeoError:
            raise
        except Exception as error:  # truncated or damaged: each reader raises its own errors
            then = "the run starts again" if candidate == candidates[-1] else "trying the previous one"
            accelerator.print(f"{candidate.name} cannot be read ({error}); {then}")
            continue
        if state["processes"] != accelerator.num_processes:
            accelerator.print(
                f"{candidate.name} was written by {state['processes']} processes and there are "
                f"{accelerator.num_processes} now: dropout and augmentation differ from an uninterrupted run"
            )
        own, weights = model.state_dict(), tensors["model"]
        if own.keys() != weights.keys():
            raise GenGeoError(f"{candidate} contains the weights of another model; give another output=...")
        model.load_state_dict(weights)
        _restore_optimizer(model, optimizer, tensors["optimizer"])
        if ema is not None:
            for name, value in tensors["average"].items():
                ema[name].copy_(value)
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        found = state["settings"]["optimisation"]["epochs"]
        if found < settings["optimisation"]["epochs"]:
            accelerator.print(
                f"{folder} contains a run of {found} epochs, which is extended: the learning rate now follows the "
                f"schedule of {settings['optimisation']['epochs']} epochs"
            )
        return Progress(**state["progress"]), tables
    return Progress(), {}


def _read(
    candidate: Path, settings: dict[str, Any], ids: Ids, with_ema: bool
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]], dict[str, np.ndarray]]:
    """Read the state, the tensors by file name, and the neighbour tables as gallery rows of the current tables.

    Raises:
        GenGeoError: The checkpoint is of a run with other settings or data, and must not be overwritten.
        Exception: The checkpoint is damaged; each reader raises its own errors.
    """
    state = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
    stated = state.pop("sha256", None)  # missing in checkpoints of earlier versions
    if stated is not None and stated != _checksums(candidate, state):
        raise ValueError("a file was changed after it was written")
    _refuse_other_settings(candidate.parent, state["settings"], settings)
    if state["data"] != digest(ids):
        raise GenGeoError(f"{candidate.parent} contains a run on other training data; give another output=...")
    names = ["model", "optimizer", *(["average"] if with_ema else [])]
    tensors = {name: load_file(candidate / f"{name}.safetensors") for name in names}
    tables = {
        path.stem.removeprefix("neighbours-"): _load_table(path, *ids)
        for path in sorted(candidate.glob("neighbours-*.parquet"))
    }
    return state, tensors, tables


def digest(ids: Ids) -> str:
    """Return a checksum of the ids of the training data, to detect that another directory has other photos."""
    return hashlib.sha256("\n".join([*ids[0], "", *sorted(ids[1])]).encode()).hexdigest()


def _checksums(folder: Path, state: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of every file and of the state: safetensors does not detect changed values."""
    checksums = {"state": digest_of(state)}
    for path in sorted(folder.iterdir()):
        if path.name != "state.json":
            with path.open("rb") as file:
                checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums


# Settings that may change in a resumed run: paths, and how often something is written.
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
    """Refuse to resume a run with other settings, except those of `FREE` and more epochs."""
    defaults = flat(as_dict(Settings(output="")))  # for runs of earlier versions, which lack newer keys
    found, wanted = defaults | flat(found), flat(json.loads(json.dumps(wanted)))
    for key in sorted((found.keys() | wanted.keys()) - FREE):
        longer = key == "optimisation.epochs" and found[key] < wanted[key]
        if found.get(key) != wanted.get(key) and not longer:
            raise GenGeoError(
                f"{folder} contains a run with {key}={found.get(key)}, not {wanted.get(key)}; "
                "give another output=... or remove that directory"
            )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to keys of the form `group.key`, as trackers show them."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return out


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return step count and moments of AdamW by `<parameter name>|<key>`."""
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
    """Write neighbour rows as dictionary-encoded lists of tile ids, which do not depend on the order of a table."""
    width = rows.shape[1]
    codes = pa.array(rows.ravel().astype(np.int32), mask=rows.ravel() < 0)
    ids = pa.DictionaryArray.from_arrays(codes, pa.array(tile_ids))
    lists = pa.FixedSizeListArray.from_arrays(ids, width)
    pq.write_table(pa.table({"query_id": query_ids, "tile_ids": lists}), path)


def _load_table(path: Path, query_ids: list[str], tile_ids: list[str]) -> np.ndarray:
    """Read neighbour rows, int32 (queries, K)."""
    table = pq.read_table(path)
    row_of = {tile: row for row, tile in enumerate(tile_ids)}
    lists = table["tile_ids"].combine_chunks()
    values = lists.flatten().to_pylist()
    rows = np.array([-1 if tile is None else row_of[tile] for tile in values], dtype=np.int32)
    return rows.reshape(len(query_ids), -1)
