"""Options of `gengeo evaluate`: encoding, ranking, and errors of position and heading."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gengeo_hf.cli.options import LENGTHS, Device
from gengeo_hf.cli.pose_options import POSE

RANKING, ENCODING = "Ranking", "Images and descriptors"
SIZES = "Image size in pixels, for example 154x770. Default: that of the model."


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """Rules of ranks, and the gallery."""

    ties: Annotated[
        str,
        typer.Option(
            help="Rule for equal scores: pessimistic, mid, or sample4geo (in favour of the query).",
            rich_help_panel=RANKING,
        ),
    ] = "pessimistic"
    rounding: Annotated[
        str | None,
        typer.Option(
            help="Rounding of the tiles of recall@1%: floor, ceil, round, floor+1, round+1. Default: by the protocol.",
            rich_help_panel=RANKING,
        ),
    ] = None
    tile: Annotated[
        Any,
        typer.Option(
            help="Ground sizes of tiles of the synthetic world, for example 45m,65m,100m: each is evaluated, and the "
            "mean of their similarities, as in an index of several sizes.",
            rich_help_panel=RANKING,
            **LENGTHS,
        ),
    ] = None
    distractors: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Tiles of other places to add to the gallery, for R@1 by gallery size: an index of the model, "
            "imagery as for `gengeo index`, or a data set. With --out the curve is drawn to a file beside it.",
            rich_help_panel=RANKING,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """Image sizes, adaptation, and computation of descriptors."""

    ground_size: Annotated[str | None, typer.Option(metavar="HxW", help=SIZES, rich_help_panel=ENCODING)] = None
    aerial_size: Annotated[str | None, typer.Option(metavar="HxW", help=SIZES, rich_help_panel=ENCODING)] = None
    centering: Annotated[
        str | None,
        typer.Option(
            help="Subtract mean descriptors of this data set: gallery (mean of the tiles, for both views) or queries "
            "(photos by the mean of the evaluated photos). Not part of a published protocol; recorded in the result.",
            rich_help_panel=ENCODING,
        ),
    ] = None
    flip: Annotated[
        bool,
        typer.Option(
            "--flip",
            help="Also compare mirror images: twice the work. Recorded in the result.",
            rich_help_panel=ENCODING,
        ),
    ] = False
    descriptors: Annotated[
        Path | None,
        typer.Option(
            help="Directory of stored descriptors. Default: descriptors beside --out.", rich_help_panel=ENCODING
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.", rich_help_panel=ENCODING)] = 32
    device: Device = None
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of random headings and of the order of distractors.", rich_help_panel=ENCODING),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class PoseErrorOptions:
    """Errors of position and heading instead of ranks."""

    pose: Annotated[
        bool,
        typer.Option(
            "--pose",
            help="Measure errors of position and heading in the true tile. Protocols: world-pose, vigor-pose.",
            rich_help_panel=POSE,
        ),
    ] = False
    heading_prior: Annotated[
        str,
        typer.Option(
            help="Greatest error of the stated heading: known (no error), 45 or 180 degrees.", rich_help_panel=POSE
        ),
    ] = "known"
    pose_method: Annotated[
        str,
        typer.Option(
            help="fitted (with a head), search, or auto: fitted if the model has a head.", rich_help_panel=POSE
        ),
    ] = "auto"
    pose_fov: Annotated[
        float,
        typer.Option(
            min=1, max=360, help="Field of view in degrees to which panoramas are cropped.", rich_help_panel=POSE
        ),
    ] = 360.0
    all_tiles: Annotated[
        bool,
        typer.Option(
            "--all-tiles",
            help="Also locate all photos in the whole gallery: shares within 5, 10 and 25 m.",
            rich_help_panel=POSE,
        ),
    ] = False
    fuse_on: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="As --all-tiles, with the map of 40 tiles joined by weights fitted on this data set.",
            rich_help_panel=POSE,
        ),
    ] = None
