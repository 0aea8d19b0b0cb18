"""Map tiles by an address with placeholders: `https://.../{z}/{x}/{y}.jpeg`.

Supported are `{z} {x} {y}` and their common other names, rows from the south (`{-y}`), `{s}` and `{switch:a,b,c}`,
`{quadkey}`, boxes (`{bbox}` with `{width}`, `{height}` and `{proj}`), prefixes of JOSM (`tms[19]:`), encoded braces,
and `type=xyz&url=...` of QGIS. Any other name, for example `{apikey}`, is a secret, whose value is read from the
environment and never shown.
"""

import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, unquote, urlsplit

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.client import Answer, ImageryClient
from gengeo_hf.imagery.grids import Level, TileGrid, named_grid, virtual_grid, web_mercator
from gengeo_hf.imagery.hosts import host_of, redact, remember_secret
from gengeo_hf.imagery.options import NetOptions
from gengeo_hf.imagery.tiles import Rights

_PLACEHOLDER = re.compile(r"\$?\{([^{}]+)\}")
_ALIASES = {
    "z": "z",
    "zoom": "z",
    "tilematrix": "z",
    "level": "z",
    "lod": "z",
    "x": "x",
    "col": "x",
    "column": "x",
    "tilecol": "x",
    "y": "y",
    "row": "y",
    "tilerow": "y",
    "-y": "-y",
    "reverse_y": "-y",
    "inverty": "-y",
    "quadkey": "quadkey",
    "q": "quadkey",
    "quad": "quadkey",
    "s": "s",
    "subdomain": "s",
    "bbox": "bbox",
    "bbox-epsg-3857": "bbox",
    "extent": "bbox",
    "width": "width",
    "height": "height",
    "w": "width",
    "h": "height",
    "proj": "proj",
    "crs": "proj",
    "srs": "proj",
    "wkid": "wkid",
    "r": "ratio",
    "ratio": "ratio",
    "retina": "ratio",
}
VIRTUAL_PIXELS = 512  # side of a tile of a template with boxes


