"""Card of an index on the Hub."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gengeo_hf.index.index import GeoIndex

NOT_STATED = "not stated; ask the publisher"


def index_card(repository: str, index: "GeoIndex") -> str:
    """Text of the card of an index: content, use, and rights of the imagery."""
    title, fingerprint = repository.rpartition("/")[2], index.manifest.model.fingerprint
    licences = sorted({source.licence for source in index.manifest.sources if source.licence})
    shown = sorted({source.attribution for source in index.manifest.sources if source.attribution})
    rights = f"Licence of the imagery: {', '.join(licences) or NOT_STATED}.\n"
    rights += f"Attribution: {', '.join(shown)}.\n" if shown else ""
    return (
        f"---\nlicense: other\nlicense_name: see-below\ntags:\n- geo-localization\n- gengeo-index\n---\n\n"
        f"# {title}\n\nAn index of {len(index)} geo-tagged aerial tiles for `gengeo locate`. Download it with "
        f"`gengeo pull {repository} city.gengeo`. Fingerprint of its model: `{fingerprint}`.\n\n{rights}"
    )
