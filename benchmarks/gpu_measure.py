"""Parts of `gpu.sh`: each writes its figures to OUT/PART.json as soon as they are measured.

    python benchmarks/gpu_measure.py encode --out OUT --device cuda
    python benchmarks/gpu_measure.py table --out OUT           # write gpu.json and gpu.md for all parts

A share of the peak is the number of operations per second that the model needs (as counted by PyTorch), divided by
that of a product of two large bfloat16 matrices on the same device. Only torch, transformers, accelerate, safetensors,
pillow and their dependencies are imported.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).resolve().parent
VIEWS = ("ground", "aerial")
GOALS = {"encode": 0.45, "train": 0.35, "busy": 0.95, "cosine": 0.999}
PARTS = ("peak", "encode", "train", "memory", "loading", "agreement", "world")


class Report:
    """The figures of one part, written to its file after each one."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.path = Path(given.out) / f"{given.part}.json"
        self.found: dict[str, Any] = {"part": given.part, "device": device_name(given), "size": given.size, "rows": []}

    def add(self, what: str, value: float, unit: str, goal: float | None = None, note: str = "") -> None:
        """Add one figure; a goal is the least acceptable value."""
        met = None if goal is None or self.found["size"] != "base" else bool(value >= goal)
        row = {"what": what, "value": float(value), "unit": unit, "goal": goal, "met": met, "note": note}
        self.found["rows"].append(row)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)
        print(f"{what}: {value:.4g} {unit} {note}", flush=True)


def device_name(given: argparse.Namespace) -> str:
    """Return the name of the GPU or the type of the CPU."""
    return torch.cuda.get_device_name() if given.device.startswith("cuda") else f"CPU {platform.machine()}"


def compute_dtype(given: argparse.Namespace) -> torch.dtype:
    """Return bfloat16 on a GPU, else float32: a CPU may have no bfloat16 instructions."""
    return torch.bfloat16 if given.device.startswith("cuda") else torch.float32


def finish(given: argparse.Namespace) -> None:
    """Wait until the GPU has finished all submitted work."""
    if given.device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], given: argparse.Namespace, rounds: int = 5) -> float:
    """Return the median wall-clock seconds, after one warm-up round."""
    taken = []
    for turn in range(rounds + 1):
        finish(given)
        started = time.perf_counter()
        work()
        finish(given)
        if turn:
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def measured_peak(given: argparse.Namespace) -> float:
    """Return operations per second of a product of two square matrices, from peak.json if it exists."""
    stored = Path(given.out) / "peak.json"
    if given.part != "peak" and stored.is_file():
        return float(json.loads(stored.read_text(encoding="utf-8"))["rows"][0]["value"]) * 1e12
    best = 0.0
    for side in (4096, 8192, 12288) if given.device.startswith("cuda") else (512,):
        square = torch.randn(side, side, device=given.device, dtype=compute_dtype(given))
        best = max(best, 2 * side**3 / seconds_of(lambda square=square: square @ square, given, 10))
    return best


def peak(given: argparse.Namespace, report: Report) -> None:
    """Measure the peak of the device on a matrix product."""
    note = f"{compute_dtype(given)}, torch {torch.__version__}, {os.cpu_count()} CPU cores".replace("torch.", "", 1)
    report.add("product of two square matrices", measured_peak(given) / 1e12, "TFLOP/s", note=note)
    if given.device.startswith("cuda"):
        report.add("memory of the device", torch.cuda.get_device_properties(0).total_memory / 2**30, "GiB")


def build_model(given: argparse.Namespace) -> Any:
    """Return the paper's model, or a small one, with random weights, and its image processor."""
    from training_step import HEAD, SMALL, SMALL_SIZES

    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    torch.manual_seed(0)
    if given.size == "base":
        return GenGeoModel(GenGeoConfig(trainable_blocks=None)).eval(), GenGeoImageProcessor()
    backbone = {**SMALL, "num_hidden_layers": 2, "image_size": 518, "patch_size": 14}
    config = GenGeoConfig(backbone_config=backbone, trainable_blocks=None, **HEAD)
    return GenGeoModel(config).eval(), GenGeoImageProcessor(view_sizes=SMALL_SIZES)


