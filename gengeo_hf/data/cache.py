"""Training pairs in memory: each pair is decoded once instead of once per epoch."""

from typing import Any

import torch
from torch.utils.data import Dataset

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.loading import SLICE, PairSource


class PairsInMemory(Dataset[dict[str, Any]]):
    """The pairs of a source as resized uint8 pixels in memory; batches are equal to those of the source.

    For small images: 10,000 pairs of 42 x 168 and 70 x 70 pixels take 360 MB; at the paper's sizes they take 8 GB.

    Args:
        source: Source whose pairs are decoded and resized once, when this object is created.

    Raises:
        GenGeoError: An image is missing or broken. (`PairSource` itself replaces such pairs.)
    """

    def __init__(self, source: PairSource) -> None:
        parts = [
            source.__getitems__(list(range(start, min(start + SLICE, len(source)))))
            for start in range(0, len(source), SLICE)
        ]
        if source.broken:
            raise GenGeoError(
                f"{source.dataset.name} cannot be kept in memory: the pair of row {source.broken[0]} is broken; "
                "repair its images, or set data.in_memory=false, which replaces broken pairs"
            )
        # Column by column, so that only one column is in memory twice.
        self.columns = {key: torch.cat([part.pop(key) for part in parts]) for key in list(parts[0])}

    def __len__(self) -> int:
        return len(self.columns["query_row"])

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One pair, without the batch dimension."""
        return {key: value[row] for key, value in self.columns.items()}

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        """The batch of some rows, as `PairSource.__getitems__` returns it."""
        chosen = torch.as_tensor(rows)
        return {key: value[chosen] for key, value in self.columns.items()}
