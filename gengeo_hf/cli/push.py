"""`gengeo push`: publish a checkpoint, an index or a data set on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.card_options import CardOptions
from gengeo_hf.cli.data import parse_dataset
from gengeo_hf.cli.registry import SHARING, gengeo


@gengeo.command(panel=SHARING)
def push(
    source: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory, index directory, or a data set in quotes: 'NAME:SPLIT [ROOT] [key=value ...]'."
        ),
    ],
    repository: Annotated[
        str, typer.Argument(help="Hub id, organisation/name; the repository is created if it does not exist.")
    ],
    card: CardOptions,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that is created private.")] = False,
) -> None:
    """Publish a checkpoint (with code, card and handler), an index or a data set, as one commit.

    Log in with `hf auth login`, or set HF_TOKEN. Publish only images whose licence allows it.

    **Examples**

        gengeo push ./gengeo-cvusa someone/gengeo-cvusa --result results/cvusa.json --license apache-2.0

        gengeo push world-urban:test someone/urban
    """
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data.sources import sources_of
    from gengeo_hf.hub.repository import push as publish
    from gengeo_hf.hub.repository import push_dataset

    given = card.given()
    if Path(source).is_dir():
        console.result(publish(source, repository, private=private, **given))
        return
    notation = parse_dataset([source])
    if notation.split is None:
        raise GenGeoError(f"{source} is not a directory; a data set is published with its split: {notation.name}:test")
    if unfit := sorted(given.keys() - {"license"}):
        raise console.UsageError(f"--{unfit[0].rstrip('s')} is only for checkpoints, not for data sets")
    sources = sources_of(notation.name, notation.root, notation.options)
    data = notation.load()
    console.result(push_dataset(data, repository, notation.split, sources=sources, private=private, **given))
