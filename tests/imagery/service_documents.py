"""Responses of WMTS, WMS, ArcGIS, STAC, OpenAerialMap and file servers, for `tile_server`."""

import io
import json
import time
from functools import cache
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from PIL import Image

HALF = 20037508.342789244


@cache
def geotiff():
    """A COG-like GeoTIFF in UTM 35N near Helsinki, tiled, whose pixels follow the server's formula."""
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.warp import transform

    from tests.imagery.tile_server import colour

    size, gsd, west, north = 1024, 0.5, 384920.0, 6671480.0
    at = np.arange(size) + 0.5
    x, y = np.meshgrid(west + at * gsd, north - at * gsd)
    lon, lat = (np.array(v).reshape(size, size) for v in transform("EPSG:32635", "EPSG:4326", x.ravel(), y.ravel()))
    v = 0.5 - np.log(np.tan(np.pi / 4 + np.radians(lat) / 2)) / (2 * np.pi)
    pixels = np.clip(np.rint(colour((lon + 180) / 360, v)), 0, 255).astype(np.uint8)
    with rasterio.MemoryFile() as memory:
        profile = {
            "driver": "GTiff",
            "width": size,
            "height": size,
            "count": 3,
            "dtype": "uint8",
            "crs": "EPSG:32635",
            "transform": from_origin(west, north, gsd, gsd),
            "tiled": True,
            "blockxsize": 256,
            "blockysize": 256,
            "compress": "deflate",
            "photometric": "RGB",
        }
        with memory.open(**profile) as dataset:
            dataset.write(np.moveaxis(pixels, -1, 0))
        return memory.read()


@cache
def pmtiles(kind="png"):
    """An archive with tiles of zoom 17 around Helsinki."""
    from pmtiles.tile import Compression, TileType, zxy_to_tileid
    from pmtiles.writer import Writer

    from tests.imagery.tile_server import draw, encode

    file = io.BytesIO()
    writer = Writer(file)
    places = sorted((zxy_to_tileid(17, x, y), x, y) for x in range(74598, 74614) for y in range(37932, 37948))
    for number, x, y in places:
        writer.write_tile(number, encode(draw(17, x, y), "png"))
    header = {
        "tile_type": TileType.PNG if kind == "png" else TileType.MVT,
        "tile_compression": Compression.NONE,
        "min_zoom": 17,
        "max_zoom": 17,
        "min_lon_e7": int(24.5e7),
        "min_lat_e7": int(60e7),
        "max_lon_e7": int(25.5e7),
        "max_lat_e7": int(60.5e7),
        "center_zoom": 17,
        "center_lon_e7": int(25e7),
        "center_lat_e7": int(60.1e7),
    }
    writer.finalize(header, {"attribution": "Example Survey"})
    return file.getvalue()


def draw_box(left, bottom, right, top, size):
    """Image of a box in Web Mercator metres."""
    from tests.imagery.tile_server import colour

    at = (np.arange(size) + 0.5) / size
    u, v = np.meshgrid(
        (left + at * (right - left) + HALF) / (2 * HALF), (HALF - top + at * (top - bottom)) / (2 * HALF)
    )
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(colour(u, v)), 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def wmts(host, crs="urn:ogc:def:crs:EPSG::3857", corner=f"{-HALF} {HALF}", tile_host=None):
    matrices = "".join(
        f"<TileMatrix><ows:Identifier>L{z:02d}</ows:Identifier><ScaleDenominator>{559082264.0287178 / 2**z}"
        f"</ScaleDenominator><TopLeftCorner>{corner}</TopLeftCorner><TileWidth>256</TileWidth><TileHeight>256"
        f"</TileHeight><MatrixWidth>{2**z}</MatrixWidth><MatrixHeight>{2**z}</MatrixHeight></TileMatrix>"
        for z in range(15, 19)
    )
    layer = (
        "<Layer><ows:Title>{0}</ows:Title><ows:WGS84BoundingBox><ows:LowerCorner>24 60</ows:LowerCorner>"
        "<ows:UpperCorner>26 61</ows:UpperCorner></ows:WGS84BoundingBox><ows:Identifier>{0}</ows:Identifier>"
        '<Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style><Format>image/png</Format>'
        "<TileMatrixSetLink><TileMatrixSet>grid</TileMatrixSet></TileMatrixSetLink>"
        '<ResourceURL format="image/png" resourceType="tile" template="http://{1}/wmtstile/{0}/{{Style}}/'
        '{{TileMatrixSet}}/{{TileMatrix}}/{{TileRow}}/{{TileCol}}.png"/></Layer>'
    )
    layers = layer.format("ortho", tile_host or host) + layer.format("map", tile_host or host)
    return f"""<?xml version="1.0"?>
<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1"
 xmlns:xlink="http://www.w3.org/1999/xlink" version="1.0.0">
<ows:ServiceIdentification><ows:Title>T</ows:Title><ows:ServiceType>OGC WMTS</ows:ServiceType>
<ows:ServiceTypeVersion>1.0.0</ows:ServiceTypeVersion><ows:AccessConstraints>CC BY 4.0</ows:AccessConstraints>
</ows:ServiceIdentification><ows:ServiceProvider><ows:ProviderName>Example Survey</ows:ProviderName>
</ows:ServiceProvider>
<Contents>{layers}<TileMatrixSet><ows:Identifier>grid</ows:Identifier><ows:SupportedCRS>{crs}</ows:SupportedCRS>
{matrices}</TileMatrixSet></Contents></Capabilities>""".encode()


