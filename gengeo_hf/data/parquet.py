"""Pairs as Parquet files with the images inside: what is published on the Hub and what comes back from there.

Before: a `CrossViewDataset`. After: `queries/<split>-00000-of-00001.parquet` and the same under `gallery`, which
`datasets.load_dataset` reads without this package; or the other way round.
"""

import re
from pathlib import Path

import datasets

from gengeo_hf.data.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset
from gengeo_hf.errors import GenGeoError

ROWS_IN_FILE = 2000  # some hundred MB of images
TABLES = {"queries": QUERY_FEATURES, "gallery": GALLERY_FEATURES}


def write_pairs(data: CrossViewDataset, folder: Path, split: str) -> None:
    """Write both tables of one split into an empty folder.

    Raises:
        GenGeoError: the name of the split cannot be part of a file name that `datasets` recognises.
    """
    if not re.fullmatch(r"\w+", split):
        raise GenGeoError(f"the split is called {split!r}: use letters, digits and underscores only")
    for name, table in (("queries", data.queries), ("gallery", data.gallery)):
        (folder / name).mkdir(parents=True)
        count = -(-len(table) // ROWS_IN_FILE)
        for number in range(count):
            rows = range(number * ROWS_IN_FILE, min(len(table), (number + 1) * ROWS_IN_FILE))
            # Parquet files would otherwise hold paths of this machine.
            embed = datasets.table.embed_table_storage
            part = table.select(rows).with_format("arrow").map(embed, batched=True, batch_size=100)
            part.with_format(None).to_parquet(folder / name / f"{split}-{number:05d}-of-{count:05d}.parquet")


def read_pairs(
    folder: str | Path, split: str, name: str | None = None, cache_dir: str | Path | None = None
) -> CrossViewDataset:
    """Read one split that `write_pairs` wrote.

    Args:
        folder: holds the folders `queries` and `gallery`.
        split: of the file names.
        name: what results call the data; default: the folder's name.
        cache_dir: of `datasets`, for the tables in its own format.

    Raises:
        GenGeoError: the split or one of its files is missing, or the tables do not fit the schema.
    """
    tables = []
    for kind, features in TABLES.items():
        files = sorted((Path(folder) / kind).glob(f"{split}-*-of-*.parquet"))
        counts = {int(file.stem.rpartition("-")[2]) for file in files}
        if not files:
            raise GenGeoError(f"{name or folder} has no {kind} of the split {split!r}")
        if counts != {len(files)}:
            raise GenGeoError(
                f"{name or folder} has {len(files)} files of the {kind} of {split!r}, and their names speak of "
                f"{', '.join(map(str, sorted(counts)))}: fetch it again"
            )
        try:
            table = datasets.Dataset.from_parquet(
                [str(file) for file in files], features=features, cache_dir=str(cache_dir) if cache_dir else None
            )
        except Exception as error:  # whatever pyarrow and datasets say of a damaged file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GenGeoError(f"the {kind} of {name or folder} cannot be read: {reason}") from error
        tables.append(table)
    return CrossViewDataset(f"{name or Path(folder).name}/{split}", *tables).validate()
