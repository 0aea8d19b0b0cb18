"""Settings of a training run: a YAML file, checked against the dataclasses below, and overrides `key=value`.

    settings = load_settings("world_urban", ["sampling.batch_size=32", "output=runs/mine"])

All defaults are defined here; a file of `configs/` only states the values of its run that differ, with the reasons.
"""

import argparse
import dataclasses
import operator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gengeo_hf.common.errors import GenGeoError, UsageError

CONFIGS = Path(__file__).with_name("configs")  # configurations of the package


@dataclass
class Data:
    """Training and validation data."""

    name: str = MISSING  # a name that `gengeo_hf.data.load_pairs` knows: world-urban, cvusa, vigor-cross, table, ...
    root: str | None = None  # directory of the images; the synthetic world needs none
    train: dict[str, Any] = field(default_factory=dict)  # options of the loader for the training split
    validation: dict[str, Any] = field(default_factory=dict)  # options for the split that selects the best weights
    in_memory: bool = False  # decode every training pair once and keep its resized pixels in memory: for small images
    workers: int = 2  # loader processes per training process, and threads that read images for mining
    # Sizes to which images are resized. The synthetic world renders at its own sizes: set data.train.ground_size, too.
    ground_size: list[int] = field(
        default_factory=lambda: [154, 770]
    )  # height, width in pixels (GenGeo, section 4.1.3)
    aerial_size: list[int] = field(default_factory=lambda: [392, 392])
    # Transforms of images before they are resized, in training and in the saved model; see
    # `gengeo_hf.model.view_transforms.parse_view`. Joint rotations and flips are applied to the transformed images.
    ground_view: str | None = (
        None  # bev:SIDE:METRES_PER_PIXEL:CAMERA_HEIGHT:VERTICAL_FOV or downward:HxW:FOV:VERTICAL_FOV
    )
    aerial_view: str | None = None  # polar:HxW or polar:HxW:exact
    auxiliary_view: str | None = None  # further transform of the ground image, for terms of the loss in training
    auxiliary_size: list[int] = field(default_factory=lambda: [384, 384])


@dataclass
class Model:
    """Model and initial weights."""

    init: str | None = None  # directory or Hub id of a DINOv2 or GenGeo checkpoint; null is random weights
    config: dict[str, Any] = field(default_factory=dict)  # fields of GenGeoConfig


@dataclass
class Loss:
    """Objective; see `gengeo_hf.training.objective`."""

    pair: str = "info_nce"  # loss of the pairs: info_nce, soft_triplet, or a registered one
    options: dict[str, Any] = field(default_factory=dict)  # options of the pair loss, for example scale of soft_triplet
    # Additional terms: name -> options, including weight. auxiliary_view, position, counterfactual, pose.
    terms: dict[str, Any] = field(default_factory=dict)


@dataclass
class Augment:
    """Augmentation of the training images; `enabled=false` disables it."""

    enabled: bool = True
    # Fields of `gengeo_hf.data.augment.Augmentation`, merged with those of the base; without options no augmentation.
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sampling:
    """Batches; see `gengeo_hf.learning.plan.Rules`."""

    batch_size: int = 256  # pairs over all processes (GenGeo, section 4.1.3)
    micro_batch: int | None = None  # pairs per forward pass of a process (GradCache); null: all pairs of the process
    # Run frozen blocks once and keep their outputs in memory: within a step with micro_batch; in the whole run with
    # data.in_memory, if the augmentation has only joint flips and the outputs take at most 4 GiB.
    keep_frozen: bool = True
    protocol: str = "gengeo"  # or sample4geo: the published rules, semi-positives in the batch as negatives
    first_phase: str = "geographic"  # negatives in the first epochs: geographic (nearest tiles) or random
    gps_epochs: int = 4  # number of epochs of the first phase
    mining_every: int = 4  # epochs between two rounds of mining by similarity; 0: only the first phase
    mining_direction: str = "ground"  # mine tiles for photos; both: also photos for tiles, half each
    neighbours: int = 64  # number k of neighbours that follow each anchor
    pool: int = 128  # number K of columns of a neighbour table
    # Composition of a batch: random_share is random; of the rest, geographic_share are geographic neighbours and the
    # others visual neighbours (in the first phase all are geographic).
    random_share: float = 0.0
    geographic_share: float = 0.0
    semi_positives: str = "banned"  # banned from a batch; or in it as ignored, positive or negative in the loss
    min_negative_distance_m: float = 0.0  # minimum distance between two photos of a batch in metres
    max_similarity: float | None = None  # tiles with at least this cosine are not mined: probably the same ground
    legacy_degrees: bool = False  # reproduce a common error in the geographic table, for comparison only


