"""Pretrain a small ViT on single images of the synthetic world: a stand-in for a foundation model.

    python training/pretrain.py --config world_stand_in --out runs/stand-in
    python training/train.py --config world_stand_in model.init=runs/stand-in output=runs/mine

It plays the part that DINOv2 plays for the paper: a backbone that knows what is in a patch and where the patch lies,
and that has never seen a pair. It sees images of both views of all domains of a world with another seed, each by
itself, and learns to tell classes, depth (ground) or height (aerial), colours, and the position of each patch, for
hidden patches too; and to recognise an image in other colours. The result is called a stand-in wherever it is used:
what holds from it need not hold from DINOv2. On one machine with one number of threads, equal arguments give equal
weights.
"""

import gengeo_hf.training  # isort: skip  # noqa: F401  # before torch, whose threads then wait without spinning

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm

from gengeo_hf.common.errors import GenGeoError, exit_on_error
from gengeo_hf.common.files import atomic_folder, write_json
from gengeo_hf.data.augment import jitter
from gengeo_hf.model import GenGeoModel
from gengeo_hf.model.backbones import read_tokens
from gengeo_hf.training.components import build_config, build_processor
from gengeo_hf.training.descriptors import normalise
from gengeo_hf.training.settings import Settings, load_settings
from gengeo_hf.world import CLASS_NAMES
from pretrain_images import VIEWS, Images, load_images

RECORD = "pretraining.json"
QUARTERS = 2  # a patch is divided into 2 x 2 for classes, depths and colours
WEIGHTS = {"classes": 1.0, "depth": 1.0, "colour": 1.0, "position": 0.3, "contrast": 0.3}


@dataclass(frozen=True)
class Plan:
    """How to pretrain.

    Attributes:
        seed: Seed of the weights and of the order of images.
        world_seed: Seed of the world; the benchmarks use 0.
        places: Camera places of each domain; each gives one image of each view.
        steps: Optimizer steps.
        batch_size: Images of each view in a step; each is seen in two colourings.
        learning_rate: Highest learning rate of AdamW.
        hidden_share: Share of the patches that are hidden.
        hidden_chance: Share of the images in which patches are hidden.
        temperature: Of the contrast between colourings.
    """

    seed: int = 0
    world_seed: int = 1
    places: int = 1350
    steps: int = 2500
    batch_size: int = 24
    learning_rate: float = 2e-3
    hidden_share: float = 0.3
    hidden_chance: float = 0.7
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name in ("places", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise GenGeoError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(self, name)}")
        if self.world_seed == 0:
            raise GenGeoError("--world-seed 0 is the world of the benchmarks: pretrain on another one")


