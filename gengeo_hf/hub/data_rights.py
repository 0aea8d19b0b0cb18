"""The data section of a model card: sources and licences of the training images, and share-alike terms."""

from typing import Any

from gengeo_hf.data.sources import DataSource, DataSources


def sources_in(record: dict[str, Any]) -> list[DataSources]:
    """Read the sources of the training images from a training record; records of earlier versions have none."""
    return [DataSources.from_dict(one, "the training record") for one in record.get("data_sources") or ()]


def hub_ids(record: dict[str, Any]) -> list[str]:
    """Ids of the data sets on the Hub that a model was trained on, sorted, for the metadata of the card."""
    found = (str(one.facts.get("dataset") or "") for one in sources_in(record))
    return sorted({name for name in found if name.count("/") == 1})


def data_rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the table of images in the card: data set, images, provider, licence with its page, attribution, date."""
    return [_row(one.name, source) for one in sources_in(record) for source in one.sources]


def _row(name: str, source: DataSource) -> dict[str, str]:
    licence = f"[{source.licence}]({source.page})" if source.page else source.licence
    row = {"set": name, "what": source.what, "who": source.name, "licence": licence, "acquired": source.acquired}
    row["attribution"] = source.attribution
    return {key: value.replace("|", "\\|").replace("\n", " ") for key, value in row.items()}


def data_facts(record: dict[str, Any]) -> list[str]:
    """Format one line for each data set: number of photos, part, revision."""
    lines = []
    for one in sources_in(record):
        facts = [f"{key}: {value}" for key, value in one.facts.items() if isinstance(value, str | int | float)]
        lines.append(f"{one.name}: {'; '.join(facts)}" if facts else one.name)
    return lines


def share_alike(record: dict[str, Any]) -> str:
    """Text about weights trained on images under share-alike licences; "" if there are no such images."""
    licences = sorted({s.licence for one in sources_in(record) for s in one.sources if s.is_share_alike})
    if not licences:
        return ""
    named = " and ".join(licences)
    return (
        f"Some of the training images are under {named}, which requires that adapted material is shared under the same "
        "terms. Whether weights are adapted material of the images that they were trained on is not settled. To be on "
        f"the safe side, share the weights under {named} and name the sources above. Images made from the data, such "
        "as figures with photos or tiles, are under these terms in any case. This is not legal advice."
    )