def wms(host, version="1.3.0", crs=("EPSG:3857", "EPSG:4326")):
    root, key = ("WMS_Capabilities", "CRS") if version == "1.3.0" else ("WMT_MS_Capabilities", "SRS")
    box = (
        "<EX_GeographicBoundingBox><westBoundLongitude>24</westBoundLongitude><eastBoundLongitude>26"
        "</eastBoundLongitude><southBoundLatitude>60</southBoundLatitude><northBoundLatitude>61</northBoundLatitude>"
        "</EX_GeographicBoundingBox>"
    )
    if version != "1.3.0":
        box = '<LatLonBoundingBox minx="24" miny="60" maxx="26" maxy="61"/>'
    space = ' xmlns="http://www.opengis.net/wms"' if version == "1.3.0" else ""
    names = "".join(f"<{key}>{name}</{key}>" for name in crs)
    draw = f"http://{host}/wms{'' if version == '1.3.0' else '11'}?map=x"
    return f"""<?xml version="1.0"?>
<{root} version="{version}"{space} xmlns:xlink="http://www.w3.org/1999/xlink">
<Service><Name>WMS</Name><Title>T</Title><OnlineResource xlink:href="http://{host}/wms"/>
<AccessConstraints>CC BY 4.0</AccessConstraints></Service>
<Capability><Request><GetCapabilities><Format>text/xml</Format></GetCapabilities><GetMap><Format>image/png</Format>
<DCPType><HTTP><Get><OnlineResource xlink:href="{draw}"/></Get></HTTP></DCPType></GetMap></Request>
<Layer><Title>root</Title>{names}{box}<Layer queryable="0"><Name>ortho</Name><Title>o</Title>{names}{box}
<Attribution><Title>Example Survey</Title></Attribution></Layer></Layer></Capability></{root}>""".encode()


def arcgis(cached):
    about = {
        "copyrightText": "Example Survey",
        "spatialReference": {"wkid": 102100, "latestWkid": 3857},
        "fullExtent": {
            "xmin": 2671667,
            "ymin": 8399737,
            "xmax": 2894306,
            "ymax": 8625154,
            "spatialReference": {"wkid": 102100, "latestWkid": 3857},
        },
        "singleFusedMapCache": cached,
    }
    if cached:
        about["tileInfo"] = {
            "rows": 256,
            "cols": 256,
            "origin": {"x": -HALF, "y": HALF},
            "spatialReference": {"wkid": 102100},
            "lods": [{"level": z, "resolution": 156543.03392804097 / 2**z, "scale": 1} for z in range(15, 19)],
        }
    return about


