"""Fits a pose head on frozen patch tokens of an encoder: minutes on a CPU, resumable, deterministic for a seed."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, check_replaceable, digest_of
from gengeo_hf.pose.estimate import errors_of_head
from gengeo_hf.pose.geometry import position_target
from gengeo_hf.pose.head import PRIORS, WHOLE_TILE, PoseConfig, PoseHead
from gengeo_hf.pose.posterior import radius_factors, turn_between
from gengeo_hf.pose.random_encoder import SUBFOLDER, random_encoder
from gengeo_hf.pose.samples import (
    NEIGHBOURS,
    Plan,
    PosePairs,
    Samples,
    batches,
    draw_samples,
    geometry_groups,
)
from gengeo_hf.pose.tokens import check_tokens, encoder_fingerprint

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset
    from gengeo_hf.encoding.encoder import Encoder

HEADING_SIGMA_DEG = 8.0  # width of the soft target of headings
SCALES = (0.7, 0.85, 1.2, 1.5)  # other tile sizes, relative to that of the data set
NARROW = (70.0, 90.0, 120.0, 180.0)  # fields of view to which panoramas are cropped, degrees
NARROW_HEADINGS = 2  # headings for each of these; the cache of `score_matrix` must hold all geometries of a fit
SAVE_EVERY_S = 30.0
LEAST_PAIRS = 40
OUTPUT = "pose head"  # kind of the directory in its record of files


@dataclass(frozen=True)
class FitSettings:
    """Settings of the fit of a head.

    Args:
        heading_prior: "known", "45" or "180": largest difference of true and stated heading in degrees.
        coverage: Share of a tile's sides in which positions are searched; 1 for galleries whose tiles overlap.
        steps: Number of optimiser steps.
        batch_size: Number of samples in one step.
        learning_rate: Peak of the cosine schedule of AdamW.
        views: Number of samples of each pair at the data set's own tile size and field of view.
        other_share: Share of the batches from other tile sizes.
        narrow_share: Share of the batches from panoramas cropped to narrower fields of view.
        hard_tiles: Number of wrong tiles in the loss of each sample, drawn from the most similar ones; for re-ranking.
        held_out: Number of pairs held out for radii and errors, at most a fifth of all pairs.
        pairs: Maximum number of pairs for the fit.
        memory_gb: Memory for tokens; if all samples need more, they are drawn in rounds.
        seed: Seed of all random numbers.
    """

    heading_prior: str = "known"
    coverage: float = 0.55
    steps: int = 1200
    batch_size: int = 128
    learning_rate: float = 3e-3
    views: int = 4
    other_share: float = 0.1
    narrow_share: float = 0.25
    hard_tiles: int = 0
    held_out: int = 300
    pairs: int = 4800
    memory_gb: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heading_prior not in PRIORS:
            raise GenGeoError(f"--heading-prior must be one of {', '.join(PRIORS)}, found {self.heading_prior!r}")
        if not 0 < self.coverage <= WHOLE_TILE:
            raise GenGeoError(f"coverage must lie above 0 and up to 1, found {self.coverage:g}")
        if not (self.other_share >= 0 and self.narrow_share >= 0 and self.other_share + self.narrow_share < 1):
            raise GenGeoError("other_share and narrow_share must not be negative, and lie below 1 together")
        for name in ("steps", "batch_size", "views", "held_out", "pairs"):
            if getattr(self, name) < 1:
                raise GenGeoError(f"{name} must be at least 1, found {getattr(self, name)}")


def fit_head(
    encoder: Encoder,
    dataset: CrossViewDataset,
    out: str | Path,
    settings: FitSettings | None = None,
    *,
    random_baseline: bool | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> PoseHead:
    """Fit a pose head and write its directory (`config.json`, `model.safetensors`).

    An interrupted fit resumes from `<out>.partial` when it is called with the same arguments.

    Args:
        encoder: Encoder, which is frozen; its descriptors do not change.
        dataset: Pairs with positions, tile bounds and fields of view.
        out: Directory of the head, `<checkpoint>/pose/<prior>`.
        settings: Settings of the fit; None takes the defaults.
        random_baseline: Also fit a head on an encoder with random weights, in the subdirectory `random_encoder`; None
            does so for the synthetic world, whose two views have the same colours.
        overwrite: Replace an earlier head.
        progress: Function that is called with progress messages.

    Raises:
        GenGeoError: `out` holds something else, or a head without `overwrite`; the encoder has no patch tokens; the
            data lack positions, bounds or fields of view; or there are too few pairs.
    """
    settings, out = settings or FitSettings(), Path(out)
    check_tokens(encoder)
    check_replaceable(out, OUTPUT, overwrite)
    pairs = PosePairs.of(dataset, encoder.processor)
    head = _fit(encoder, dataset, pairs, Path(f"{out}.partial"), settings, progress)
    heads = {"": head}
    if dataset.synthetic if random_baseline is None else random_baseline:
        progress("fit a head on an encoder with random weights, for comparison")
        blank = random_encoder(encoder)
        heads[SUBFOLDER] = _fit(blank, dataset, pairs, Path(f"{out}.random.partial"), settings, progress)
    with atomic_folder(out, OUTPUT) as folder:
        for name, each in heads.items():
            each.save_pretrained(folder / name)
    for partial in (f"{out}.partial", f"{out}.random.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    return head


def _fit(
    encoder: Encoder,
    dataset: CrossViewDataset,
    pairs: PosePairs,
    partial: Path,
    settings: FitSettings,
    progress: Callable[[str], None],
) -> PoseHead:
    """Fit one head, with its held-out errors and radius factors."""
    rows, held_out = split_rows(pairs, settings)
    fit = _FitState(new_head(encoder, pairs, settings), settings, partial, _key(encoder, dataset, settings))
    _train(fit, encoder, pairs, rows, progress)
    head = fit.head.eval()
    if partial.is_dir():
        fit.save()  # computing errors and radii may be interrupted
    record = {"data": dataset.name, "synthetic": dataset.synthetic, "pairs": len(rows), "settings": asdict(settings)}
    head.config.record = record | {"held_out": hold_out(encoder, head, pairs, held_out, settings)}
    return head


def new_head(encoder: Encoder, pairs: PosePairs, settings: FitSettings) -> PoseHead:
    """Create a head with random weights for an encoder and the tile sizes of some pairs."""
    model: Any = encoder.model
    ground = encoder.processor.view_sizes["ground"]
    sides = pairs.size_m.ravel()
    config = PoseConfig(
        token_dim=int(model.config.backbone_config.hidden_size),
        ground_rows=int(ground["height"]) // encoder.patch,
        heading_prior=settings.heading_prior,
        coverage=settings.coverage,
        tile_m=[float(sides.min() * min(SCALES)), float(sides.max() * max(SCALES))],
        encoder=encoder_fingerprint(encoder),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return PoseHead(config).train()


def split_rows(pairs: PosePairs, settings: FitSettings) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into those to fit on and held-out rows, by area if the data have more than four areas.

    Raises:
        GenGeoError: There are too few pairs.
    """
    if len(pairs) < LEAST_PAIRS:
        raise GenGeoError(f"a pose head needs at least {LEAST_PAIRS} pairs, found {len(pairs)}")
    rng = np.random.default_rng([settings.seed, 1])
    wanted = min(settings.held_out, len(pairs) // 5)
    held = np.zeros(len(pairs), dtype=bool)
    names, sizes = np.unique(pairs.areas.astype(str), return_counts=True)
    for number in rng.permutation(len(names)) if len(names) > 4 else ():
        if held.sum() + sizes[number] <= max(wanted, sizes.min()) * 1.5 and held.sum() < wanted:
            held |= pairs.areas.astype(str) == names[number]
    if not held.any():
        held[rng.permutation(len(pairs))[:wanted]] = True
    train, rows = np.flatnonzero(~held), np.flatnonzero(held)
    if len(train) > settings.pairs:
        train = np.sort(rng.permutation(train)[: settings.pairs])
    return train, rows[:wanted] if len(rows) <= wanted else np.sort(rng.permutation(rows)[:wanted])


def plans_of(
    pairs: PosePairs, rows: np.ndarray, settings: FitSettings, rng: np.random.Generator
) -> list[tuple[float, list[Plan]]]:
    """Plans of the samples to draw, grouped by kind, with the share of batches of each kind.

    The kinds are unchanged pairs, pairs at other tile sizes, and panoramas cropped to narrower fields of view.
    """
    panoramas = rows[pairs.fov[rows] >= 360]
    narrow_share = settings.narrow_share if len(panoramas) else 0.0
    own_share = 1 - settings.other_share - narrow_share
    kinds = [(own_share, [plan for _ in range(settings.views) for plan in _own_plans(pairs, rows, settings)])]
    if settings.other_share:
        others = [
            replace(plan, scale=scale)
            for scale in SCALES
            for plan in _own_plans(pairs, _some(rows, len(SCALES), rng), settings)
        ]
        kinds.append((settings.other_share, others))
    if narrow_share:
        kinds.append((narrow_share, _narrow_plans(pairs, panoramas, settings, rng)))
    return kinds


def _own_plans(pairs: PosePairs, rows: np.ndarray, settings: FitSettings) -> list[Plan]:
    """Plans of pairs at their own field of view and tile size."""
    return [
        Plan(group, float(pairs.fov[group[0]]), _stated(pairs, group), moved=settings.coverage)
        for group in geometry_groups(pairs, rows)
    ]


def _narrow_plans(
    pairs: PosePairs, panoramas: np.ndarray, settings: FitSettings, rng: np.random.Generator
) -> list[Plan]:
    """Plans of panoramas cropped to each of `NARROW` at several headings; all samples of a plan have one heading."""
    return [
        Plan(group, fov, float(rng.integers(0, 360)), moved=settings.coverage)
        for fov in NARROW
        for part in np.array_split(rng.permutation(_some(panoramas, len(NARROW), rng)), NARROW_HEADINGS)
        for group in geometry_groups(pairs, np.sort(part))
    ]


def _stated(pairs: PosePairs, group: np.ndarray) -> float:
    return float(np.round(pairs.heading[group].mean())) if pairs.fov[group[0]] < 360 else 0.0


def _some(rows: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Random part of some rows; at least 256 (two batches) if there are as many."""
    return np.sort(rng.permutation(rows)[: max(len(rows) // parts, min(len(rows), 256))])


@dataclass
class _FitState:
    """State of a fit: head, optimiser and step, stored in a directory."""

    head: PoseHead
    settings: FitSettings
    partial: Path
    key: str

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(self.head.parameters(), lr=self.settings.learning_rate)
        self.step, self.saved = 0, time.monotonic()
        state = self.partial / "state.json"
        if state.is_file():
            self._load(json.loads(state.read_text(encoding="utf-8")))

    def _load(self, state: dict[str, Any]) -> None:
        """Resume a fit with the same arguments; the state of any other fit is ignored."""
        if state.get("key") != self.key:
            return
        tensors = load_file(self.partial / "state.safetensors")
        self.head.load_state_dict({n[5:]: t for n, t in tensors.items() if n.startswith("head.")})
        for number, parameter in enumerate(self.head.parameters()):
            moments = {name: tensors[f"adam.{number}.{name}"] for name in ("step", "exp_avg", "exp_avg_sq")}
            self.optimiser.state[parameter] = moments
        self.step = int(state["step"])

    def save(self) -> None:
        """Write head, optimiser and step atomically."""
        tensors = {f"head.{name}": value.detach().contiguous() for name, value in self.head.state_dict().items()}
        for number, parameter in enumerate(self.head.parameters()):
            tensors |= {f"adam.{number}.{n}": v.contiguous() for n, v in self.optimiser.state[parameter].items()}
        with atomic_folder(self.partial) as folder:
            save_file(tensors, folder / "state.safetensors")
            (folder / "state.json").write_text(json.dumps({"key": self.key, "step": self.step}), encoding="utf-8")
        self.saved = time.monotonic()


def _key(encoder: Encoder, dataset: CrossViewDataset, settings: FitSettings) -> str:
    values = {"encoder": encoder_fingerprint(encoder), "data": dataset.name, "pairs": len(dataset.queries)}
    return digest_of(values | asdict(settings))


def _train(
    fit: _FitState, encoder: Encoder, pairs: PosePairs, rows: np.ndarray, progress: Callable[[str], None]
) -> None:
    """Draw samples and run optimiser steps, in all rounds."""
    settings = fit.settings
    rounds = _rounds(encoder, rows, settings)
    per_round = math.ceil(settings.steps / rounds)
    for number in range(fit.step // per_round, rounds):
        last = min(settings.steps, (number + 1) * per_round)
        if fit.step >= last:
            continue
        rng = np.random.default_rng([settings.seed, 2, number])
        part = rows if rounds == 1 else np.sort(rng.permutation(rows)[: max(settings.batch_size, len(rows) // rounds)])
        started = time.monotonic()
        groups, weights = [], []
        for number_of_kind, (share, plans) in enumerate(plans_of(pairs, part, settings, rng)):
            total = sum(len(plan.rows) for plan in plans)
            for plan in plans:
                wanted = NEIGHBOURS if settings.hard_tiles and number_of_kind == 0 else 0
                groups.append(draw_samples(encoder, fit.head, pairs, plan, rng, neighbours=wanted))
                weights.append(share * len(plan.rows) / total)
        progress(f"{sum(map(len, groups)):,} samples encoded in {time.monotonic() - started:.1f} s")
        _steps(fit, groups, weights, number * per_round, last, progress)


def _rounds(encoder: Encoder, rows: np.ndarray, settings: FitSettings) -> int:
    """Number of rounds in which samples are drawn, so that their tokens fit into memory."""
    model: Any = encoder.model
    sizes, width = encoder.processor.view_sizes, int(model.config.backbone_config.hidden_size)
    tokens = sum(size["height"] * size["width"] for size in sizes.values()) // encoder.patch**2
    kinds = (settings.other_share > 0) + (settings.narrow_share > 0)
    total = tokens * width * 2 * len(rows) * (settings.views + kinds)
    return max(1, min(settings.steps, math.ceil(total / (settings.memory_gb * 2**30))))


def _steps(
    fit: _FitState, groups: list[Samples], weights: list[float], first: int, last: int, progress: Callable[[str], None]
) -> None:
    """Optimiser steps of one round, `first` to `last`. Batches used before an interruption are skipped."""
    settings, head = fit.settings, fit.head
    rng = np.random.default_rng([settings.seed, 3, first])
    drawn = batches(groups, weights, settings.batch_size, rng)
    for _ in range(fit.step - first):
        next(drawn)
    while fit.step < last:
        samples, rows = next(drawn)
        rate = 0.5 * (1 + math.cos(math.pi * fit.step / settings.steps))
        fit.optimiser.param_groups[0]["lr"] = settings.learning_rate * rate
        loss = pose_loss(head, samples, rows, settings.hard_tiles, np.random.default_rng([settings.seed, 4, fit.step]))
        fit.optimiser.zero_grad()
        loss.backward()
        fit.optimiser.step()
        fit.step += 1
        if fit.step % 100 == 0:
            progress(f"step {fit.step}/{settings.steps}: loss {loss.item():.3f}")
        if time.monotonic() - fit.saved > SAVE_EVERY_S:
            fit.save()


def pose_loss(
    head: PoseHead, samples: Samples, rows: torch.Tensor, hard_tiles: int, rng: np.random.Generator
) -> torch.Tensor:
    """Cross entropy of the scores with a soft target around the true position and heading.

    Args:
        head: Head in training.
        samples: Group of the batch.
        rows: int64 (N,) rows of the batch in the group.
        hard_tiles: Number of wrong tiles whose positions and headings are added to the denominator.
        rng: Generator that chooses the wrong tiles.

    Returns:
        The mean over the batch.
    """
    queries = head.queries(samples.ground[rows].float())
    tiles = rows[:, None]
    if hard_tiles and samples.neighbours.shape[1]:
        pick = torch.from_numpy(rng.integers(0, samples.neighbours.shape[1], (len(rows), hard_tiles)))
        tiles = torch.cat([tiles, samples.neighbours[rows].gather(1, pick)], dim=1)
    keys = head.keys(samples.aerial[tiles.flatten()].float()).unflatten(0, tiles.shape)
    scores = head.scores(queries, keys, samples.layout, samples.azimuths, samples.headings)  # (N, T, H, P)
    target = soft_target(samples, rows)
    log_mass = scores.flatten(1).log_softmax(dim=1)[:, : target.shape[1]]  # the true tile comes first
    return -(target * log_mass).sum(dim=1).mean()


def soft_target(samples: Samples, rows: torch.Tensor) -> torch.Tensor:
    """Distribution with Gaussians around the true position and heading: float32 (N, H x P)."""
    position = position_target(samples.layout, samples.offset_m[rows])
    turn = torch.from_numpy(turn_between(samples.heading[rows][:, None].numpy(), np.array(samples.headings))).float()
    heading = (-(turn**2) / (2 * HEADING_SIGMA_DEG**2)).softmax(dim=1)  # (N, H)
    return (heading[:, :, None] * position[:, None]).flatten(1)


def hold_out(
    encoder: Encoder, head: PoseHead, pairs: PosePairs, rows: np.ndarray, settings: FitSettings
) -> dict[str, float | int | None]:
    """Compute errors on held-out pairs with moved tiles, and set the head's radius factors from the same pairs."""
    rng = np.random.default_rng([settings.seed, 5])
    errors = errors_of_head(encoder, head, pairs, rows, rng, moved=settings.coverage)
    head.config.radius_factors = radius_factors(errors.error_m, errors.spread_m)
    return errors.figures()
