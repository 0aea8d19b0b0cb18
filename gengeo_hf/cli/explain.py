"""`gengeo explain`: show why a photo and a tile match."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import Device, Model, Picture
from gengeo_hf.cli.picture_files import check_picture, require_file, save_picture
from gengeo_hf.cli.registry import EXPLAIN, gengeo

Ground = Annotated[Path, typer.Argument(help="The photo or panorama.")]
Aerial = Annotated[Path, typer.Argument(help="The aerial tile.")]


@gengeo.command(panel=EXPLAIN)
def explain(
    ground: Ground,
    aerial: Aerial,
    model: Model,
    out: Picture,
    instead_of: Annotated[
        Path | None,
        typer.Option(
            help="Another tile, for example the true one: show why the first tile scores higher. Default: none."
        ),
    ] = None,
    links: Annotated[int, typer.Option(min=0, help="Largest number of linked pairs of patches.")] = 5,
    device: Device = None,
) -> None:
    """Show why a photo and a tile match: which patches contribute to the score, or why one tile scores higher.

    The decomposition is exact: the contributions of the patches and of the global token sum to the score.

    **Example**

        gengeo explain ground.jpg aerial.jpg --model ./gengeo-cvusa --out why.png
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.explain import explain_match, explain_preference, match_figure, preference_figure

    check_picture(out)
    for path in (ground, aerial, instead_of):
        require_file(path)
    encoder = Encoder.from_pretrained(model, device=device)
    if instead_of is not None:
        preference = explain_preference(encoder, ground, aerial, instead_of)
        names = (aerial.stem, instead_of.stem)
        if aerial.stem == instead_of.stem:
            names = ("the first tile", "the second tile")
        save_picture(preference_figure(preference, names), out)
        console.result(f"scores: {preference.chosen.score:.3f} and {preference.other.score:.3f}; wrote {out}")
        return
    match = explain_match(encoder, ground, aerial)
    save_picture(match_figure(match, links), out)
    console.result(
        f"score {match.score:.3f}: ground patches add {match.ground_evidence.sum():+.3f}, "
        f"the global token {match.ground_rest:+.3f}; wrote {out}"
    )
