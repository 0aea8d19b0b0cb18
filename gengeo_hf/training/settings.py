"""What a run is made of: one YAML file, checked against the dataclasses below, `key=value` on top.

Before: `--config x sampling.batch_size=64`. After: a `Settings` object, saved beside the weights.
Defaults live here and nowhere else; a file of `configs/` states what makes its run what it is, with the reason.
"""

import argparse
import dataclasses
import operator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gengeo_hf.common.errors import GenGeoError

CONFIGS = Path(__file__).with_name("configs")  # shipped with the package


@dataclass
class Data:
    """Which pairs."""

    name: str = MISSING  # a name that `gengeo_hf.data.load_pairs` knows: world-urban, cvusa, vigor-cross, table, ...
    root: str | None = None  # folder of the images; the synthetic world needs none
    train: dict[str, Any] = field(default_factory=dict)  # options of the loader for the training split
    validation: dict[str, Any] = field(default_factory=dict)  # ... and for the split that picks the checkpoint
    in_memory: bool = False  # decode every training pair once and keep its resized pixels: for small images
    workers: int = 2  # loader processes of each training process
    ground_size: list[int] = field(default_factory=lambda: [154, 770])  # height, width in pixels (GenGeo, section 4.2)
    aerial_size: list[int] = field(default_factory=lambda: [392, 392])


@dataclass
class Model:
    """Which model, and what it starts from."""

    init: str | None = None  # folder or Hub id of a DINOv2 or GenGeo checkpoint; null starts from random weights
    config: dict[str, Any] = field(default_factory=dict)  # fields of GenGeoConfig


@dataclass
class Augment:
    """Fields of `gengeo_hf.data.augment.Augmentation`; an empty group turns augmentation off."""

    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sampling:
    """How batches are made; see `gengeo_hf.learning.plan.Rules`."""

    batch_size: int = 256  # pairs over all processes (GenGeo, section 4.2)
    micro_batch: int | None = None  # pairs described at once on one process (GradCache); null: all of its share
    keep_frozen: bool = True  # with micro_batch: blocks that do not train run once, their outputs stay in memory
    protocol: str = "gengeo"  # or sample4geo: the published rules, semi-positives in the batch as negatives
    first_phase: str = "geographic"  # what the first epochs hold: neighbours on the map, or random
    gps_epochs: int = 4  # how many those are
    mining_every: int = 4  # epochs between two rounds of mining by similarity; 0: the first phase to the end
    mining_direction: str = "ground"  # tiles taken for a photo's; both: also photos taken for the tile's, half each
    neighbours: int = 64  # k, brought along by each anchor
    pool: int = 128  # K, columns of a neighbour table
    # The dial: random_share of a batch is random; of the rest, geographic_share are neighbours on the map and what
    # remains looks alike (in the first phase all of it is geographic).
    random_share: float = 0.0
    geographic_share: float = 0.0
    semi_positives: str = "banned"  # from the batch; or in it and ignored, positive or negative in the loss
    min_negative_distance_m: float = 0.0
    max_similarity: float | None = None  # tiles more alike than this cosine are not mined: the same place, likely
    legacy_degrees: bool = False  # the field's error in the geographic table, for comparison only


@dataclass
class Optimisation:
    """AdamW and its schedule."""

    epochs: int = 80  # GenGeo, section 4.2
    learning_rate: float = 1e-4  # GenGeo, section 4.2
    learning_rate_batch: int | None = None  # the batch that it was chosen for; null: whatever batch_size is
    batch_rule: str = "sqrt"  # how it follows another batch_size: sqrt (for Adam), linear, none
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    warmup: float = 0.0125  # share of all steps: one epoch of 80, as Sample4Geo
    final_learning_rate: float = 0.0
    clip_norm: float | None = 1.0  # of the gradient
    label_smoothing: float = 0.1  # as Sample4Geo
    mixed_precision: str = "no"  # no, bf16, fp16
    gradient_checkpointing: bool = False
    ema: float | None = None  # decay of an average of the weights, such as 0.999, which is then evaluated and saved
    compile: str | None = None  # backend of torch.compile: inductor, or aot_eager to look for errors


