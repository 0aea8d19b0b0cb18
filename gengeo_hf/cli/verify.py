"""`gengeo verify`: check every byte and every descriptor of an index."""

from gengeo_hf.cli import console
from gengeo_hf.cli.options import IndexPath, Json
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def verify(index: IndexPath, as_json: Json = False) -> None:
    """Check every byte and every descriptor of an index. Exit code 1 if something is damaged.

    **Example**

        gengeo verify city.gengeo
    """
    from gengeo_hf.index import GeoIndex

    opened = GeoIndex.load(index, verify=False)
    report = opened.verify()
    if as_json:
        console.json_line({"index": str(index), "tiles": len(opened), "intact": True})
    else:
        console.result(report)
