"""`gengeo info`: print what an index holds."""

from typing import Any

from gengeo_hf.cli import console
from gengeo_hf.cli.options import GeoJson, IndexPath, Json
from gengeo_hf.cli.registry import INDEX, gengeo


@gengeo.command(panel=INDEX)
def info(index: IndexPath, as_json: Json = False, geojson: GeoJson = None) -> None:
    """Print what an index holds and how it was made.

    --geojson writes the bounds of the tiles for a GIS.

    **Example**

        gengeo info city.gengeo --geojson coverage.geojson
    """
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.index.summary import footprints

    if as_json and console.is_stream(geojson):
        raise console.UsageError("--json and --geojson - both write to stdout: give the latter a file name")
    console.check_writable(geojson)
    opened = GeoIndex.load(index, verify=False)
    if as_json:
        console.json_line(_record(opened))
    elif not console.is_stream(geojson):
        console.result(opened.report())
    if geojson:
        console.write_output(geojson, footprints(opened.tiles))


def _record(opened: Any) -> dict[str, Any]:
    """What users' scripts read: keys may be added, never renamed or retyped."""
    from collections import Counter

    tiles, manifest = opened.tiles, opened.manifest
    lat, lon = tiles["lat"].to_pylist(), tiles["lon"].to_pylist()
    model = manifest["model"]
    return {
        "tiles": tiles.num_rows,
        "bounds": [min(lon), min(lat), max(lon), max(lat)] if lat else None,
        "left_out": dict(Counter(opened.left_out["reason"].to_pylist())),
        "sources": sorted({source for source in tiles["source"].to_pylist() if source}),
        "attribution": None,
        "licence": None,
        "model": {"name": model.get("name") or None, "fingerprint": model["fingerprint"]},
        "dimensions": manifest["dim"],
        "created": manifest.get("created"),
    }
