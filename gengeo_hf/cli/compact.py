"""`gengeo compact`: merge the segments of an index and free the disk space of removed tiles."""

from gengeo_hf.cli import console
from gengeo_hf.cli.options import IndexPath, Json
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def compact(index: IndexPath, as_json: Json = False) -> None:
    """Merge the segments of an index and free the disk space of removed tiles.

    Running searches keep their version. Disk space for a second copy is needed meanwhile.

    **Example**

        gengeo compact city.gengeo
    """
    from gengeo_hf.index import GeoIndex

    opened = GeoIndex.load(index, verify=False)
    segments, removed = opened.compact()
    if as_json:
        console.json_line({"segments_before": segments, "removed": removed, "tiles": len(opened)})
    elif segments > 1 or removed:
        console.result(
            f"{segments} segments became one; space of {removed:,} removed tiles was freed; {len(opened):,} tiles"
        )
    else:
        console.result("nothing to do: one segment and no removed tiles")
