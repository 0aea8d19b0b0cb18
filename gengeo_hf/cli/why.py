"""Commands that show why: explain, and figure (selection, regions, clusters, pairs)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli.base import Device, Model, app, check_writable

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset

figure = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Draw the paper's figures from any model.")
app.add_typer(figure, name="figure")

Ground = Annotated[Path, typer.Argument(help="The photo or panorama.")]
Aerial = Annotated[Path, typer.Argument(help="The aerial tile.")]
Out = Annotated[Path, typer.Option(help="Picture to write (.png or .jpg).")]
Sources = Annotated[
    list[str],
    typer.Argument(help="Data sets: world-urban, world-rural, world-offcenter, or name=FOLDER for the others."),
]
Split = Annotated[str, typer.Option(help="Split of the data sets.")]
Count = Annotated[int, typer.Option(min=1, help="Pairs of each data set.")]
Pool = Annotated[int, typer.Option(min=1, help="Synthetic worlds: places to build or to take from the cache.")]


@app.command()
def explain(
    ground: Ground,
    aerial: Aerial,
    model: Model,
    out: Out,
    instead_of: Annotated[
        Path | None,
        typer.Option(help="Another tile: show why the first one scores higher, for example than the true one."),
    ] = None,
    links: Annotated[int, typer.Option(min=0, help="How many pairs of patches are linked.")] = 5,
    device: Device = None,
) -> None:
    """Show why a photo and a tile match: which patches speak for which, or why one tile won over another.

    **Example:** `gengeo explain ground.jpg aerial.jpg --model ./gengeo-cvusa --out why.png`

    The picture is an exact account: what the patches and the global token add sums to the score.
    """
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.explain import explain_match, explain_preference, match_figure, preference_figure

    _check_picture(out)
    for path in (ground, aerial, instead_of):
        _need_file(path)
    encoder = Encoder.from_pretrained(model, device=device)
    if instead_of is not None:
        preference = explain_preference(encoder, ground, aerial, instead_of)
        names = (aerial.stem, instead_of.stem)
        if aerial.stem == instead_of.stem:
            names = ("the first tile", "the second tile")
        _save(preference_figure(preference, names), out)
        typer.echo(f"scores: {preference.chosen.score:.3f} and {preference.other.score:.3f}; wrote {out}")
        return
    match = explain_match(encoder, ground, aerial)
    _save(match_figure(match, links), out)
    typer.echo(
        f"score {match.score:.3f}: ground patches add {match.ground_evidence.sum():+.3f}, "
        f"the global token {match.ground_rest:+.3f}; wrote {out}"
    )


@figure.command()
def selection(
    sources: Sources, model: Model, out: Out, split: Split = "test", count: Count = 1, pool: Pool = 150,
    device: Device = None,
) -> None:  # fmt: skip
    """Input, feature norm and what the head kept, for pairs of several domains (Figures 4-6).

    **Example:** `gengeo figure selection world-urban world-rural --model demo/gengeo-world-urban --out kept.png`

    A source may also be two files: `ground.jpg+aerial.jpg`.
    """
    from gengeo_hf.explain import selection_figure

    _check_picture(out)
    encoder = _encoder(model, device)
    pairs, titles = _pairs(sources, encoder, split, count, pool)
    _save(selection_figure(encoder, pairs, titles), out)
    typer.echo(f"{len(pairs)} pairs; wrote {out}")


@figure.command()
def regions(
    ground: Ground,
    aerial: Aerial,
    model: Model,
    ground_box: Annotated[str, typer.Option(help="left,top,right,bottom in shares of the photo: 0.1,0.5,0.3,0.9.")],
    aerial_box: Annotated[str, typer.Option(help="The same in the tile.")],
    out: Out,
    device: Device = None,
) -> None:
    """Cluster histograms of a region in each view, and how alike they are (Figure 7).

    **Example:** `gengeo figure regions ground.jpg aerial.jpg --ground-box 0.4,0.5,0.6,1 --aerial-box 0.3,0,0.7,0.4
    --model ./gengeo-cvusa --out regions.png`
    """
    from gengeo_hf.explain import cluster_histogram, histogram_similarity, look, parse_box, regions_figure

    _check_picture(out)
    boxes = parse_box(ground_box), parse_box(aerial_box)
    _need_file(ground)
    _need_file(aerial)
    encoder = _encoder(model, device)
    first, second = look(encoder, ground, "ground"), look(encoder, aerial, "aerial")
    _save(regions_figure(first, boxes[0], second, boxes[1]), out)
    similarity = histogram_similarity(cluster_histogram(first, boxes[0]), cluster_histogram(second, boxes[1]))
    typer.echo(f"cosine of the two histograms: {similarity:.3f}; wrote {out}")


@figure.command()
def clusters(
    source: Annotated[str, typer.Argument(help="Data set as for `selection`, or one image file.")],
    model: Model,
    out: Out,
    split: Split = "test",
    count: Annotated[int, typer.Option(min=1, help="Pairs of the data set that are looked through.")] = 150,
    top: Annotated[int, typer.Option(min=1, help="Patches shown of each cluster and view.")] = 8,
    view: Annotated[str, typer.Option(help="Of a single image: ground or aerial.")] = "ground",
    device: Device = None,
) -> None:
    """What each cluster collects across a data set, or where each looks in one image.

    **Example:** `gengeo figure clusters world-urban --model demo/gengeo-world-urban --out clusters.png`
    """
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.data.loading import AerialImages, GroundImages
    from gengeo_hf.explain import cluster_map_figure, clusters_figure, look, top_patches

    _check_picture(out)
    encoder = _encoder(model, device)
    if Path(source).is_file():
        if view not in ("ground", "aerial"):
            raise GenGeoError(f"unknown view {view!r}: expected ground or aerial")
        _save(cluster_map_figure(look(encoder, source, view)), out)  # type: ignore[arg-type]  # checked above
        typer.echo(f"wrote {out}")
        return
    data = _dataset(source, encoder, split, count)
    ground, ground_plan = top_patches(encoder, GroundImages(data)[:count], "ground", top)
    aerial, aerial_plan = top_patches(encoder, AerialImages(data)[:count], "aerial", top)
    _save(clusters_figure(ground, aerial, (ground_plan, aerial_plan)), out)
    typer.echo(f"{len(ground)} clusters over {min(count, len(data.queries))} pairs of {data.name}; wrote {out}")


@figure.command()
def pairs(
    sources: Sources, out: Out, split: Split = "test", count: Count = 3, pool: Pool = 150,
    model: Annotated[str | None, typer.Option(help="Synthetic worlds: draw at this model's image sizes.")] = None,
) -> None:  # fmt: skip
    """Pairs of data sets side by side (Figure 3).

    **Example:** `gengeo figure pairs world-urban world-rural --count 2 --out pairs.png`
    """
    from gengeo_hf.explain import pairs_figure

    _check_picture(out)
    encoder = _encoder(model, "cpu") if model else None
    chosen, titles = _pairs(sources, encoder, split, count, pool)
    _save(pairs_figure(chosen, titles), out)
    typer.echo(f"{len(chosen)} pairs; wrote {out}")


def _encoder(model: str, device: str | None) -> Any:
    from gengeo_hf.encoding.encoder import Encoder

    return Encoder.from_pretrained(model, device=device)


def _need_file(path: Path | None) -> None:
    """Before the slow model: a clear word about a wrong path."""
    from gengeo_hf.common.errors import GenGeoError

    if path is not None and not path.is_file():
        raise GenGeoError(f"there is no image at {path}")


def _check_picture(out: Path) -> None:
    """Before the work: the picture can be written at its end."""
    from gengeo_hf.common.errors import GenGeoError

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise GenGeoError(f"{out}: the picture must end in .png or .jpg")
    check_writable(out)


def _save(picture: Any, out: Path) -> None:
    """Write a picture aside and rename it."""
    from gengeo_hf.common.files import atomic_file

    with atomic_file(out) as temporary:
        picture.save(temporary, quality=92)


def _dataset(source: str, encoder: Any, split: str, pool: int) -> "CrossViewDataset":
    """A data set by name, `world-urban`, or by name and folder, `cvusa=/data/CVUSA`."""
    from gengeo_hf.data import load_pairs

    name, _, root = source.partition("=")
    if not name.startswith("world-"):
        return load_pairs(name, root or None, split)
    sizes = encoder.view_sizes if encoder is not None else {}
    options = {f"{view}_size": (size["height"], size["width"]) for view, size in sizes.items()}
    if max((max(size) for size in options.values()), default=0) == 0:
        options = {"ground_size": (140, 560), "aerial_size": (140, 140)}  # for looking at, not for a model
    return load_pairs(name, root or None, split, num_pairs=pool, **options)


def _pairs(
    sources: list[str], encoder: Any, split: str, count: int, pool: int
) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Evenly spread pairs of each source, and what each is called."""
    import numpy as np

    from gengeo_hf.data.loading import AerialImages, GroundImages

    chosen, titles = [], []
    for source in sources:
        first, plus, second = source.partition("+")
        if plus:
            _need_file(Path(first))
            _need_file(Path(second))
            chosen.append((Path(first), Path(second)))
            titles.append(f"{Path(first).name} and {Path(second).name}")
            continue
        data = _dataset(source, encoder, split, max(pool, count))
        ground, aerial, tiles = GroundImages(data), AerialImages(data), data.positive_rows()
        for row in np.linspace(0, len(ground) - 1, min(count, len(ground))).round().astype(int).tolist():
            chosen.append((ground[row], aerial[int(tiles[row])]))
            titles.append(f"{data.name}: {data.queries[row]['query_id']}")
    return chosen, titles
