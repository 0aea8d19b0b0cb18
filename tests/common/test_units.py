import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.units import parse_bounds, parse_metres, parse_near, parse_range, parse_share


@pytest.mark.parametrize(
    ("text", "metres"), [("100m", 100), ("1.5km", 1500), ("250", 250), (" 1 mi ", 1609.344), ("10ft", 3.048)]
)
def test_parse_metres_units_are_converted(text, metres):
    assert parse_metres(text) == pytest.approx(metres)


@pytest.mark.parametrize("text", ["", "m", "-5m", "0m", "5 parsec", "1.2.3m", "nan", "inf"])
def test_parse_metres_invalid_text_is_refused(text):
    with pytest.raises(GenGeoError):
        parse_metres(text)


def test_parse_share_percent_and_fraction_are_equal():
    assert parse_share("50%") == parse_share("0.5") == 0.5
    for text in ("100%", "-1%", "1", "half", "nan"):
        with pytest.raises(GenGeoError):
            parse_share(text)


def test_parse_near_valid_is_parsed_and_invalid_is_refused():
    assert parse_near("60.17,24.94,2km") == (60.17, 24.94, 2000)
    for text in ("60,25", "95,25,1km", "a,b,1km", "60,25,0m", "60,200,1m", "nan,0,1m"):
        with pytest.raises(GenGeoError):
            parse_near(text)


def test_parse_bounds_valid_is_parsed_and_invalid_is_refused():
    assert parse_bounds("170,-20,-170,-10").crosses_date_line
    for text in ("1,2,3", "1,2,3,x", "0,10,1,5", "0,0,400,1"):
        with pytest.raises(GenGeoError):
            parse_bounds(text)


def test_parse_range_valid_is_parsed_and_invalid_is_refused():
    assert parse_range("0,3000") == (0, 3000)
    for text in ("3000,0", "1", "a,b", "1,1", "1,2,3", "nan,1"):
        with pytest.raises(GenGeoError):
            parse_range(text)
