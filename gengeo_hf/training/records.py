"""What a run prints and writes beside its checkpoints: its first lines, `log.jsonl`, and `model/` in Hub format."""

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
    """Write the model in Hub format with its training record; False where the disk is full."""
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
    return bool(every.all())  # all processes must agree on whether there is a better model


def describe_run(
    settings: Settings, train: CrossViewDataset, model: GenGeoModel, accelerator: Accelerator, steps: int, epoch: int
) -> str:
    """Lines for the start of a run.

    Args:
        settings: of the run.
        train: the training pairs.
        model: unwrapped.
        accelerator: for the processes.
        steps: of an epoch.
        epoch: the last one that is finished, 0 for none.
    """
    plan, factor = settings.optimisation, rate_factor(settings)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = [
        f"{train.name}: {len(train.queries):,} pairs, {len(train.gallery):,} tiles; {trained:,} of "
        f"{sum(p.numel() for p in model.parameters()):,} parameters are trained; {plan.epochs} epochs of {steps} steps "
        f"on {accelerator.num_processes} x {accelerator.device}" + (f"; going on after epoch {epoch}" if epoch else "")
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
    """What a model was trained on and what it reached, for the directory and the model card."""
    data = settings.data
    return {
        "trained_on": train.name,
        "synthetic": train.synthetic,
        "validated_on": validated_on,
        "epochs": epoch,
        "results": {k: v for k, v in result.items() if isinstance(v, int | float | str)},
        "settings": as_dict(settings),
        "data_sources": [one.as_dict() for one in sources_of(data.name, data.root, data.train)],
        "training_pairs": pair_hashes(train),  # an evaluation on one of these pairs is refused
    }


@contextlib.contextmanager
def run_lock(output: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold a run's directory: two runs would remove each other's checkpoints.

    A directory that was made for the lock and is still empty at the end is removed.

    Raises:
        GenGeoError: Another run holds it.
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
    """Notices a run whose loss stays at ln(batch): all descriptors are alike, and nothing is learned.

    Args:
        batch_size: Pairs of a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self.level, self.epochs = math.log(batch_size), 0

    def after_epoch(self, losses: Sequence[float]) -> str | None:
        """A line for people after the second such epoch in a row; None otherwise.

        Args:
            losses: Of some steps of the epoch.
        """
        stuck = bool(losses) and min(losses) > 0.99 * self.level
        self.epochs = self.epochs + 1 if stuck else 0
        if self.epochs != 2:
            return None
        return (
            f"the loss has stayed at ln(batch) = {self.level:.2f} for two epochs: all descriptors are alike. A longer "
            "warm-up, a lower learning rate or another seed helps; see head/effective_rank in log.jsonl"
        )


def _belongs(line: str, progress: Progress) -> bool:
    """Whether a line of the log is whole and not of later work: a kill or a full disk may have cut it anywhere."""
    try:
        values = json.loads(line)
        started = progress.epoch + (progress.batch > 0)  # the epoch that a run stands in has its line already
        return bool(values["step"] <= progress.step and values.get("epoch", 0) <= started)
    except (ValueError, KeyError, TypeError):
        return False


class Log:
    """`log.jsonl`, one JSON object a line, without what a resumed run does again; and the tracker if there is one."""

    def __init__(self, path: Path, accelerator: Accelerator, progress: Progress) -> None:
        self.path, self.accelerator = path, accelerator
        if accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if progress.step and _belongs(line, progress)]
            write_text(path, "".join(line + "\n" for line in kept))
        self.step = progress.step

    def write(self, values: dict[str, float], step: int | None = None) -> None:
        """Append one line; `step` defaults to the last one."""
        self.step = self.step if step is None else step
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            line = json.dumps({"step": self.step, "time": round(time.time(), 1), **values})
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:  # a full disk must not end a run of days
                self.accelerator.print(f"{self.path} could not be written ({error})")
