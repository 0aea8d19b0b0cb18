"""`gengeo info`: print the contents of an index."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import GeoJson, IndexPath, Json
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def info(
    index: IndexPath,
    as_json: Json = False,
    geojson: GeoJson = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the bounds of the tiles as .gpkg (GeoPackage), .parquet (GeoParquet) or .geojson.",
        ),
    ] = None,
) -> None:
    """Print the contents of an index and how it was built.

    --geojson and --export write the bounds of the tiles for a GIS.

    **Example**

        gengeo info city.gengeo --geojson coverage.geojson
    """
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.export import export_tiles
    from gengeo_hf.index.summary import as_json as as_json_record

    if as_json and console.is_stream(geojson):
        raise console.UsageError("--json and --geojson - both write to stdout: give --geojson a file name")
    console.check_writable(geojson, export)
    opened = GeoIndex.load(index, verify=False)
    if as_json:
        console.json_line(as_json_record(opened.manifest))
    elif not console.is_stream(geojson):
        console.result(opened.report())
    if geojson:
        export_tiles(opened, geojson, ".geojson")
    if export:
        export_tiles(opened, export)
