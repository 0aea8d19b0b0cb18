"""The domains of the synthetic world and their parameters."""

from dataclasses import dataclass

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.world.palette import OFFCENTER_PALETTE, RURAL_PALETTE, URBAN_PALETTE, Palette

TILE_METRES = 65.0  # side of an aerial tile on the ground
MARGIN_METRES = 120.0  # width of the scenery around the square of the cameras, which hides the edge of the world
MINIMUM_GAP_METRES = 28.0  # minimum distance between two cameras of a region


@dataclass(frozen=True)
class Domain:
    """Parameters of a domain. Lengths are metres, fractions and probabilities are in 0..1.

    Args:
        name: Name of the domain.
        core: Side of the square that contains the cameras.
        pairs_per_region: Number of cameras in a region; a region with fewer camera positions is drawn again.
        road_spacing: Spacing of the road lattice.
        road_jitter: Random displacement of the lattice nodes as a fraction of the spacing.
        road_drop: Fraction of missing roads.
        half_widths: Half width of a minor and of a main road.
        pavement: Width of the pavement; 0 for none.
        dirt_roads: Fraction of unpaved roads.
        relief: Height of the hills.
        frontage: Minimum and maximum width of a lot.
        lot_depth: Minimum and maximum depth of a lot.
        lot_share: Fraction of the frontage that is built on.
        lots: Weight of each kind of lot.
        storeys: Minimum and maximum number of storeys of a block of flats.
        street_trees: Fraction of the street tree positions that have a tree.
        garden_trees: Mean number of trees in a garden.
        farmed: Whether the land between the roads is fields and woods.
        parked: Fraction of the kerb that parked cars occupy.
        water: Probability that a region has ponds, and possibly a river.
        roof_follows_facade: Fraction of the buildings whose roof colour belongs to the family of the facade.
        palette: Colours of facades and roofs.
        off_centre: Whether cameras are off the centre of their tile and tiles overlap by half.
    """

    name: str
    core: float
    pairs_per_region: int
    road_spacing: float
    road_jitter: float
    road_drop: float
    half_widths: tuple[float, float]
    pavement: float
    dirt_roads: float
    relief: float
    frontage: tuple[float, float]
    lot_depth: tuple[float, float]
    lot_share: float
    lots: dict[str, float]
    storeys: tuple[int, int]
    street_trees: float
    garden_trees: float
    farmed: bool
    parked: float
    water: float
    roof_follows_facade: float
    palette: Palette
    off_centre: bool = False

    @property
    def extent(self) -> float:
        """Side of the whole region in metres."""
        return self.core + 2 * MARGIN_METRES


DOMAINS = {
    "urban": Domain(
        name="urban",
        core=600.0,
        pairs_per_region=150,
        road_spacing=74.0,
        road_jitter=0.2,
        road_drop=0.17,
        half_widths=(3.6, 5.6),
        pavement=2.3,
        dirt_roads=0.0,
        relief=1.5,
        frontage=(13.0, 26.0),
        lot_depth=(15.0, 25.0),
        lot_share=0.93,
        lots={"house": 5, "terrace": 3, "flats": 2, "shop": 2, "park": 0.8, "parking": 0.8, "waste": 0.6},
        storeys=(3, 5),
        street_trees=0.25,
        garden_trees=1.3,
        farmed=False,
        parked=0.3,
        water=0.5,
        roof_follows_facade=0.78,
        palette=URBAN_PALETTE,
    ),
    "rural": Domain(
        name="rural",
        core=840.0,
        pairs_per_region=150,
        road_spacing=150.0,
        road_jitter=0.24,
        road_drop=0.2,
        half_widths=(2.7, 4.0),
        pavement=0.0,
        dirt_roads=0.3,
        relief=6.0,
        frontage=(22.0, 44.0),
        lot_depth=(22.0, 40.0),
        lot_share=0.27,
        lots={"house": 5, "barn": 2.5, "park": 0.7, "waste": 1.0, "parking": 0.3},
        storeys=(1, 2),
        street_trees=0.09,
        garden_trees=4.0,
        farmed=True,
        parked=0.02,
        water=0.9,
        roof_follows_facade=0.7,
        palette=RURAL_PALETTE,
    ),
    "offcenter": Domain(
        name="offcenter",
        core=620.0,
        pairs_per_region=150,
        road_spacing=80.0,
        road_jitter=0.1,
        road_drop=0.12,
        half_widths=(4.4, 7.0),
        pavement=3.2,
        dirt_roads=0.0,
        relief=2.5,
        frontage=(15.0, 34.0),
        lot_depth=(18.0, 28.0),
        lot_share=0.95,
        lots={"house": 2, "terrace": 4, "flats": 5, "shop": 3, "park": 0.9, "parking": 1.2, "waste": 0.2},
        storeys=(3, 8),
        street_trees=0.4,
        garden_trees=1.0,
        farmed=False,
        parked=0.45,
        water=0.15,
        roof_follows_facade=0.6,
        palette=OFFCENTER_PALETTE,
        off_centre=True,
    ),
}


def domain_named(name: str) -> Domain:
    """Return the domain of a name.

    Raises:
        GenGeoError: The domain is unknown.
    """
    if name not in DOMAINS:
        raise GenGeoError(f"unknown domain {name!r}; the world has {', '.join(DOMAINS)}")
    return DOMAINS[name]
