"""The position loss of AuxGeo (arXiv 2412.11529): the position of a photo in its tile, from the tokens of the tile.

The descriptor of a photo is compared with each cell of the feature map of its tile; the predicted position is the
expectation of the cell coordinates under a softmax of the similarities (a soft-argmax). Descriptor and features must be
in the same space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def soft_argmax(query: Tensor, cells: Tensor, temperature: float = 0.05) -> Tensor:
    """Compute the expected cell of each query in its feature map.

    Args:
        query: Descriptors of any norm, shape (batch, dim).
        cells: Feature maps, shape (batch, dim, rows, columns).
        temperature: Temperature of the softmax over cosines.

    Returns:
        Column and row of each query in cells, float32 (batch, 2); 0 is the centre of the first cell.
    """
    rows, columns = cells.shape[2:]
    with torch.autocast(query.device.type, enabled=False):
        unit = functional.normalize(cells.float().flatten(2), dim=1)
        cosines = torch.einsum("bd,bdn->bn", functional.normalize(query.float(), dim=1), unit)
        probability = (cosines / temperature).softmax(dim=1)
        index = torch.arange(rows * columns, device=probability.device)
        coordinates = torch.stack([index % columns, index // columns], dim=1).float()
        return probability @ coordinates


def position_error(
    query: Tensor, cells: Tensor, position: Tensor, grids: Sequence[int] = (12, 6, 3), temperature: float = 0.05
) -> Tensor:
    """Compute the distance in cells between predicted and true position, summed over grids.

    The feature map is averaged to each grid. The published code compares cell indices with position * grid, which is
    off by half a cell; here the centre of a cell corresponds to its index.

    Args:
        query: Descriptors, shape (batch, dim).
        cells: Feature maps, shape (batch, dim, rows, columns).
        position: True column and row as fractions of the width and height of the tile, from its upper left corner,
            shape (batch, 2).
        grids: Cells per side of each grid. Finer grids have more weight, since the error is in cells.
        temperature: Temperature of the softmax over cosines.

    Returns:
        Error of each query, float32 (batch,).

    Raises:
        ValueError: A grid is finer than the map.
    """
    finest = min(cells.shape[2:])
    if not grids or not 1 <= min(grids) <= max(grids) <= finest:
        raise ValueError(f"grids are {list(grids)}; the map has {finest} cells a side, and a grid cannot be finer")
    total = torch.zeros(len(query), device=query.device)
    for grid in grids:
        pooled = functional.adaptive_avg_pool2d(cells.float(), grid)
        found = soft_argmax(query, pooled, temperature)
        total = total + torch.linalg.vector_norm(found - (position.to(found) * grid - 0.5), dim=1)
    return total
