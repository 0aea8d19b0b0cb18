"""`gengeo figure`: draw the paper's figures with any model (selection, regions, clusters, pairs)."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import parse_dataset
from gengeo_hf.cli.explain import Aerial, Ground
from gengeo_hf.cli.options import Device, Model, Picture
from gengeo_hf.cli.picture_files import check_picture, require_file, save_picture
from gengeo_hf.cli.registry import EXPLAIN, add_group

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset

figure = add_group("figure", "Draw the paper's figures with any model.", panel=EXPLAIN)

NOTATION = "a data set, in quotes where it has several words: 'NAME[:SPLIT] [ROOT] [key=value ...]'"
WORLD_PAIRS = 150  # pairs of a synthetic world, unless the notation has num_pairs
VIEWING_SIZES = {"ground_size": (140, 560), "aerial_size": (140, 140)}  # pixels, without a model

Sources = Annotated[
    list[str], typer.Argument(metavar="DATA...", help=f"Each {NOTATION}; or two files: ground.jpg+aerial.jpg.")
]
Count = Annotated[int, typer.Option(min=1, help="Number of pairs of each data set.")]


@figure.command()
def selection(sources: Sources, model: Model, out: Picture, count: Count = 1, device: Device = None) -> None:
    """Draw images, feature norms and kept mass of pairs of several domains (Figures 4-6).

    **Example**

        gengeo figure selection world-urban world-rural --model demo/gengeo-world-urban --out kept.png
    """
    from gengeo_hf.explain import selection_figure

    check_picture(out)
    encoder = _encoder(model, device)
    pairs, titles = _pairs(sources, encoder, count)
    save_picture(selection_figure(encoder, pairs, titles), out)
    console.result(f"{len(pairs)} pairs; wrote {out}")


@figure.command()
def regions(
    ground: Ground,
    aerial: Aerial,
    model: Model,
    ground_box: Annotated[
        str, typer.Option(help="left,top,right,bottom as shares of the photo, for example 0.1,0.5,0.3,0.9.")
    ],
    aerial_box: Annotated[str, typer.Option(help="left,top,right,bottom as shares of the tile.")],
    out: Picture,
    device: Device = None,
) -> None:
    """Draw the cluster histograms of a region in each view, and their similarity (Figure 7).

    **Example**

        gengeo figure regions ground.jpg aerial.jpg --ground-box 0.4,0.5,0.6,1 --aerial-box 0.3,0,0.7,0.4 \\
          --model ./gengeo-cvusa --out regions.png
    """
    from gengeo_hf.explain import attribute, cluster_histogram, histogram_similarity, parse_box, regions_figure

    check_picture(out)
    boxes = parse_box(ground_box), parse_box(aerial_box)
    require_file(ground)
    require_file(aerial)
    encoder = _encoder(model, device)
    first, second = attribute(encoder, ground, "ground"), attribute(encoder, aerial, "aerial")
    save_picture(regions_figure(first, boxes[0], second, boxes[1]), out)
    similarity = histogram_similarity(cluster_histogram(first, boxes[0]), cluster_histogram(second, boxes[1]))
    console.result(f"cosine of the two histograms: {similarity:.3f}; wrote {out}")


@figure.command()
def clusters(
    source: Annotated[str, typer.Argument(metavar="DATA", help=f"One image file, or {NOTATION}.")],
    model: Model,
    out: Picture,
    count: Annotated[int, typer.Option(min=1, help="Number of pairs of the data set to search.")] = WORLD_PAIRS,
    top: Annotated[int, typer.Option(min=1, help="Number of patches of each cluster and view.")] = 8,
    view: Annotated[str, typer.Option(help="View of a single image: ground or aerial.")] = "ground",
    device: Device = None,
) -> None:
    """Draw the top patches of each cluster across a data set, or the map of each cluster over one image.

    **Example**

        gengeo figure clusters world-urban --model demo/gengeo-world-urban --out clusters.png
    """
    from gengeo_hf.data.loading import AerialImages, GroundImages
    from gengeo_hf.explain import attribute, cluster_map_figure, clusters_figure, top_patches

    check_picture(out)
    if view not in ("ground", "aerial"):
        raise console.UsageError(f"--view {view}: expected ground or aerial")
    encoder = _encoder(model, device)
    if Path(source).is_file():
        save_picture(cluster_map_figure(attribute(encoder, source, view)), out)  # type: ignore[arg-type]  # checked above
        console.result(f"wrote {out}")
        return
    data = _dataset(source, encoder, count)
    ground, ground_plan = top_patches(encoder, GroundImages(data)[:count], "ground", top)
    aerial, aerial_plan = top_patches(encoder, AerialImages(data)[:count], "aerial", top)
    save_picture(clusters_figure(ground, aerial, (ground_plan, aerial_plan)), out)
    console.result(f"{len(ground)} clusters over {min(count, len(data.queries))} pairs of {data.name}; wrote {out}")


@figure.command()
def pairs(
    sources: Sources,
    out: Picture,
    count: Count = 3,
    model: Annotated[
        str | None,
        typer.Option(help="Draw synthetic worlds at the image sizes of this model. Default: 140x560 and 140x140."),
    ] = None,
) -> None:
    """Draw pairs of data sets side by side (Figure 3).

    **Example**

        gengeo figure pairs world-urban "cvusa:test /data/CVUSA" --count 2 --out pairs.png
    """
    from gengeo_hf.explain import pairs_figure

    check_picture(out)
    encoder = _encoder(model, "cpu") if model else None
    chosen, titles = _pairs(sources, encoder, count)
    save_picture(pairs_figure(chosen, titles), out)
    console.result(f"{len(chosen)} pairs; wrote {out}")


def _encoder(model: str, device: str | None) -> Any:
    from gengeo_hf.encoding.encoder import Encoder

    return Encoder.from_pretrained(model, device=device)


def _dataset(source: str, encoder: Any, pairs: int) -> "CrossViewDataset":
    """Load a data set; a synthetic world has the image sizes of the model and enough pairs."""
    notation = parse_dataset([source])
    if notation.name.startswith("world-"):
        sizes = encoder.view_sizes if encoder is not None else {}
        options: dict[str, Any] = {f"{view}_size": (size["height"], size["width"]) for view, size in sizes.items()}
        if max((max(size) for size in options.values()), default=0) == 0:
            options = dict(VIEWING_SIZES)
        options["num_pairs"] = max(WORLD_PAIRS, pairs)
        notation = dataclasses.replace(notation, options=options | notation.options)
    return notation.load("test")


def _pairs(sources: list[str], encoder: Any, count: int) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Evenly spread pairs of each source, and their titles."""
    import numpy as np

    from gengeo_hf.data.loading import AerialImages, GroundImages

    chosen, titles = [], []
    for source in sources:
        first, plus, second = source.partition("+")
        if plus and Path(first).suffix:
            require_file(Path(first))
            require_file(Path(second))
            chosen.append((Path(first), Path(second)))
            titles.append(f"{Path(first).name} and {Path(second).name}")
            continue
        data = _dataset(source, encoder, count)
        ground, aerial, tiles = GroundImages(data), AerialImages(data), data.positive_rows()
        for row in np.linspace(0, len(ground) - 1, min(count, len(ground))).round().astype(int).tolist():
            chosen.append((ground[row], aerial[int(tiles[row])]))
            titles.append(f"{data.name}: {data.queries[row]['query_id']}")
    return chosen, titles
