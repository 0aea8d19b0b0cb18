"""`gengeo to-store`: copy an index into a vector database."""

from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.exit_codes import FAILURE
from gengeo_hf.cli.options import IndexPath, Json
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command("to-store", panel=INDEX)
def to_store(
    index: IndexPath,
    store: Annotated[
        str,
        typer.Option(
            help="Address of the database: milvus:./local.db, milvus:http://host:19530 or qdrant:http://host:6333."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Copy an index into a vector database; an interrupted copy continues when the command is run again.

    Tiles that were removed from the index are removed from the store. Each index has its own collection, named like its
    directory or by #NAME at the end of the address. Then give the same address to `gengeo locate --index`. Exit code 1
    if the search results of the store differ from those of the index.

    **Example**

        gengeo to-store city.gengeo --store milvus:http://localhost:19530
    """
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.stores import connect, export_index
    from gengeo_hf.index.stores.address import shown
    from gengeo_hf.index.stores.export import LEAST_AGREEMENT

    opened = GeoIndex.load(index)
    if opened.manifest.fusion:
        console.warning("a store searches single tiles: it does not fuse the ground sizes of this index")
    report = export_index(opened, connect(store), progress=console.shows_progress())
    if as_json:
        console.json_line(report)
    else:
        agreement = f"top ten agree to {report['top10_agreement']:.1%} with the exact answer"
        removed = f", {report['removed']:,} removed" if report["removed"] else ""
        count = f"{report['count']:,} tiles for {report['tiles']:,} of the index{removed}"
        console.result(f"{shown(store)}: {count}; {agreement}")
    if report["top10_agreement"] < LEAST_AGREEMENT:
        console.error(
            f"the store finds only {report['top10_agreement']:.1%} of the exact top ten, expected at least "
            f"{LEAST_AGREEMENT:.0%}: check its index settings, and run this command again"
        )
        raise typer.Exit(FAILURE)
