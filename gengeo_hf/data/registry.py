"""Data sets by name, and the one notation for a data set: `NAME[:SPLIT] [ROOT] [key=value ...]`.

Every command line, configuration file and Python call finds a data set here. `load_pairs` takes the parts as arguments;
`load_notation` takes them as a text such as `"table:test pairs.csv validation_share=0.05"`.
"""

import inspect
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.registry import Registry
from gengeo_hf.common.schema import WORLD_DOMAINS, CrossViewDataset


def load_pairs(name: str, root: str | Path | None = None, split: str = "train", **options: Any) -> CrossViewDataset:
    """Load one split of a data set.

    Args:
        name: one of `dataset_names()`.
        root: the folder (or, for "table", the file) with the data; the synthetic worlds need none.
        split: "train", "validation" or "test". "validation" is a part of the published training set, cut out by area.
            CVACT's published "val" is a split of its own; a user's table or folder also has "all".
        options: passed to the loader: see `load` in `gengeo_hf/data/benchmarks/cvusa.py`, `cvact.py`, `vigor.py`,
            `university1652.py`, `cvcities.py`, `loci.py`, `load_table` and `load_folder` in `gengeo_hf/data/own.py`,
            `load_mixture` in `gengeo_hf/data/mixture.py`, and `gengeo_hf.world.build_world`.

    Returns:
        The validated data set.

    Raises:
        GenGeoError: an unknown name, split or option, or data that are not as expected.
    """
    if name not in DATASETS and (path := Path(name)).exists():
        form = f"`{'folder' if path.is_dir() else 'table'} {name}`"
        raise GenGeoError(f"unknown data set {name!r}; expected one of {', '.join(sorted(DATASETS))}; write {form}")
    loader = DATASETS[name]
    if root is None and name in _ON_DISK:
        raise GenGeoError(f"{name} needs its folder: root=... (the synthetic worlds are the only data without one)")
    return _call(name, loader, root, split, **options).validate()


def dataset_names() -> list[str]:
    """All names that `load_pairs` knows."""
    return sorted(DATASETS)


@dataclass(frozen=True)
class DataNotation:
    """A data set as a user writes it; see `parse_data`.

    Args:
        name: Name that `load_pairs` knows.
        split: Split that was named, None where none was.
        root: Folder or file that was named, None where none was.
        options: Options of the loader.
    """

    name: str
    split: str | None = None
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def load(self, split: str = "test") -> CrossViewDataset:
        """Load the data set.

        Args:
            split: Split to load where the notation names none.

        Raises:
            GenGeoError: As `load_pairs`.
        """
        if "split" in self.options:
            raise GenGeoError(
                f'the split stands behind the name: write "{self.name}:{self.options["split"]}" instead of split='
            )
        return load_pairs(self.name, self.root, self.split or split, **self.options)

    def __str__(self) -> str:
        """The notation, in a form that `parse_data` reads back."""
        name = self.name if self.split is None else f"{self.name}:{self.split}"
        root = [] if self.root is None else [self.root]
        words = [name, *root, *(f"{key}={value}" for key, value in _dotted(self.options))]
        return " ".join(f'"{word}"' if re.search(r"\s", word) else word for word in words)


_OPTION = re.compile(r"[A-Za-z_][\w.]*=")  # a path may hold "=" further on


