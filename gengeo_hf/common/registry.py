"""Registries of named parts that plugins can extend: data sets, imagery sources, stores, commands.

A `Registry` maps a name to a part. Entries of the package itself are written as "module:attribute", so that a registry
imports nothing before a part is used. A plugin is a module that registers a part when it is imported::

    from gengeo_hf.data.registry import DATASETS

    @DATASETS.register("my-city")
    def load(root, split, **options): ...

Python code imports such a module directly. Commands load it with `--plugin`, from the environment variable
GENGEO_PLUGINS (module names or paths of `.py` files, separated by commas), or from the entry points of installed
packages in the group `gengeo_hf.plugins`.
"""

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from gengeo_hf.common.errors import GenGeoError

PLUGINS_VARIABLE = "GENGEO_PLUGINS"
PLUGINS_GROUP = "gengeo_hf.plugins"

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind by name, in the order in which they were added.

    Args:
        kind: Kind of the parts in messages, for example "data set".
        parts: Parts by name. A string "module:attribute" is imported when the part is first used.

    Example:
        >>> stores = Registry("store", {"milvus": "gengeo_hf.index.stores.milvus:MilvusStore"})
        >>> stores["milvus"]
        <class 'gengeo_hf.index.stores.milvus.MilvusStore'>
    """

    def __init__(self, kind: str, parts: Mapping[str, T | str] | None = None) -> None:
        self.kind = kind
        self._parts: dict[str, Any] = dict(parts or {})

    def __getitem__(self, name: str) -> T:
        """Return the part of this name.

        Raises:
            GenGeoError: No part has this name; the message lists those that exist.
        """
        if name not in self._parts:
            raise GenGeoError(self._unknown(name))
        part = self._parts[name]
        if isinstance(part, str):
            module, _, attribute = part.partition(":")
            part = self._parts[name] = getattr(importlib.import_module(module), attribute)
        found: T = part
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._parts))

    def __len__(self) -> int:
        return len(self._parts)

    def register(self, name: str, part: T | None = None, *, replace: bool = False) -> Any:
        """Add a part: `register(name, part)`, or as a decorator `@register(name)`.

        Args:
            name: Name of the part on the command line and in configurations.
            part: The part; None returns a decorator.
            replace: Whether to replace an existing part of the same name; False raises an error instead.

        Returns:
            The part, or a decorator that registers its argument and returns it.

        Raises:
            GenGeoError: Another part has this name, or the name is empty.
        """
        if part is None:

            def decorate(decorated: T) -> T:
                self.register(name, decorated, replace=replace)
                return decorated

            return decorate
        if not name or not isinstance(name, str):
            raise GenGeoError(f"the name of a {self.kind} must be a text, found {name!r}")
        if name in self._parts and not replace and not _is_same(self._parts[name], part):
            raise GenGeoError(f"the {self.kind} {name!r} exists: choose another name, or register it with replace=True")
        self._parts[name] = part
        return part

    def _unknown(self, name: object) -> str:
        known = ", ".join(sorted(self._parts))
        near = difflib.get_close_matches(str(name), self._parts, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown {self.kind} {name!r}; expected one of {known}{hint}"


def _is_same(one: Any, other: Any) -> bool:
    """Whether two parts have the same definition, as when a module is executed twice."""
    names = [(getattr(part, "__module__", None), getattr(part, "__qualname__", None)) for part in (one, other)]
    return one is other or (None not in names[0] and names[0] == names[1])


_loaded: set[str] = set()


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import the plugins; each module is imported once.

    In addition to `modules`, the modules named by the environment variable GENGEO_PLUGINS and by the entry points of
    installed packages are imported. `modules` are added to the variable, so that child processes load them too.

    Args:
        modules: Names of modules, or paths of `.py` files.

    Raises:
        GenGeoError: A module is missing or cannot be imported; the message contains the error of the module.
    """
    given = [str(Path(name).resolve()) if name.endswith(".py") else name for name in modules if name]
    stated = [name.strip() for name in os.environ.get(PLUGINS_VARIABLE, "").split(",") if name.strip()]
    wanted = list(dict.fromkeys([*stated, *given]))
    for name in wanted:
        _load_once(name, functools.partial(_import_plugin, name))
    if given:
        os.environ[PLUGINS_VARIABLE] = ",".join(wanted)
    for entry in importlib.metadata.entry_points(group=PLUGINS_GROUP):
        _load_once(f"{entry.name} = {entry.value}", entry.load)


def _load_once(name: str, load: Callable[[], Any]) -> None:
    if name in _loaded:
        return
    try:
        load()
    except Exception as error:  # a third-party module can raise any error
        raise GenGeoError(f"the plugin {name} cannot be imported: {type(error).__name__}: {error}") from error
    _loaded.add(name)


def _import_plugin(name: str) -> None:
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that classes of the module can be pickled for worker processes
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


__all__ = ["PLUGINS_GROUP", "PLUGINS_VARIABLE", "Registry", "load_plugins"]