class Tasks(nn.Module):
    """Linear heads on the tokens of one view.

    Args:
        width: Width of the tokens.
        tokens: Number of patches of an image.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        cells = QUARTERS**2
        self.classes = nn.Linear(width, cells * len(CLASS_NAMES))
        self.depth = nn.Linear(width, cells)
        self.colour = nn.Linear(width, cells * 3)
        self.position = nn.Linear(width, tokens)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="world_stand_in", help="configuration whose backbone and sizes are used")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pretrained backbone")
    parser.add_argument("--cache", type=Path, help="folder of drawn images (default: ~/.cache/gengeo_hf/world)")
    for name, value in asdict(Plan()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"see Plan (default: {value})"
        )
    given = parser.parse_args(arguments)
    plan = Plan(**{name: getattr(given, name) for name in asdict(Plan())})
    settings = load_settings(given.config, [f"output={given.out}", "model.init=null"])
    record = pretrain(settings, plan, given.out, given.cache)
    print(f"{given.out}: {format_record(record)}")


def pretrain(settings: Settings, plan: Plan, out: Path, cache_dir: Path | None = None) -> dict[str, Any]:
    """Pretrain a backbone and store it, with `pretraining.json`, as a checkpoint for `model.init`.

    Args:
        settings: Its `model.config.backbone_config` and image sizes are used.
        plan: How to pretrain.
        out: Folder of the backbone; it is replaced.
        cache_dir: Where drawn images are kept.

    Returns:
        The record: the plan, what it was trained on and the measures on places of other regions.
    """
    (height, width), (rows, columns) = settings.data.ground_size, settings.data.aerial_size
    sizes = {"ground": (height, width), "aerial": (rows, columns)}
    cache = cache_dir or Path.home() / ".cache" / "gengeo_hf" / "world"
    options: dict[str, Any] = {"seed": plan.world_seed, "sizes": sizes, "cache_dir": cache}
    train = load_images("train", plan.places, **options)
    held_out = load_images("validation", min(50, plan.places), **options)
    torch.manual_seed(plan.seed)
    model = GenGeoModel(build_config(settings))
    trainer = Trainer(model, build_processor(settings), plan, sizes)
    started = time.process_time()
    trainer.run(train)
    record = {
        "kind": "stand-in for a foundation model",
        "trained_on": "single images of both views of all domains of the synthetic world; no pairs",
        "synthetic": True,
        "plan": asdict(plan),
        "held_out": trainer.measure(held_out),
        "cpu_seconds": round(time.process_time() - started),
    }
    with atomic_folder(out) as target:
        model.backbone.save_pretrained(target)
        write_json(target / RECORD, record)
    return record


class Trainer:
    """The backbone with its tasks, and the loop.

    Args:
        model: Its backbone is trained in place.
        processor: For the normalisation of pixels.
        plan: How to train.
        sizes: (height, width) of each view.
    """

    def __init__(self, model: GenGeoModel, processor: Any, plan: Plan, sizes: dict[str, tuple[int, int]]) -> None:
        self.backbone: Any = model.backbone
        self.processor, self.plan = processor, plan
        self.backbone.requires_grad_(True)
        self.patch = int(self.backbone.config.patch_size)
        self.grids = {view: (sizes[view][0] // self.patch, sizes[view][1] // self.patch) for view in VIEWS}
        width = self.backbone.config.hidden_size
        self.tasks = nn.ModuleDict({view: Tasks(width, math.prod(self.grids[view])) for view in VIEWS})
        self.generator = torch.Generator().manual_seed(plan.seed)

    def run(self, images: dict[str, Images]) -> None:
        """Train for `plan.steps` steps; the rate rises for a tenth of them and falls along half a cosine."""
        plan = self.plan
        parameters = [*self.backbone.parameters(), *self.tasks.parameters()]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ]
        )
        self.backbone.train()
        orders = {view: self._orders(len(images[view].pixels)) for view in VIEWS}
        for step in (bar := tqdm(range(plan.steps), "pretraining", leave=False)):
            share = (step + 1) / plan.steps
            rate = plan.learning_rate * min(10 * share, (1 + math.cos(math.pi * share)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = sum((self.loss(view, images[view], next(orders[view])) for view in VIEWS), torch.zeros(()))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 50 == 49:
                bar.set_postfix(loss=f"{loss.item():.3f}")
                if not math.isfinite(loss.item()):
                    raise GenGeoError(f"the loss is {loss.item()} at step {step}: lower --learning-rate")
        self.backbone.eval()

    def loss(self, view: str, images: Images, rows: torch.Tensor) -> torch.Tensor:
        """The weighted sum of all tasks for some images of one view."""
        pixels, classes, depths = self._turned(view, *(x[rows] for x in vars(images).values()))
        count, tokens = len(rows), math.prod(self.grids[view])
        coloured = torch.cat([self._coloured(pixels), self._coloured(pixels)])
        hidden = torch.rand(2 * count, tokens, generator=self.generator) < self.plan.hidden_share
        hidden &= torch.rand(2 * count, 1, generator=self.generator) < self.plan.hidden_chance
        output = self.backbone(normalise(coloured, self.processor), bool_masked_pos=hidden)
        patches, summary = read_tokens(self.backbone, output)
        heads: Any = self.tasks[view]
        shares = self._cells(functional.one_hot(classes.long(), len(CLASS_NAMES)).permute(0, 3, 1, 2).float())
        values = {
            "classes": functional.cross_entropy(
                heads.classes(patches).unflatten(2, (QUARTERS**2, -1)).flatten(0, 2),
                shares.repeat(2, 1, 1, 1).flatten(0, 2),
            ),
            "depth": functional.smooth_l1_loss(
                heads.depth(patches), self._cells(depths[:, None].float()).squeeze(3).repeat(2, 1, 1)
            ),
            "colour": functional.l1_loss(
                heads.colour(patches).unflatten(2, (QUARTERS**2, 3)), self._cells(coloured / 255)
            ),
            "position": functional.cross_entropy(
                heads.position(patches).flatten(0, 1), torch.arange(tokens).repeat(2 * count)
            ),
            "contrast": self._contrast(summary),
        }
        return sum((WEIGHTS[name] * value for name, value in values.items()), torch.zeros(()))

    @torch.no_grad()
    def measure(self, images: dict[str, Images]) -> dict[str, float]:
        """Shares of correct quarters of patches (the class that covers most of them) and of correct positions."""
        result = {}
        for view in VIEWS:
            found = images[view]
            heads: Any = self.tasks[view]
            patches, _ = read_tokens(self.backbone, self.backbone(normalise(found.pixels, self.processor)))
            shares = self._cells(functional.one_hot(found.classes.long(), len(CLASS_NAMES)).permute(0, 3, 1, 2).float())
            guess = heads.classes(patches).unflatten(2, (QUARTERS**2, -1)).argmax(dim=3)
            result[f"{view}_class"] = (guess == shares.argmax(dim=3)).float().mean().item()
            place = heads.position(patches).argmax(dim=2)
            result[f"{view}_position"] = (place == torch.arange(patches.shape[1])).float().mean().item()
        return result

    def _cells(self, maps: torch.Tensor) -> torch.Tensor:
        """Means of maps (B, C, H, W) over the quarters of each patch: (B, tokens, quarters, C)."""
        means = functional.avg_pool2d(maps, self.patch // QUARTERS)
        blocks = means.unflatten(3, (-1, QUARTERS)).unflatten(2, (-1, QUARTERS))  # (B, C, rows, q, columns, q)
        return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)

    def _turned(self, view: str, *maps: torch.Tensor) -> list[torch.Tensor]:
        """Roll panoramas by the same random number of columns; turn tiles by the same random quarters."""
        columns = int(torch.randint(maps[0].shape[-1], (), generator=self.generator))
        if view == "ground":
            return [x.roll(columns, dims=-1) for x in maps]
        return [torch.rot90(x, columns % 4, dims=(-2, -1)) for x in maps]

    def _coloured(self, pixels: torch.Tensor) -> torch.Tensor:
        """Random brightness, contrast, saturation and hue of each image: (B, 3, H, W) in 0..255."""
        brightness, contrast, saturation = 0.6 + 0.8 * torch.rand(3, len(pixels), generator=self.generator)
        hue = 0.1 * torch.rand(len(pixels), generator=self.generator) - 0.05
        return jitter(pixels.float() / 255, brightness, contrast, saturation, hue).clamp(0, 1) * 255

    def _contrast(self, summary: torch.Tensor) -> torch.Tensor:
        """InfoNCE between the two colourings of each image, by the global token."""
        first, second = functional.normalize(summary, dim=1).chunk(2)
        logits = first @ second.T / self.plan.temperature
        targets = torch.arange(len(logits))
        return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2

    def _orders(self, count: int) -> Iterator[torch.Tensor]:
        """Rows of each step's images; all images once before any twice."""
        size = min(self.plan.batch_size, count)
        while True:
            order = torch.randperm(count, generator=self.generator)
            yield from order[: count // size * size].split(size)


def format_record(record: dict[str, Any]) -> str:
    """What a stand-in knows, in one line."""
    held = record["held_out"]
    return (
        f"a stand-in for a foundation model; on places of other regions, class of a quarter patch "
        f"{held['ground_class']:.1%} (ground), {held['aerial_class']:.1%} (aerial), position "
        f"{held['ground_position']:.1%}, {held['aerial_position']:.1%}; {record['cpu_seconds']} CPU seconds"
    )


if __name__ == "__main__":
    with exit_on_error("stopped; nothing was written"):
        main()