def parse_data(notation: str | Sequence[str]) -> DataNotation:
    """Read `NAME[:SPLIT] [ROOT] [key=value ...]`.

    Args:
        notation: One text, in which a path with spaces stands in quotes, or the words of a command line.

    Returns:
        Its parts. Values are read as YAML: numbers, booleans, `null`, lists; `columns.heading=compass` is nested.

    Raises:
        GenGeoError: There is no name, two paths, or a quote that is not closed.

    Example:
        >>> parse_data("world-urban:validation num_pairs=100").options
        {'num_pairs': 100}
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    words = _split_words(notation) if isinstance(notation, str) else [str(word) for word in notation]
    if not words or not words[0] or _OPTION.match(words[0]):
        found = f"found {' '.join(words)!r}" if words else "found nothing"
        raise GenGeoError(f"a data set is written as NAME[:SPLIT] [ROOT] [key=value ...]; {found}")
    given = [_quoted(word) for word in words[1:] if _OPTION.match(word)]
    roots = [word for word in words[1:] if not _OPTION.match(word)]
    if len(roots) > 1:
        raise GenGeoError(
            f"a data set has one folder or file, found {roots[0]!r} and {roots[1]!r}; "
            "quote a path with spaces, and write options as key=value"
        )
    name, colon, split = words[0].partition(":")
    try:
        options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(given))
    except OmegaConfBaseException as error:
        raise GenGeoError(f"an option of {name} cannot be read: {' '.join(str(error).split())}") from error
    if colon and not split:
        raise GenGeoError(f"{words[0]!r} names no split after the colon; for example {name}:test")
    return DataNotation(name, split or None, roots[0] if roots else None, dict(options))


def _quoted(word: str) -> str:
    """The option with a pattern such as `{id}.jpg` as text: YAML takes a brace for the start of a mapping."""
    key, _, value = word.partition("=")
    if re.match(r"\{\w+\}", value) and "'" not in value:
        return f"{key}='{value}'"
    return word


def load_notation(notation: str | Sequence[str], split: str = "test") -> CrossViewDataset:
    """Load a data set from its notation, for example `load_notation("cvusa:test /data/CVUSA")`.

    Args:
        notation: See `parse_data`.
        split: Split to load where the notation names none.

    Raises:
        GenGeoError: As `parse_data` and `load_pairs`.
    """
    return parse_data(notation).load(split)


def _split_words(text: str) -> list[str]:
    """Words of a text as a shell finds them, but a backslash is a letter: Windows paths have it."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise GenGeoError(f"{text!r} cannot be read: a quote is not closed") from error


def _dotted(options: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested options as `group.key` with plain values."""
    out: list[tuple[str, Any]] = []
    for key, value in options.items():
        nested = isinstance(value, dict)
        out += _dotted(value, f"{prefix}{key}.") if nested else [(prefix + key, "null" if value is None else value)]
    return out


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


def _cvcities(city: str) -> Callable[..., CrossViewDataset]:
    """Loader of one test city of CV-Cities: its photos against its own tiles, as the authors evaluate."""

    def load(root: str | Path, split: str, **options: Any) -> CrossViewDataset:
        from gengeo_hf.data.benchmarks.cvcities import load_city

        return _call(f"cvcities-{city}", load_city, root, split, city=city, **options)

    return load


CVCITIES_TEST = ("taipei", "singapore", "london", "seattle", "rio", "sydney")
Loader = Callable[..., CrossViewDataset]
_HOME = "gengeo_hf.data."
_ON_DISK: dict[str, str | Loader] = {
    "cvusa": _HOME + "benchmarks.cvusa:load",
    "cvact": _HOME + "benchmarks.cvact:load",
    "vigor-same": _HOME + "benchmarks.vigor:load_same",
    "vigor-cross": _HOME + "benchmarks.vigor:load_cross",
    "university1652": _HOME + "benchmarks.university1652:load",
    "cvcities": _HOME + "benchmarks.cvcities:load",
    **{f"cvcities-{city}": _cvcities(city) for city in CVCITIES_TEST},
    "loci": _HOME + "benchmarks.loci:load",
    "justzoomin": _HOME + "benchmarks.justzoomin:load_published",
    "justzoomin-area": _HOME + "benchmarks.justzoomin:load_area",
    "justzoomin-covered": _HOME + "benchmarks.justzoomin:load_covered",
    "table": _HOME + "own:load_table",
    "folder": _HOME + "own:load_folder",
    "parquet": _HOME + "parquet:read_pairs",  # what `gengeo data export` wrote or `gengeo pull` fetched
    "webdataset": _HOME + "webdataset:read_shards",
}
# Loader of each name: (root, split, **options) -> data set. A loader of your own joins by `@DATASETS.register(name)`.
DATASETS: Registry[Loader] = Registry(
    "data set",
    _ON_DISK
    | {f"world-{domain}": _world(domain) for domain in WORLD_DOMAINS}
    | {"mixture": _HOME + "mixture:load_mixture"},
)