class Documents:
    """Handlers of `tile_server`, by the first part of a path."""

    @property
    def query(self):
        return {key.lower(): value for key, value in parse_qsl(urlsplit(self.path).query)}

    def picture_of(self, box, size):
        return self.answer(200, draw_box(*map(float, box.split(",")), int(size)))

    def xml(self, content):
        return self.answer(200, content, "text/xml")

    def json(self, value):
        return self.answer(200, json.dumps(value).encode(), "application/json")

    def ranged(self, content, mark='"one"'):
        asked = self.headers.get("Range")
        if not asked:
            return self.answer(200, content, "application/octet-stream")
        start, _, end = asked.removeprefix("bytes=").partition("-")
        start, end = int(start), min(int(end), len(content) - 1)
        stated = f"bytes {start}-{end}/{len(content)}"
        return self.answer(206, content[start : end + 1], "image/tiff", Content_Range=stated, ETag=mark)

    def on_wmts(self, _):
        return self.xml(wmts(self.headers["Host"]))

    def on_wmtsother(self, _):
        return self.xml(wmts(self.headers["Host"], tile_host="169.254.169.254"))

    def on_wmtsswapped(self, _):
        return self.xml(wmts(self.headers["Host"], corner=f"{HALF} {-HALF}"))

    def on_wmtstile(self, rest):
        layer, style, matrix_set, matrix, row, column = rest
        if (layer, style, matrix_set) != ("ortho", "default", "grid"):
            return self.answer(404)
        return self.tile("good", [matrix.removeprefix("L"), column.removesuffix(".png"), f"{row}.png"])

    def on_wms(self, _):
        query = self.query
        if query.get("request") == "GetCapabilities":
            return self.xml(wms(self.headers["Host"]))
        if query.get("crs") != "EPSG:3857" or query.get("layers") != "ortho" or query.get("map") != "x":
            return self.xml(b"<ServiceExceptionReport/>")
        return self.picture_of(query["bbox"], query["width"])

    def on_wms11(self, _):
        query = self.query
        if query.get("request") == "GetCapabilities":
            return self.xml(wms(self.headers["Host"], "1.1.1"))
        if query.get("srs") != "EPSG:3857" or query["version"] != "1.1.1":
            return self.xml(b"<ServiceExceptionReport/>")
        return self.picture_of(query["bbox"], query["width"])

    def on_evilwms(self, _):
        return self.xml(b'<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><WMS_Capabilities>&y;</WMS_Capabilities>')

    def on_wfs(self, _):
        return self.xml(b'<wfs:WFS_Capabilities xmlns:wfs="http://www.opengis.net/wfs"/>')

    def on_arcgis(self, rest):
        if rest[-1] in ("MapServer", "ImageServer"):
            return self.json(arcgis(cached=rest[0] == "cached"))
        if rest[0] == "cached":
            zoom, row, column = rest[-3:]
            return self.tile("good", [zoom, column, f"{row}.png"])
        return self.picture_of(self.query["bbox"], self.query["size"].split(",")[0])

    def on_arcgistoken(self, _):
        return self.json({"error": {"code": 499, "message": "Token Required"}})

    def on_files(self, rest):
        if rest[-1] == "missing.tif":
            return self.answer(404)
        if rest[-1] == "whole.tif":
            return self.answer(200, geotiff(), "image/tiff")
        if rest[-1] == "changing.tif":
            return self.ranged(geotiff()[: -100 if time.monotonic() % 2 < 0 else None], f'"{time.monotonic()}"')
        if rest[-1] == "page.tif":
            return self.ranged(b"<html>" + bytes(500_000))
        if rest[-1] == "vector.pmtiles":
            return self.ranged(pmtiles("mvt"))
        return self.ranged(pmtiles() if rest[-1].endswith("pmtiles") else geotiff())

    def on_stac(self, rest):
        root = f"http://{self.headers['Host']}/stac"
        landing = {
            "type": "Catalog",
            "id": "c",
            "stac_version": "1.0.0",
            "description": "d",
            "conformsTo": [
                "https://api.stacspec.org/v1.0.0/core",
                "https://api.stacspec.org/v1.0.0/item-search",
                "https://api.stacspec.org/v1.0.0/collections",
            ],
            "links": [
                {"rel": "self", "href": root, "type": "application/json"},
                {"rel": "root", "href": root, "type": "application/json"},
                {"rel": "data", "href": f"{root}/collections", "type": "application/json"},
                {"rel": "search", "href": f"{root}/search", "type": "application/geo+json", "method": "GET"},
            ],
        }
        if not rest:
            return self.json(landing)
        if rest[0] == "collections":
            return self.json(
                {
                    "type": "Collection",
                    "id": rest[1],
                    "stac_version": "1.0.0",
                    "description": "d",
                    "license": "CC-BY-4.0",
                    "providers": [{"name": "Example Survey", "roles": ["licensor"]}],
                    "links": [],
                    "extent": {"spatial": {"bbox": [[24, 60, 26, 61]]}, "temporal": {"interval": [[None, None]]}},
                }
            )
        ring = [[24.92, 60.15], [24.96, 60.15], [24.96, 60.2], [24.92, 60.15]]
        west = float(self.query.get("bbox", "0").split(",")[0])
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": "i1",
            "collection": "ortho",
            "links": [],
            "bbox": [24.92, 60.15, 24.96, 60.2],
            "properties": {"datetime": "2023-06-01T10:00:00Z"},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "assets": {
                "thumbnail": {"href": f"{root}/t.png", "type": "image/png"},
                "visual": {
                    "href": f"http://{self.headers['Host']}/files/a.tif?sig=hush-hush-9",
                    "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                },
            },
        }
        return self.json({"type": "FeatureCollection", "features": [item] if west > 20 else [], "links": []})

    def on_meta(self, _):  # OpenAerialMap
        record = {
            "uuid": f"http://{self.headers['Host']}/files/oam.tif",
            "provider": "A Flyer",
            "acquisition_end": "2022-05-01T00:00:00Z",
            "properties": {"license": "CC-BY 4.0"},
        }
        return self.json({"results": [record]})
