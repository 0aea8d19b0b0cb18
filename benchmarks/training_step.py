"""Compare training steps of the paper's model: full fine-tuning, the last four blocks, GradCache, checkpointing, and
frozen blocks whose outputs are cached.

    python benchmarks/training_step.py --device cuda --batch 256 --micro 32 --precision bf16
    OMP_NUM_THREADS=1 python benchmarks/training_step.py --small --batch 32 --micro 8      # on a laptop's CPU

For each variant it prints the time of a step, also relative to the first variant, pairs per second, the share of the
device's peak that the model uses (MFU; passes that GradCache repeats count once), and on a GPU the peak of the memory
allocator. The variants alternate in one process, so that other load affects all equally; times are medians. On a CPU
they are CPU seconds of the process, so use one thread. A variant that does not fit into memory is reported.
"""

import argparse
import statistics
import time

import torch
from accelerate import Accelerator

from gengeo_hf.learning.grad_cache import FrozenPrefix, cached_backward
from gengeo_hf.learning.loss import symmetric_info_nce
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.model.backbones import frozen_stages
from gengeo_hf.training.throughput import peak_flops, training_flops

SMALL = {"model_type": "dinov2", "hidden_size": 96, "num_hidden_layers": 12, "num_attention_heads": 4, "mlp_ratio": 4}
SMALL_SIZES = {"ground": {"height": 84, "width": 336}, "aerial": {"height": 140, "width": 140}}
HEAD = {"num_clusters": 16, "cluster_dim": 32, "token_dim": 32, "head_hidden_dim": 128, "descriptor_dim": 128}
WAYS = {  # trained blocks, method of saving memory
    "full fine-tuning": (None, ""),
    "last 4 blocks": (4, ""),
    "full fine-tuning, checkpointing": (None, "checkpointing"),
    "full fine-tuning, GradCache": (None, "GradCache"),
    "last 4 blocks, GradCache": (4, "GradCache"),
    "last 4 blocks, outputs kept": (4, "outputs kept"),
}


class Way:
    """One variant of training, ready to take steps.

    Args:
        blocks: Number of last blocks of the backbone that are trained; None trains all.
        saving: "GradCache", "checkpointing", "outputs kept" (of the frozen blocks, computed before the step) or "".
        accelerator: Sets device and precision.
        batch, micro: Number of pairs of a step and of a GradCache micro-batch.
        small: Use 12 blocks of width 96 and small images.
    """

    def __init__(
        self, blocks: int | None, saving: str, accelerator: Accelerator, batch: int, micro: int, small: bool = False
    ) -> None:
        backbone = {**SMALL, "image_size": 518, "patch_size": 14} if small else None
        config = GenGeoConfig(backbone_config=backbone, trainable_blocks=blocks, **(HEAD if small else {}))
        processor = GenGeoImageProcessor(**({"view_sizes": SMALL_SIZES} if small else {}))
        torch.manual_seed(0)
        self.model = GenGeoModel(config).to(accelerator.device)
        if saving == "checkpointing":
            self.model.train()
            # transformers 5.20 renames gradient_checkpointing_enable
            getattr(self.model, "activation_checkpointing_enable", self.model.gradient_checkpointing_enable)()
        self.processor = processor
        self.stages = frozen_stages(self.model.backbone)
        self.flops = training_flops(self.model, processor, accelerator) if saving != "checkpointing" else 0.0
        self.accelerator, self.saving, self.micro = accelerator, saving, micro
        self.batch = {
            view: torch.randn(batch, 3, size["height"], size["width"], device=accelerator.device)
            for view, size in processor.view_sizes.items()
        }
        if saving == "outputs kept":
            from gengeo_hf.training.token_cache import (
                frozen_outputs,
            )  # needs the data libraries, which GPU scripts lack

            self.batch = {view: frozen_outputs(self.model, pixels, view) for view, pixels in self.batch.items()}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def describe(self, part: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        def encode(view: str) -> torch.Tensor:
            if part[view].ndim == 4:
                return self.model(part[view], view=view).pooler_output
            from gengeo_hf.training.token_cache import run_view

            tokens = part[view].to(self.accelerator.device)
            return run_view(self.model, self.model, self.processor, tokens, view).pooler_output

        with self.accelerator.autocast():
            return tuple(encode(view) for view in ("ground", "aerial"))

    def loss(self, ground: torch.Tensor, aerial: torch.Tensor) -> torch.Tensor:
        return symmetric_info_nce(ground, aerial, self.model.logit_scale, label_smoothing=0.1)

    def step(self) -> None:
        if self.saving == "GradCache":
            count = len(self.batch["ground"])
            parts = [{k: v[i : i + self.micro] for k, v in self.batch.items()} for i in range(0, count, self.micro)]
            prefix = FrozenPrefix(self.stages)
            cached_backward(parts, self.describe, self.loss, device=self.accelerator.device, prefix=prefix)
        else:
            self.loss(*self.describe(self.batch)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def seconds_of(way: Way, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = clock()
    way.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--batch", type=int, default=32, help="number of pairs")
    parser.add_argument("--micro", type=int, default=8, help="number of pairs of a GradCache micro-batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="use 12 blocks of width 96 and small images")
    given = parser.parse_args()
    accelerator = Accelerator(cpu=given.device == "cpu", mixed_precision=given.precision)
    device = accelerator.device
    peak, peak_name = peak_flops(device)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    ways, memory = {}, {}
    for name, (blocks, saving) in WAYS.items():
        ways[name] = Way(blocks, saving, accelerator, given.batch, given.micro, given.small)
    for turn in range(given.rounds + 1):
        for name in [name for name in ways if name in seconds]:
            try:
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                taken = seconds_of(ways[name], device)
                memory[name] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            except torch.cuda.OutOfMemoryError:
                print(f"{name}: does not fit into the memory of {device}")
                del seconds[name]
                continue
            if turn:  # the first round warms up
                seconds[name].append(taken)
    print(
        f"batch {given.batch}, micro-batch {given.micro}, {given.precision}; "
        f"peak {peak / 1e12:.2f} TFLOP/s ({peak_name})"
    )
    first = statistics.median(next(iter(seconds.values())))
    for name, measured in seconds.items():
        way, median = ways[name], statistics.median(measured)
        plain = seconds.get(name.removesuffix(f", {way.saving}"))
        saved = f", {median / statistics.median(plain):.2f} x the plain step" if way.saving and plain else ""
        allocated = f", {memory[name] / 2**30:.1f} GiB allocated at most" if memory[name] else ""
        used = f", MFU {way.flops * given.batch / median / peak:.0%}" if way.flops else ""
        print(
            f"{name}: {median:.3f} s a step ({median / first:.2f} of the first{saved}), {given.batch / median:.1f} "
            f"pairs/s{used}{allocated}"
        )


if __name__ == "__main__":
    main()
