"""HTML: the one template environment, and a self-contained report page of numbers, curves, pictures and a map.

A report is one file that opens without internet.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from gengeo_hf.common.files import write_text

ASSETS = Path(__file__).parents[1] / "assets"  # files of pages, maps and published models


def render(template: str, **values: Any) -> str:
    """Fill a template of `assets/templates`. Values are escaped: nothing in them can become markup.

    Args:
        template: File name, for example "map.html.jinja".
        values: What the template shows.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS / "templates"), autoescape=True)
    return environment.get_template(template).render(**values)


@dataclass(frozen=True)
class Figure:
    """A picture and the sentence under it."""

    picture: Image.Image
    caption: str

    @property
    def source(self) -> str:
        """The picture as a data URI: PNG where it is small or flat, JPEG where it is large."""
        large = self.picture.width * self.picture.height > 400_000
        buffer = io.BytesIO()
        self.picture.convert("RGB").save(buffer, "JPEG" if large else "PNG", quality=88, optimize=True)
        kind = "jpeg" if large else "png"
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Section:
    """A heading with text, pictures and perhaps a map.

    Args:
        title: the heading.
        text: one paragraph.
        figures: pictures in order.
        side_by_side: lay the pictures in columns where there is room.
        map: a whole HTML page, shown in a frame without access to this one.
    """

    title: str
    text: str = ""
    figures: list[Figure] = field(default_factory=list)
    side_by_side: bool = False
    map: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of text; `main` names the row that the page is about."""

    columns: list[str]
    rows: list[list[str]]
    main: int = 0
    note: str = ""


@dataclass(frozen=True)
class Page:
    """Everything on the page. Text is escaped; nothing in it can become markup.

    Args:
        title: heading of the page.
        lead: the sentence under it.
        headline: (value, label) of the large numbers.
        table: all numbers.
        sections: the rest, in order.
        next_commands: what to type next.
        notice: what must not be misread, in a box at the top.
        footer: how the page was made.
    """

    title: str
    lead: str
    headline: list[tuple[str, str]]
    table: Table
    sections: list[Section]
    next_commands: str
    notice: str = ""
    footer: str = ""


def write_page(page: Page, path: str | Path) -> None:
    """Write the page as one HTML file."""
    rows = [{"cells": row, "main": i == page.table.main} for i, row in enumerate(page.table.rows)]
    html = render(
        "report.html.jinja",
        title=page.title,
        lead=page.lead,
        notice=page.notice,
        headline=[{"value": value, "label": label} for value, label in page.headline],
        table={"columns": page.table.columns, "rows": rows, "note": page.table.note},
        sections=page.sections,
        next_commands=page.next_commands,
        footer=page.footer,
    )
    write_text(path, html)