@dataclass
class Optimisation:
    """Optimizer (AdamW) and its schedule."""

    epochs: int = 80  # GenGeo, section 4.1.3
    learning_rate: float = 1e-4  # GenGeo, section 4.1.3
    learning_rate_batch: int | None = None  # batch size for which it was chosen; null: any batch_size
    batch_rule: str = "sqrt"  # scaling of the learning rate for another batch_size: sqrt (for Adam), linear, none
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    warmup: float = 0.0125  # fraction of all steps: one epoch of 80, as in Sample4Geo
    final_learning_rate: float = 0.0
    clip_norm: float | None = 1.0  # maximum norm of the gradient; null: no clipping
    label_smoothing: float = 0.1  # as in Sample4Geo
    mixed_precision: str = "no"  # no, bf16, fp16
    gradient_checkpointing: bool = False
    ema: float | None = None  # decay of an exponential moving average of the weights, such as 0.999, which is saved
    # Radius rho of sharpness-aware minimisation, which needs two passes per step.
    sharpness: float | None = None
    sharpness_adaptive: bool = True  # radius relative to the size of each weight (ASAM) instead of absolute (SAM)
    compile: str | None = None  # backend of torch.compile: inductor, or aot_eager for debugging


@dataclass
class Settings:
    """Settings of a run."""

    output: str = MISSING  # directory of checkpoints, log and the final model
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    sampling: Sampling = field(default_factory=Sampling)
    optimisation: Optimisation = field(default_factory=Optimisation)
    evaluate_every: int = 4  # epochs between two evaluations on the validation split, which selects the best weights
    save_every: int = 1  # epochs between two checkpoints; the last two are kept
    checkpoint_every: int | None = None  # steps between two checkpoints inside an epoch, for long epochs
    log_every: int = 20  # steps between two lines of the log
    tracker: str | None = None  # tracker of Accelerate: tensorboard, wandb, ...; log.jsonl is always written


