"""int8 graphs compared with float32 on this CPU: CPU time of a photo, and cosine of descriptors.

    python benchmarks/int8.py                              # ViT-B/14 with random weights, one thread
    python benchmarks/int8.py --model exported/            # a directory of gengeo export --int8

The baseline is torch in float32. Backends run in turns in one process. Random weights have no outlier channels, which
reduce the accuracy of int8 in pretrained transformers: cosines of a random model do not apply to a trained model.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from extraction import jpegs, random_checkpoint
from measuring import Figure, in_turns, machine

from gengeo_hf.encoding.backends.trial import has_bfloat16
from gengeo_hf.encoding.encoder import Encoder

BASE = "torch float32"
GOAL = ">= 3"  # relative to torch in float32, on CPUs with VNNI


def int8_checkpoint(width: str, folder: Path, images: int = 8) -> Path:
    """Write a random model with int8 graphs, calibrated on synthetic photos."""
    from gengeo_hf.hub.export import export_folder

    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number, content in enumerate(jpegs(400, images)):
        (photos / f"{number}.jpg").write_bytes(content)
    plain = random_checkpoint(width, folder / "plain", onnx=False)
    return export_folder(plain, folder / "exported", calibrate=str(photos))


def figures(folder: Path, rounds: int, judge: bool = True) -> list[Figure]:
    """CPU time of one photo with every available backend, relative to torch in float32."""
    ways = {BASE: ("torch", "float32"), "onnx float32": ("onnx", None)}
    ways |= {
        f"{engine} int8": (engine, "int8") for engine in ("onnx", "openvino") if (folder / f"{engine}_int8").is_dir()
    }
    encoders = {}
    for name, (backend, dtype) in ways.items():
        encoders[name] = Encoder.from_pretrained(folder, device="cpu", backend=backend, compute_dtype=dtype)
    size = encoders[BASE].view_sizes["ground"]
    pixels = torch.randn(1, 3, size["height"], size["width"], generator=torch.Generator().manual_seed(0))
    turns = in_turns(
        {name: lambda encoder=encoder: encoder.encode_pixels(pixels, "ground") for name, encoder in encoders.items()},
        rounds,
    )
    facts = machine()
    has_vnni = any(flag in facts["flags"] for flag in ("avx512_vnni", "amx_int8"))
    note = ", ".join(facts["flags"]) + ("" if has_vnni else "; without VNNI: the goal supposes it")
    rows = []
    for name in ways:
        clock, cpu = turns.medians(name)
        goal = GOAL if judge and name == "openvino int8" and has_vnni else ""
        rows.append(
            Figure("int8", name, turns.times_as_fast(name, BASE), f"times as fast as {BASE}", clock, cpu, goal, note)
        )
        if name.endswith("int8"):
            cosine = float(np.sum(turns.given[name] * turns.given[BASE], axis=1).min())
            rows.append(Figure("int8", name, cosine, "cosine to it, of noise"))
    if not has_bfloat16():
        rows.append(Figure("int8", "bfloat16", 0.0, "", note="no instructions for it here"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="directory of gengeo export --int8")
    parser.add_argument("--width", choices=["tiny", "small", "base"], default="base", help="without --model")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or int8_checkpoint(given.width, Path(temporary))
        for row in figures(folder, given.rounds):
            print(row.plain(), flush=True)


if __name__ == "__main__":
    main()
