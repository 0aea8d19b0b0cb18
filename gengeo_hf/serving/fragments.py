"""What the page says, as small pieces of HTML. Everything that comes from outside is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gengeo_hf.explain import SCALE_NOTE

DOUBTFUL = 0.5  # confidence below which an answer is not shown as good; the default of "don't know below"

if TYPE_CHECKING:
    from gengeo_hf.localization.localizer import Answer, Place
    from gengeo_hf.serving.locator import LocateQuery, Locator


def heading(locator: Locator) -> str:
    """Title, what the photo is compared with, and the caveat."""
    index = locator.localizer.index
    kind = str(getattr(index, "address", "")).partition(":")[0]  # of a store; strangers need not know where it stands
    name = html.escape(kind or index.path.name)  # type: ignore[union-attr]  # not a store
    caveat = f'<p class="gg-caveat" role="note">{html.escape(_sentence(locator.caveat))}</p>' if locator.caveat else ""
    return (
        '<div class="gg-head"><h1>Where was this photo taken?</h1>'
        f"<p>Your photo is compared with {len(index):,} aerial tiles of <b>{name}</b> by the model "
        f"<b>{html.escape(locator.model_name)}</b>. It stays on the machine that runs this page.</p>{caveat}</div>"
    )


def section(title: str, text: str = "") -> str:
    """A heading inside the page."""
    return f'<div class="gg-section"><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p></div>'


def welcome() -> str:
    """Before there is an answer."""
    return (
        '<div class="gg-card gg-empty"><h2>Drop a photo to begin</h2><p>You will see the most likely places on a map, '
        "the aerial tiles that look most like your photo, and which parts of both pictures counted.</p></div>"
    )


def failure(message: str) -> str:
    """Why there is no answer."""
    text = html.escape(message)  # it may begin with the name of a file
    return f'<div class="gg-card gg-bad" role="alert"><h2>No answer</h2><p>{text}</p></div>'


def answer(found: Answer, question: LocateQuery) -> str:
    """The best place, or that it is not known, and how sure that is."""
    if not found.places:
        return failure("No tile lies in the circle that was asked for; widen it, or clear the field.")
    best = found.places[0]
    where = f'<span class="gg-where">{best.lat:.6f}, {best.lon:.6f}</span>'
    if best.uncertainty_m is not None:
        where += f' <span class="gg-radius">± {best.uncertainty_m:,.0f} m</span>'
    facts = [_sure(best), f"similarity {best.score:.3f}"]
    if best.votes > 1:
        facts.append(f"{best.votes} overlapping tiles agree")
    if len(found.places) > 1:
        facts.append(f"{best.score - found.places[1].score:.3f} ahead of the second place")
    if best.heading is not None:
        facts.append(f"heading {best.heading:.0f}°: direction of the photo's centre, clockwise from north")
    if best.rights:
        facts.append(f"imagery: {best.rights}")
    if (position := found.exif_position) is not None:
        distance = found.exif_distance_m
        far = f": {distance:,.0f} m from the best place" if distance is not None else ", as asked"
        facts.append(f"the photo's own GPS says {position.lat:.6f}, {position.lon:.6f}{far}")
    facts += found.notes
    doubtful = best.confidence is not None and best.confidence < DOUBTFUL
    title = "Don't know" if not found.known else "Perhaps here" if doubtful else "Best place"
    style = "gg-unsure" if doubtful or not found.known else "gg-plain" if best.confidence is None else "gg-good"
    guess = "" if found.known else f"Less than {question.threshold:.0%} confident. The best guess: "
    lines = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    return f'<div class="gg-card {style}"><h2>{title}</h2><p>{guess}{where}</p><ul>{lines}</ul></div>'


def page_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes of an answer in terms of the page instead of the command line's."""
    return tuple(
        note.replace("state it (--fov DEGREES)", "say what kind of photo it is, under Settings") for note in notes
    )


def downloads(page: str, geojson: str) -> str:
    """Links that save the answer; the files are inside the links."""
    return (
        '<p class="gg-save">Save: '
        f'<a download="places.html" href="data:text/html;base64,{_base64(page)}">map (HTML, works offline)</a> '
        f'<a download="places.geojson" href="data:application/geo+json;base64,{_base64(geojson)}">GeoJSON</a></p>'
    )


def caption(place: Place) -> str:
    """One line under a tile."""
    sure = f"{place.confidence:.0%}" if place.confidence is not None else f"{place.score:.3f}"
    return f"{place.rank} · {sure}"


def kept(which: str, note: str = "") -> str:
    """Heading over the two heatmaps."""
    text = note or (
        f"The photo beside the tile of {which}: yellow patches went into the descriptor most, violet ones least. "
        f"{SCALE_NOTE}"
    )
    return section("What the model looked at", text)


def _sure(place: Place) -> str:
    """The confidence in words."""
    if place.confidence is None:
        return "confidence: not known, there is no calibration (gengeo calibrate)"
    return f"{place.confidence:.0%} confident"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ")")) else ".")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
