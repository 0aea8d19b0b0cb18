"""The columns of a layout's tables, and a growing table."""

from typing import Any

import numpy as np

_PLACE = [("x", "f4"), ("y", "f4"), ("ground", "f4")]  # metres; `ground` is the height of the land there
_TURN = [("cos", "f4"), ("sin", "f4")]  # direction of the object's own x axis

FLAT, GABLE, HIP = range(3)
HOUSE, FLATS, SHOP, BARN, SHED, GLASS = range(6)
ROUND, CONIFER, POPLAR, BUSH = range(4)
HEDGE, FENCE, MACHINE, WALL_BOX = range(4)

# A part of a building: a box with a roof. Half sides along its own axes; heights above the ground in metres.
PART = np.dtype(
    [
        *_PLACE,
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
# `clear` is the height of the trunk below the crown.
TREE = np.dtype(
    [*_PLACE, ("height", "f4"), ("radius", "f4"), ("clear", "f4"), ("kind", "i4"), ("colour", "f4", 3), ("seed", "i4")]
)
BOX = np.dtype(
    [
        *_PLACE,
        *_TURN,
        ("half_x", "f4"),
        ("half_y", "f4"),
        ("height", "f4"),
        ("kind", "i4"),
        ("colour", "f4", 3),
        ("seed", "i4"),
    ]
)
CAR = np.dtype([*_PLACE, *_TURN, ("size", "f4"), ("colour", "f4", 3), ("seed", "i4")])
LAMP = np.dtype([*_PLACE, *_TURN, ("height", "f4"), ("pole_only", "?")])


class Table:
    """Rows gathered one by one, given as one structured array."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.rows: list[tuple[Any, ...]] = []

    def add(self, **values: Any) -> None:
        """Append a row; a column that is not named is 0."""
        self.rows.append(
            tuple(values.get(name, (0, 0, 0) if self.dtype[name].shape else 0) for name in self.dtype.names or ())
        )

    def array(self) -> np.ndarray:
        """All rows.

        Returns:
            (rows,) of the table's dtype.
        """
        return np.array(self.rows, self.dtype)
