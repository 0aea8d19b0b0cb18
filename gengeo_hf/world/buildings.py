"""Content of lots: houses with wings and garages, terraces, blocks of flats, shops, barns, parks, car parks."""

import numpy as np

from gengeo_hf.world.domains import Domain
from gengeo_hf.world.land import Land
from gengeo_hf.world.lots import DIRT, GARDEN, GRAVEL, PARK, PARKING, PAVED, Lot
from gengeo_hf.world.palette import CONIFER, FOLIAGE, linear
from gengeo_hf.world.tables import (
    BARN,
    BOX,
    BUSH,
    FENCE,
    FLAT,
    FLATS,
    GABLE,
    GLASS,
    HEDGE,
    HIP,
    HOUSE,
    MACHINE,
    PART,
    POPLAR,
    ROUND,
    SHED,
    SHOP,
    TREE,
    Table,
)
from gengeo_hf.world.tables import CONIFER as CONIFER_TREE

_FENCES = linear("7a6248", "e6e4de", "8f8a80", "5b4a3a")
_SHOP_FRONTS = linear("2f5d50", "8c2f2b", "2b3f6b", "c7862f", "3b3b3f", "b9b2a2")
_MACHINES = linear("b9bcbd", "85898c", "d5d2ca")


class Filler:
    """Fills lots with buildings, trees and boxes. Lot axes: x along the road, y away from it, front at -half_depth.

    Args:
        domain: Domain of the region.
        land: Land of the region.
        rng: Generator for all random choices.
    """

    def __init__(self, domain: Domain, land: Land, rng: np.random.Generator) -> None:
        self.domain, self.land, self.rng = domain, land, rng
        self.parts, self.trees, self.boxes = Table(PART), Table(TREE), Table(BOX)
        self.covers: list[int] = []
        self.drives: list[tuple[float, float, float, float]] = []  # lot x, half width, depth in metres; garden tone
        self.car_slots: list[tuple[float, float, float, float]] = []  # x, y, cos, sin

    def fill(self, lot: Lot) -> None:
        """Fill a lot according to its kind; exactly one cover and one drive are added for it."""
        getattr(self, f"_{lot.kind}")(lot)

    def _ground(self, cover: int, drive: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.covers.append(cover)
        self.drives.append((*drive, float(self.rng.random())))

    def _uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def colours(self) -> dict[str, np.ndarray]:
        """Draw the colours of one building; the roof often belongs to the family of the facade.

        Returns:
            Colours of "facade", "roof", "trim" and "shop", linear light of shape (3,) in 0..1.
        """
        palette, rng = self.domain.palette, self.rng
        family = rng.choice(len(palette.weights), p=palette.weights)
        facade = palette.facades[family] * rng.uniform(0.85, 1.15, 3) * rng.uniform(0.8, 1.15)
        if rng.random() < self.domain.roof_follows_facade:
            roof = palette.roofs[family]
        else:
            roof = palette.plain_roofs[rng.integers(len(palette.plain_roofs))]
        roof = roof * rng.uniform(0.85, 1.15, 3) * rng.uniform(0.75, 1.2)
        trim = np.clip(facade * 0.3 + (0.6 if rng.random() < 0.7 else 0.02), 0, 0.9)
        return {
            "facade": np.clip(facade, 0.02, 0.92),
            "roof": np.clip(roof, 0.02, 0.9),
            "trim": trim,
            "shop": _SHOP_FRONTS[rng.integers(len(_SHOP_FRONTS))],
        }

    def part(
        self,
        lot: Lot,
        along: float,
        deep: float,
        half_x: float,
        half_y: float,
        eaves: float,
        roof_kind: int,
        style: int,
        colours: dict[str, np.ndarray],
        ridge_across: bool | None = None,
        storey: float = 3.0,
    ) -> None:
        """Add a part of a building with its centre at (along, deep) in the axes of a lot.

        Args:
            lot: Lot of the building.
            along, deep: Centre in metres in the axes of the lot.
            half_x, half_y: Half sides in metres in the axes of the lot.
            eaves: Height of the eaves above the ground in metres.
            roof_kind: Kind of the roof: FLAT, GABLE or HIP of `tables`.
            style: Style of the facade: HOUSE to GLASS of `tables`.
            colours: Colours by name, from `colours`.
            ridge_across: Whether the ridge runs along the y axis; None lays it along the longer side.
            storey: Height of a storey in metres.
        """
        x, y = lot.to_world(along, deep)
        cos, sin = lot.cos, lot.sin
        if (half_y > half_x) if ridge_across is None else ridge_across:
            half_x, half_y, cos, sin = half_y, half_x, -sin, cos
        rise = 0.0 if roof_kind == FLAT else half_y * self._uniform(0.5, 0.95)
        self.parts.add(
            x=x,
            y=y,
            cos=cos,
            sin=sin,
            half_x=half_x,
            half_y=half_y,
            eaves=eaves,
            rise=rise,
            roof_kind=roof_kind,
            style=style,
            storey=storey,
            pitch=self._uniform(2.1, 3.2),
            seed=int(self.rng.integers(2**31)),
            **colours,
        )
        if roof_kind == FLAT and half_x * half_y > 30:
            self._add_roof_machines(float(x), float(y), cos, sin, half_x, half_y, eaves)
        elif style == HOUSE and self.rng.random() < 0.6:
            self._add_chimney(float(x), float(y), cos, sin, half_x, eaves, rise)

    def _add_roof_machines(
        self, x: float, y: float, cos: float, sin: float, half_x: float, half_y: float, eaves: float
    ) -> None:
        """Add one to three machines to a flat roof with its centre at (x, y), rotated by (cos, sin)."""
        for _ in range(int(self.rng.integers(1, 4))):
            a, b = self._uniform(-0.6, 0.6) * half_x, self._uniform(-0.6, 0.6) * half_y
            self.boxes.add(
                x=x + a * cos - b * sin,
                y=y + a * sin + b * cos,
                ground=eaves,
                cos=cos,
                sin=sin,
                half_x=self._uniform(0.6, 1.6),
                half_y=self._uniform(0.5, 1.1),
                height=self._uniform(0.7, 1.6),
                kind=MACHINE,
                colour=_MACHINES[self.rng.integers(len(_MACHINES))],
            )

    def _add_chimney(
        self, x: float, y: float, cos: float, sin: float, half_x: float, eaves: float, rise: float
    ) -> None:
        """Add a chimney near the ridge of a house with its centre at (x, y), rotated by (cos, sin)."""
        a = half_x * self._uniform(-0.7, 0.7)
        self.boxes.add(
            x=x + a * cos,
            y=y + a * sin,
            ground=eaves,
            cos=cos,
            sin=sin,
            half_x=0.4,
            half_y=0.35,
            height=rise + 0.9,
            kind=MACHINE,
            colour=linear("8a5544")[0],
        )

    def tree(self, x: float, y: float, scale: float = 1.0, kind: int | None = None) -> None:
        """Add a tree or bush.

        Args:
            x, y: Position in metres east and north of the centre of the region.
            scale: Factor of the usual height of the kind.
            kind: ROUND, CONIFER, POPLAR or BUSH of `tables`; None draws a kind.
        """
        rng = self.rng
        if kind is None:
            kind = int(rng.choice([ROUND, ROUND, ROUND, CONIFER_TREE, POPLAR, BUSH]))
        height = {ROUND: 7.5, CONIFER_TREE: 9.0, POPLAR: 11.0, BUSH: 1.8}[kind] * rng.uniform(0.7, 1.35) * scale
        radius = {ROUND: 0.4, CONIFER_TREE: 0.24, POPLAR: 0.16, BUSH: 0.65}[kind] * height * rng.uniform(0.85, 1.15)
        clear = {ROUND: 0.24, CONIFER_TREE: 0.08, POPLAR: 0.12, BUSH: 0.0}[kind] * height
        bank = CONIFER if kind == CONIFER_TREE else FOLIAGE
        colour = bank[rng.integers(len(bank))] * rng.uniform(0.8, 1.25) * rng.uniform(0.92, 1.08, 3)
        self.trees.add(
            x=x,
            y=y,
            height=height,
            radius=radius,
            clear=clear,
            kind=kind,
            colour=colour,
            seed=int(rng.integers(2**31)),
        )

    def _garden(self, lot: Lot, used: list[tuple[float, float, float, float]], mean: float) -> None:
        """Add trees and bushes outside the buildings (`used`), and hedges or fences along the sides and the back."""
        for _ in range(int(self.rng.poisson(mean + 1))):
            a, b = self._uniform(-0.85, 0.85) * lot.half_width, self._uniform(-0.8, 0.9) * lot.half_depth
            if all(abs(a - u) > p + 1.5 or abs(b - v) > q + 1.5 for u, v, p, q in used):
                x, y = lot.to_world(a, b)
                self.tree(float(x), float(y), 0.75, BUSH if self.rng.random() < 0.35 else None)
        if self.rng.random() < 0.55:
            self._border(lot)

    def _border(self, lot: Lot) -> None:
        hedge = self.rng.random() < 0.55
        height = self._uniform(1.1, 1.9) if hedge else self._uniform(0.9, 1.6)
        colour = (FOLIAGE[2] * self._uniform(0.8, 1.2)) if hedge else _FENCES[self.rng.integers(len(_FENCES))]
        thick = 0.4 if hedge else 0.06
        deep = lot.half_depth * 0.35
        for a, b, p, q in (
            (-lot.half_width + thick, deep, thick, lot.half_depth - deep),
            (lot.half_width - thick, deep, thick, lot.half_depth - deep),
            (0.0, lot.half_depth - thick, lot.half_width, thick),
        ):
            if self.rng.random() < 0.85:
                x, y = lot.to_world(a, b)
                self.boxes.add(
                    x=x,
                    y=y,
                    cos=lot.cos,
                    sin=lot.sin,
                    half_x=p,
                    half_y=q,
                    height=height,
                    kind=HEDGE if hedge else FENCE,
                    colour=colour,
                    seed=int(self.rng.integers(2**31)),
                )

    def _house(self, lot: Lot) -> None:
        colours = self.colours()
        w = min(lot.half_width * self._uniform(0.55, 0.78), 8.0)
        d = min(lot.half_depth * self._uniform(0.36, 0.5), 6.0)
        room = lot.half_width - w
        along, deep = room * self._uniform(-0.8, 0.8), -lot.half_depth + d + self._uniform(2.0, 4.5)
        storeys = int(self.rng.choice([1, 2, 2, 3])) if not self.domain.farmed else int(self.rng.choice([1, 2]))
        eaves, roof = storeys * 2.9 + 0.3, int(self.rng.choice([GABLE, GABLE, HIP, HIP, FLAT]))
        self.part(lot, along, deep, w, d, eaves, roof, HOUSE, colours, ridge_across=bool(self.rng.random() < 0.3))
        used = [(along, deep, w, d)]
        if self.rng.random() < 0.45:  # a wing to the back makes an L
            p, q = w * 0.42, d * 0.8
            a, b = along + (w - p) * float(self.rng.choice([-1, 1])), deep + d + q - 0.4
            if b + q < lot.half_depth - 0.8:
                self.part(lot, a, b, p, q, eaves - 0.35, roof, HOUSE, colours, ridge_across=True)
                used.append((a, b, p, q))
        side = -1.0 if along > 0 else 1.0
        drive = side * (lot.half_width - 1.9)
        if room > 2.2 and self.rng.random() < 0.6:  # a garage or shed at the end of the drive
            b = self._uniform(0.0, 0.5) * lot.half_depth
            if all(abs(drive - u) > 1.7 + p or abs(b - v) > 2.9 + q for u, v, p, q in used):
                self.part(lot, drive, b, 1.6, 2.8, 2.5, int(self.rng.choice([FLAT, GABLE])), SHED, colours)
                used.append((drive, b, 1.7, 2.9))
        self._ground(GARDEN if self.rng.random() < 0.85 else GRAVEL, (drive, 1.3, lot.half_depth * 0.9))
        self._garden(lot, used, self.domain.garden_trees)

    def _terrace(self, lot: Lot) -> None:
        units = max(1, int(2 * lot.half_width // 6.2))
        w, d = lot.half_width / units, min(lot.half_depth * 0.5, 6.0)
        deep, base = -lot.half_depth + d + self._uniform(0.3, 2.0), int(self.rng.integers(2, 5))
        roof = int(self.rng.choice([GABLE, GABLE, FLAT]))
        for unit in range(units):
            storeys = max(2, base + int(self.rng.integers(-1, 1)))
            style = SHOP if self.rng.random() < 0.2 else HOUSE
            self.part(
                lot,
                -lot.half_width + w * (2 * unit + 1),
                deep,
                w,
                d,
                storeys * 3.0 + 0.4,
                roof,
                style,
                self.colours(),
                ridge_across=False,
            )
        self._ground(GARDEN if self.rng.random() < 0.6 else PAVED)
        self._garden(lot, [(0.0, deep, lot.half_width, d)], self.domain.garden_trees)

    def _flats(self, lot: Lot) -> None:
        colours = self.colours()
        w, d = lot.half_width * self._uniform(0.75, 0.95), min(lot.half_depth * self._uniform(0.5, 0.75), 9.5)
        storeys = int(self.rng.integers(self.domain.storeys[0], self.domain.storeys[1] + 1))
        deep = -lot.half_depth + d + self._uniform(0.5, 2.5)
        roof = FLAT if self.rng.random() < 0.7 else HIP
        style = GLASS if self.domain.off_centre and self.rng.random() < 0.35 else FLATS
        self.part(lot, 0.0, deep, w, d, storeys * 3.1 + 0.5, roof, style, colours, storey=3.1)
        used = [(0.0, deep, w, d)]
        if self.rng.random() < 0.35 and deep + d + 4 < lot.half_depth:
            q = (lot.half_depth - deep - d) * 0.45
            a = (w - w * 0.4) * float(self.rng.choice([-1, 1]))
            self.part(lot, a, deep + d + q - 0.3, w * 0.4, q, storeys * 2.2, FLAT, style, colours, storey=3.1)
            used.append((a, deep + d + q, w * 0.4, q))
        self._ground(int(self.rng.choice([GARDEN, PAVED, PAVED])), (lot.half_width * 0.8, 1.6, lot.half_depth))
        self._garden(lot, used, self.domain.garden_trees * 0.7)

    def _shop(self, lot: Lot) -> None:
        colours = self.colours()
        w, d = lot.half_width * 0.92, min(lot.half_depth * 0.55, 11.0)
        behind = self.rng.random() < 0.4
        deep = lot.half_depth - d - 0.6 if behind else -lot.half_depth + d + 0.4
        self.part(lot, 0.0, deep, w, d, self._uniform(4.2, 7.6), FLAT, SHOP, colours, storey=3.6)
        self._ground(PARKING if behind else PAVED)
        if behind:
            self._slots(lot, -lot.half_depth, deep - d)

    def _barn(self, lot: Lot) -> None:
        colours = self.colours()
        w, d = min(lot.half_width * 0.75, 13.0), min(lot.half_depth * 0.42, 7.0)
        self.part(lot, 0.0, 0.0, w, d, self._uniform(3.8, 5.8), GABLE, BARN, colours)
        if self.rng.random() < 0.6:
            self.part(lot, w * 0.5, d + 4.2, w * 0.4, 3.2, 3.0, GABLE, BARN, self.colours())
        self._ground(DIRT if self.rng.random() < 0.6 else GRAVEL, (0.0, 2.0, lot.half_depth))
        self._garden(lot, [(0.0, 0.0, w, d + 8)], 1.0)

    def _park(self, lot: Lot) -> None:
        self._ground(PARK, (0.0, 1.1, 2 * lot.half_depth))
        for _ in range(int(self.rng.integers(3, 9))):
            x, y = lot.to_world(
                self._uniform(-0.85, 0.85) * lot.half_width, self._uniform(-0.85, 0.85) * lot.half_depth
            )
            self.tree(float(x), float(y), 1.05)

    def _parking(self, lot: Lot) -> None:
        self._ground(PARKING)
        self._slots(lot, -lot.half_depth, lot.half_depth)
        for corner in (-1, 1):
            x, y = lot.to_world(corner * (lot.half_width - 1.2), lot.half_depth - 1.2)
            self.tree(float(x), float(y), 0.8, ROUND)

    def _slots(self, lot: Lot, front: float, back: float) -> None:
        """Add rows of parking bays of 2.6 x 5 m between two depths of a lot (`ground_material` paints their lines)."""
        for deep in np.arange(front + 3.2, back - 2.2, 11.0):
            for along in np.arange(-lot.half_width + 2.0, lot.half_width - 1.6, 2.6):
                x, y = lot.to_world(along, deep)
                self.car_slots.append((float(x), float(y), -lot.sin, lot.cos))

    def _waste(self, lot: Lot) -> None:
        self._ground(DIRT if self.rng.random() < 0.6 else GRAVEL)
        for _ in range(int(self.rng.integers(1, 5))):
            x, y = lot.to_world(self._uniform(-0.8, 0.8) * lot.half_width, self._uniform(-0.8, 0.8) * lot.half_depth)
            self.tree(float(x), float(y), 0.7, BUSH)
