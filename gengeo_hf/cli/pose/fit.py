"""`gengeo pose fit`: fit a pose head on the frozen patch tokens of a model."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.data import parse_dataset
from gengeo_hf.cli.options import Device, Json, Model, Overwrite
from gengeo_hf.cli.pose import pose


@pose.command()
def fit(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            metavar='"NAME[:SPLIT] [ROOT] [key=value ...]"',
            help="Training pairs: photos with positions and fields of view, tiles with bounds. Default split: train.",
        ),
    ],
    heading_prior: Annotated[
        str,
        typer.Option(
            help="Greatest error of the stated heading of photos: known (no error), 45 degrees (a compass) or 180 "
            "(unknown heading). Each needs its own head; a smaller error gives more exact poses."
        ),
    ] = "known",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Directory of the head. Default: pose/PRIOR in that of the model."),
    ] = None,
    whole_tile: Annotated[
        bool,
        typer.Option(
            "--whole-tile",
            help="Search the whole tile instead of its central half: for galleries of overlapping tiles.",
        ),
    ] = False,
    hard_tiles: Annotated[
        int,
        typer.Option(
            min=0, help="Number of similar wrong tiles in the loss of each photo, for re-ranking; 4 is enough."
        ),
    ] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Number of optimiser steps.")] = 1200,
    pairs: Annotated[int, typer.Option(min=1, help="Greatest number of pairs.")] = 4800,
    random_baseline: Annotated[
        bool | None,
        typer.Option(
            help="Also fit the head on an encoder with random weights, for comparison. Default: only for the synthetic "
            "world, whose two views share colours."
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random generators.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fit a pose head, in minutes on a CPU. The model, its descriptors and its indexes do not change.

    A stopped fit continues when the same command is run again.

    **Examples**

        gengeo pose fit --model ./gengeo-cvusa --data "cvusa /data/CVUSA" --heading-prior 180

        gengeo pose fit --model ./model --data "world-urban:train num_pairs=4500" --heading-prior known
    """
    from gengeo_hf.common.files import check_replaceable
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.pose.fitting import OUTPUT, FitSettings, fit_head
    from gengeo_hf.pose.head import FOLDER, WHOLE_TILE

    settings = FitSettings(heading_prior, steps=steps, pairs=pairs, hard_tiles=hard_tiles, seed=seed)
    if whole_tile:
        settings = replace(settings, coverage=WHOLE_TILE)
    if out is None and not Path(model).is_dir():
        raise console.UsageError(f"{model} is not a directory: give --out for the head of a model on the Hub")
    folder = out or Path(model) / FOLDER / heading_prior
    check_replaceable(folder, OUTPUT, overwrite)
    dataset = parse_dataset([data]).load("train")
    encoder = Encoder.from_pretrained(model, device=device)
    head = fit_head(
        encoder, dataset, folder, settings, random_baseline=random_baseline, overwrite=overwrite, progress=console.note
    )
    figures = head.config.record["held_out"]
    if as_json:
        console.json_line({"head": str(folder), "data": dataset.name, **figures})
        return
    console.result(f"{folder}: {figures['photos']} held-out pairs of {dataset.name}, tiles moved")
    console.result(f"  centre of the tile  median {figures['centre_median_m']:.2f} m")
    turn = "" if figures["median_deg"] is None else f", {figures['median_deg']:.1f} degrees"
    console.result(
        f"  pose                median {figures['median_m']:.2f} m{turn}, {figures['within_5_m']:.0f} % within 5 m"
    )
