"""Notes for searches in an area where the index has no tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gengeo_hf.common.area import Area
from gengeo_hf.common.geo import great_circle_m
from gengeo_hf.index.index import GeoIndex

if TYPE_CHECKING:
    from gengeo_hf.index.stores import StoreIndex


def far_note(index: GeoIndex | StoreIndex, near: tuple[float, float, float] | Area | None) -> str:
    """Explain why nothing was found: an empty index, its distance to the area, or swapped latitude and longitude.

    Args:
        index: The searched index; for a store, which does not list its tiles, the note is empty.
        near: (lat, lon, radius in metres) or an area; None searched everywhere.

    Returns:
        One sentence; empty if there is nothing to explain.
    """
    if not isinstance(index, GeoIndex):
        return ""
    if not len(index):  # all tiles were removed after the localizer was made
        return "the index holds no tiles"
    if near is None:
        return ""
    lat, lon = index.tiles["lat"].to_numpy(), index.tiles["lon"].to_numpy()
    if isinstance(near, Area):
        if near.near is None:
            return f"no tile of the index has its centre in {near}; {_extent_text(lat, lon)}"
        near = near.near
    distance = float(great_circle_m(near[0], near[1], lat, lon).min())
    note = f"no tile within {near[2]:,.0f} m: the nearest is {distance / 1000:,.1f} km away; {_extent_text(lat, lon)}"
    if abs(near[1]) <= 90 and float(great_circle_m(near[1], near[0], lat, lon).min()) <= max(near[2], 50_000.0):
        note += f"; are latitude and longitude swapped? --near {near[1]:g},{near[0]:g},{near[2]:g}m lies in it"
    return note


def _extent_text(lat: np.ndarray, lon: np.ndarray) -> str:
    """Format the extent of an index for a note."""
    return f"the index covers {lat.min():.4f}..{lat.max():.4f} N, {lon.min():.4f}..{lon.max():.4f} E"
