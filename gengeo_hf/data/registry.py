"""Registry of data sets by name, and the notation for a data set: `NAME[:SPLIT] [ROOT] [key=value ...]`.

Command lines, configuration files and Python use the same names. `load_pairs` takes name, split, root and options as
arguments; `load_notation` takes them as one text such as `"table:test pairs.csv validation_share=0.05"`.
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
        name: One of `dataset_names()`.
        root: Directory of the data (for "table" also the file); None for the synthetic worlds.
        split: "train", "validation" or "test". "validation" is the part of a published training set that is held out
            by area. CVACT's published "val" is a split of its own; a user's table or directory also has "all".
        options: Options of the loader: see `load` in `gengeo_hf/data/benchmarks/cvusa.py`, `cvact.py`, `vigor.py`,
            `university1652.py`, `cvcities.py`, `loci.py`, `load_table` and `load_folder` in `gengeo_hf/data/own.py`,
            `load_mixture` in `gengeo_hf/data/mixture.py`, and `gengeo_hf.world.build_world`.

    Returns:
        The validated data set.

    Raises:
        GenGeoError: The name, the split or an option is unknown, or the data are missing or invalid.
    """
    if name not in DATASETS and (path := Path(name)).exists():
        form = f"`{'folder' if path.is_dir() else 'table'} {name}`"
        raise GenGeoError(f"unknown data set {name!r}; expected one of {', '.join(sorted(DATASETS))}; write {form}")
    loader = DATASETS[name]
    if root is None and name in _ON_DISK:
        raise GenGeoError(f"{name} needs its directory: set root=... (only the synthetic worlds do not need one)")
    return _call(name, loader, root, split, **options).validate()


def dataset_names() -> list[str]:
    """All names that `load_pairs` knows."""
    return sorted(DATASETS)


@dataclass(frozen=True)
class DataNotation:
    """A data set in the notation of users; see `parse_data`.

    Args:
        name: Name of the data set, see `dataset_names`.
        split: Split, None if the notation names none.
        root: Directory or file, None if the notation names none.
        options: Options of the loader.
    """

    name: str
    split: str | None = None
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def load(self, split: str = "test") -> CrossViewDataset:
        """Load the data set.

        Args:
            split: Split to load if the notation names none.

        Raises:
            GenGeoError: See `load_pairs`.
        """
        if "split" in self.options:
            raise GenGeoError(
                f'split is not an option: write "{self.name}:{self.options["split"]}" instead of '
                f"split={self.options['split']}"
            )
        return load_pairs(self.name, self.root, self.split or split, **self.options)

    def __str__(self) -> str:
        """The notation as text that `parse_data` reads."""
        name = self.name if self.split is None else f"{self.name}:{self.split}"
        root = [] if self.root is None else [self.root]
        words = [name, *root, *(f"{key}={value}" for key, value in _dotted(self.options))]
        return " ".join(f'"{word}"' if re.search(r"\s", word) else word for word in words)


_OPTION = re.compile(r"[A-Za-z_][\w.]*=")  # matched at the start only, since a path may contain "="


def parse_data(notation: str | Sequence[str]) -> DataNotation:
    """Read `NAME[:SPLIT] [ROOT] [key=value ...]`.

    Args:
        notation: One text, in which paths with spaces are quoted, or the arguments of a command line.

    Returns:
        The parsed notation. Values are read as YAML: numbers, booleans, `null`, lists. A dot in a key makes nested
        options: `columns.heading=compass` becomes `{"columns": {"heading": "compass"}}`.

    Raises:
        GenGeoError: The name is missing, there are two paths, an option is invalid, or a quote is not closed.

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
            f"a data set has one directory or file, found {roots[0]!r} and {roots[1]!r}; "
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
    """The option with a pattern such as `{id}.jpg` in quotes: YAML reads an unquoted brace as a mapping."""
    key, _, value = word.partition("=")
    if re.match(r"\{\w+\}", value) and "'" not in value:
        return f"{key}='{value}'"
    return word


def load_notation(notation: str | Sequence[str], split: str = "test") -> CrossViewDataset:
    """Load a data set from its notation, for example `load_notation("cvusa:test /data/CVUSA")`.

    Args:
        notation: See `parse_data`.
        split: Split to load if the notation names none.

    Raises:
        GenGeoError: See `parse_data` and `load_pairs`.
    """
    return parse_data(notation).load(split)


def _split_words(text: str) -> list[str]:
    """Split a text into words as a shell does, except that a backslash is an ordinary character of Windows paths."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise GenGeoError(f"{text!r} cannot be read: a quote is not closed") from error


