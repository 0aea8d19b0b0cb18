"""Speed from JPEG to descriptor on a CPU: every backend compared with torch in float32 and the transformers pipeline.

    python benchmarks/extraction.py                        # ViT-B/14 with random weights, 392 x 392, batches of 1 and 8
    python benchmarks/extraction.py --model exported/      # a directory of `gengeo export --onnx`
    python benchmarks/extraction.py --width small --ways "torch float32" "openvino float32"

All backends decode, resize and encode the same files. They run in turns; ratios are of CPU time of the same turn, so
that other load matters less. Times do not depend on the weights, so random weights suffice; the cosine measures the
effect of rounding on a descriptor, not recall. bfloat16 is fast only on processors with instructions for it; without
them it is measured only once.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import LOST, Figure, Turns, growth, in_turns
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.backends.exported import FOLDER, MANIFEST
from gengeo_hf.encoding.backends.openvino import installed
from gengeo_hf.encoding.backends.torch import TorchBackend
from gengeo_hf.encoding.backends.trial import Choice, has_bfloat16
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

WIDTHS = {
    "tiny": {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2},
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {},
}
BASE, PIPELINE = "torch float32", "HF pipeline"
AERIAL = {"view": "aerial"}
GOALS = {"torch bfloat16": ">= 2.3", "openvino bfloat16": ">= 3.7"}  # relative to torch in float32
COSINE_GOAL = ">= 0.999"
WITHOUT = "the goal assumes bfloat16 instructions, which this CPU does not have"


def random_checkpoint(width: str, folder: Path, onnx: bool) -> Path:
    """Write a model of the paper's architecture with random weights; optionally with its ONNX export."""
    torch.manual_seed(0)
    model = GenGeoModel(GenGeoConfig(backbone_config={"image_size": 518, **WIDTHS[width]})).eval()
    processor = GenGeoImageProcessor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if onnx:
        from gengeo_hf.hub.onnx import export_onnx

        export_onnx(model, processor, folder / FOLDER)
    return folder


def jpegs(side: int, count: int) -> list[bytes]:
    """Square JPEG files of smooth noise at a common quality."""
    files = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 255, (side // 8, side // 8, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


class Ways:
    """Methods from files to descriptors by name; each is created on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plain = Encoder.from_pretrained(folder, device="cpu", dtype=torch.float32)
        self._made: dict[str, Callable[[list[bytes]], np.ndarray]] = {}
        self.left_out: dict[str, str] = {}

    def names(self) -> list[str]:
        """Names of the available methods; reasons of unavailable ones are in `left_out`."""
        names = [BASE, PIPELINE, "torch bfloat16", "torch.compile float32"]
        names += ["torch.compile bfloat16"] if has_bfloat16() else []
        if (self.folder / FOLDER / MANIFEST).is_file():
            names.append("onnx float32")
        if installed():
            names += ["openvino float32", *(["openvino bfloat16"] if has_bfloat16() else [])]
        return names

    def get(self, name: str) -> Callable[[list[bytes]], np.ndarray] | None:
        """Method of this name; None if it is not available."""
        if name not in self._made and name not in self.left_out:
            try:
                self._made[name] = self._make(name)
            except (GenGeoError, RuntimeError) as error:  # for example without a compiler
                self.left_out[name] = str(error).splitlines()[0]
        return self._made.get(name)

    def _make(self, name: str) -> Callable[[list[bytes]], np.ndarray]:
        if name == PIPELINE:
            from transformers import pipeline

            parts = {"model": self.plain.model, "image_processor": self.plain.processor}
            piped = pipeline("image-feature-extraction", device="cpu", **parts)
            return lambda files: np.concatenate(
                [np.asarray(x) for x in piped(_opened(files), batch_size=len(files), image_processor_kwargs=AERIAL)]
            )
        backend, dtype = name.split()
        encoder = Encoder.from_pretrained(
            self.folder, device="cpu", backend="torch" if backend == "torch.compile" else backend, compute_dtype=dtype
        )
        if backend == "torch.compile":
            compiled = TorchBackend(encoder.model, dtype)
            compiled._model = torch.compile(compiled._model, dynamic=False)
            encoder.choice = Choice(compiled)
            size = encoder.processor.view_sizes["aerial"]
            encoder.encode_pixels(
                torch.zeros(1, 3, size["height"], size["width"]), "aerial"
            )  # a compiler may be missing
        return lambda files: encoder.encode(files, "aerial")


def _opened(files: list[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(file)) for file in files]


def measure(ways: Ways, names: list[str], side: int, batch: int, rounds: int) -> Turns:
    """Run all methods on the same files, in turns."""
    files = jpegs(side, batch)
    found = {name: way for name in names if (way := ways.get(name)) is not None}
    return in_turns({name: lambda way=way: way(files) for name, way in found.items()}, rounds)


def figures(
    folder: Path, names: list[str] | None, batches: list[int], rounds: int, judge: bool = True, side: int = 750
) -> list[Figure]:
    """Ratios to torch in float32 at each batch size, cosines, and how time grows with the tokens.

    Args:
        folder: Checkpoint directory.
        names: Methods to measure; None measures all available ones.
        batches: Batch sizes.
        rounds: Number of turns.
        judge: Whether the goals, which are for ViT-B/14, apply to this model.
        side: Side of the JPEG files, pixels.
    """
    ways, rows, lost = Ways(folder), [], {PIPELINE}
    for batch in batches:
        asked = [name for name in names or ways.names() if name not in lost or batch == batches[0]]
        turns = measure(ways, [BASE, *(n for n in asked if n != BASE)], side, batch, rounds)
        for name in turns.given:
            clock, cpu = turns.medians(name)
            goal = GOALS.get(name, "") if judge else ""
            note = WITHOUT if goal and not has_bfloat16() else ""
            what = f"{name}, batch {batch}"
            ratio = turns.times_as_fast(name, BASE)
            if ratio < 1 / LOST:  # reported once; larger batches take longer
                lost.add(name)
            rows.append(Figure("extraction", what, ratio, f"times as fast as {BASE}", clock, cpu, goal, note))
            if name not in (BASE, PIPELINE):
                cosine = float((turns.given[name] * turns.given[BASE]).sum(1).min())
                rows.append(Figure("extraction", what, cosine, "lowest cosine to it", goal=COSINE_GOAL))
    for name, reason in ways.left_out.items():
        rows.append(Figure("extraction", f"{name}: left out", 0.0, "", note=reason))
    return [*rows, tokens(ways, rounds)]


def tokens(ways: Ways, rounds: int) -> Figure:
    """Growth of the forward pass of torch with the number of patches."""
    patch, counts, seconds = ways.plain.patch, [], []
    for across in (14, 20, 28):
        pixels = torch.randn(1, 3, across * patch, across * patch)
        turns = in_turns({BASE: lambda pixels=pixels: ways.plain.encode_pixels(pixels, "aerial")}, rounds)
        counts.append(across * across)
        seconds.append(turns.medians(BASE)[1])
    return growth("extraction", f"the forward pass with patches, {BASE}", counts, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint directory; an ONNX export in it is measured too")
    parser.add_argument("--width", choices=[*WIDTHS], default="base", help="size of the random model, without --model")
    parser.add_argument("--onnx", action="store_true", help="also export the random model, which takes minutes")
    parser.add_argument("--ways", nargs="+", help='for example "torch bfloat16" "openvino bfloat16"')
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or random_checkpoint(given.width, Path(temporary), given.onnx)
        for row in figures(folder, given.ways, given.batches, given.rounds):
            print(row.plain(), flush=True)


if __name__ == "__main__":
    main()
