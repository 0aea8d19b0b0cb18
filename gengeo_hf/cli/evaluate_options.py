"""Options of `gengeo evaluate`: how images are encoded, how ranks are counted, and errors of position and heading."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gengeo_hf.cli.options import LENGTHS, Device
from gengeo_hf.cli.pose_options import POSE

RANKING, ENCODING = "Ranking", "Images and descriptors"
SIZES = "Image size in pixels, for example 154x770. Default: the model's own."


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """How ranks are counted, and in which gallery."""

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
            help="Tiles of recall@1%: floor, ceil, round, floor+1, round+1. Default: the protocol's.",
            rich_help_panel=RANKING,
        ),
    ] = None
    tile: Annotated[
        Any,
        typer.Option(
            help="Ground sizes of tiles, for example 45m,65m,100m, on the synthetic world: each is evaluated, and the "
            "mean of their similarities as in an index of several sizes.",
            rich_help_panel=RANKING,
            **LENGTHS,
        ),
    ] = None
    distractors: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Tiles of other places that are added to the gallery, for R@1 against its size: an index of the "
            "model, imagery as `gengeo index` takes it, or a data set. With --out the curve is drawn beside it.",
            rich_help_panel=RANKING,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """How images are encoded."""

    ground_size: Annotated[str | None, typer.Option(metavar="HxW", help=SIZES, rich_help_panel=ENCODING)] = None
    aerial_size: Annotated[str | None, typer.Option(metavar="HxW", help=SIZES, rich_help_panel=ENCODING)] = None
    centering: Annotated[
        str | None,
        typer.Option(
            help="Subtract mean descriptors of this data set: gallery (mean of the tiles, for both views) or queries "
            "(photos by the mean of the evaluated photos). Not part of a published protocol; the result names it.",
            rich_help_panel=ENCODING,
        ),
    ] = None
    flip: Annotated[
        bool,
        typer.Option(
            "--flip", help="Compare mirror images too: twice the work. The result names it.", rich_help_panel=ENCODING
        ),
    ] = False
    descriptors: Annotated[
        Path | None,
        typer.Option(
            help="Directory to keep descriptors in. Default: descriptors beside --out.", rich_help_panel=ENCODING
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
            help="Errors of position and heading in the true tile instead of ranks. Protocols: world-pose, vigor-pose.",
            rich_help_panel=POSE,
        ),
    ] = False
    heading_prior: Annotated[
        str, typer.Option(help="Known of the heading: known, 45 (degrees at most) or 180.", rich_help_panel=POSE)
    ] = "known"
    pose_method: Annotated[
        str, typer.Option(help="fitted (a head), search, or auto: a head if there is one.", rich_help_panel=POSE)
    ] = "auto"
    pose_fov: Annotated[
        float, typer.Option(min=1, max=360, help="Cut panoramas to this many degrees.", rich_help_panel=POSE)
    ] = 360.0
    all_tiles: Annotated[
        bool,
        typer.Option(
            "--all-tiles",
            help="Locate all photos in the whole gallery too: shares within 5, 10 and 25 m.",
            rich_help_panel=POSE,
        ),
    ] = False
    fuse_on: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="As --all-tiles, with the map of 40 tiles joined by weights that are fitted on this data set.",
            rich_help_panel=POSE,
        ),
    ] = None