def images(processor: Any, view: str, count: int, device: str) -> torch.Tensor:
    """Return pixel values of noise at the size of the view."""
    size = processor.view_sizes[view]
    return torch.randn(count, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(1)).to(device)


@torch.inference_mode()
def encode(given: argparse.Namespace, report: Report) -> None:
    """Measure encoding of both views, in eager mode and with torch.compile."""
    model, processor = build_model(given)
    model, most = model.to(given.device, compute_dtype(given)), measured_peak(given)
    for view in VIEWS:
        pixels = images(processor, view, given.batch, given.device).to(compute_dtype(given))
        with FlopCounterMode(display=False) as counter:
            model(pixels[:2], view=view)
        flops = counter.get_total_flops() / min(2, given.batch) * given.batch
        ways = {"as written": model, "torch.compile": torch.compile(model, backend=given.compile)}
        for name, way in ways.items():
            started = time.perf_counter()
            way(pixels, view=view)
            finish(given)
            first = time.perf_counter() - started
            taken = seconds_of(lambda way=way, pixels=pixels, view=view: way(pixels, view=view), given)
            note = f"batch {given.batch}, {given.batch / taken:.0f} images/s, first pass {first:.1f} s"
            goal = GOALS["encode"] if name == "torch.compile" else None
            report.add(f"encoding, {view}, {name}", flops / taken / most, "of the measured peak", goal, note)


def accelerator_of(given: argparse.Namespace) -> Accelerator:
    """Return an accelerator with bfloat16 mixed precision on a GPU."""
    on_gpu = given.device.startswith("cuda")
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if on_gpu else "no")


