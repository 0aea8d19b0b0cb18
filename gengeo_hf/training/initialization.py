"""Initialise NetVLAD from data: its centroids are k-means clusters of the tokens of images.

With random centroids a short run learns little.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    import torch

    from gengeo_hf.model import GenGeoModel

TOKENS_PER_IMAGE = 100
# Mean ratio between the weights of the nearest and of the second-nearest centroid after the initialisation.
PREFERENCE = 100.0


def start_netvlad(
    model: "GenGeoModel", batches: Iterable[Any], *, view: str | None = None, iterations: int = 25, seed: int = 0
) -> float:
    """Set the centroids and assignment weights of a NetVLAD head (Arandjelovic et al. 2016, appendix A).

    Args:
        model: Model, changed in place.
        batches: Pixel values (B, 3, H, W), about 500 images in total; 100 random tokens of each are used.
        view: View of the head, "ground" or "aerial", for a model with separate heads.
        iterations: Number of iterations of k-means.
        seed: Seed of the selection of tokens and of k-means.

    Returns:
        Sharpness alpha of the assignment, ln(100) / mean(best - second-best similarity).

    Raises:
        GenGeoError: The head is not a NetVLAD head, or there are no more tokens than clusters.
    """
    import faiss
    import torch

    head: Any = model.heads["shared" if model.config.share_aggregator else (view or "ground")]
    if model.config.aggregator != "netvlad":
        raise GenGeoError(f"the aggregator is {model.config.aggregator!r}: only netvlad is initialised from data")
    features = _sample_features(model, view, head.aggregator, batches, seed)
    clusters = model.config.num_clusters
    if len(features) <= clusters:
        raise GenGeoError(f"{len(features)} tokens for {clusters} clusters: give more images")
    kmeans = faiss.Kmeans(features.shape[1], clusters, niter=iterations, seed=seed, min_points_per_centroid=1)
    kmeans.train(features.numpy())
    centroids = torch.from_numpy(kmeans.centroids)
    best = (features @ torch.nn.functional.normalize(centroids, dim=1).T).topk(2, dim=1).values
    gap = (best[:, 0] - best[:, 1]).mean().item()
    sharpness = float(torch.tensor(PREFERENCE).log()) / max(gap, 1e-6)
    head.aggregator.set_centroids(centroids.to(model.device), sharpness)
    return sharpness


def _sample_features(
    model: "GenGeoModel", view: str | None, aggregator: Any, batches: Iterable[Any], seed: int
) -> "torch.Tensor":
    """Return random local features of all images, (N, l), on the CPU."""
    import torch

    from gengeo_hf.model.backbones import read_tokens, run_backbone

    generator = torch.Generator().manual_seed(seed)
    was_training, rows = model.training, []
    model.eval()
    with torch.no_grad():
        for pixels in batches:
            backbone = model.backbone_of(view)
            tokens, _ = read_tokens(backbone, run_backbone(backbone, pixels.to(model.device)))
            local = aggregator.local_features(tokens).cpu()
            rows += [image[torch.randperm(len(image), generator=generator)[:TOKENS_PER_IMAGE]] for image in local]
    model.train(was_training)
    if not rows:
        raise GenGeoError("no images were given to initialise NetVLAD")
    return torch.cat(rows).contiguous()
