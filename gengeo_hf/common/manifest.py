"""Strict reader of manifests: JSON into dataclasses, with a one-line error for every violation.

A manifest is a JSON object with `format` and `format_version` whose fields are those of a dataclass. The type of each
field is checked, further constraints are in the `__post_init__` of the dataclass (ValueError), and unknown fields and
other versions are refused.
"""

import dataclasses
import functools
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from gengeo_hf.common.errors import GenGeoError

T = TypeVar("T")
_SHOWN = 60  # characters of a wrong value in a message


def read_manifest(path: str | Path, kind: type[T], name: str, version: int, remedy: str) -> T:
    """Read a manifest.

    Args:
        path: JSON file.
        kind: Dataclass with the fields `format` and `format_version` among others.
        name: Required value of `format`.
        version: Required value of `format_version`.
        remedy: What the user can do about a broken file, as the end of the message.

    Raises:
        GenGeoError: The file is missing, not JSON, of another format or version, or a field is invalid.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found, found_version = values["format"], values["format_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GenGeoError(f"{path} is broken ({error!r:.200}); {remedy}") from error
    if found != name:
        raise GenGeoError(f"{path} is not a {name} but {found!r:.{_SHOWN}}")
    if found_version != version:
        writer = values.get("created_by", "an unknown version")
        newer = type(found_version) is int and found_version > version
        raise GenGeoError(
            f"{path} has format version {found_version!r:.{_SHOWN}}, this package reads {version}; it was written by "
            f"{writer!s:.{_SHOWN}}: {'update gengeo_hf' if newer else remedy}"
        )
    try:
        return parse(kind, values)
    except (ValueError, RecursionError) as error:
        raise GenGeoError(f"{path} is broken ({error!s:.200}); {remedy}") from error


def parse(kind: type[T], values: Any, where: str = "") -> T:
    """Build a dataclass from decoded JSON.

    Args:
        kind: Dataclass. Supported field types: dataclasses, str, int, float, bool, None, Any, Literal, unions, lists,
            tuples of any length, and dicts with text keys.
        values: Decoded JSON.
        where: Name of the value in messages.

    Raises:
        ValueError: A field is missing, unknown, of another type, or refused by the dataclass.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'it'} is {values!r:.{_SHOWN}}, expected an object")
    prefix = f"{where}." if where else ""
    hints = _hints(typing.cast(typing.Any, kind))
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"{prefix}{unknown[0]:.{_SHOWN}} is not a known field")
    given = {}
    for name, field in fields.items():
        if name in values:
            given[name] = _value(hints[name], values[name], f"{prefix}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    try:
        return kind(**given)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{prefix}{error}") from error


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return the value as the type `kind`, or raise ValueError."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return parse(kind, value, where)
    if origin in (Union, types.UnionType):
        return _first_of(inner, value, where)
    if origin is Literal:
        if value in inner and any(type(value) is type(option) for option in inner):
            return value
        raise ValueError(f"{where} is {value!r:.{_SHOWN}}, expected {' or '.join(map(repr, inner))}")
    if origin in (list, tuple) and isinstance(value, list):
        items = [_value(inner[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if origin is list else tuple(items)
    if origin is dict and isinstance(value, dict):
        return {key: _value(inner[1], item, f"{where}.{key:.{_SHOWN}}") for key, item in value.items()}
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:  # not isinstance: True is not an int here
        return value
    expected = "null" if kind is types.NoneType else getattr(origin or kind, "__name__", str(kind))
    raise ValueError(f"{where} is {value!r:.{_SHOWN}}, expected {expected}")


def _first_of(options: tuple[Any, ...], value: Any, where: str) -> Any:
    """Return the value as the first type of a union that accepts it; else raise the error of the first type."""
    if value is None and types.NoneType in options:
        return None
    problem = None
    for option in options:
        if option is types.NoneType:
            continue
        try:
            return _value(option, value, where)
        except ValueError as error:
            problem = problem or error
    raise problem or ValueError(f"{where} is {value!r:.{_SHOWN}}")