@dataclass
class Settings:
    """One run."""

    output: str = MISSING  # folder of checkpoints, log and the final model
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    sampling: Sampling = field(default_factory=Sampling)
    optimisation: Optimisation = field(default_factory=Optimisation)
    evaluate_every: int = 4  # epochs, on the validation split, which also picks the best weights
    save_every: int = 1  # epochs between two checkpoints; the last two are kept
    log_every: int = 20  # steps
    tracker: str | None = None  # tensorboard, wandb, ...: whatever Accelerate knows; log.jsonl is always written


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
    """Read a YAML file and lay `key=value` pairs over it.

    Raises:
        GenGeoError: the file is missing or no YAML, a key is unknown, or a value has the wrong type.
    """
    path = find_config(config)
    if wrong := [item for item in overrides if "=" not in item]:
        raise GenGeoError(f"expected key=value, found {wrong[0]!r}; for example sampling.batch_size=64")
    try:
        layers = [*_with_bases(path), OmegaConf.from_dotlist([_word(item) for item in overrides])]
        merged = OmegaConf.merge(OmegaConf.structured(Settings), *layers)
        if missing := sorted(OmegaConf.missing_keys(merged)):
            raise GenGeoError(f"{path.name} leaves {missing[0]} open: add {missing[0]}=... to the command")
        settings = OmegaConf.to_object(merged)
    except GenGeoError:
        raise
    except OmegaConfBaseException as error:
        reason = f"{error.full_key or ''}: {(str(error).splitlines() or [''])[0]}"
        raise GenGeoError(f"{path.name}: {' '.join(reason.split())}; keys are listed by --help") from error
    except Exception as error:  # the YAML parser's own errors
        raise GenGeoError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from error
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


# The least value of numbers that something is divided by, or counted with.
LEAST = {
    "seed": 0,
    "evaluate_every": 1,
    "save_every": 1,
    "log_every": 1,
    "data.workers": 0,
    "sampling.batch_size": 2,
    "sampling.micro_batch": 1,
    "sampling.mining_every": 0,
    "sampling.neighbours": 0,
    "sampling.pool": 1,
    "sampling.min_negative_distance_m": 0,
    "optimisation.epochs": 1,
    "optimisation.learning_rate_batch": 1,
}


SHARES = ("sampling.random_share", "sampling.geographic_share", "optimisation.warmup", "optimisation.label_smoothing")
TWO_NUMBERS = {
    "data.ground_size": "height and width",
    "data.aerial_size": "height and width",
    "optimisation.betas": "two decay rates",
}


def _check_values(settings: Settings) -> None:
    """Refuse a word that no code would ask for, shares that are none, and numbers that a run would end at."""
    for key, least in LEAST.items():
        value = operator.attrgetter(key)(settings)
        if value is not None and not value >= least:
            raise GenGeoError(f"{key} is {value}; it must be at least {least}")
    for key, allowed in CHOICES.items():
        if (found := operator.attrgetter(key)(settings)) not in allowed:
            raise GenGeoError(f"{key} is {found!r}; it must be {', '.join(allowed[:-1])} or {allowed[-1]}")
    for key in SHARES:
        if not 0 <= (share := operator.attrgetter(key)(settings)) <= 1:
            raise GenGeoError(f"{key} is {share}; it must lie in 0..1")
    for key, what in TWO_NUMBERS.items():
        if len(found := operator.attrgetter(key)(settings)) != 2:
            raise GenGeoError(f"{key} is {found}; it must be {what}")


def _word(item: str) -> str:
    """`key=no` means the word: YAML 1.1 would make it false, and `mixed_precision=no` could not be said."""
    key, _, value = item.partition("=")
    return f'{key}="{value}"' if value.lower() in ("no", "yes", "on", "off") else item


def _with_bases(path: Path) -> list[Any]:
    """The file and, before it, the file that its `base` names: a row of a table states only what it changes."""
    layer: Any = OmegaConf.load(path)
    base = layer.pop("base", None)
    return [*(_with_bases(path.parent / base) if base else []), layer]


def describe_settings() -> str:
    """All keys with their defaults, for --help."""
    text = OmegaConf.to_yaml(OmegaConf.structured(Settings))
    return "keys and defaults (meanings: training/settings.py of the package):\n\n" + "\n".join(
        "  " + x for x in text.splitlines()
    )


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from the command line."""
    parser = argparse.ArgumentParser(
        description="Train a GenGeo model. The same command runs on a laptop, one GPU or several machines.",
        epilog="example: accelerate launch training/train.py --config world_urban "
        "optimisation.epochs=2 output=runs/try\n\n" + describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="a YAML file, see gengeo_hf/training/configs")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="laid over the file")
    given = parser.parse_args(arguments)
    return load_settings(given.config, given.overrides)


def as_dict(settings: Settings) -> dict[str, Any]:
    """Plain values, for JSON."""
    return dataclasses.asdict(settings)
