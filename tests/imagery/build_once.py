"""Build an index from the tile server, in a process that a test kills: `-m tests.imagery.build_once URL OUT CACHE`."""

import sys

from gengeo_hf.common.area import parse_area
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.options import ClientOptions, NetOptions
from gengeo_hf.index import work
from gengeo_hf.index.build import build_index
from tests.stubs import StubEncoder


def main(address, out, cache):
    work.SHARD = 4  # many shards, so that some kills are between and some are within shards
    net = NetOptions(client=ClientOptions(allow_private=True, rate=0), cache=cache)
    area = parse_area(bounds="24.93,60.16,24.9335,60.1615")
    source = open_imagery(address, TilingOptions(tile_m=60.0, area=area, net=net))
    print("begin", flush=True)
    build_index(StubEncoder(), source, out, thumbnail_pixels=0)
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
