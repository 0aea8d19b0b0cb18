"""Rights of a data set: where its images come from and under which licences, in `SOURCES.json` beside the table.

`gengeo data get` and `gengeo data make` write the file; training copies it into its record, so that the card of a model
names what the model has seen.
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
    """One kind of images in a data set.

    Args:
        what: Which images: "photos" or "aerial imagery".
        name: Who made them, for example "Mapillary contributors".
        licence: SPDX identifier where there is one, for example "CC-BY-SA-4.0"; else the licence's name or a sentence.
        attribution: Text that must stand beside the images and what is made from them.
        address: Web page or address template that they came from, without secrets.
        licence_page: Address of the licence's text; "" takes the one of `LICENCE_PAGES`.
        retrieved: Date of the download, ISO 8601.
        acquired: Date, year or range in which the images were taken, where it is known.
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
        """Whether what is made from the images must be passed on under the same licence."""
        words = self.licence.upper().replace(" ", "-").split("-")
        return "SA" in words or "ODBL" in words

    @property
    def page(self) -> str:
        """Address of the licence's text, "" where it is not known."""
        return self.licence_page or LICENCE_PAGES.get(self.licence, "")


@dataclass(frozen=True)
class DataSources:
    """All sources of a data set.

    Args:
        name: Of the data set.
        sources: One for each kind of images.
        facts: What else must be known: revision, bounds, filters with their counts. Plain JSON values, no secrets.
    """

    name: str
    sources: tuple[DataSource, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        sources = [asdict(source) for source in self.sources]
        return {"format": FORMAT, "name": self.name, "sources": sources, "facts": dict(self.facts)}

    @classmethod
    def from_dict(cls, values: Any, file: str = SOURCES_FILE) -> "DataSources":
        """The sources of `as_dict`, perhaps of another version; unknown keys of a source are left out.

        Raises:
            GenGeoError: They are something else.
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
                f"{file} does not state the sources of a data set ({type(error).__name__}: {error}); make it again "
                "with the command that wrote it"
            ) from error

    def summary(self) -> str:
        """One line for each source: what, who, licence, attribution."""
        lines = []
        for source in self.sources:
            page = f" ({source.page})" if source.page else ""
            lines.append(f"{source.what}: {source.name}, {source.licence}{page}. {source.attribution}".rstrip())
        if any(source.is_share_alike for source in self.sources):
            shared = " and ".join(sorted({s.licence for s in self.sources if s.is_share_alike}))
            lines.append(f"Images made from them must be passed on under {shared}.")
        return "\n".join(lines)


def write_sources(folder: str | Path, sources: DataSources) -> None:
    """Write `SOURCES.json` into a folder."""
    write_json(Path(folder) / SOURCES_FILE, sources.as_dict())


def read_sources(root: str | Path) -> DataSources | None:
    """The sources of a data set.

    Args:
        root: Its folder, or a file in it such as the table.

    Returns:
        None where nothing is stated.

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
    """The sources of a data set as training and commands name it; of a mixture, those of its parts.

    Args:
        name: A name that `load_pairs` knows.
        root: Its folder or file.
        options: Of its loader.

    Raises:
        GenGeoError: A file of sources is damaged.
    """
    from gengeo_hf.data.registry import parse_data  # the registry imports the loaders

    parts: Sequence[str] = options.get("parts") or ()
    if name != "mixture":
        found = None if root is None or "://" in str(root) else read_sources(root)
        return [] if found is None else [found]
    given = [parse_data(part) for part in ([parts] if isinstance(parts, str) else parts)]
    named = {str(part.root or root): part for part in given}  # two parts of one folder have one statement
    return [one for part in named.values() for one in sources_of(part.name, part.root or root, part.options)]
