"""Evaluates tiles of several ground sizes around the same centres: each size alone, and fused similarities.

The fused score of a centre is the mean similarity of its tiles, as in an index of several sizes
(`gengeo index --tile 60m,120m`). The mean of n cosines equals the dot product of concatenated descriptors divided by n,
so the fused ranks are exact and every protocol applies.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.registry import DataNotation, parse_data
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation.intervals import Interval, paired_interval
from gengeo_hf.evaluation.protocols import Protocol
from gengeo_hf.evaluation.ranks import Ties
from gengeo_hf.evaluation.results import Result
from gengeo_hf.evaluation.run import EncodedData, choose_protocol, encode_data, format_summary

WORLD = "world-"  # prefix of data sets whose tiles can be rendered in any ground size
METRIC = "recall@1"


@dataclass(frozen=True)
class SizesResult:
    """Results of each ground size and of their fusion.

    Args:
        single: Result by side of a tile in metres.
        fused: Result of the mean similarity.
        best_m: Ground size with the highest recall@1.
        difference: Recall@1 of the fusion minus that of `best_m`, in -1..1.
        interval: 95 % interval of the difference, paired by query.
    """

    single: dict[float, Result]
    fused: Result
    best_m: float
    difference: float
    interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON, shares in percent."""
        return {
            "sizes": {f"{size:g}": result.percent() for size, result in self.single.items()},
            "fused": self.fused.percent(),
            "best_size_m": self.best_m,
            "difference": 100 * self.difference,
            "difference_interval": [100 * value for value in self.interval],
        }

    def __str__(self) -> str:
        low, high = self.interval
        verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
        lines = [f"tiles of {size:g} m: {format_summary(result)}" for size, result in self.single.items()]
        return "\n".join(
            [
                *lines,
                f"fused: {format_summary(self.fused)}",
                f"fused - best single size ({self.best_m:g} m): {100 * self.difference:+.2f} points of {METRIC} "
                f"({100 * low:+.2f} to {100 * high:+.2f}): {verdict}; "
                "the best size was chosen on the same photos, which favours it",
            ]
        )


def evaluate_tile_sizes(
    model: str | Path | Encoder,
    data: str | DataNotation,
    sizes: Sequence[float],
    protocol: str | Protocol | None = None,
    *,
    ties: Ties = "pessimistic",
    **options: Any,
) -> SizesResult:
    """Evaluate a model on tiles of several ground sizes, and on the mean of their similarities.

    Args:
        model: As in `evaluate`.
        data: Notation of a synthetic world, whose tiles are rendered in each size around the same centres.
        sizes: Two or more sides of a tile in metres.
        protocol, ties, options: As in `evaluate`.

    Raises:
        GenGeoError: There are fewer than two sizes, or the data are not a synthetic world; also as `evaluate`.
    """
    notation = parse_data(data) if isinstance(data, str) else data
    if len(set(sizes)) < 2:
        raise GenGeoError(f"a fusion needs two or more ground sizes, found {len(set(sizes))}")
    if not notation.name.startswith(WORLD):
        raise GenGeoError(
            f"{notation.name} has tiles of one ground size; several sizes need a synthetic world (world-urban, "
            "world-rural, world-offcenter)"
        )
    rules = choose_protocol(protocol, notation)
    found: dict[float, EncodedData] = {}
    for size in sorted(set(sizes)):
        of_size = replace(notation, options=notation.options | {"tile_m": size})
        found[size] = encode_data(model, of_size, rules, **options)
    single = {size: encoded.compute_result(ties) for size, encoded in found.items()}
    fused = fuse(list(found.values())).compute_result(ties)
    best = max(single, key=lambda size: float(single[size].outcomes[METRIC].mean()))
    gains = fused.outcomes[METRIC] - single[best].outcomes[METRIC]
    return SizesResult(single, fused, best, *paired_interval(gains, fused.groups))


def fuse(encoded: Sequence[EncodedData]) -> EncodedData:
    """Concatenate descriptors so that their dot product is the mean of the similarities.

    Args:
        encoded: Descriptors of the same queries and tile ids in the same order, one entry for each ground size.

    Raises:
        GenGeoError: Queries or tile ids differ.
    """
    first = encoded[0]
    for other in encoded[1:]:
        if (other.truth.query_ids, other.truth.tile_ids) != (first.truth.query_ids, first.truth.tile_ids):
            raise GenGeoError("the ground sizes do not have the same photos and tiles: they cannot be fused")
    scale = np.float32(1 / np.sqrt(len(encoded)))
    ground, aerial = (
        np.concatenate([np.asarray(getattr(one, view)) for one in encoded], axis=1) * scale
        for view in ("ground", "aerial")
    )
    sizes = [float(one.settings["loader"]["tile_m"]) for one in encoded]
    settings = first.settings | {"fused_tile_sizes_m": sizes}
    name = re.sub(r"\[tile_m=[^]]*\]", "", first.truth.name) + f"[tile_m={'+'.join(f'{size:g}' for size in sizes)}]"
    truth = replace(first.truth, name=name)
    return replace(first, ground=ground, aerial=aerial, truth=truth, settings=settings)
