"""Several data sets joined into one, to train one model on all of them.

In a configuration::

    data:
      name: mixture
      train:
        parts: [world-urban num_pairs=6800, world-offcenter num_pairs=6800]
"""

from collections.abc import Sequence
from pathlib import Path

import datasets

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CAMERA_FEATURES, GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset


def load_mixture(root: str | Path | None, split: str, *, parts: Sequence[str]) -> CrossViewDataset:
    """Load several data sets and join their tables.

    Args:
        root: Directory of the data sets in `parts` that name none.
        split: Split of the data sets in `parts` that name none.
        parts: Two or more data sets, each as `NAME[:SPLIT] [ROOT] [key=value ...]`.

    Returns:
        The photos and the tiles of all data sets, in the order of `parts`. If two data sets share a `query_id` or a
        `tile_id`, all ids get the number of their data set as a prefix, `1/` for the first.

    Raises:
        GenGeoError: There are fewer than two parts, or one cannot be loaded.
    """
    from gengeo_hf.data.registry import load_pairs, parse_data  # the registry names this loader

    given = [parts] if isinstance(parts, str) else list(parts)
    if len(given) < 2:
        raise GenGeoError(
            f"a mixture needs two or more parts, found {len(given)}: set the option parts, for training "
            "'data.train.parts=[table data/a, table data/b]' and data.validation.parts"
        )
    loaded = []
    for notation in map(parse_data, given):
        if notation.name == "mixture":
            raise GenGeoError("a mixture cannot be a part of a mixture: name its parts instead")
        home = notation.root if notation.root is not None else root
        loaded.append(load_pairs(notation.name, home, notation.split or split, **notation.options))
    if any(_share_ids(loaded, view, column) for view, column in (("queries", "query_id"), ("gallery", "tile_id"))):
        loaded = [_add_prefix(part, number) for number, part in enumerate(loaded, 1)]
    cameras = {name for part in loaded for name in CAMERA_FEATURES if name in part.queries.column_names}
    kept = datasets.Features({name: kind for name, kind in CAMERA_FEATURES.items() if name in cameras})
    return CrossViewDataset(
        f"mixture/{split}({', '.join(part.name for part in loaded)})",
        _join([part.queries for part in loaded], datasets.Features(QUERY_FEATURES | kept)),
        _join([part.gallery for part in loaded], GALLERY_FEATURES),
    )


def _share_ids(parts: Sequence[CrossViewDataset], view: str, column: str) -> bool:
    """Whether an id occurs twice in one column of all parts together."""
    ids = [value for part in parts for value in getattr(part, view)[column][:]]
    return len(set(ids)) < len(ids)


def _add_prefix(part: CrossViewDataset, number: int) -> CrossViewDataset:
    """The part with `<number>/` before each id."""

    def prefixed(value: str | None) -> str | None:
        return None if value is None else f"{number}/{value}"

    def replace(table: datasets.Dataset, column: str, values: Sequence[object]) -> datasets.Dataset:
        feature = table.features[column]
        return table.remove_columns(column).add_column(column, list(values), feature=feature)

    queries, gallery = part.queries, part.gallery
    for column in ("query_id", "positive"):
        queries = replace(queries, column, [prefixed(value) for value in queries[column][:]])
    semi = [[prefixed(tile) for tile in row or ()] for row in queries["semi_positives"][:]]
    queries = replace(queries, "semi_positives", semi)
    gallery = replace(gallery, "tile_id", [prefixed(value) for value in gallery["tile_id"][:]])
    return CrossViewDataset(part.name, queries, gallery)


def _join(tables: Sequence[datasets.Dataset], features: datasets.Features) -> datasets.Dataset:
    """Concatenate tables with the columns of `features`; columns that a table lacks are filled with null."""
    same = []
    for table in tables:
        table = table.select_columns([name for name in features if name in table.column_names])
        for name in features:
            if name not in table.column_names:
                table = table.add_column(name, [None] * len(table), feature=features[name])
        same.append(table.select_columns(list(features)).cast(features))
    return datasets.concatenate_datasets(same)
