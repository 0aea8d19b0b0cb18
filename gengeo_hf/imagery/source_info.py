"""Contents of a source of imagery: layers, zoom levels, metres per pixel, extent and rights.

Only capabilities and headers are requested, not tiles.
"""

from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from gengeo_hf.common.area import Area
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.addresses import SOURCES, client_of, is_address, split_kind
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import TilingOptions
from gengeo_hf.imagery.services import TileService
from gengeo_hf.imagery.tiles import Rights, TileSource


@dataclass(frozen=True)
class SourceInfo:
    """Contents of a source.

    Args:
        kind: Kind of source, as in `KIND:address`.
        name: Address without secrets.
        layers: Names of the layers to choose from; empty if there is only one, or one was chosen.
        zooms: Ground sampling distance in metres per pixel by zoom level, in the centre of the area or extent.
        extent: Bounds in degrees; None if they are not stated.
        rights: Rights that the source states.
        tiles: Number of tiles in the area, for a source without zoom levels; None for others.
    """

    kind: str
    name: str
    layers: tuple[str, ...] = ()
    zooms: dict[int, float] = field(default_factory=dict)
    extent: Bounds | None = None
    rights: Rights = field(default_factory=Rights)
    tiles: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The values as plain types for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "layers": list(self.layers),
            "metres_per_pixel": {str(zoom): value for zoom, value in self.zooms.items()},
            "extent": list(self.extent) if self.extent else None,
            "attribution": self.rights.attribution or None,
            "licence": self.rights.licence or None,
            "acquired": self.rights.acquired or None,
            "tiles": self.tiles,
        }

    def __str__(self) -> str:
        lines = [f"kind:        {self.kind}", f"source:      {self.name}"]
        if self.layers:
            lines.append(f"layers:      {', '.join(self.layers)} (choose with --layer)")
        if self.zooms:
            listed = ", ".join(f"{zoom}: {value:.3g}" for zoom, value in self.zooms.items())
            lines.append(f"zoom levels: {min(self.zooms)} to {max(self.zooms)}; metres per pixel {listed}")
        if self.tiles is not None:
            lines.append(f"tiles:       {self.tiles:,}")
        stated = "west {:g}, south {:g}, east {:g}, north {:g}".format(*self.extent) if self.extent else "not stated"
        lines.append(f"extent:      {stated}")
        lines.append(f"attribution: {self.rights.attribution or 'not stated: set --attribution'}")
        lines.append(f"licence:     {self.rights.licence or 'not stated: set --licence'}")
        if self.rights.acquired:
            lines.append(f"acquired:    {self.rights.acquired}")
        return "\n".join(lines)


def source_info(text: str, options: TilingOptions) -> SourceInfo:
    """Read the contents of a source from its documents.

    Args:
        text: Address, template, `KIND:address`, or a file or directory of imagery.
        options: Options with the layer, if one was chosen, and the area in whose centre metres per pixel are computed.

    Raises:
        GenGeoError: The kind of the address is not recognised, its documents cannot be read, or a file is missing.
    """
    if not is_address(text):
        from gengeo_hf.imagery.registry import open_imagery

        return _info_of_tiles("on disk", open_imagery(text, options))
    kind, address = split_kind(text)
    if kind in ("wms", "wmts") and options.net.layer is None:
        from gengeo_hf.imagery.capabilities import layer_names

        names = layer_names(kind.upper(), address, options.net)
        if len(names) != 1:
            return SourceInfo(kind, redact(address), tuple(names))
    service = _service(kind, address, options)
    if service is None:
        return _info_of_tiles(kind, SOURCES[kind](address, options))
    where = options.area or (Area.from_bounds(service.extent) if service.extent else None)
    lat, lon = (0.0, 0.0) if where is None else _middle(where)
    levels = service.grid.levels
    zooms = {zoom: service.grid.ground_resolution(levels[zoom], lat, lon) for zoom in sorted(levels)}
    return SourceInfo(kind, service.name, zooms=zooms, extent=service.extent, rights=service.rights)


def _info_of_tiles(kind: str, source: TileSource) -> SourceInfo:
    """Contents of a source without zoom levels, from the table of its tiles."""
    rights = getattr(source, "rights", Rights())
    sides = [pc.min_max(source.table[side]).as_py() for side in ("west", "south", "east", "north")]
    low, high = [side["min"] for side in sides], [side["max"] for side in sides]
    extent = None if None in low else Bounds(low[0], low[1], high[2], high[3])
    return SourceInfo(kind, source.name, extent=extent, rights=rights, tiles=source.table.num_rows)


def _middle(area: Area) -> tuple[float, float]:
    """Latitude and longitude of the centre of an area in degrees."""
    bounds = area.bounds
    return (bounds.south + bounds.north) / 2, float(area.boxes[:, 2:].mean())


def _service(kind: str, address: str, options: TilingOptions) -> TileService | None:
    """Open the tile service at an address; None for kinds that are not tile services."""
    net = options.net
    if kind == "xyz":
        from gengeo_hf.imagery.templates import TemplateService

        return TemplateService(address, net, options.tms)
    if kind == "wmts":
        from gengeo_hf.imagery.wmts import wmts_service

        return wmts_service(address, net)[0]
    if kind == "wms":
        from gengeo_hf.imagery.wms import wms_service

        return wms_service(address, net)[0]
    if kind == "arcgis":
        from gengeo_hf.imagery.arcgis import arcgis_service

        return arcgis_service(address, net)[0]
    if kind == "pmtiles":
        from gengeo_hf.imagery.pmtiles_service import PmTilesService

        return PmTilesService(address, client_of(options, host_of(address)), net)
    return None
