"""Output of a run besides checkpoints: summary at the start, `log.jsonl`, and `model/` in Hub format."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, write_json, write_text
from gengeo_hf.common.locks import exclusive
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.sources import sources_of
from gengeo_hf.encoding.encoder import TRAINING_RECORD
from gengeo_hf.evaluation.ground_truth import pair_hashes
from gengeo_hf.model import GenGeoImageProcessor, GenGeoModel
from gengeo_hf.training.checkpoint import Progress
from gengeo_hf.training.objective import model_weights
from gengeo_hf.training.schedule import rate_factor
from gengeo_hf.training.settings import Settings, as_dict


def export(
    folder: Path,
    accelerator: Accelerator,
    model: GenGeoModel,
    processor: GenGeoImageProcessor,
    record: dict[str, Any],
) -> bool:
    """Write the model in Hub format with its training record.

    Args:
        folder: Directory to write.
        accelerator: Accelerator with the processes; the main process writes.
        model: Unwrapped model.
        processor: Preprocessing of the model.
        record: Training record, see `training_record`.

    Returns:
        Whether the model was written; False, with a message, for example if the disk is full.
    """
    written = True
    if accelerator.is_main_process:
        try:
            with atomic_folder(folder) as target:
                model.save_pretrained(target, state_dict=model_weights(model))
                processor.save_pretrained(target)
                write_json(target / TRAINING_RECORD, record)
        except (OSError, SafetensorError) as error:
            written = False
            accelerator.print(f"{folder} could not be written ({error}); free some space on its disk")
    every = accelerator.gather(torch.tensor([float(written)], device=accelerator.device))
    return bool(every.all())  # all processes must continue with the same result


def run_summary(
    settings: Settings, train: CrossViewDataset, model: GenGeoModel, accelerator: Accelerator, steps: int, epoch: int
) -> str:
    """Return a summary that is printed at the start of a run.

    Args:
        settings: Settings of the run.
        train: Training pairs.
        model: Unwrapped model.
        accelerator: Accelerator with the processes.
        steps: Number of steps of an epoch.
        epoch: Last finished epoch; 0 for a new run.
    """
    plan, factor = settings.optimisation, rate_factor(settings)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = [
        f"{train.name}: {len(train.queries):,} pairs, {len(train.gallery):,} tiles; {trained:,} of "
        f"{sum(p.numel() for p in model.parameters()):,} parameters are trained; {plan.epochs} epochs of {steps} steps "
        f"on {accelerator.num_processes} x {accelerator.device}" + (f"; resuming after epoch {epoch}" if epoch else "")
    ]
    if factor != 1:
        lines.append(
            f"batch_size is {settings.sampling.batch_size} and the learning rate {plan.learning_rate:g} is for "
            f"{plan.learning_rate_batch}: it becomes {plan.learning_rate * factor:.3g} "
            f"({plan.batch_rule} rule; optimisation.batch_rule=none keeps it)"
        )
    return "\n".join(lines)


def training_record(
    settings: Settings, train: CrossViewDataset, validated_on: str, result: dict[str, Any], epoch: int
) -> dict[str, Any]:
    """Return the training data, settings and results of a model, for its directory and the model card.

    Args:
        settings: Settings of the run.
        train: Training pairs.
        validated_on: Name of the validation split.
        result: Metrics on the validation split.
        epoch: Epoch of the weights, one-based.
    """
    data = settings.data
    return {
        "trained_on": train.name,
        "synthetic": train.synthetic,
        "validated_on": validated_on,
        "epochs": epoch,
        "results": {k: v for k, v in result.items() if isinstance(v, int | float | str)},
        "settings": as_dict(settings),
        "data_sources": [one.as_dict() for one in sources_of(data.name, data.root, data.train)],
        "training_pairs": pair_hashes(train),  # evaluation refuses data sets with these pairs
    }


@contextlib.contextmanager
def run_lock(output: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold the lock of the directory of a run: two runs would remove each other's checkpoints.

    A directory that was made for the lock and is still empty at the end is removed.

    Raises:
        GenGeoError: Another run holds the lock.
    """
    if not accelerator.is_main_process:
        yield
        return
    is_new = not output.exists()
    try:
        with exclusive(output / ".run.lock", wait=False) as ours:
            if not ours:
                raise GenGeoError(f"another run is writing to {output}: wait for it, or give another output=...")
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                output.rmdir()


class PlateauWatch:
    """Detects a run whose loss stays at ln(batch_size): all descriptors are equal and the model does not learn.

    Args:
        batch_size: Number of pairs of a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self.level, self.epochs = math.log(batch_size), 0

    def after_epoch(self, losses: Sequence[float]) -> str | None:
        """Return a message after the second consecutive epoch on the plateau; None otherwise.

        Args:
            losses: Losses of some steps of the epoch.
        """
        stuck = bool(losses) and min(losses) > 0.99 * self.level
        self.epochs = self.epochs + 1 if stuck else 0
        if self.epochs != 2:
            return None
        return (
            f"the loss has stayed at ln(batch) = {self.level:.2f} for two epochs: all descriptors are nearly equal. A "
            "longer warm-up, a lower learning rate or another seed helps; see head/effective_rank in log.jsonl"
        )


def _belongs(line: str, progress: Progress) -> bool:
    """Whether a line of the log is valid JSON and not after `progress`; a kill or a full disk can truncate a line."""
    try:
        values = json.loads(line)
        started = progress.epoch + (progress.batch > 0)  # an unfinished epoch already has its line
        return bool(values["step"] <= progress.step and values.get("epoch", 0) <= started)
    except (ValueError, KeyError, TypeError):
        return False


class Log:
    """Writes `log.jsonl`, one JSON object per line, and to the tracker if there is one.

    Lines after `progress`, which a resumed run writes again, are removed.

    Args:
        path: Path of `log.jsonl`.
        accelerator: Accelerator with the processes and the tracker.
        progress: Progress of the run.
    """

    def __init__(self, path: Path, accelerator: Accelerator, progress: Progress) -> None:
        self.path, self.accelerator = path, accelerator
        if accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if progress.step and _belongs(line, progress)]
            write_text(path, "".join(line + "\n" for line in kept))
        self.step = progress.step

    def write(self, values: dict[str, float], step: int | None = None) -> None:
        """Append one line.

        Args:
            values: Values by name.
            step: Optimizer step; None for that of the previous line.
        """
        self.step = self.step if step is None else step
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            line = json.dumps({"step": self.step, "time": round(time.time(), 1), **values})
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:  # a full disk must not end a long run
                self.accelerator.print(f"{self.path} could not be written ({error})")
