"""`gengeo plan`: estimate what an index of an area costs, before anything is downloaded or encoded."""

from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.network_options import NetworkOptions
from gengeo_hf.cli.options import LENGTHS, TILES, AreaOptions, Json, Model, Overlap, TruncateDim
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def plan(
    where: AreaOptions,
    model: Model,
    network: NetworkOptions,
    source: Annotated[
        str | None,
        typer.Argument(
            help="Imagery by address, as for `gengeo index`: its tiles and requests are counted, no tile is requested. "
            "Default: imagery in general."
        ),
    ] = None,
    tile: Annotated[
        Any,
        typer.Option(
            help="Side of a tile on the ground, or several around each centre: 60m,120m.",
            rich_help_panel=TILES,
            **LENGTHS,
        ),
    ] = "100m",
    overlap: Overlap = "50%",
    throughput: Annotated[
        float | None,
        typer.Option(min=0.0001, help="Tiles encoded per second by all machines. Default: measured on this machine."),
    ] = None,
    truncate_dim: TruncateDim = None,
    as_json: Json = False,
) -> None:
    """Estimate tiles, imagery, encoding time, disk space, memory and search time of an index of an area.

    Without --throughput, the encoding time is measured with tiles of noise.

    **Examples**

        gengeo plan --area city.geojson --tile 60m --model ./gengeo-cvusa --throughput 200

        gengeo plan "https://tiles.example.org/{z}/{x}/{y}.jpeg" --area town.geojson --model ./gengeo-cvusa \
            --attribution "Example Survey" --licence "CC BY 4.0" --contact me@example.org
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index.plan import plan_index

    area = where.chosen()
    if area is None:
        raise console.UsageError("choose an area: --area FILE.geojson, --bounds W,S,E,N or --near lat,lon,radius")
    imagery = None if source is None else _imagery_plan(source, area, tile, overlap, network)
    encoder = Encoder.from_pretrained(model, truncate_dim=truncate_dim)
    speed = throughput if throughput is not None else _measure_throughput(encoder)
    pixels = int(encoder.view_sizes["aerial"]["height"])
    sizes: dict[str, Any] = {"overlap": overlap, "dim": encoder.dim, "pixels": pixels}
    found = plan_index(area, tile, **sizes, tiles_per_second=speed, imagery=imagery)
    if as_json:
        console.json_line(found.to_dict())
    else:
        console.result(found)
        if throughput is None:
            console.note("encoding was measured on this machine; give --throughput for others")


def _imagery_plan(source: str, area: Any, tile: Any, overlap: float, network: NetworkOptions) -> Any:
    """Plan the requests of imagery by address."""
    from gengeo_hf.imagery import TilingOptions, open_imagery
    from gengeo_hf.imagery.tiles import PlannedSource

    tiling = TilingOptions(tile_m=min(tile), tile_sizes=tile, area=area, net=network.net(), overlap=overlap)
    imagery = open_imagery(source, tiling)
    if not isinstance(imagery, PlannedSource):
        raise console.UsageError(f"{source} is not imagery by address: plan its area without it")
    return imagery.plan()


def _measure_throughput(encoder: Any) -> float:
    """Tiles per second of this machine, over two batches of noise after a warm-up batch."""
    import time

    import numpy as np

    size = encoder.view_sizes["aerial"]
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (min(8, encoder.batch_size), size["height"], size["width"], 3), np.uint8))
    encoder.encode(images, "aerial")
    started = time.perf_counter()
    for _ in range(2):
        encoder.encode(images, "aerial")
    return 2 * len(images) / (time.perf_counter() - started)
