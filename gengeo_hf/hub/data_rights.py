"""What a card says of the data that a model has seen: whose images, which licences, what follows for the weights."""

from typing import Any

from gengeo_hf.data.sources import DataSource, DataSources


def sources_in(record: dict[str, Any]) -> list[DataSources]:
    """The sources that a training record states; a record of an earlier version states none."""
    return [DataSources.from_dict(one, "the training record") for one in record.get("data_sources") or ()]


def hub_ids(record: dict[str, Any]) -> list[str]:
    """Data sets on the Hub that a model was trained on, for the card's metadata."""
    found = (str(one.facts.get("dataset") or "") for one in sources_in(record))
    return sorted({name for name in found if name.count("/") == 1})


def data_rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the card's table of images: data set, what, who, licence with its page, attribution, when taken."""
    return [_row(one.name, source) for one in sources_in(record) for source in one.sources]


def _row(name: str, source: DataSource) -> dict[str, str]:
    licence = f"[{source.licence}]({source.page})" if source.page else source.licence
    row = {"set": name, "what": source.what, "who": source.name, "licence": licence, "acquired": source.acquired}
    row["attribution"] = source.attribution
    return {key: value.replace("|", "\\|").replace("\n", " ") for key, value in row.items()}


def seen(record: dict[str, Any]) -> list[str]:
    """One line for each data set: how many photos of it, which part, at which revision."""
    lines = []
    for one in sources_in(record):
        facts = [f"{key}: {value}" for key, value in one.facts.items() if isinstance(value, str | int | float)]
        lines.append(f"{one.name}: {'; '.join(facts)}" if facts else one.name)
    return lines


def share_alike(record: dict[str, Any]) -> str:
    """The sentence on weights from images under share-alike licences; "" where there are none."""
    licences = sorted({s.licence for one in sources_in(record) for s in one.sources if s.is_share_alike})
    if not licences:
        return ""
    named = " and ".join(licences)
    return (
        f"Some of the training images are under {named}, which asks that adapted material is passed on under the same "
        "terms. Whether weights are adapted material of the images that they were trained on is not settled. Whoever "
        f"wants to be on the safe side passes the weights on under {named} and names the sources above; images made "
        "from the data, such as figures with photos or tiles, are under it in any case. This is not legal advice."
    )
