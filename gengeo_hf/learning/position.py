"""The position loss of AuxGeo (arXiv 2412.11529): where in its tile a photo was taken, read from the tile's tokens.

A photo's descriptor is compared with each cell of the tile's feature map; the expectation of the cell's coordinates
under a softmax of the similarities (a soft-argmax) is the predicted position. Both must live in one space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def soft_argmax(query: Tensor, cells: Tensor, temperature: float = 0.05) -> Tensor:
    """The expected cell of each query in its own map.

    Args:
        query: Descriptors, (batch, dim), of any length.
        cells: Feature maps, (batch, dim, rows, columns).
        temperature: Of the softmax over cosines.

    Returns:
        Column and row of each query in cells, float32 (batch, 2): 0 is the centre of the first cell.
    """
    rows, columns = cells.shape[-2:]
    with torch.autocast(query.device.type, enabled=False):
        unit = functional.normalize(cells.float().flatten(2), dim=1)
        cosines = torch.einsum("bd,bdn->bn", functional.normalize(query.float(), dim=1), unit)
        share = (cosines / temperature).softmax(dim=1)
        index = torch.arange(rows * columns, device=share.device)
        places = torch.stack([index % columns, index // columns], dim=1).float()
        return share @ places


def position_error(
    query: Tensor, cells: Tensor, position: Tensor, grids: Sequence[int] = (12, 6, 3), temperature: float = 0.05
) -> Tensor:
    """Distance in cells between predicted and true position, summed over grids.

    The map is averaged to each grid. Published code compares the index of a cell with position x grid, which is off by
    half a cell; here a position in the middle of a cell is that cell's index.

    Args:
        query: Descriptors, (batch, dim).
        cells: Feature maps, (batch, dim, rows, columns).
        position: True column and row as fractions of the tile's width and height, from its upper left corner,
            (batch, 2).
        grids: Cells a side; a finer grid weighs more, since the error is in cells.
        temperature: Of the softmax.

    Returns:
        Error of each query, float32 (batch,).

    Raises:
        ValueError: A grid is finer than the map.
    """
    finest = min(cells.shape[-2:])
    if not grids or not 1 <= min(grids) <= max(grids) <= finest:
        raise ValueError(f"grids are {list(grids)}; the map has {finest} cells a side, and a grid cannot be finer")
    total = torch.zeros(len(query), device=query.device)
    for grid in grids:
        pooled = functional.adaptive_avg_pool2d(cells.float(), grid)
        found = soft_argmax(query, pooled, temperature)
        total = total + torch.linalg.vector_norm(found - (position.to(found) * grid - 0.5), dim=1)
    return total