def _dotted(options: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested options as pairs of a dotted key and a plain value."""
    out: list[tuple[str, Any]] = []
    for key, value in options.items():
        nested = isinstance(value, dict)
        out += _dotted(value, f"{prefix}{key}.") if nested else [(prefix + key, "null" if value is None else value)]
    return out


def _call(name: str, loader: Callable[..., CrossViewDataset], /, *given: Any, **options: Any) -> CrossViewDataset:
    """Call a loader; an option that is not in its signature raises `GenGeoError`.

    A `TypeError` inside the loader is not converted.
    """
    try:
        inspect.signature(loader).bind(*given, **options)
    except TypeError as error:
        raise GenGeoError(f"{name}: {error}; see help(gengeo_hf.data.load_pairs)") from error
    return loader(*given, **options)


def _world(domain: str) -> Callable[..., CrossViewDataset]:
    """Loader of one domain of the synthetic world."""

    def load(root: str | Path | None, split: str, num_pairs: int = 500, **options: Any) -> CrossViewDataset:
        from gengeo_hf.world import build_world

        if root is not None:
            options.setdefault("cache_dir", root)
        return _call(f"world-{domain}", build_world, domain, split, num_pairs, **options)

    return load


def _cvcities(city: str) -> Callable[..., CrossViewDataset]:
    """Loader of one test city of CV-Cities, whose gallery holds its own tiles only, as in the authors' evaluation."""

    def load(root: str | Path, split: str, **options: Any) -> CrossViewDataset:
        from gengeo_hf.data.benchmarks.cvcities import load_city

        return _call(f"cvcities-{city}", load_city, root, split, city=city, **options)

    return load


CVCITIES_TEST = ("taipei", "singapore", "london", "seattle", "rio", "sydney")
Loader = Callable[..., CrossViewDataset]
_PACKAGE = "gengeo_hf.data."
_ON_DISK: dict[str, str | Loader] = {
    "cvusa": _PACKAGE + "benchmarks.cvusa:load",
    "cvact": _PACKAGE + "benchmarks.cvact:load",
    "vigor-same": _PACKAGE + "benchmarks.vigor:load_same",
    "vigor-cross": _PACKAGE + "benchmarks.vigor:load_cross",
    "university1652": _PACKAGE + "benchmarks.university1652:load",
    "cvcities": _PACKAGE + "benchmarks.cvcities:load",
    **{f"cvcities-{city}": _cvcities(city) for city in CVCITIES_TEST},
    "loci": _PACKAGE + "benchmarks.loci:load",
    "justzoomin": _PACKAGE + "benchmarks.justzoomin:load_published",
    "justzoomin-area": _PACKAGE + "benchmarks.justzoomin:load_area",
    "justzoomin-covered": _PACKAGE + "benchmarks.justzoomin:load_covered",
    "table": _PACKAGE + "own:load_table",
    "folder": _PACKAGE + "own:load_folder",
    "parquet": _PACKAGE + "parquet:read_pairs",  # what `gengeo data export` wrote or `gengeo pull` fetched
    "webdataset": _PACKAGE + "webdataset:read_shards",
}
# Loader of each name: (root, split, **options) -> data set. Add your own loader with `@DATASETS.register(name)`.
DATASETS: Registry[Loader] = Registry(
    "data set",
    _ON_DISK
    | {f"world-{domain}": _world(domain) for domain in WORLD_DOMAINS}
    | {"mixture": _PACKAGE + "mixture:load_mixture"},
)
