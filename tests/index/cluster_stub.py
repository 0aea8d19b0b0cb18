"""Encoder without weights that logs its batches, and slow imagery, for the workers of a test."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.stubs import ListSource, StubEncoder


class LoggingEncoder(StubEncoder):
    """Encoder that appends one line for each batch: process, number of images."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def encode(self, images, view, *, resize=True):
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {len(images)}\n")
        return super().encode(images, view, resize=resize)


class SlowSource(ListSource):
    def __init__(self, count, seconds, **options):
        super().__init__(count, **options)
        self.seconds = seconds

    def read(self, row):
        time.sleep(self.seconds)
        return super().read(row)


@dataclass(frozen=True)
class Opener:
    """Set small units and parts."""

    log: str
    tiles: int
    seconds: float = 0.0
    name: str = "noise"
    breaks: bool = False

    def __call__(self, workers):
        from gengeo_hf.index import work

        if self.breaks:
            from gengeo_hf.common.errors import GenGeoError

            raise GenGeoError("the model is broken")
        work.SHARD = 6
        source = SlowSource(self.tiles, self.seconds, name=self.name, broken=[3], empty=[20])
        return LoggingEncoder(Path(self.log)), source, {"readers": 1}
