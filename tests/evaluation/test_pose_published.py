"""Published rows of pose, and how they are printed beside a result."""

from types import SimpleNamespace

import pytest

from gengeo_hf.evaluation.pose_published import differences, format_published, published_poses

FIGURES = {"mean_m": 2.5, "median_m": 1.25, "mean_deg": None, "median_deg": None}


def data(name):
    return SimpleNamespace(name=name)


def test_published_poses_have_the_figures_of_the_source():
    rows = {row["method"]: row for row in published_poses(data("vigor-same/test"), "180")}
    slice_match = rows["SliceMatch"]
    assert [slice_match[name] for name in FIGURES] == [6.49, 3.13, 25.46, 4.71]
    known = {row["method"]: row["mean_m"] for row in published_poses(data("vigor-same/test"), "known")}
    assert known == {"FG2": 2.18, "HC-Net": 2.65, "CCVPE": 3.60, "GeoFlow": 3.51}
    assert published_poses(data("world-urban/test"), "180") == published_poses(data("vigor-same/test"), "45") == []


def test_format_published_aligns_rows_and_prints_a_dash_where_nothing_was_published():
    row = {"method": "A", "source": "a paper", "mean_m": 3.0, "median_m": None, "mean_deg": 25.456, "median_deg": None}
    result = FIGURES | {"published": [row], "not_comparable": []}
    assert format_published(result).splitlines() == [
        "  published on VIGOR, corrected labels (mean / median):",
        "    A                  3.00 / - m       25.46 / - deg        a paper",
        "    this model         2.50 / 1.25 m                         comparable",
    ]
    result |= {"median_deg": 5.0, "not_comparable": ["too few photos"]}
    assert format_published(result).splitlines()[2:] == [
        "    this model         2.50 / 1.25 m    - / 5.00 deg         not comparable",
        "    not comparable: too few photos",
    ]
    assert format_published(result | {"published": []}).splitlines() == [
        "  nothing published for this prior",
        "    not comparable: too few photos",
    ]


@pytest.mark.parametrize(
    ("name", "changes", "reasons"),
    [
        ("vigor-same/test", {}, []),
        ("vigor-same/train", {}, ["52,605 photos of vigor-same/train, not the 52,605"]),
        ("vigor-same/test", {"photos": 52_604}, ["52,604 photos of vigor-same/test, not the 52,605"]),
        ("vigor-same/test", {"method": "search", "fitted_on": None}, []),
        ("vigor-same/test", {"fitted_on": None}, ["fitted on unknown data"]),
        ("vigor-same/test", {"fitted_on": "vigor-same/test"}, ["fitted on vigor-same/test"]),
        ("vigor-same/test", {"fov": 359.5}, ["cropped to 359.5 degrees"]),
    ],
)
def test_differences_name_each_reason(name, changes, reasons):
    result = {"photos": 52_605, "method": "fitted", "fitted_on": "vigor-same/train", "fov": 360.0} | changes
    found = differences(data(name), {"trained_on": "vigor-same/train"}, result)
    assert len(found) == len(reasons) and all(part in text for part, text in zip(reasons, found, strict=True))
