"""Pretrain a small ViT on single images of the synthetic world, as a stand-in for a foundation model.

    python training/pretrain.py --config world_stand_in --out runs/stand-in
    python training/train.py --config world_stand_in model.init=runs/stand-in output=runs/mine

It replaces DINOv2 in experiments on the synthetic world: a backbone with features of the content and position of
patches, trained without pairs. The training images are both views of all domains of a world with another seed. The
tasks are the class, depth (ground) or height (aerial), colour and position of each patch, also of masked patches, and
to match two recoloured versions of an image. Results with this backbone need not hold for DINOv2, so they are always
labelled as those of a stand-in. On the same machine with the same number of threads, equal arguments give equal
weights.
"""

import gengeo_hf.training  # isort: skip  # noqa: F401  # before torch, to set how its threads wait

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
QUARTERS = 2  # targets of classes, depths and colours are means over 2 x 2 cells of a patch
WEIGHTS = {"classes": 1.0, "depth": 1.0, "colour": 1.0, "position": 0.3, "contrast": 0.3}


@dataclass(frozen=True)
class Plan:
    """Settings of a pretraining.

    Attributes:
        seed: Seed of the weights and of the order of images.
        world_seed: Seed of the world; the benchmarks use 0.
        places: Number of camera positions of each domain; each gives one image of each view.
        steps: Number of optimizer steps.
        batch_size: Images of each view in a step; each is used in two recoloured versions.
        learning_rate: Maximum learning rate of AdamW.
        hidden_share: Fraction of masked patches.
        hidden_chance: Fraction of images with masked patches.
        temperature: Temperature of the contrastive loss between recoloured versions.

    Raises:
        GenGeoError: A number is out of range.
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
            raise GenGeoError("--world-seed 0 is the world of the benchmarks: use another seed")


class Tasks(nn.Module):
    """Linear heads of the tasks on the tokens of one view.

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
    parser.add_argument(
        "--config", default="world_stand_in", help="Configuration of backbone and image sizes (default: %(default)s)."
    )
    parser.add_argument("--out", type=Path, required=True, help="Directory of the pretrained backbone.")
    parser.add_argument("--cache", type=Path, help="Cache of rendered images (default: ~/.cache/gengeo_hf/world).")
    for name, value in asdict(Plan()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"See class Plan (default: {value})."
        )
    given = parser.parse_args(arguments)
    plan = Plan(**{name: getattr(given, name) for name in asdict(Plan())})
    settings = load_settings(given.config, [f"output={given.out}", "model.init=null"])
    record = pretrain(settings, plan, given.out, given.cache)
    print(f"{given.out}: {format_record(record)}")


def pretrain(settings: Settings, plan: Plan, out: Path, cache_dir: Path | None = None) -> dict[str, Any]:
    """Pretrain a backbone and save it, with `pretraining.json`, as a checkpoint for `model.init`.

    Args:
        settings: Settings with `model.config.backbone_config` and the image sizes.
        plan: Settings of the pretraining.
        out: Directory of the backbone, which is replaced.
        cache_dir: Cache of rendered images; None is `~/.cache/gengeo_hf/world`.

    Returns:
        Record of the settings, the training data and the accuracies on images of other regions.
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
    """The backbone with the heads of the tasks, and the training loop.

    Args:
        model: Model whose backbone is trained in place.
        processor: Preprocessing with the normalisation.
        plan: Settings of the pretraining.
        sizes: Height and width in pixels by view.
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
        """Train for `plan.steps` steps, with a warm-up of a tenth of the steps and cosine annealing.

        Args:
            images: Training images by view.
        """
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
            progress = (step + 1) / plan.steps
            rate = plan.learning_rate * min(10 * progress, (1 + math.cos(math.pi * progress)) / 2)
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
        """Compute the weighted sum of the losses of all tasks.

        Args:
            view: View of the images, "ground" or "aerial".
            images: All images of the view.
            rows: Rows of the images of the batch.
        """
        pixels, classes, depths = self._rotate(view, *(x[rows] for x in vars(images).values()))
        count, tokens = len(rows), math.prod(self.grids[view])
        coloured = torch.cat([self._recolour(pixels), self._recolour(pixels)])
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
        """Measure the accuracy of the most frequent class of the cells of patches, and of positions.

        Args:
            images: Images by view that were not used in training.

        Returns:
            Fractions `<view>_class` and `<view>_position`.
        """
        result = {}
        for view in VIEWS:
            found = images[view]
            heads: Any = self.tasks[view]
            patches, _ = read_tokens(self.backbone, self.backbone(normalise(found.pixels, self.processor)))
            shares = self._cells(functional.one_hot(found.classes.long(), len(CLASS_NAMES)).permute(0, 3, 1, 2).float())
            guess = heads.classes(patches).unflatten(2, (QUARTERS**2, -1)).argmax(dim=3)
            result[f"{view}_class"] = (guess == shares.argmax(dim=3)).float().mean().item()
            index = heads.position(patches).argmax(dim=2)
            result[f"{view}_position"] = (index == torch.arange(patches.shape[1])).float().mean().item()
        return result

    def _cells(self, maps: torch.Tensor) -> torch.Tensor:
        """Average maps (B, C, H, W) over the 2 x 2 cells of each patch: (B, tokens, cells, C)."""
        means = functional.avg_pool2d(maps, self.patch // QUARTERS)
        blocks = means.unflatten(3, (-1, QUARTERS)).unflatten(2, (-1, QUARTERS))  # (B, C, rows, q, columns, q)
        return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)

    def _rotate(self, view: str, *maps: torch.Tensor) -> list[torch.Tensor]:
        """Roll all panoramas by the same random number of columns, or rotate all tiles by the same quarter turns."""
        columns = int(torch.randint(maps[0].shape[-1], (), generator=self.generator))
        if view == "ground":
            return [x.roll(columns, dims=-1) for x in maps]
        return [torch.rot90(x, columns % 4, dims=(-2, -1)) for x in maps]

    def _recolour(self, pixels: torch.Tensor) -> torch.Tensor:
        """Change brightness, contrast, saturation and hue of each image (B, 3, H, W) at random; values are 0..255."""
        brightness, contrast, saturation = 0.6 + 0.8 * torch.rand(3, len(pixels), generator=self.generator)
        hue = 0.1 * torch.rand(len(pixels), generator=self.generator) - 0.05
        return jitter(pixels.float() / 255, brightness, contrast, saturation, hue).clamp(0, 1) * 255

    def _contrast(self, summary: torch.Tensor) -> torch.Tensor:
        """Compute InfoNCE between the global tokens of the two recoloured versions of each image."""
        first, second = functional.normalize(summary, dim=1).chunk(2)
        logits = first @ second.T / self.plan.temperature
        targets = torch.arange(len(logits))
        return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2

    def _orders(self, count: int) -> Iterator[torch.Tensor]:
        """Yield the rows of each step; every image is used once before one is used again."""
        size = min(self.plan.batch_size, count)
        while True:
            order = torch.randperm(count, generator=self.generator)
            yield from order[: count // size * size].split(size)


def format_record(record: dict[str, Any]) -> str:
    """Format the accuracies of a stand-in in one line."""
    held = record["held_out"]
    return (
        f"a stand-in for a foundation model; accuracy on images of other regions: class of a quarter of a patch "
        f"{held['ground_class']:.1%} (ground), {held['aerial_class']:.1%} (aerial), position "
        f"{held['ground_position']:.1%}, {held['aerial_position']:.1%}; {record['cpu_seconds']} CPU seconds"
    )


if __name__ == "__main__":
    with exit_on_error("stopped; nothing was written"):
        main()
