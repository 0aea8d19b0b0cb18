"""Token merging between the blocks of the backbone: speed and accuracy.

    python benchmarks/token_merging.py --model demo/gengeo-world-urban \\
        --data "world-urban:test demo/world num_pairs=500 ground_size=[42,168] aerial_size=[70,70]"
    python benchmarks/token_merging.py                     # CPU time only, ViT-B/14 with random weights

After each block the most similar tokens are averaged in pairs (Bolya et al. 2023: bipartite matching of every second
token, weighted by the number of patches that a token represents); the head accepts any number of tokens. The model is
not trained with merging. Proportional attention is omitted, and each token has the same mass in the head.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from extraction import random_checkpoint
from input_scale import hits
from measuring import Figure, in_turns

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.model.backbones import transformer_blocks

SHARES = (0.0, 0.05, 0.1)  # share of the tokens merged after each block


class Merging:
    """Merge a share of the patch tokens after every block but the last of a backbone, by hooks."""

    def __init__(self, backbone: Any, share: float) -> None:
        self.share, self.sizes = share, torch.ones(0)
        blocks = transformer_blocks(backbone)
        blocks[0].register_forward_pre_hook(self._begin)
        for block in blocks[:-1] if share else ():
            block.register_forward_hook(self._merge)

    def _begin(self, _block: Any, given: tuple[torch.Tensor, ...]) -> None:
        tokens = given[0]
        self.sizes = torch.ones(len(tokens), tokens.shape[1] - 1, 1)

    def _merge(self, _block: Any, _given: Any, output: Any) -> Any:
        tokens = output[0] if isinstance(output, tuple) else output
        merged, self.sizes = merge(tokens[:, 1:], self.sizes, round(self.share * (tokens.shape[1] - 1)))
        merged = torch.cat((tokens[:, :1], merged), dim=1)
        return (merged, *output[1:]) if isinstance(output, tuple) else merged


def merge(tokens: torch.Tensor, sizes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Average `count` tokens of the first set with their most similar tokens of the second.

    Args:
        tokens: (B, n, C); every second token belongs to the second set.
        sizes: (B, n, 1), number of patches that each token represents.
        count: Number of tokens to remove.

    Returns:
        Tokens (B, n - count, C) and their sizes (B, n - count, 1).
    """
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    first, second = slice(0, None, 2), slice(1, None, 2)
    best, target = (unit[:, first] @ unit[:, second].transpose(1, 2)).max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    gone, kept = order[:, :count, None], order[:, count:, None].sort(dim=1).values
    into = target.gather(1, gone[..., 0])[..., None]

    def taken(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return values.gather(1, rows.expand(-1, -1, values.shape[-1]))

    weighted = tokens * sizes
    sums, weights = weighted[:, second].clone(), sizes[:, second].clone()
    sums.scatter_add_(1, into.expand(-1, -1, tokens.shape[-1]), taken(weighted[:, first], gone))
    weights.scatter_add_(1, into, taken(sizes[:, first], gone))
    left = torch.cat((taken(tokens[:, first], kept), sums / weights), dim=1)
    return left, torch.cat((taken(sizes[:, first], kept), weights), dim=1)


def figures(folder: Path, shares: list[float], data: str | None, rounds: int) -> list[Figure]:
    """Return the speed relative to no merging, and R@1 if there is a data set."""
    encoders = {}
    for share in shares:
        encoders[share] = Encoder.from_pretrained(folder, device="cpu")
        Merging(encoders[share].model.backbone, share)
    size = encoders[shares[0]].view_sizes["ground"]
    pixels = torch.randn(1, 3, size["height"], size["width"])
    ways = {
        f"{share:g}": lambda encoder=encoder: encoder.encode_pixels(pixels, "ground")
        for share, encoder in encoders.items()
    }
    turns, rows = in_turns(ways, rounds), []
    for share, encoder in encoders.items():
        clock, cpu = turns.medians(f"{share:g}")
        note = f"{1000 * cpu:.1f} CPU ms a photo" + (f", R@1 {hits(encoder, data).mean():.1%}" if data else "")
        ratio = turns.times_as_fast(f"{share:g}", f"{shares[0]:g}")
        what = f"{share:.0%} of the tokens merged after each block"
        rows.append(Figure("token merging", what, ratio, "times as fast as without", clock, cpu, note=note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint; default: ViT-B/14 with random weights")
    parser.add_argument("--data", help="data set in the notation of gengeo evaluate")
    parser.add_argument("--shares", type=float, nargs="+", default=[*SHARES])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or random_checkpoint("base", Path(temporary), onnx=False)
        for row in figures(folder, given.shares, given.data, given.rounds):
            print(f"{row.what}: {row.value:.2f} {row.unit} {row.note}")


if __name__ == "__main__":
    main()