def step_seconds(way: Any, given: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds of a training step and its peak memory in GiB."""
    if given.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    taken = seconds_of(way.step, given, 3)
    return taken, torch.cuda.max_memory_allocated() / 2**30 if given.device.startswith("cuda") else 0.0


def train(given: argparse.Namespace, report: Report) -> None:
    """Measure a step of full fine-tuning and of the last four blocks, in eager mode and with torch.compile."""
    from training_step import Way

    most, small = measured_peak(given), given.size != "base"
    for blocks, name in ((None, "full fine-tuning"), (4, "last 4 blocks")):
        for compiled in (False, True):
            way = Way(blocks, "", accelerator_of(given), given.batch, given.batch, small)
            if compiled:
                way.model.compile(backend=given.compile)
            taken, held = step_seconds(way, given)
            what = f"training, {name}, {'torch.compile' if compiled else 'as written'}"
            note = f"batch {given.batch}, {given.batch / taken:.0f} pairs/s, {held:.1f} GiB"
            goal = GOALS["train"] if compiled and blocks is None else None
            report.add(what, way.flops * given.batch / taken / most, "of the measured peak", goal, note)
            del way


def memory(given: argparse.Namespace, report: Report) -> None:
    """Compare time and memory of checkpointing and of GradCache with the plain step."""
    from training_step import Way

    plain = (0.0, 0.0)
    for saving in ("", "checkpointing", "GradCache"):
        way = Way(None, saving, accelerator_of(given), given.batch, max(given.batch // 4, 1), given.size != "base")
        taken, held = step_seconds(way, given)
        plain = plain if saving else (taken, held)
        name = saving or "plain step"
        report.add(f"{name}, batch {given.batch}", taken / plain[0], "x the plain step's time", note=f"{taken:.3f} s")
        if held:
            share = held / plain[1]
            report.add(f"{name}, batch {given.batch}", share, "x the plain step's memory", note=f"{held:.1f} GiB")
        del way


def agreement(given: argparse.Namespace, report: Report) -> None:
    """Compare descriptors of the device with those of the CPU in float32."""
    import copy

    model, processor = build_model(given)
    count = 4 if given.size == "base" else 2
    for view in VIEWS:
        pixels = images(processor, view, count, "cpu")
        with torch.inference_mode():
            expected = model(pixels, view=view).pooler_output
            for dtype in dict.fromkeys((torch.float32, compute_dtype(given))):
                moved = copy.deepcopy(model).to(given.device, dtype)
                found = moved(pixels.to(given.device, dtype), view=view).pooler_output.float().cpu()
                cosine = float(torch.nn.functional.cosine_similarity(found, expected).min())
                what = f"descriptors, {view}, {str(dtype).removeprefix('torch.')}"
                report.add(what, cosine, "lowest cosine to the CPU's in float32", GOALS["cosine"], f"{count} images")


def loading(given: argparse.Namespace, report: Report) -> None:
    """Compare training from JPEG files with training from memory."""
    from gpu_world import JpegPairs, normalised
    from torch.utils.data import DataLoader
    from training_step import Way

    way = Way(None, "", accelerator_of(given), given.batch, given.batch, given.size != "base")
    _, processor = build_model(given)
    steps = 12 if given.size == "base" else 2
    pairs = JpegPairs(given.images / "benchmark", processor, given.batch * (steps + 1))
    workers = min(given.workers, os.cpu_count() or 1)
    loader = DataLoader(
        pairs, given.batch, num_workers=workers, collate_fn=JpegPairs.collate, pin_memory=given.device != "cpu"
    )
    started = time.perf_counter()
    count = sum(len(batch["ground"]) for batch in loader)
    rate = count / (time.perf_counter() - started)
    report.add("pairs read, decoded and resized", rate, "pairs/s", note=f"{workers} workers, their start included")
    alone = seconds_of(way.step, given, 3)
    taken = []
    batches = iter(loader)
    while True:
        started = time.perf_counter()
        if (batch := next(batches, None)) is None:
            break
        way.batch = {view: normalised(batch[view].to(given.device, non_blocking=True), processor) for view in VIEWS}
        way.step()
        finish(given)
        taken.append(time.perf_counter() - started)
    busy = alone * (len(taken) - 1) / sum(taken[1:])  # the first step includes the start of the workers
    note = f"full fine-tuning, batch {given.batch}, {given.batch / alone:.0f} pairs/s from memory"
    report.add("training from JPEG files", busy, "of the rate from memory", GOALS["busy"], note)


def world(given: argparse.Namespace, report: Report) -> None:
    """Train a small model from random weights on the synthetic world at 224 px."""
    from gpu_world import run

    run(given, report)


def table(given: argparse.Namespace) -> None:
    """Write gpu.json and gpu.md for all parts."""
    out = Path(given.out)
    found = [json.loads((out / f"{part}.json").read_text()) for part in PARTS if (out / f"{part}.json").is_file()]
    (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = ["| part | what | figure | goal | |", "| --- | --- | --- | --- | --- |"]
    for part in found:
        for row in part["rows"]:
            goal = f">= {row['goal']:g}" if row["goal"] is not None else ""
            verdict = {True: "met; ", False: "**missed**; ", None: ""}[row["met"]]
            figure = f"{row['value']:.4g} {row['unit']}"
            lines.append(f"| {part['part']} | {row['what']} | {figure} | {goal} | {verdict}{row['note']} |")
    missing = [part for part in PARTS if not (out / f"{part}.json").is_file()]
    head = f"{found[0]['device']}, size {found[0]['size']}" if found else "no part has measured anything"
    text = "\n".join([head, "", *lines, *(["", f"without figures: {', '.join(missing)}"] if missing else []), ""])
    (out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["base", "tiny"], default="base", help="tiny: a trial run")
    parser.add_argument("--batch", type=int, default=64, help="pairs, or images of one view")
    parser.add_argument("--compile", default="inductor", help="backend of torch.compile")
    parser.add_argument("--workers", type=int, default=16, help="number of processes that read JPEG files")
    parser.add_argument("--images", type=Path, default=HERE / "gpu_images", help="directory written by gpu_images.py")
    parser.add_argument(
        "--seconds", type=float, default=90, help="time limit of the part; the world run uses half of it"
    )
    given = parser.parse_args()
    if given.part == "table":
        table(given)
        return
    torch.set_float32_matmul_precision("highest")
    globals()[given.part](given, Report(given))


if __name__ == "__main__":
    main()
