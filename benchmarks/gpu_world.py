"""JPEG pairs of `gpu_images.py`, and training of a small model on them, for `gpu.sh`."""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from gengeo_hf.common.images import open_image
from gengeo_hf.data.augment import Augmentation
from gengeo_hf.learning.loss import clamp_scale, symmetric_info_nce
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

VIEWS = ("ground", "aerial")
SIZES = {"ground": {"height": 112, "width": 448}, "aerial": {"height": 224, "width": 224}}
SMALL_SIZES = {"ground": {"height": 56, "width": 224}, "aerial": {"height": 112, "width": 112}}
BATCH, WARMUP, RATE = 128, 0.1, 1e-3


class JpegPairs(Dataset):
    """Pairs of JPEG files, decoded and resized in the reading process to uint8.

    Args:
        folder: Directory with `ground/` and `aerial/`; files of a pair have the same name.
        processor: Image processor, which sets the image sizes.
        count: Number of pairs; files are read repeatedly. None reads each file once.
    """

    def __init__(self, folder: Path, processor: GenGeoImageProcessor, count: int | None = None) -> None:
        self.files = {view: sorted((folder / view).glob("*.jpg")) for view in VIEWS}
        if not self.files["ground"]:
            raise SystemExit(
                f"{folder} holds no images: run python benchmarks/gpu_images.py, and copy its directory here"
            )
        self.processor, self.count = processor, count or len(self.files["ground"])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        torch.set_num_threads(1)
        raw = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        found = {}
        for view, files in self.files.items():
            image = open_image(files[row % len(files)])
            found[view] = self.processor(image, view=view, **raw)["pixel_values"][0]
        return found

    @staticmethod
    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {view: torch.stack([row[view] for row in rows]) for view in VIEWS}


def normalised(pixels: torch.Tensor, processor: Any) -> torch.Tensor:
    """Pixel values of uint8 images, on their device."""
    mean, std = (
        torch.tensor(x, device=pixels.device).view(-1, 1, 1) for x in (processor.image_mean, processor.image_std)
    )
    return (pixels.float() / 255 - mean) / std


def in_memory(folder: Path, processor: GenGeoImageProcessor, device: str) -> dict[str, torch.Tensor]:
    """Load all pairs of a directory as uint8 to the device."""
    pairs = JpegPairs(folder, processor)
    found = JpegPairs.collate([pairs[row] for row in range(len(pairs))])
    return {view: pixels.to(device) for view, pixels in found.items()}


@torch.inference_mode()
def recall_at_1(model: GenGeoModel, pairs: dict[str, torch.Tensor], processor: GenGeoImageProcessor) -> float:
    """Share of the photos whose true tile ranks first among all tiles; ties count against the model."""
    model.eval()
    encoded = {}
    for view in VIEWS:
        blocks = [model(normalised(part, processor), view=view).pooler_output for part in pairs[view].split(128)]
        encoded[view] = torch.cat(blocks).float()
    scores = encoded["ground"] @ encoded["aerial"].T
    own = scores.diagonal()[:, None]
    return float(((scores >= own).sum(1) == 1).float().mean())


def run(given: argparse.Namespace, report: Any) -> None:
    """Train for half of the part's seconds, with a learning rate that depends on the elapsed time."""
    tiny, on_gpu = given.size != "base", given.device.startswith("cuda")
    processor = GenGeoImageProcessor(view_sizes=SMALL_SIZES if tiny else SIZES)
    backbone = {"model_type": "dinov2", "hidden_size": 48 if tiny else 256, "num_hidden_layers": 2 if tiny else 6}
    backbone |= {"num_attention_heads": 4, "mlp_ratio": 2, "image_size": 224, "patch_size": 14}
    head = {"num_clusters": 16, "cluster_dim": 32, "token_dim": 64, "head_hidden_dim": 256, "descriptor_dim": 256}
    torch.manual_seed(0)
    config = GenGeoConfig(
        backbone_config=backbone, position_init_std=0.5, head_dropout=0.0, trainable_blocks=None, **head
    )
    model = GenGeoModel(config).to(given.device)
    train, test = (in_memory(given.images / "world" / split, processor, given.device) for split in ("train", "test"))
    report.add(
        "R@1 with random weights", 100 * recall_at_1(model, test, processor), f"% of {len(test['ground'])} photos"
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    augment, limit = Augmentation(), given.seconds / 2 if not tiny else min(given.seconds, 2.0)
    model.train()
    started, step, count = time.perf_counter(), 0, len(train["ground"])
    while (share := (time.perf_counter() - started) / limit) < 1:
        rows = torch.randperm(count, device=given.device)[:BATCH]
        batch = augment({view: train[view][rows] for view in VIEWS}, seed=(0, step, 0))
        factor = share / WARMUP if share < WARMUP else (1 - share) / (1 - WARMUP)
        optimizer.param_groups[0]["lr"] = RATE * max(factor, 1e-3)
        with torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=on_gpu):
            ground, aerial = (model(normalised(batch[view], processor), view=view).pooler_output for view in VIEWS)
        loss = symmetric_info_nce(ground, aerial, model.logit_scale, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clamp_scale(model.logit_scale)
        step += 1
    rate = step * min(BATCH, count) / (time.perf_counter() - started)
    note = f"synthetic, unseen regions, {count} training pairs, {step} steps, {rate:.0f} pairs/s"
    report.add("R@1 after training at 224 px", 100 * recall_at_1(model, test, processor), "%", note=note)