def find_config(config: str | Path) -> Path:
    """Return the path of a configuration.

    Args:
        config: Path of a YAML file, or the name of a configuration that the package ships, such as `world_urban`.

    Raises:
        GenGeoError: There is no such file and no shipped configuration of that name.
    """
    for path in (Path(config), CONFIGS / f"{config}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    raise GenGeoError(f"no configuration {config}: give the path of a YAML file or a shipped name: {known}")


def load_settings(config: str | Path, overrides: list[str]) -> Settings:
    """Read a configuration and apply overrides.

    Args:
        config: Path of a YAML file, or the name of a configuration that the package ships.
        overrides: Overrides of the form `key=value`.

    Raises:
        GenGeoError: The file is missing or not YAML, a key is unknown, or a value is invalid.
    """
    path = find_config(config)
    if wrong := [item for item in overrides if "=" not in item]:
        raise GenGeoError(f"expected key=value, found {wrong[0]!r}; for example sampling.batch_size=64")
    try:
        layers = [*_with_bases(path), OmegaConf.from_dotlist([_quote_word(item) for item in overrides])]
        _refuse_empty_groups(layers)
        merged = OmegaConf.merge(OmegaConf.structured(Settings), *layers)
        if missing := sorted(OmegaConf.missing_keys(merged)):
            raise GenGeoError(f"{path.name} does not set {missing[0]}: add {missing[0]}=... to the command")
        settings = OmegaConf.to_object(merged)
    except GenGeoError:
        raise
    except OmegaConfBaseException as error:
        reason = f"{error.full_key or ''}: {(str(error).splitlines() or [''])[0]}"
        raise GenGeoError(f"{path.name}: {' '.join(reason.split())}; keys are listed by --help") from error
    except Exception as error:  # errors of the YAML parser
        raise GenGeoError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    assert isinstance(settings, Settings)
    _check_values(settings)
    return settings


CHOICES = {
    "sampling.protocol": ("gengeo", "sample4geo"),
    "sampling.first_phase": ("geographic", "random"),
    "sampling.mining_direction": ("ground", "both"),
    "sampling.semi_positives": ("banned", "ignored", "positive", "negative"),
    "optimisation.batch_rule": ("sqrt", "linear", "none"),
    "optimisation.mixed_precision": ("no", "bf16", "fp16"),
}


# Minimum values.
MINIMUM = {
    "seed": 0,
    "evaluate_every": 1,
    "save_every": 1,
    "log_every": 1,
    "checkpoint_every": 1,
    "data.workers": 0,
    "sampling.batch_size": 2,
    "sampling.micro_batch": 1,
    "sampling.gps_epochs": 0,
    "sampling.mining_every": 0,
    "sampling.neighbours": 0,
    "sampling.pool": 1,
    "sampling.min_negative_distance_m": 0,
    "optimisation.epochs": 1,
    "optimisation.learning_rate_batch": 1,
    "optimisation.weight_decay": 0,
    "optimisation.final_learning_rate": 0,
    "optimisation.sharpness": 0,
}


# Values that must be greater than zero.
POSITIVE = ("optimisation.learning_rate", "optimisation.clip_norm")
FRACTIONS = (
    "sampling.random_share",
    "sampling.geographic_share",
    "optimisation.warmup",
    "optimisation.label_smoothing",
)
TWO_NUMBERS = {
    "data.ground_size": "height and width",
    "data.aerial_size": "height and width",
    "data.auxiliary_size": "height and width",
    "optimisation.betas": "two decay rates",
}


def _check_values(settings: Settings) -> None:
    """Refuse unknown choices, fractions outside 0..1, and numbers out of range."""
    for key, minimum in MINIMUM.items():
        value = operator.attrgetter(key)(settings)
        if value is not None and not value >= minimum:
            raise GenGeoError(f"{key} is {value}; it must be at least {minimum}")
    for key, allowed in CHOICES.items():
        if (found := operator.attrgetter(key)(settings)) not in allowed:
            raise GenGeoError(f"{key} is {found!r}; it must be {', '.join(allowed[:-1])} or {allowed[-1]}")
    for key in FRACTIONS:
        if not 0 <= (fraction := operator.attrgetter(key)(settings)) <= 1:
            raise GenGeoError(f"{key} is {fraction}; it must lie in 0..1")
    for key, what in TWO_NUMBERS.items():
        if len(found := operator.attrgetter(key)(settings)) != 2:
            raise GenGeoError(f"{key} is {found}; it must be {what}")
    for key in POSITIVE:
        if (value := operator.attrgetter(key)(settings)) is not None and not value > 0:
            raise GenGeoError(f"{key} is {value}; it must be greater than 0")
    _check_together(settings)


def _check_together(settings: Settings) -> None:
    """Refuse contradictory values."""
    plan, sampling, data = settings.optimisation, settings.sampling, settings.data
    if not all(0 <= beta < 1 for beta in plan.betas):
        raise GenGeoError(f"optimisation.betas is {plan.betas}; both must lie in 0..1, 1 excluded")
    if min(*data.ground_size, *data.aerial_size) < 1:
        raise GenGeoError(
            "data.ground_size and data.aerial_size must be positive numbers of pixels, found "
            f"{data.ground_size} and {data.aerial_size}"
        )
    if plan.final_learning_rate > plan.learning_rate:
        raise GenGeoError(
            f"optimisation.final_learning_rate is {plan.final_learning_rate:g}, above the learning rate of "
            f"{plan.learning_rate:g}: the rate must fall"
        )
    if sampling.neighbours > sampling.pool:
        raise GenGeoError(
            f"sampling.neighbours is {sampling.neighbours}, above sampling.pool {sampling.pool}: set sampling.pool to "
            "at least as many"
        )
    if sampling.protocol == "sample4geo":
        kept = {"random_share": 0.0, "geographic_share": 0.0, "min_negative_distance_m": 0.0}
        for key, only in kept.items():
            if (found := getattr(sampling, key)) != only:
                raise GenGeoError(
                    f"sampling.protocol=sample4geo does not support {key}={found:g}: add sampling.{key}={only:g}"
                )
        if sampling.semi_positives not in ("banned", "negative"):  # the default, and what the published rules do
            raise GenGeoError(
                "sampling.protocol=sample4geo treats semi-positives as negatives: leave out "
                f"sampling.semi_positives={sampling.semi_positives}"
            )


def _refuse_empty_groups(layers: list[Any]) -> None:
    """Refuse empty groups, which are merged with those of the base and therefore do not remove them."""
    for layer in layers:
        augment = layer.get("augment") if OmegaConf.is_dict(layer) else None
        for name, group in (("augment", augment), ("augment.options", (augment or {}).get("options"))):
            if OmegaConf.is_dict(group) and not group:
                raise GenGeoError(f"{name}={{}} changes nothing: augment.enabled=false turns augmentation off")


def _quote_word(item: str) -> str:
    """Quote the values no, yes, on and off, which YAML 1.1 would convert to booleans, as in `mixed_precision=no`."""
    key, _, value = item.partition("=")
    return f'{key}="{value}"' if value.lower() in ("no", "yes", "on", "off") else item


def _with_bases(path: Path) -> list[Any]:
    """Load a file and, before it, the file that its key `base` names, from which it only states differences."""
    layer: Any = OmegaConf.load(path)
    base = layer.pop("base", None)
    return [*(_with_bases(path.parent / base) if base else []), layer]


def format_settings() -> str:
    """Format all keys with their defaults, for --help."""
    text = OmegaConf.to_yaml(OmegaConf.structured(Settings))
    return "keys and defaults (documented in gengeo_hf/training/settings.py):\n\n" + "\n".join(
        "  " + x for x in text.splitlines()
    )


def parse(arguments: list[str] | None = None) -> Settings:
    """Parse the command line.

    Args:
        arguments: Arguments; None for those of the process.

    Raises:
        UsageError: The configuration or an override is invalid, see `load_settings`.
    """
    parser = argparse.ArgumentParser(
        description="Train a GenGeo model. The same command runs on a laptop, one GPU or several machines.",
        epilog="example: accelerate launch training/train.py --config world_urban "
        "optimisation.epochs=2 output=runs/try\n\n" + format_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", required=True, help="Path of a YAML file, or name of a file in gengeo_hf/training/configs."
    )
    parser.add_argument(
        "--checkpoint-every", type=int, metavar="STEPS", help="Also write a checkpoint every STEPS steps of an epoch."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Overrides of settings of the file.")
    given = parser.parse_intermixed_args(arguments)
    every = [] if given.checkpoint_every is None else [f"checkpoint_every={given.checkpoint_every}"]
    try:
        return load_settings(given.config, [*given.overrides, *every])
    except GenGeoError as error:
        raise UsageError(str(error)) from error


def as_dict(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values, for JSON."""
    return dataclasses.asdict(settings)
