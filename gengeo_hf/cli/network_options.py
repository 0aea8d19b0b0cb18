"""Options of imagery by address: rights, layer, request limits and cache."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gengeo_hf.cli import console

if TYPE_CHECKING:
    from gengeo_hf.imagery.options import NetOptions

ADDRESS = "Imagery by address"


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Options of commands that read imagery by address."""

    attribution: Annotated[
        str,
        typer.Option(
            help="Text that must be shown with the imagery. Default: as the source states.", rich_help_panel=ADDRESS
        ),
    ] = ""
    licence: Annotated[
        str,
        typer.Option(
            "--licence",
            "--license",
            help="Licence of the imagery, for example 'CC BY 4.0'. Default: as the source states.",
            rich_help_panel=ADDRESS,
        ),
    ] = ""
    acquired: Annotated[
        str, typer.Option(help="Date or year of the flight. Default: as the source states.", rich_help_panel=ADDRESS)
    ] = ""
    contact: Annotated[
        str, typer.Option(help="Your e-mail or web address, sent to the server.", rich_help_panel=ADDRESS)
    ] = ""
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer of a WMS, WMTS or ArcGIS service, or asset of STAC items. Default: the only one.",
            rich_help_panel=ADDRESS,
        ),
    ] = None
    matrix_set: Annotated[
        str | None,
        typer.Option(
            help="Tile matrix set, for example NZTM2000Quad. Default: Web Mercator, else the only one.",
            rich_help_panel=ADDRESS,
        ),
    ] = None
    tile_pixels: Annotated[
        int | None,
        typer.Option(min=64, help="Side of a source tile in pixels. Default: detected.", rich_help_panel=ADDRESS),
    ] = None
    shift: Annotated[
        str,
        typer.Option(
            metavar="EAST,NORTH",
            help="Shift of the imagery in metres, to correct a displaced source.",
            rich_help_panel=ADDRESS,
        ),
    ] = "0,0"
    referer: Annotated[
        str, typer.Option(help="Referer field that the server requires. Default: none.", rich_help_panel=ADDRESS)
    ] = ""
    rate: Annotated[
        float,
        typer.Option(
            min=0, help="Greatest number of requests per second to one host; 0: no limit.", rich_help_panel=ADDRESS
        ),
    ] = 5.0
    connections: Annotated[
        int, typer.Option(min=1, help="Greatest number of simultaneous requests to one host.", rich_help_panel=ADDRESS)
    ] = 2
    max_tiles: Annotated[
        int, typer.Option(min=1, help="Greatest number of source tiles to download.", rich_help_panel=ADDRESS)
    ] = 20_000
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Directory of downloaded tiles. Default: GENGEO_CACHE, else the cache directory of your user.",
            rich_help_panel=ADDRESS,
        ),
    ] = None
    cache_mb: Annotated[
        int, typer.Option("--cache-mb", min=1, help="Size limit of the cache in megabytes.", rich_help_panel=ADDRESS)
    ] = 20_000
    retry_missing: Annotated[
        bool,
        typer.Option(
            "--retry-missing",
            help="Request tiles again that failed or were missing in an earlier run.",
            rich_help_panel=ADDRESS,
        ),
    ] = False
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", help="Allow servers on this machine and in private networks.", rich_help_panel=ADDRESS
        ),
    ] = False

    def net(self) -> "NetOptions":
        """Convert to the options of `gengeo_hf.imagery`.

        Raises:
            UsageError: `--shift` is not two numbers.
        """
        from gengeo_hf.imagery.options import ClientOptions, NetOptions
        from gengeo_hf.imagery.tiles import Rights

        try:
            east, north = map(float, self.shift.split(","))
        except ValueError:
            found = f"found {self.shift!r}"
            raise console.UsageError(f"--shift takes EAST,NORTH in metres, for example 2.5,-1; {found}") from None
        return NetOptions(
            rights=Rights(self.attribution, self.licence, self.acquired),
            client=ClientOptions(
                contact=self.contact, rate=self.rate, connections=self.connections, allow_private=self.allow_private
            ),
            cache=str(self.cache) if self.cache else None,
            cache_limit_mb=self.cache_mb,
            max_tiles=self.max_tiles,
            retry_missing=self.retry_missing,
            layer=self.layer,
            matrix_set=self.matrix_set,
            tile_pixels=self.tile_pixels,
            shift_m=(east, north),
            headers={"Referer": self.referer} if self.referer else {},
        )
