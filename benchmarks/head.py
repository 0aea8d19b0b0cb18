"""Cost of the head: time relative to the backbone, memory relative to the expanded formulation.

    python benchmarks/head.py                     # ViT-B/14, batch 8, both views; memory of a step at batch 32
    python benchmarks/head.py --device cuda --batch 8 --rounds 20

Time: forward passes of `GenGeoModel` and of its `Dinov2Model` in turns; the ratio of the medians. On the CPU it is CPU
time of the process, so that other load matters less.
Memory: peak of one forward and backward pass of the head beyond inputs and weights, and of the formulation that expands
plan and features to (B, l, m, n) before the sum. Each is measured in a separate process: peak resident memory on the
CPU, peak of the allocator on a GPU.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

import torch
from measuring import peak_mb

from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.model.salad import GenGeoSalad

SIZES = {"ground": (154, 770), "aerial": (392, 392)}
PATCH = 14


class ExpandedSalad(GenGeoSalad):
    """The same head with an expanded weighted sum: the feature of each token is repeated for every cluster."""

    def forward(self, tokens: torch.Tensor, global_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.cluster_features(tokens).transpose(1, 2)
        plan = self.assign(self.score(tokens).transpose(1, 2), global_token)
        shares = plan[:, None, : self.num_clusters].repeat(1, features.shape[1], 1, 1)
        spread = features[:, :, None].repeat(1, 1, self.num_clusters, 1)
        clusters = torch.nn.functional.normalize((shares * spread).sum(-1), dim=1)
        summary = torch.nn.functional.normalize(self.token_features(global_token), dim=1)
        joined = torch.cat((summary, clusters.flatten(1)), dim=1)
        return torch.nn.functional.normalize(joined, dim=1), plan


KINDS = {"ours": GenGeoSalad, "expanded": ExpandedSalad}


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@torch.inference_mode()
def forward_ratio(size: tuple[int, int], batch: int, rounds: int, device: str) -> dict:
    """Median seconds of both forward passes, and their ratio."""
    model = GenGeoModel(GenGeoConfig()).eval().to(device)
    pixels = torch.randn(batch, 3, *size, device=device)
    taken = {"model": [], "backbone": []}
    for number in range(rounds + 1):
        for name, network in (("model", model), ("backbone", model.backbone)):
            start = clock(device)
            network(pixels)
            if number:  # the first round warms up
                taken[name].append(clock(device) - start)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratios = [a / b for a, b in zip(taken["model"], taken["backbone"], strict=True)]
    return medians | {"ratio": medians["model"] / medians["backbone"], "lowest": min(ratios), "highest": max(ratios)}


def peak(kind: str, size: tuple[int, int], batch: int, device: str) -> int:
    """Peak memory of one training step of the head beyond inputs and weights, bytes."""
    head = KINDS[kind](GenGeoConfig(), 768).train().to(device)
    count = size[0] // PATCH * (size[1] // PATCH)
    tokens = torch.randn(batch, count, 768, device=device, requires_grad=True)
    summary = torch.randn(batch, 768, device=device, requires_grad=True)
    for tensor in (*head.parameters(), tokens, summary):
        tensor.grad = torch.zeros_like(tensor)  # part of every training step, independent of the formulation
    small = tokens[:1, : head.num_clusters + 1]
    head(small, summary[:1])[0].sum().backward()  # libraries are loaded on first use
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        head(tokens, summary)[0].sum().backward()
        return torch.cuda.max_memory_allocated() - before
    before = peak_mb()
    head(tokens, summary)[0].sum().backward()
    return round((peak_mb() - before) * 2**20)


def peak_in_own_process(kind: str, view: str, batch: int, device: str) -> int:
    command = [sys.executable, __file__, "--peak", kind, "--view", view, "--memory-batch", str(batch)]
    command += ["--device", device]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="batch size of the forward pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-batch", type=int, default=32, help="batch size of the training step")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--view", choices=[*SIZES], help="measure only this view")
    parser.add_argument("--only", choices=["time", "memory"])
    parser.add_argument("--peak", choices=[*KINDS], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(peak(given.peak, SIZES[given.view], given.memory_batch, given.device))
        return
    name = torch.cuda.get_device_name() if given.device == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__}, {name}, {torch.get_num_threads()} thread(s)")
    for view, size in SIZES.items():
        if given.view not in (None, view):
            continue
        found: dict = {"view": view, "size": size}
        if given.only != "memory":
            found["forward_s"] = forward_ratio(size, given.batch, given.rounds, given.device)
        if given.only != "time":
            bytes_ = {kind: peak_in_own_process(kind, view, given.memory_batch, given.device) for kind in KINDS}
            found["step_bytes"] = bytes_ | {"ratio": bytes_["ours"] / bytes_["expanded"]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
