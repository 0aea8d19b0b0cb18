"""Statistics of SALAD's clusters at initialisation, with 1 / sqrt(fan in) and with a standard deviation of 0.02.

    python benchmarks/head_start.py

Tokens are simulated: Gaussian with norm sqrt(width), as after a layer norm. Tokens of a pretrained backbone may differ.
"""

import argparse

import torch

from gengeo_hf.learning.diagnostics import cluster_cosine, effective_rank, plan_entropy
from gengeo_hf.model import GenGeoConfig
from gengeo_hf.model.aggregators import GenGeoHead

SIZES = {  # width of the tokens, clusters, cluster_dim, token_dim, hidden, descriptor, tokens of an image
    "world_small": (64, 8, 32, 64, 128, 256, 36),
    "ViT-B (the paper)": (768, 64, 128, 256, 512, 1024, 605),
}


def measure(size: tuple[int, ...], spread: float | None, images: int) -> list[float]:
    """Cluster cosine, entropy of the plan and effective rank of the descriptors of some images."""
    width, clusters, cluster_dim, token_dim, hidden, descriptor, tokens = size
    config = GenGeoConfig(
        num_clusters=clusters,
        cluster_dim=cluster_dim,
        token_dim=token_dim,
        head_hidden_dim=hidden,
        descriptor_dim=descriptor,
        initializer_range=spread,
        head_dropout=0.0,
    )
    torch.manual_seed(0)
    head = GenGeoHead(config, width).eval()
    for layer in head.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=spread or layer.in_features**-0.5)
            torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        found, joined, plan = head(torch.randn(images, tokens, width), torch.randn(images, width))
    parts = joined[:, token_dim:].unflatten(1, (-1, clusters)).transpose(1, 2)
    return [cluster_cosine(parts), plan_entropy(plan[:, :clusters]), effective_rank(found)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16, help="simulated images")
    given = parser.parse_args()
    print("| size | start | cosine of clusters | entropy of the plan | effective rank |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, size in SIZES.items():
        for start, spread in (("0.02", 0.02), ("1 / sqrt(fan in)", None)):
            cosine, entropy, rank = measure(size, spread, given.images)
            print(f"| {name} | {start} | {cosine:.4f} | {entropy:.4f} | {rank:.1f} of {given.images} |")


if __name__ == "__main__":
    main()
