"""Columns and constants of the tables of a layout, and a table that grows by rows."""

from typing import Any

import numpy as np

_POSITION = [("x", "f4"), ("y", "f4"), ("ground", "f4")]  # metres; `ground` is the height of the land there
_TURN = [("cos", "f4"), ("sin", "f4")]  # direction of the object's own x axis

FLAT, GABLE, HIP = range(3)
HOUSE, FLATS, SHOP, BARN, SHED, GLASS = range(6)
ROUND, CONIFER, POPLAR, BUSH = range(4)
HEDGE, FENCE, MACHINE, WALL_BOX = range(4)

# A part of a building: a box with a roof. Half sides along its axes and heights above the ground are metres.
PART = np.dtype(
    [
        *_POSITION,
        *_TURN,
        ("half_x", "f4"),
        ("half_y", "f4"),
        ("eaves", "f4"),
        ("rise", "f4"),
        ("roof_kind", "i4"),
        ("style", "i4"),
        ("storey", "f4"),
        ("pitch", "f4"),
        ("facade", "f4", 3),
        ("roof", "f4", 3),
        ("trim", "f4", 3),
        ("shop", "f4", 3),
        ("seed", "i4"),
    ]
)
# `clear` is the height of the trunk below the crown in metres.
TREE = np.dtype(
    [
        *_POSITION,
        ("height", "f4"),
        ("radius", "f4"),
        ("clear", "f4"),
        ("kind", "i4"),
        ("colour", "f4", 3),
        ("seed", "i4"),
    ]
)
BOX = np.dtype(
    [
        *_POSITION,
        *_TURN,
        ("half_x", "f4"),
        ("half_y", "f4"),
        ("height", "f4"),
        ("kind", "i4"),
        ("colour", "f4", 3),
        ("seed", "i4"),
    ]
)
CAR = np.dtype([*_POSITION, *_TURN, ("size", "f4"), ("colour", "f4", 3), ("seed", "i4")])
LAMP = np.dtype([*_POSITION, *_TURN, ("height", "f4"), ("pole_only", "?")])


class Table:
    """A table that is filled row by row and returned as a structured array.

    Args:
        dtype: Structured dtype of the rows.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.rows: list[tuple[Any, ...]] = []

    def add(self, **values: Any) -> None:
        """Append a row; columns without a value are 0."""
        self.rows.append(
            tuple(values.get(name, (0, 0, 0) if self.dtype[name].shape else 0) for name in self.dtype.names or ())
        )

    def array(self) -> np.ndarray:
        """Return all rows as an array of shape (rows,)."""
        return np.array(self.rows, self.dtype)
