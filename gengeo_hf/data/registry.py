"""Data sets by name: the one place that configuration files and commands ask.

Before: a name and a folder. After: a `CrossViewDataset`, checked.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import WORLD_DOMAINS, CrossViewDataset


def load_pairs(name: str, root: str | Path | None = None, split: str = "train", **options: Any) -> CrossViewDataset:
    """Load one split of a data set.

    Args:
        name: one of `dataset_names()`.
        root: the folder (or, for "table", the file) with the data; the synthetic worlds need none.
        split: "train", "validation" or "test". "validation" is a part of the published training set, cut out by area.
            CVACT's published "val" is a split of its own; a user's table or folder also has "all".
        options: passed to the loader: see `load` in `gengeo_hf/data/benchmarks/cvusa.py`, `cvact.py`, `vigor.py`,
            `university1652.py`, `load_table` and `load_folder` in `gengeo_hf/data/own.py`, and
            `gengeo_hf.world.build_world`.

    Returns:
        The validated data set.

    Raises:
        GenGeoError: an unknown name, split or option, or data that are not as expected.
    """
    loaders = _loaders()
    if name not in loaders:
        raise GenGeoError(f"unknown data set {name!r}; expected one of {', '.join(sorted(loaders))}")
    if root is None and not name.startswith("world-"):
        raise GenGeoError(f"{name} needs its folder: root=... (the synthetic worlds are the only data without one)")
    return _call(name, loaders[name], root, split, **options).validate()


def dataset_names() -> list[str]:
    """All names that `load_pairs` knows."""
    return sorted(_loaders())


def _loaders() -> dict[str, Callable[..., CrossViewDataset]]:
    """Loader of each name: (root, split, options) -> data set."""
    from gengeo_hf.data import own, parquet, webdataset
    from gengeo_hf.data.benchmarks import cvact, cvusa, university1652, vigor

    files: dict[str, Callable[..., CrossViewDataset]] = {
        "cvusa": cvusa.load,
        "cvact": cvact.load,
        "vigor-same": functools.partial(vigor.load, protocol="same"),
        "vigor-cross": functools.partial(vigor.load, protocol="cross"),
        "university1652": university1652.load,
        "table": own.load_table,
        "folder": own.load_folder,
        "parquet": parquet.read_pairs,  # what `gengeo data export` wrote or `gengeo pull` fetched
        "webdataset": webdataset.read_shards,
    }
    return files | {f"world-{domain}": _world(domain) for domain in WORLD_DOMAINS}


def _call(name: str, loader: Callable[..., CrossViewDataset], /, *given: Any, **options: Any) -> CrossViewDataset:
    """Call a loader. An option that it does not know is the user's mistake, any other `TypeError` is ours."""
    try:
        inspect.signature(loader).bind(*given, **options)
    except TypeError as error:
        raise GenGeoError(f"{name}: {error}; see help(gengeo_hf.data.load_pairs)") from error
    return loader(*given, **options)


def _world(domain: str) -> Callable[..., CrossViewDataset]:
    """Loader of one synthetic domain."""

    def load(root: str | Path | None, split: str, num_pairs: int = 500, **options: Any) -> CrossViewDataset:
        from gengeo_hf.world import build_world

        if root is not None:
            options.setdefault("cache_dir", root)
        return _call(f"world-{domain}", build_world, domain, split, num_pairs, **options)

    return load
