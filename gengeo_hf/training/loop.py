"""Train a GenGeo model: settings, data, model, optimizer, resume, epochs, save. Read `main` from top to bottom.

    accelerate launch training/train.py --config world_urban                # in a checkout
    accelerate launch -m gengeo_hf.training --config world_urban            # the same, from an installed package
    python -m gengeo_hf.training --config cvusa data.root=/data/CVUSA       # the same, one process

It runs on a laptop's CPU, one GPU, several GPUs and several machines (training/README.md has the commands). A run that
was stopped continues when the same command is given again. It writes into `output`: `log.jsonl`, `checkpoint-*` (the
last two), and `model/`, the best weights on the validation split in Hub format, for `GenGeoModel.from_pretrained`,
`gengeo index` and `gengeo evaluate`.
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
    Average,
    build_augmentation,
    build_model,
    build_pairs,
    build_processor,
    check_smallest_images,
    check_words,
    count_operations,
    start_head,
    weights_in_use,
)
from gengeo_hf.training.descriptors import encode_together
from gengeo_hf.training.diagnostics import head_statistics
from gengeo_hf.training.image_sizes import enlargement_notes
from gengeo_hf.training.kept import keep_tokens
from gengeo_hf.training.objective import build_objective
from gengeo_hf.training.records import Log, PlateauWatch, describe_run, export, run_lock, training_record
from gengeo_hf.training.schedule import learning_rate
from gengeo_hf.training.settings import Settings, as_dict, parse
from gengeo_hf.training.step import backward_pass, build_optimizer, finite, seed_step
from gengeo_hf.training.throughput import Meter


def main(settings: Settings) -> dict[str, Any]:
    """Run the training that `settings` describe.

    Returns:
        The validation metrics of the best weights, fractions of 1.

    Raises:
        GenGeoError: Settings, data or processes do not go together, another run writes to the same directory, or the
            loss is no longer a number.
    """
    load_plugins()  # parts of a user's own: GENGEO_PLUGINS and entry points
    check_words(settings)
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
    """The training itself; see `main`."""
    output = Path(settings.output)
    sampling, plan = settings.sampling, settings.optimisation
    set_seed(settings.seed)  # of random weights; each step is seeded by itself
    if settings.tracker:
        accelerator.init_trackers(output.name, config=checkpoint.flat(as_dict(settings)))

    # Data: two tables each, and the sampler that decides which pairs meet in a batch.
    with accelerator.main_process_first():  # one process builds a cache, the others find it
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
            num_workers=0 if in_memory else settings.data.workers,  # nothing is left for them to do
        )
    )

    # Model and optimizer. Frozen parameters keep no activations and have no optimizer state.
    model = build_model(settings).to(accelerator.device)
    model.config.ground_camera, model.config.ground_vertical_fov = training.ground_camera()
    meter = Meter(count_operations(model, processor, accelerator, settings), accelerator)
    start_head(model, settings, decoded, processor)
    objective = build_objective(model, settings)
    if plan.gradient_checkpointing:
        # transformers 5.23 renames gradient_checkpointing_enable, which 6 will drop
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if plan.compile is not None:
        model.compile(backend=plan.compile)
    wrapped: torch.nn.Module = accelerator.prepare(model)
    model = accelerator.unwrap_model(wrapped)
    average = Average(model, plan.ema) if plan.ema is not None else None
    plain, sharpness = build_optimizer(model, settings)
    optimizer = accelerator.prepare(plain)
    if sharpness is not None:
        sharpness.base_optimizer = optimizer
    encoder = Encoder(model, processor, device=accelerator.device)
    augment = build_augmentation(settings, encoder.patch)
    check_smallest_images(augment, model, processor)

    # Resume: the newest whole checkpoint, or zero.
    ids = training.queries["query_id"][:], training.gallery["tile_id"][:]
    averaged = average.values if average else None
    progress, tables = checkpoint.resume(output, accelerator, model, optimizer, as_dict(settings), ids, averaged)
    kept = keep_tokens(settings, model, source, processor, augment, accelerator)
    change = kept or augment
    steps = len(pairs) // sampling.batch_size  # of an epoch at most: the sampler may drop a batch that it cannot fill
    total_steps = plan.epochs * steps
    log = Log(output / "log.jsonl", accelerator, progress)
    plateau = PlateauWatch(sampling.batch_size)
    accelerator.print(describe_run(settings, training, model, accelerator, steps, progress.epoch))

    def encode(images: Sequence[Any], view: View) -> np.ndarray:
        return encode_together(images, view, accelerator, encoder, readers=settings.data.workers)

    clamp_scale(model.logit_scale)  # a checkpoint beyond the bound could never adapt
    for epoch in range(progress.epoch + 1, plan.epochs + 1):
        # Mine: neighbours on the map at first, what the model itself confuses later. Inside of an epoch the tables of
        # the checkpoint are those of this epoch.
        finished, mined = progress.batch, None
        if not finished:
            with weights_in_use(average):
                mined = neighbour_tables(settings, epoch, training, pairs, tables, accelerator, encoder, kept)
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
            if average is not None:
                average.update(progress.step)
            if progress.step % settings.log_every == 0:
                value = finite(loss, progress.step, settings)
                losses.append(value)
                bar.set_postfix(loss=f"{value:.3f}")
                scale = model.logit_scale.exp().item()
                statistics = head_statistics(model, batch, processor)
                log.write(
                    {"loss": value, "learning_rate": rate, "scale": scale, **statistics, **meter.read()}, progress.step
                )
            if settings.checkpoint_every and progress.step % settings.checkpoint_every == 0 and done + 1 < batches:
                finite(loss, progress.step, settings)
                progress.batch = done + 1
                checkpoint.save(
                    output, accelerator, model, optimizer, progress, as_dict(settings), tables, ids, averaged
                )
        value = finite(loss, progress.step, settings)  # before it is evaluated and saved
        progress.epoch, progress.batch = epoch, 0
        if (line := plateau.after_epoch([*losses, value])) is not None:
            accelerator.print(line)

        # Evaluate on the validation split, which picks the weights: never on the test split.
        if epoch % settings.evaluate_every == 0 or epoch == plan.epochs:
            with weights_in_use(average):
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
            checkpoint.save(output, accelerator, model, optimizer, progress, as_dict(settings), tables, ids, averaged)

    accelerator.end_training()
    if not (output / "model" / TRAINING_RECORD).is_file():
        raise GenGeoError(f"{output / 'model'} could not be written; free some space and give the same command again")
    record = json.loads((output / "model" / TRAINING_RECORD).read_text(encoding="utf-8"))
    accelerator.print(
        f"weights of epoch {progress.best_epoch}, the best of {plan.epochs}, are in {output / 'model'}; "
        f"{validation.name}: R@1 {100 * progress.best_recall:.1f}%"
    )
    return dict(record["results"])


def check_processes(settings: Settings, accelerator: Accelerator) -> None:
    """Refuse processes that cannot share the batches.

    Raises:
        GenGeoError: Their parts of a batch would not be equal, or Accelerate is configured to shard the model.
    """
    batch, processes = settings.sampling.batch_size, accelerator.num_processes
    if batch % processes:
        raise GenGeoError(
            f"sampling.batch_size={batch} cannot be shared out to {processes} processes: InfoNCE needs equal parts"
        )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise GenGeoError(
            f"Accelerate is configured for {accelerator.distributed_type.value}: models are trained whole on each "
            "device; use training/launch/gpus.yaml, with gradient checkpointing for a large model"
        )


def start() -> None:
    """Parse the command line and train; an error that the user can correct is one line."""
    with exit_on_error("stopped; the same command goes on from the last checkpoint"):
        main(parse())
