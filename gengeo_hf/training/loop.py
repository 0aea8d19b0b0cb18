"""The training loop: data, model, optimizer, resume, epochs, evaluation, checkpoints.

    accelerate launch training/train.py --config world_urban                # in a checkout
    accelerate launch -m gengeo_hf.training --config world_urban            # with an installed package
    python -m gengeo_hf.training --config cvusa data.root=/data/CVUSA       # one process

It runs on a CPU, on one or several GPUs, and on several machines (commands: training/README.md). The same command
resumes an interrupted run. It writes to `output`: `log.jsonl`, `checkpoint-*` (the last two), and `model/`, the best
weights on the validation split in Hub format, for `GenGeoModel.from_pretrained`, `gengeo index` and `gengeo evaluate`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedType, set_seed
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from gengeo_hf.common.errors import GenGeoError, exit_on_error
from gengeo_hf.common.registry import load_plugins
from gengeo_hf.common.schema import check_apart
from gengeo_hf.data import load_pairs
from gengeo_hf.data.cache import PairsInMemory
from gengeo_hf.data.loading import PairSource
from gengeo_hf.data.view_checks import check_views
from gengeo_hf.encoding.encoder import TRAINING_RECORD, Encoder, View
from gengeo_hf.evaluation.protocols import default_protocol
from gengeo_hf.evaluation.run import evaluate
from gengeo_hf.learning import HardNegativeBatchSampler
from gengeo_hf.learning.loss import clamp_scale
from gengeo_hf.training import checkpoint
from gengeo_hf.training.batches import batch_rules, neighbour_tables, table_shares, training_pairs
from gengeo_hf.training.components import (
    ModelEma,
    build_augmentation,
    build_model,
    build_pairs,
    build_processor,
    check_backends,
    check_smallest_images,
    count_operations,
    ema_weights,
    start_head,
)
from gengeo_hf.training.descriptors import encode_distributed
from gengeo_hf.training.diagnostics import head_statistics
from gengeo_hf.training.image_sizes import enlargement_notes
from gengeo_hf.training.objective import build_objective
from gengeo_hf.training.records import Log, PlateauWatch, export, run_lock, run_summary, training_record
from gengeo_hf.training.schedule import learning_rate
from gengeo_hf.training.settings import Settings, as_dict, parse
from gengeo_hf.training.step import backward_pass, build_optimizer, check_finite, seed_step
from gengeo_hf.training.throughput import Meter
from gengeo_hf.training.token_cache import build_token_cache


def main(settings: Settings) -> dict[str, Any]:
    """Run a training.

    Args:
        settings: Settings of the run.

    Returns:
        Validation metrics of the best weights, fractions of 1.

    Raises:
        GenGeoError: Settings, data or processes do not fit each other, another run writes to the same directory, or the
            loss is not finite.
    """
    load_plugins()  # GENGEO_PLUGINS and entry points
    check_backends(settings)
    accelerator = Accelerator(
        mixed_precision=settings.optimisation.mixed_precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True, even_batches=False, non_blocking=True),
        log_with=settings.tracker,
        project_dir=settings.output,
    )
    check_processes(settings, accelerator)
    with run_lock(Path(settings.output), accelerator):
        return train(settings, accelerator)


def train(settings: Settings, accelerator: Accelerator) -> dict[str, Any]:
    """Train, holding the lock of the output directory; see `main`."""
    output = Path(settings.output)
    sampling, plan = settings.sampling, settings.optimisation
    set_seed(settings.seed)  # for the initial weights; each step has its own seed
    if settings.tracker:
        accelerator.init_trackers(output.name, config=checkpoint.flat(as_dict(settings)))

    # Data: both splits, and the sampler that selects the pairs of a batch.
    with accelerator.main_process_first():  # one process builds the cache, the others read it
        training = load_pairs(settings.data.name, settings.data.root, split="train", **settings.data.train)
        validation = load_pairs(settings.data.name, settings.data.root, split="validation", **settings.data.validation)
    check_apart(training, validation)
    processor = build_processor(settings)
    check_views(validation, processor)
    for note in enlargement_notes(settings, training, validation):
        accelerator.print(note)
    decoded, in_memory = build_pairs(settings, training, processor), settings.data.in_memory
    source: Dataset[dict[str, Any]] = PairsInMemory(decoded) if in_memory else decoded
    pairs = training_pairs(training)
    sampler = HardNegativeBatchSampler(pairs, batch_rules(settings, pairs), settings.seed)
    loader = accelerator.prepare_data_loader(
        DataLoader(
            source,
            batch_sampler=sampler,
            collate_fn=PairSource.collate,
            num_workers=0 if in_memory else settings.data.workers,  # no images to decode
        )
    )

    # Model and optimizer. Frozen parameters have neither activations nor optimizer state.
    model = build_model(settings).to(accelerator.device)
    model.config.ground_camera, model.config.ground_vertical_fov = training.ground_camera()
    meter = Meter(count_operations(model, processor, accelerator, settings), accelerator)
    start_head(model, settings, decoded, processor)
    objective = build_objective(model, settings)
    if plan.gradient_checkpointing:
        # transformers 5.23 renamed gradient_checkpointing_enable, which version 6 removes
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if plan.compile is not None:
        model.compile(backend=plan.compile)
    wrapped: torch.nn.Module = accelerator.prepare(model)
    model = accelerator.unwrap_model(wrapped)
    ema = ModelEma(model, plan.ema) if plan.ema is not None else None
    plain, sharpness = build_optimizer(model, settings)
    optimizer = accelerator.prepare(plain)
    if sharpness is not None:
        sharpness.base_optimizer = optimizer
    encoder = Encoder(model, processor, device=accelerator.device)
    augment = build_augmentation(settings, encoder.patch)
    check_smallest_images(augment, model, processor)

    # Resume from the newest readable checkpoint.
    ids = training.queries["query_id"][:], training.gallery["tile_id"][:]
    ema_values = ema.values if ema else None
    progress, tables = checkpoint.resume(output, accelerator, model, optimizer, as_dict(settings), ids, ema_values)
    cache = build_token_cache(settings, model, source, processor, augment, accelerator)
    change = cache or augment
    steps = len(pairs) // sampling.batch_size  # maximum per epoch: the sampler drops batches that it cannot fill
    total_steps = plan.epochs * steps
    log = Log(output / "log.jsonl", accelerator, progress)
    plateau = PlateauWatch(sampling.batch_size)
    accelerator.print(run_summary(settings, training, model, accelerator, steps, progress.epoch))

    def encode(images: Sequence[Any], view: View) -> np.ndarray:
        return encode_distributed(images, view, accelerator, encoder, readers=settings.data.workers)

    clamp_scale(model.logit_scale)  # above the bound, the gradient would stay zero
    for epoch in range(progress.epoch + 1, plan.epochs + 1):
        # Neighbour tables: geographic in the first epochs, mined by similarity later. A run that resumes inside an
        # epoch uses the tables of its checkpoint.
        finished, mined = progress.batch, None
        if not finished:
            with ema_weights(ema):
                mined = neighbour_tables(settings, epoch, training, pairs, tables, accelerator, encoder, cache)
        ordered = dict(sorted(tables.items()))
        sampler.set_tables(shares=table_shares(settings, ordered), **ordered)
        sampler.set_epoch(epoch)
        if not len(sampler):
            raise GenGeoError(
                f"no batch of {sampling.batch_size} can be filled, since too many photos exclude one another: set a "
                "smaller sampling.batch_size or sampling.min_negative_distance_m, or sampling.semi_positives=ignored"
            )
        batches = len(sampler)
        loader.set_epoch(epoch)
        if not finished:
            log.write({"epoch": epoch, **{f"batches/{k}": v for k, v in sampler.report(*(mined or ())).items()}})
        sampler.skip_batches(finished)

        wrapped.train()
        meter.start()
        bar = tqdm(
            meter.watch(loader),
            f"epoch {epoch}/{plan.epochs}",
            disable=not accelerator.is_main_process,
            total=batches,
            initial=finished,
            leave=False,
        )
        losses = []
        for done, batch in enumerate(bar, finished):
            seed_step(settings.seed, progress.step, accelerator.process_index)
            rate = learning_rate((epoch - 1) * steps + done * steps / batches, total_steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if change is not None:
                batch = change(batch, seed=(settings.seed, progress.step, accelerator.process_index))
            loss = backward_pass(batch, accelerator, wrapped, model, processor, settings, pairs, objective)
            if sharpness is not None:
                sharpness.first_step(zero_grad=True)
                seed_step(settings.seed, progress.step, accelerator.process_index)  # the same dropout
                backward_pass(batch, accelerator, wrapped, model, processor, settings, pairs, objective)
            if plan.clip_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), plan.clip_norm)
            (optimizer.step if sharpness is None else sharpness.second_step)()
            optimizer.zero_grad()
            clamp_scale(model.logit_scale)
            objective.clamp()
            progress.step += 1
            meter.pairs += sampling.batch_size
            if ema is not None:
                ema.update(progress.step)
            if progress.step % settings.log_every == 0:
                value = check_finite(loss, progress.step, settings)
                losses.append(value)
                bar.set_postfix(loss=f"{value:.3f}")
                scale = model.logit_scale.exp().item()
                statistics = head_statistics(model, batch, processor)
                log.write(
                    {"loss": value, "learning_rate": rate, "scale": scale, **statistics, **meter.read()}, progress.step
                )
            if settings.checkpoint_every and progress.step % settings.checkpoint_every == 0 and done + 1 < batches:
                check_finite(loss, progress.step, settings)
                progress.batch = done + 1
                checkpoint.save(
                    output, accelerator, model, optimizer, progress, as_dict(settings), tables, ids, ema_values
                )
        value = check_finite(loss, progress.step, settings)  # before evaluation and saving
        progress.epoch, progress.batch = epoch, 0
        if (line := plateau.after_epoch([*losses, value])) is not None:
            accelerator.print(line)

        # Evaluate on the validation split, which selects the weights; the test split is not used.
        if epoch % settings.evaluate_every == 0 or epoch == plan.epochs:
            with ema_weights(ema):
                rules = default_protocol(settings.data.name, "validation")
                result = evaluate(encoder, validation, rules, encode=encode).metrics
                log.write({f"validation/{k}": v for k, v in result.items() if isinstance(v, float)}, progress.step)
                accelerator.print(
                    f"epoch {epoch}: loss {value:.3f}, {validation.name} R@1 {result['recall@1']:.1%}, "
                    f"R@5 {result['recall@5']:.1%} of {result['gallery_size']} tiles; {meter.summary()}"
                )
                record = training_record(settings, training, validation.name, result, epoch)
                better = result["recall@1"] > progress.best_recall
                if better and export(output / "model", accelerator, model, processor, record):
                    progress.best_recall, progress.best_epoch = result["recall@1"], epoch
        if epoch % settings.save_every == 0 or epoch == plan.epochs:
            checkpoint.save(output, accelerator, model, optimizer, progress, as_dict(settings), tables, ids, ema_values)

    accelerator.end_training()
    if not (output / "model" / TRAINING_RECORD).is_file():
        raise GenGeoError(f"{output / 'model'} could not be written; free some space and run the same command again")
    record = json.loads((output / "model" / TRAINING_RECORD).read_text(encoding="utf-8"))
    accelerator.print(
        f"weights of epoch {progress.best_epoch}, the best of {plan.epochs}, are in {output / 'model'}; "
        f"{validation.name}: R@1 {100 * progress.best_recall:.1f}%"
    )
    return dict(record["results"])


def check_processes(settings: Settings, accelerator: Accelerator) -> None:
    """Refuse configurations of processes that are not supported.

    Raises:
        GenGeoError: The batch size is not a multiple of the number of processes, or Accelerate is configured to shard
            the model.
    """
    batch, processes = settings.sampling.batch_size, accelerator.num_processes
    if batch % processes:
        raise GenGeoError(
            f"sampling.batch_size={batch} cannot be divided among {processes} processes: InfoNCE needs equal parts"
        )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise GenGeoError(
            f"Accelerate is configured for {accelerator.distributed_type.value}, but each device needs the whole "
            "model; use training/launch/gpus.yaml, with gradient checkpointing for a large model"
        )


def start() -> None:
    """Parse the command line and train; errors that the user can correct are one line."""
    with exit_on_error("stopped; the same command continues from the last checkpoint"):
        main(parse())
