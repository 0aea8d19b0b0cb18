"""Manifests are read strictly: wrong types, unknown fields and other versions are one-line errors."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.manifest import parse, read_manifest


@dataclass(frozen=True)
class Part:
    name: str
    size: int = 0

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"size is {self.size}, expected 0 or more")


@dataclass(frozen=True)
class Whole:
    format: str
    format_version: int
    parts: list[Part] = field(default_factory=list)
    shares: tuple[float, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    kind: Literal["flat", "scan"] | None = None
    free: dict[str, Any] = field(default_factory=dict)
    flag: bool = False


def write(tmp_path, **values):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": "whole", "format_version": 3} | values))
    return path


def read(path):
    return read_manifest(path, Whole, "whole", 3, "make it again")


def test_read_manifest_builds_nested_dataclasses(tmp_path):
    found = read(
        write(
            tmp_path,
            parts=[{"name": "a", "size": 2}],
            shares=[1, 0.5],
            by_name={"b": {"name": "b"}},
            kind="scan",
            free={"x": [1]},
        )
    )
    assert found == Whole("whole", 3, [Part("a", 2)], (1.0, 0.5), {"b": Part("b")}, "scan", {"x": [1]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": {}}, "parts is {}, expected list"),
        ({"parts": [{"name": 1}]}, r"parts\[0\]\.name is 1, expected str"),
        ({"parts": [{}]}, r"parts\[0\]\.name is missing"),
        ({"parts": [{"name": "a", "size": True}]}, r"parts\[0\]\.size is True, expected int"),
        ({"parts": [{"name": "a", "size": -1}]}, r"parts\[0\]\.size is -1, expected 0 or more"),
        ({"shares": ["x"]}, r"shares\[0\] is 'x', expected float"),
        ({"shares": [10**400]}, r"shares\[0\]"),
        ({"kind": "other"}, "kind is 'other', expected 'flat' or 'scan'"),
        ({"flag": 1}, "flag is 1, expected bool"),
        ({"surprise": 1}, "surprise is not a known field"),
        ({"format_version": 4}, "format version 4, this package reads 3; .* update gengeo_hf"),
        ({"format_version": "4"}, "format version '4'"),
        ({"format": "other"}, "is not a whole but 'other'"),
    ],
)
def test_read_manifest_invalid_field_is_one_line(tmp_path, values, message):
    with pytest.raises(GenGeoError, match=message) as caught:
        read(write(tmp_path, **values))
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "{}", "[" * 100_000, '"\\ud800"', '{"format": []}'])
def test_read_manifest_other_content_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(GenGeoError):
        read(tmp_path / "manifest.json")


def test_parse_number_instead_of_object_is_refused():
    with pytest.raises(ValueError, match=r"part is 3, expected an object"):
        parse(Part, 3, "part")
