"""Sources and licences of a data set's images, stored as `SOURCES.json` beside the table.

`gengeo data get` and `gengeo data make` write the file. Training copies it into its record, so that the card of a model
names the sources of its training data.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import write_json

SOURCES_FILE = "SOURCES.json"
FORMAT = "gengeo-sources"
LICENCE_PAGES = {
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "ODbL-1.0": "https://opendatacommons.org/licenses/odbl/1-0/",
}


@dataclass(frozen=True)
class DataSource:
    """Source of one kind of images in a data set.

    Args:
        what: Kind of images: "photos" or "aerial imagery".
        name: Creator or publisher of the images, for example "Mapillary contributors".
        licence: SPDX identifier, for example "CC-BY-SA-4.0"; without one, the licence's name or a sentence.
        attribution: Text that must accompany the images and works derived from them.
        address: Web page or address template of the download, without secrets.
        licence_page: Address of the licence's text; "" takes the one of `LICENCE_PAGES`.
        retrieved: Date of the download, ISO 8601; "" if unknown.
        acquired: Date, year or range in which the images were taken; "" if unknown.
    """

    what: str
    name: str
    licence: str
    attribution: str
    address: str = ""
    licence_page: str = ""
    retrieved: str = ""
    acquired: str = ""

    @property
    def is_share_alike(self) -> bool:
        """Whether works derived from the images must be distributed under the same licence."""
        words = self.licence.upper().replace(" ", "-").split("-")
        return "SA" in words or "ODBL" in words

    @property
    def page(self) -> str:
        """Address of the licence's text, "" if unknown."""
        return self.licence_page or LICENCE_PAGES.get(self.licence, "")


@dataclass(frozen=True)
class DataSources:
    """All sources of a data set.

    Args:
        name: Name of the data set.
        sources: Source of each kind of images.
        facts: Further facts: revision, bounds, filters with their counts. Plain JSON values, no secrets.
    """

    name: str
    sources: tuple[DataSource, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The sources as plain values for JSON."""
        sources = [asdict(source) for source in self.sources]
        return {"format": FORMAT, "name": self.name, "sources": sources, "facts": dict(self.facts)}

    @classmethod
    def from_dict(cls, values: Any, file: str = SOURCES_FILE) -> "DataSources":
        """Build from the values of `as_dict`, also of another version; unknown keys of a source are ignored.

        Args:
            values: Decoded JSON.
            file: Name of the file, for messages.

        Raises:
            GenGeoError: The values do not state the sources of a data set.
        """
        known = {item.name for item in fields(DataSource)}
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"its format is {values['format']!r}")
            sources = tuple(
                DataSource(**{key: str(text) for key, text in source.items() if key in known})
                for source in values["sources"]
            )
            return cls(str(values["name"]), sources, dict(values.get("facts") or {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GenGeoError(
                f"{file} does not state the sources of a data set ({type(error).__name__}: {error}); write it again "
                "with the command that made it"
            ) from error

    def summary(self) -> str:
        """One line for each source: kind of images, name, licence, attribution."""
        lines = []
        for source in self.sources:
            page = f" ({source.page})" if source.page else ""
            lines.append(f"{source.what}: {source.name}, {source.licence}{page}. {source.attribution}".rstrip())
        if any(source.is_share_alike for source in self.sources):
            shared = " and ".join(sorted({s.licence for s in self.sources if s.is_share_alike}))
            lines.append(f"Images derived from them must be distributed under {shared}.")
        return "\n".join(lines)


def write_sources(folder: str | Path, sources: DataSources) -> None:
    """Write `SOURCES.json` into a directory."""
    write_json(Path(folder) / SOURCES_FILE, sources.as_dict())


def read_sources(root: str | Path) -> DataSources | None:
    """Read the sources of a data set.

    Args:
        root: Directory of the data set, or a file in it such as the table.

    Returns:
        The sources; None if there is no `SOURCES.json`.

    Raises:
        GenGeoError: The file is damaged.
    """
    folder = Path(root)
    path = (folder if folder.is_dir() else folder.parent) / SOURCES_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GenGeoError(f"{path} cannot be read: {error}") from error
    return DataSources.from_dict(values, str(path))


def sources_of(name: str, root: str | Path | None, options: Mapping[str, Any]) -> list[DataSources]:
    """The sources of a data set in the registry or, for a mixture, of all its parts.

    Args:
        name: Name of the data set, see `dataset_names`.
        root: Directory or file of the data set.
        options: Options of its loader.

    Returns:
        One entry for each directory with a `SOURCES.json`; empty without any.

    Raises:
        GenGeoError: A `SOURCES.json` is damaged.
    """
    from gengeo_hf.data.registry import parse_data  # the registry imports the loaders

    parts: Sequence[str] = options.get("parts") or ()
    if name != "mixture":
        found = None if root is None or "://" in str(root) else read_sources(root)
        return [] if found is None else [found]
    given = [parse_data(part) for part in ([parts] if isinstance(parts, str) else parts)]
    named = {str(part.root or root): part for part in given}  # parts in one directory share its SOURCES.json
    return [one for part in named.values() for one in sources_of(part.name, part.root or root, part.options)]
