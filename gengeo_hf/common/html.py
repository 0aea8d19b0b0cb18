"""HTML: the template environment, and a report page of numbers, figures and a map.

A report is one self-contained file that needs no network.
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

ASSETS = Path(__file__).parents[1] / "assets"  # templates and static files of pages, maps and published models


def render(template: str, **values: Any) -> str:
    """Render a template of `assets/templates`; values are escaped.

    Args:
        template: File name, for example "map.html.jinja".
        values: Variables of the template.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS / "templates"), autoescape=True)
    return environment.get_template(template).render(**values)


@dataclass(frozen=True)
class Figure:
    """An image and its caption."""

    picture: Image.Image
    caption: str

    @property
    def source(self) -> str:
        """The image as a data URI: JPEG above 400,000 pixels, else PNG."""
        large = self.picture.width * self.picture.height > 400_000
        buffer = io.BytesIO()
        self.picture.convert("RGB").save(buffer, "JPEG" if large else "PNG", quality=88, optimize=True)
        kind = "jpeg" if large else "png"
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Section:
    """A section of a page: a heading with text, figures and a map.

    Args:
        title: Heading.
        text: Paragraph under the heading; empty for none.
        figures: Figures in order.
        side_by_side: Whether figures are shown in columns where the page is wide enough.
        map: Complete HTML page, shown in a frame without access to this page; None for no map.
    """

    title: str
    text: str = ""
    figures: list[Figure] = field(default_factory=list)
    side_by_side: bool = False
    map: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        columns: Column headings.
        rows: Cells of each row.
        main: Index of the highlighted row.
        note: Text under the table; empty for none.
    """

    columns: list[str]
    rows: list[list[str]]
    main: int = 0
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The content of a page. Text is escaped.

    Args:
        title: Heading of the page.
        lead: Sentence under the heading.
        headline: Pairs (value, label) of the large numbers.
        table: Table of all numbers.
        sections: Sections under the table, in order.
        next_commands: Command lines that continue from the result.
        notice: Caveat in a box at the top; empty for none.
        footer: How the page was made.
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
