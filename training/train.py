"""Train a GenGeo model: settings, data, model, optimizer, resume, epochs, save. Read it from top to bottom.

    accelerate launch training/train.py --config training/configs/world_urban.yaml
    accelerate launch training/train.py --config training/configs/cvusa.yaml data.root=/data/CVUSA

The same file runs on a laptop's CPU, one GPU or several. A killed run goes on when the same command is given again.
It writes into `output`: `log.jsonl`, `checkpoint-*` (the last two), and `model/`, the best weights on the validation
split in Hub format, for `GenGeoModel.from_pretrained`, `gengeo index` and `training/evaluate.py`.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

import checkpoint
from batches import batch_rules, describe, neighbour_table, training_pairs
from gengeo_hf.data import CrossViewDataset, load_pairs
from gengeo_hf.data.augment import Augmentation
from gengeo_hf.data.loading import AerialImages, GroundImages, PairSource
from gengeo_hf.data.memory import PairsInMemory
from gengeo_hf.encoder import TRAINING_RECORD, Encoder
from gengeo_hf.errors import GenGeoError
from gengeo_hf.evaluation import evaluate_descriptors
from gengeo_hf.learning import HardNegativeBatchSampler, cached_backward, gather_rows, symmetric_info_nce
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from records import Log, export, flat
from settings import Settings, as_dict, parse


def main(settings: Settings) -> dict[str, Any]:
    """Run the training that `settings` describe; returns the validation result of the best weights."""
    output = Path(settings.output)
    sampling, plan = settings.sampling, settings.optimisation
    accelerator = Accelerator(
        mixed_precision=plan.mixed_precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True, even_batches=False, non_blocking=True),
        log_with=settings.tracker,
        project_dir=output,
    )
    set_seed(settings.seed, device_specific=True)  # dropout differs between processes; all else is seeded by step
    if sampling.batch_size % accelerator.num_processes:
        raise GenGeoError(
            f"sampling.batch_size={sampling.batch_size} cannot be shared out evenly to {accelerator.num_processes} "
            "processes: InfoNCE needs equal parts"
        )
    if settings.tracker:
        accelerator.init_trackers(output.name, config=flat(as_dict(settings)))

    # Data: two tables each, and the sampler that decides which pairs meet in a batch.
    with accelerator.main_process_first():  # one process builds a cache, the others find it
        train = load_pairs(settings.data.name, settings.data.root, split="train", **settings.data.train)
        validation = load_pairs(settings.data.name, settings.data.root, split="validation", **settings.data.validation)
    processor = GenGeoImageProcessor(
        view_sizes={
            "ground": dict(zip(("height", "width"), settings.data.ground_size, strict=True)),
            "aerial": dict(zip(("height", "width"), settings.data.aerial_size, strict=True)),
        }
    )
    source: Dataset[dict[str, Any]] = PairSource(train, processor)
    workers = settings.data.workers
    if settings.data.in_memory:
        source, workers = PairsInMemory(PairSource(train, processor)), 0  # nothing is left for a worker to do
    pairs = training_pairs(train)
    sampler = HardNegativeBatchSampler(pairs, batch_rules(settings), settings.seed)
    loader = accelerator.prepare_data_loader(
        DataLoader(source, batch_sampler=sampler, collate_fn=PairSource.collate, num_workers=workers)
    )
    augment = Augmentation(**settings.augment.options) if settings.augment.options else None

    # Model and optimizer. Frozen parameters keep no activations and have no optimizer state.
    model = build_model(settings)
    if plan.gradient_checkpointing:
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(parameter_groups(model, plan.weight_decay), betas=tuple(plan.betas), lr=1.0)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    model = accelerator.unwrap_model(wrapped)
    encoder = Encoder(model, processor, accelerator.device)

    # Resume: the newest whole checkpoint, or zero.
    query_ids, tile_ids = train.queries["query_id"][:], train.gallery["tile_id"][:]
    progress, tables = checkpoint.resume(output, accelerator, model, optimizer, as_dict(settings), query_ids, tile_ids)
    total_steps = plan.epochs * (len(pairs) // sampling.batch_size)
    log = Log(output / "log.jsonl", accelerator, progress.step)
    accelerator.print(
        f"{train.name}: {len(pairs):,} pairs, {len(train.gallery):,} tiles; "
        f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} of "
        f"{sum(p.numel() for p in model.parameters()):,} parameters are trained; "
        f"{plan.epochs} epochs of {len(pairs) // sampling.batch_size} steps on {accelerator.num_processes} x "
        f"{accelerator.device}" + (f"; going on after epoch {progress.epoch}" if progress.epoch else "")
    )

    for epoch in range(progress.epoch + 1, plan.epochs + 1):
        # Mine: neighbours on the map at first, what the model itself confuses later.
        table, mined = neighbour_table(settings, epoch, train, pairs, tables, accelerator, encoder)
        if table is not None:
            sampler.set_tables(table)
        sampler.set_epoch(epoch)
        loader.set_epoch(epoch)
        log.write({"epoch": epoch, **{f"batches/{k}": v for k, v in sampler.report(*mined).items()}})

        wrapped.train()
        started = time.perf_counter()
        bar = tqdm(loader, f"epoch {epoch}/{plan.epochs}", disable=not accelerator.is_main_process, leave=False)
        for batch in bar:
            rate = learning_rate(progress.step, total_steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if augment is not None:
                batch = augment(batch, seed=(settings.seed, progress.step, accelerator.process_index))
            loss = backward_pass(batch, accelerator, wrapped, model, processor, settings)
            if plan.clip_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), plan.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            progress.step += 1
            if progress.step % settings.log_every == 0:
                value = loss.item()
                if not math.isfinite(value):
                    raise GenGeoError(
                        f"the loss is {value} at step {progress.step}: lower optimisation.learning_rate "
                        f"(now {plan.learning_rate}) or use mixed_precision=bf16 instead of fp16"
                    )
                bar.set_postfix(loss=f"{value:.3f}")
                log.write(
                    {"loss": value, "learning_rate": rate, "scale": model.logit_scale.exp().item()}, progress.step
                )
        seconds = time.perf_counter() - started
        progress.epoch = epoch
        log.write({"epoch": epoch, "pairs_per_second": len(sampler) * sampling.batch_size / seconds}, progress.step)

        # Evaluate on the validation split, which picks the weights: never on the test split.
        if epoch % settings.evaluate_every == 0 or epoch == plan.epochs:
            result = evaluate(validation, accelerator, encoder)
            log.write({f"validation/{k}": v for k, v in result.items() if isinstance(v, float)}, progress.step)
            accelerator.print(
                f"epoch {epoch}: loss {loss.item():.3f}, {validation.name} R@1 {result['recall@1']:.1%}, "
                f"R@5 {result['recall@5']:.1%} of {result['gallery_size']} tiles"
            )
            if result["recall@1"] > progress.best_recall:
                progress.best_recall, progress.best_epoch = result["recall@1"], epoch
                export(
                    output / "model",
                    accelerator,
                    model,
                    processor,
                    settings,
                    train.name,
                    validation.name,
                    result,
                    epoch,
                )
        if epoch % settings.save_every == 0 or epoch == plan.epochs:
            named = {name: (rows, query_ids, tile_ids) for name, rows in tables.items()}
            checkpoint.save(output, accelerator, model, optimizer, progress, as_dict(settings), named)

    accelerator.end_training()
    record = json.loads((output / "model" / TRAINING_RECORD).read_text(encoding="utf-8"))
    accelerator.print(
        f"best on {validation.name}: R@1 {progress.best_recall:.1%} after epoch {progress.best_epoch}; "
        f"weights in {output / 'model'}"
    )
    return dict(record["results"])


def backward_pass(
    batch: dict[str, torch.Tensor],
    accelerator: Accelerator,
    wrapped: torch.nn.Module,
    model: GenGeoModel,
    processor: GenGeoImageProcessor,
    settings: Settings,
) -> torch.Tensor:
    """The gradient of the global batch's loss, in parts where `sampling.micro_batch` asks for it; gives the loss."""

    def describe_part(part: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        with accelerator.autocast():
            ground = wrapped(normalise(part["ground"], processor), view="ground").pooler_output
            aerial = wrapped(normalise(part["aerial"], processor), view="aerial").pooler_output
        return ground, aerial

    def loss_of(ground: torch.Tensor, aerial: torch.Tensor) -> torch.Tensor:
        smoothing = settings.optimisation.label_smoothing
        return symmetric_info_nce(
            gather_rows(ground), gather_rows(aerial), model.logit_scale, label_smoothing=smoothing
        )

    size = settings.sampling.micro_batch
    if size is None or size >= len(batch["ground"]):
        loss = loss_of(*describe_part(batch))
        accelerator.backward(loss)
        return loss.detach()
    return cached_backward(
        [{key: value[i : i + size] for key, value in batch.items()} for i in range(0, len(batch["ground"]), size)],
        describe_part,
        loss_of,
        backward=accelerator.backward,
        no_sync=lambda: accelerator.no_sync(wrapped),
        loss_parameters=[model.logit_scale],
        device=accelerator.device,
    )


def build_config(settings: Settings) -> GenGeoConfig:
    """The model's configuration.

    Raises:
        GenGeoError: an unknown field of GenGeoConfig (a misspelt one would be stored and ignored), or a wrong value.
    """
    fields = settings.model.config
    if unknown := sorted(set(fields) - set(GenGeoConfig.__dataclass_fields__)):
        raise GenGeoError(f"model.config has no field {unknown[0]!r}; GenGeoConfig's docstring lists the fields")
    try:
        return GenGeoConfig(**fields)
    except (ValueError, StrictDataclassError) as error:
        raise GenGeoError(f"model.config: {' '.join(str(error).split())}") from error


def build_model(settings: Settings) -> GenGeoModel:
    """From random weights, from a backbone, or from a GenGeo checkpoint."""
    config = build_config(settings)
    if settings.model.init is None:
        return GenGeoModel(config)
    model: GenGeoModel = GenGeoModel.from_pretrained(settings.model.init, dtype=torch.float32, **settings.model.config)
    return model


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for biases, norms, the dustbin and the temperature, which it would shrink."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def learning_rate(step: int, total: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to the final rate (GenGeo, section 4.2: cosine annealing)."""
    plan = settings.optimisation
    warmup = max(1, round(plan.warmup * total))
    if step < warmup:
        return plan.learning_rate * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return (
        plan.final_learning_rate + (plan.learning_rate - plan.final_learning_rate) * (1 + math.cos(math.pi * share)) / 2
    )


def normalise(pixels: torch.Tensor, processor: GenGeoImageProcessor) -> torch.Tensor:
    """uint8 or 0..255 float (B, 3, H, W) to the model's range, as the processor does for one image."""
    mean = torch.tensor(processor.image_mean, device=pixels.device)[:, None, None]
    std = torch.tensor(processor.image_std, device=pixels.device)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def evaluate(data: CrossViewDataset, accelerator: Accelerator, encoder: Encoder) -> dict[str, Any]:
    """Recall of a split that is not the test split."""
    ground = describe(GroundImages(data), "ground", accelerator, encoder)
    aerial = describe(AerialImages(data), "aerial", accelerator, encoder)
    result: dict[str, Any] = evaluate_descriptors(ground, aerial, data.positive_rows(), device=str(accelerator.device))
    return result


if __name__ == "__main__":
    try:
        main(parse())
    except GenGeoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last checkpoint")