class TemplateService:
    """A tile service whose addresses are made from a template.

    Args:
        template: Address with placeholders.
        options: Options with grid, tile size and headers; None takes the defaults.
        is_tms: Whether `{y}` counts rows from the south.
        environment: Values of secret placeholders by name.

    Raises:
        GenGeoError: The template lacks zoom, column or row, or a secret is not set.
    """

    def __init__(
        self,
        template: str,
        options: NetOptions | None = None,
        is_tms: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        options = options or NetOptions()
        text, highest = clean_template(template)
        names = {_name(match[1]) for match in _PLACEHOLDER.finditer(text)}
        _check_placeholders(template, names)
        self._parts = _compile(text, environment)
        self._headers = options.headers
        self.kind = "WMS" if "bbox" in names else "XYZ"
        pixels = options.tile_pixels or (512 if "@2x" in text else 256)
        self.grid = _grid(options, names, pixels).limited(None, highest)
        self._flip = is_tms
        self.host = host_of(self._fill(next(iter(self.grid.levels.values())), 0, 0))
        self.name = redact(text)
        self.identity = f"{self.name} {self.grid.name}{' tms' if is_tms else ''}"
        self.extent: Bounds | None = None
        self.rights = Rights(address=self.name)
        self.tile_kb = 20.0 * (pixels / 256) ** 2 * (4.0 if ".png" in text.lower() else 1.0)

    def address(self, zoom: int, column: int, row: int) -> str:
        """Address of one tile, with secrets.

        Args:
            zoom: Zoom level.
            column, row: Indices of the tile, counted from the upper left corner.
        """
        level = self.grid.level(zoom)
        return self._fill(level, column, level.rows - 1 - row if self._flip else row)

    def fetch(self, client: ImageryClient, zoom: int, column: int, row: int) -> Answer:
        """The response for one tile."""
        return client.get(self.address(zoom, column, row), headers=self._headers)

    def _fill(self, level: Level, column: int, row: int) -> str:
        return "".join(part if isinstance(part, str) else part(level, column, row) for part in self._parts)


def clean_template(template: str) -> tuple[str, int | None]:
    """Remove a JOSM prefix, a QGIS connection string and encoded braces.

    Args:
        template: Text from the user.

    Returns:
        The plain template, and the highest zoom level that prefix or connection string state, or None.
    """
    text, highest = template.strip().strip("'\""), None
    if "url=" in text and ("type=xyz" in text or "zmax=" in text):
        fields = parse_qs(text.replace("%26", "\0"))
        text = fields["url"][0].replace("\0", "&")
        highest = _digits(fields.get("zmax", [""])[0])
    if found := re.match(r"^(?:tms|wms|wms_endpoint|xyz)(?:\[(?:\d+,)?(\d+)\])?:(?=https?:)", text, re.IGNORECASE):
        highest, text = _digits(found[1] or ""), text[found.end() :]
    if "{" not in text and "%7b" in text.lower():
        text = re.sub(r"%7b|%7d|%3a|%2c|%2d", lambda m: unquote(m[0]), text, flags=re.IGNORECASE)
    return text, highest


def is_template(text: str) -> bool:
    """Whether an address has placeholders."""
    return bool(_PLACEHOLDER.search(clean_template(text)[0]))


def _digits(text: str) -> int | None:
    """A number of one or two digits, None for other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else None


def _name(word: str) -> str:
    """The canonical name of a placeholder; unknown names are returned as they are."""
    word = word.strip()
    return "switch" if word.lower().startswith("switch:") else _ALIASES.get(word.lower(), word)


def _check_placeholders(template: str, names: set[str]) -> None:
    """Check that a template has placeholders for zoom, column and row, a quadkey or a box."""
    shown = redact(template)
    if "bbox" in names or "quadkey" in names:
        return
    if "z" not in names:
        raise GenGeoError(
            f"{shown} has no {{z}}: an address of map tiles looks like https://host/{{z}}/{{x}}/{{y}}.jpg"
        )
    if "x" not in names or not names & {"y", "-y"}:
        raise GenGeoError(f"{shown} has no {{x}} or no {{y}}: an address of map tiles has {{z}}, {{x}} and {{y}}")


def _grid(options: NetOptions, names: set[str], pixels: int) -> TileGrid:
    """The grid of a template with these placeholders."""
    if "bbox" in names:
        return virtual_grid(options.matrix_set or "EPSG:3857", options.tile_pixels or VIRTUAL_PIXELS)
    if options.matrix_set:
        return named_grid(options.matrix_set, pixels)
    return web_mercator(pixels)


def _compile(text: str, environment: Mapping[str, str]) -> list[str | Callable[[Level, int, int], str]]:
    """Convert a template to constant texts and functions of (level, column, row)."""
    parts: list[str | Callable[[Level, int, int], str]] = []
    end = 0
    for match in _PLACEHOLDER.finditer(text):
        parts += [text[end : match.start()], _piece(match[1], text, environment)]
        end = match.end()
    head = urlsplit(text[: text.index("/", text.index("//") + 2)] if "//" in text else text).netloc
    if {_name(m[1]) for m in _PLACEHOLDER.finditer(head)} - {"s", "switch"}:
        raise GenGeoError(
            f"{redact(text)} has a placeholder in its host name; only {{s}} and {{switch:...}} may be there"
        )
    return [part for part in [*parts, text[end:]] if part != ""]


def _piece(word: str, text: str, environment: Mapping[str, str]) -> str | Callable[[Level, int, int], str]:
    """Constant text or function for one placeholder."""
    name = _name(word)
    known: dict[str, Callable[[Level, int, int], str]] = {
        "z": lambda level, column, row: level.name or str(level.zoom),
        "x": lambda level, column, row: str(column),
        "y": lambda level, column, row: str(row),
        "-y": lambda level, column, row: str(level.rows - 1 - row),
        "quadkey": lambda level, column, row: quadkey(level.zoom, column, row),
        "bbox": lambda level, column, row: ",".join(f"{value:.9g}" for value in level.box(column, row)),
        "width": lambda level, column, row: str(level.tile),
        "height": lambda level, column, row: str(level.tile),
    }
    if name in known:
        return known[name]
    if name == "switch":
        # Only the first host is used: several hosts of one server would multiply the request rate.
        return word.partition(":")[2].split(",")[0].strip()
    fixed = {"s": "a", "ratio": "", "proj": "EPSG:3857", "wkid": "3857"}
    if name in fixed:
        return fixed[name]
    return _secret(name, text, environment)


def _secret(name: str, text: str, environment: Mapping[str, str]) -> str:
    """Value of a secret placeholder from the environment."""
    tried = list(dict.fromkeys([f"GENGEO_{name.upper()}", name, name.upper()]))
    for variable in tried:
        if value := environment.get(variable):
            remember_secret(value)
            return value
    if not name.isidentifier():
        raise GenGeoError(f"{redact(text)}: unknown placeholder {{{name}}}; known are {{z}}, {{x}}, {{y}}")
    raise GenGeoError(
        f"{redact(text)} needs a value for {{{name}}}: set it in the environment (export {tried[0]}=...), from which "
        "it is not stored"
    )


def quadkey(zoom: int, column: int, row: int) -> str:
    """Quadkey of a tile: one digit of base 4 for each level, from the coarsest."""
    bits = range(zoom - 1, -1, -1)
    return "".join(str((column >> bit & 1) + 2 * (row >> bit & 1)) for bit in bits)
