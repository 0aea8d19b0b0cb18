"""What a CPU needs for one descriptor: onnxruntime beside torch in float32 and under bfloat16 autocast, in one run.

    python benchmarks/onnx_cpu.py --model exported/ --batch 4      # a folder of `gengeo export --onnx`
    python benchmarks/onnx_cpu.py --width base                     # ViT-B/14 with random weights, exported here

The three take turns. Seconds are the time that this process computed (all threads), so that other work on the machine
counts less; the ratio is that of the medians. bfloat16 is only fast on processors with instructions for it.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gengeo_hf.encoder import Encoder
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.onnx_encoder import OnnxEncoder
from gengeo_hf.onnx_export import FOLDER, export_onnx

WIDTHS = {
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {},
}


def random_checkpoint(width: str, folder: Path) -> Path:
    """A model of the paper's form with random weights, and its ONNX export: enough for time, not for places."""
    torch.manual_seed(0)
    model = GenGeoModel(GenGeoConfig(backbone_config={"image_size": 518, **WIDTHS[width]}))
    processor = GenGeoImageProcessor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    export_onnx(model, processor, folder / FOLDER)
    return folder


def in_turns(ways: dict[str, Callable[[], np.ndarray]], rounds: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median processor seconds of each way, and what it gave."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    given = {}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            given[name] = way()
            if number:  # the first round warms up
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}, given


def measure(folder: Path, view: str, batch: int, rounds: int) -> dict:
    plain = Encoder.from_pretrained(folder, device="cpu", dtype=torch.float32)
    graph = OnnxEncoder(folder / FOLDER, plain.processor)
    size = plain.processor.view_sizes[view]
    pixels = torch.randn(batch, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0))

    def half() -> np.ndarray:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain.describe(pixels, view)

    ways = {
        "torch float32": lambda: plain.describe(pixels, view),
        "torch bfloat16 autocast": half,
        "onnxruntime": lambda: graph.describe(pixels, view),
    }
    seconds, given = in_turns(ways, rounds)
    cosines = {name: float((given[name] * given["torch float32"]).sum(1).min()) for name in ways}
    return {
        "view": view,
        "size": [size["height"], size["width"]],
        "batch": batch,
        "seconds": seconds,
        "onnx / float32": seconds["onnxruntime"] / seconds["torch float32"],
        "onnx / bfloat16": seconds["onnxruntime"] / seconds["torch bfloat16 autocast"],
        "lowest cosine to float32": cosines,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of `gengeo export --onnx`")
    parser.add_argument("--width", choices=[*WIDTHS], default="base", help="of the random model, without --model")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    import onnxruntime

    bf16 = torch.cpu._is_avx512_bf16_supported() if platform.machine() == "x86_64" else None
    print(
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s), AVX512-BF16: {bf16}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or random_checkpoint(given.width, Path(temporary))
        for view in ("ground", "aerial"):
            print(json.dumps(measure(folder, view, given.batch, given.rounds)), flush=True)


if __name__ == "__main__":
    main()
