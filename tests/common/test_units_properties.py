"""Parsers of units return the written values, and refuse any other text."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.units import parse_bounds, parse_metres, parse_near

METRES = {"m": 1.0, "km": 1000.0, "ft": 0.3048, "mi": 1609.344, "": 1.0}
lengths = st.floats(0.001, 1e6)


@settings(max_examples=200, deadline=None)
@given(lengths, st.sampled_from(sorted(METRES)), st.sampled_from(["", " "]))
def test_parse_metres_returns_written_value(value, unit, space):
    assert parse_metres(f"{value:.6f}{space}{unit}") == pytest.approx(round(value, 6) * METRES[unit], rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180), lengths)
def test_parse_near_returns_written_values(lat, lon, metres):
    near = parse_near(f"{lat!r},{lon!r},{metres:.3f}m")
    assert (near.lat, near.lon) == (lat, lon) and math.isclose(near.radius_m, metres, abs_tol=6e-4)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20))
def test_parsers_any_text_is_finite_or_refused(text):
    for parse in (parse_metres, parse_near, parse_bounds):
        try:
            found = parse(text)
        except GenGeoError:
            continue
        assert all(math.isfinite(value) for value in (found if isinstance(found, tuple) else (found,)))
