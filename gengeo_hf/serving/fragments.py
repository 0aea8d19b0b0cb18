"""Texts of the page as pieces of HTML. Names, notes and messages are escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gengeo_hf.explain import SCALE_NOTE

LOW_CONFIDENCE = 0.5  # below it, an answer is shown as uncertain; also the default of "Minimum confidence"

if TYPE_CHECKING:
    from gengeo_hf.localization.localizer import Answer, Place
    from gengeo_hf.serving.locator import LocateQuery, Locator


def heading(locator: Locator) -> str:
    """The head of the page: title, index, model, and the caveat."""
    index = locator.localizer.index
    kind = str(getattr(index, "address", "")).partition(":")[0]  # of a store, whose address is not published
    name = html.escape(kind or index.path.name)  # type: ignore[union-attr]  # not a store
    caveat = f'<p class="gg-caveat" role="note">{html.escape(_sentence(locator.caveat))}</p>' if locator.caveat else ""
    return (
        '<div class="gg-head"><h1>Where was this photo taken?</h1>'
        f"<p>Your photo is compared with {len(index):,} aerial tiles of <b>{name}</b> by the model "
        f"<b>{html.escape(locator.model_name)}</b>. It stays on the machine that runs this page.</p>{caveat}</div>"
    )


def section(title: str, text: str = "") -> str:
    """A section heading with an explanation.

    Args:
        title: Text of the heading.
        text: Explanation below it; empty for none.
    """
    return f'<div class="gg-section"><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p></div>'


def welcome() -> str:
    """The text before the first photo."""
    return (
        '<div class="gg-card gg-empty"><h2>Drop a photo to begin</h2><p>You will see the most likely places on a map, '
        "the aerial tiles that are most similar to your photo, and which parts of both images decided.</p></div>"
    )


def failure(message: str) -> str:
    """An error message instead of an answer."""
    text = html.escape(message)
    return f'<div class="gg-card gg-bad" role="alert"><h2>No answer</h2><p>{text}</p></div>'


def answer(found: Answer, query: LocateQuery) -> str:
    """The best place with its confidence and other facts, or why there is none.

    Args:
        found: Answer for the photo.
        query: Options of the localisation.
    """
    if not found.places:
        return failure("No tile lies in the search area; enlarge the radius, or clear the position under Settings.")
    best = found.places[0]
    where = f'<span class="gg-where">{best.lat:.6f}, {best.lon:.6f}</span>'
    if best.uncertainty_m is not None:
        where += f' <span class="gg-radius">± {best.uncertainty_m:,.0f} m</span>'
    facts = [_confidence_text(best), f"similarity {best.score:.3f}"]
    if best.votes > 1:
        facts.append(f"{best.votes} overlapping tiles agree")
    if len(found.places) > 1:
        facts.append(f"similarity {best.score - found.places[1].score:.3f} higher than that of the second place")
    if best.heading is not None:
        facts.append(f"heading {best.heading:.0f}° (direction of the photo's centre, clockwise from north)")
    if best.rights:
        facts.append(f"imagery: {best.rights}")
    if (position := found.exif_position) is not None:
        distance = found.exif_distance_m
        relation = f"{distance:,.0f} m from the best place" if distance is not None else "centre of the search area"
        facts.append(f"GPS position in the photo's file: {position.lat:.6f}, {position.lon:.6f} ({relation})")
    facts += found.notes
    is_uncertain = best.confidence is not None and best.confidence < LOW_CONFIDENCE
    title = "Don't know" if not found.known else "Uncertain place" if is_uncertain else "Best place"
    style = "gg-unsure" if is_uncertain or not found.known else "gg-plain" if best.confidence is None else "gg-good"
    guess = "" if found.known else f"Less than {query.threshold:.0%} confident. Best guess: "
    items = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    return f'<div class="gg-card {style}"><h2>{title}</h2><p>{guess}{where}</p><ul>{items}</ul></div>'


def page_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes of an answer with settings of the page instead of options of the command line."""
    return tuple(note.replace("state it (--fov DEGREES)", "choose the kind of photo under Settings") for note in notes)


def downloads(page: str, geojson: str) -> str:
    """Links that save the answer: its files as data URLs.

    Args:
        page: Map as an HTML page.
        geojson: Answer as GeoJSON.
    """
    return (
        '<p class="gg-save">Save: '
        f'<a download="places.html" href="data:text/html;base64,{_base64(page)}">map (HTML, works offline)</a> '
        f'<a download="places.geojson" href="data:application/geo+json;base64,{_base64(geojson)}">GeoJSON</a></p>'
    )


def caption(place: Place) -> str:
    """Caption of a tile: rank, and confidence or similarity."""
    value = f"{place.confidence:.0%}" if place.confidence is not None else f"{place.score:.3f}"
    return f"{place.rank} · {value}"


def attribution_heading(place_name: str, note: str = "") -> str:
    """Heading of the two heat maps.

    Args:
        place_name: Name of the place whose tile is shown, such as "place 1".
        note: Text instead of the explanation of the colours; empty for none.
    """
    text = note or (
        f"The photo and the tile of {place_name}. The descriptor keeps most of the yellow patches and least of the "
        f"violet ones. {SCALE_NOTE}"
    )
    return section("Which parts of the images decided", text)


def _confidence_text(place: Place) -> str:
    if place.confidence is None:
        return "confidence unknown: there is no calibration (gengeo calibrate)"
    return f"{place.confidence:.0%} confident"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ")")) else ".")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
