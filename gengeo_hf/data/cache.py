"""Training pairs in memory: each pair is decoded once, not once an epoch."""

from typing import Any

import torch
from torch.utils.data import Dataset

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.loading import SLICE, PairSource


class PairsInMemory(Dataset[dict[str, Any]]):
    """The pairs of a source as resized uint8 pixels in memory: `__getitems__` gives the very batches of the source.

    For small images: 10,000 pairs of 42x168 and 70x70 pixels take 360 MB, of the paper's sizes 8 GB.

    Args:
        source: what decodes and resizes. It is read once, here.

    Raises:
        GenGeoError: an image is missing or broken (the source alone would replace its pair).
    """

    def __init__(self, source: PairSource) -> None:
        parts = [
            source.__getitems__(list(range(start, min(start + SLICE, len(source)))))
            for start in range(0, len(source), SLICE)
        ]
        if source.broken:
            raise GenGeoError(
                f"{source.dataset.name} cannot be kept in memory: the pair of row {source.broken[0]} is broken; "
                "mend it, or leave data.in_memory off, then such pairs are replaced"
            )
        # Column by column, so that both the pieces and the whole of all of them never lie in memory together.
        self.columns = {key: torch.cat([part.pop(key) for part in parts]) for key in list(parts[0])}

    def __len__(self) -> int:
        return len(self.columns["query_row"])

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One pair, without the batch dimension."""
        return {key: value[row] for key, value in self.columns.items()}

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        """A whole batch."""
        chosen = torch.as_tensor(rows)
        return {key: value[chosen] for key, value in self.columns.items()}
