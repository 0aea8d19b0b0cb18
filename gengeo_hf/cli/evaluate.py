"""`gengeo evaluate`: evaluate a model on a data set by a protocol."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import LENGTHS, Device, Json, Model
from gengeo_hf.cli.registry import EVALUATE, gengeo

POSE = "Position and heading"
SIZES = "Image size in pixels, for example 154x770. Default: the model's own."


@gengeo.command(panel=EVALUATE)
def evaluate(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar='"NAME[:SPLIT] [ROOT] [key=value ...]"',
            help="Data set to evaluate on. Default: the protocol's own, where it needs no files. Default split: test.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Rules to count by, see below. Default: the published protocol of the data set and split, or plain "
            "recall over the whole gallery."
        ),
    ] = None,
    as_json: Json = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Result file (.json) to write, for `gengeo table`, `compare`, `best` and `pictures`."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in tables. Default: of its directory.")] = None,
    ground_size: Annotated[str | None, typer.Option(metavar="HxW", help=SIZES)] = None,
    aerial_size: Annotated[str | None, typer.Option(metavar="HxW", help=SIZES)] = None,
    ties: Annotated[
        str, typer.Option(help="Rule for equal scores: pessimistic, mid, or sample4geo (in favour of the query).")
    ] = "pessimistic",
    rounding: Annotated[
        str | None,
        typer.Option(help="Tiles of recall@1%: floor, ceil, round, floor+1, round+1. Default: the protocol's."),
    ] = None,
    descriptors: Annotated[
        Path | None, typer.Option(help="Directory to keep descriptors in. Default: descriptors beside --out.")
    ] = None,
    centering: Annotated[
        str | None,
        typer.Option(
            help="Subtract mean descriptors of this data set: gallery (mean of the tiles, for both views) or queries "
            "(photos by the mean of the evaluated photos). Not part of a published protocol; the result names it."
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Compare mirror images too: twice the work. The result names it.")
    ] = False,
    tile: Annotated[
        Any,
        typer.Option(
            help="Ground sizes of tiles, for example 45m,65m,100m, on the synthetic world: each is evaluated, and the "
            "mean of their similarities as in an index of several sizes.",
            **LENGTHS,
        ),
    ] = None,
    distractors: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Tiles of other places that are added to the gallery, for R@1 against its size: an index of the "
            "model, imagery as `gengeo index` takes it, or a data set. With --out the curve is drawn beside it.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 32,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random headings and of the order of distractors.")] = 0,
    pose: Annotated[
        bool,
        typer.Option(
            "--pose",
            help="Errors of position and heading in the true tile instead of ranks. Protocols: world-pose, vigor-pose.",
            rich_help_panel=POSE,
        ),
    ] = False,
    heading_prior: Annotated[
        str, typer.Option(help="Known of the heading: known, 45 (degrees at most) or 180.", rich_help_panel=POSE)
    ] = "known",
    pose_method: Annotated[
        str, typer.Option(help="fitted (a head), search, or auto: a head if there is one.", rich_help_panel=POSE)
    ] = "auto",
    pose_fov: Annotated[
        float, typer.Option(min=1, max=360, help="Cut panoramas to this many degrees.", rich_help_panel=POSE)
    ] = 360.0,
    all_tiles: Annotated[
        bool,
        typer.Option(
            "--all-tiles",
            help="Locate all photos in the whole gallery too: shares within 5, 10 and 25 m.",
            rich_help_panel=POSE,
        ),
    ] = False,
    fuse_on: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="As --all-tiles, with the map of 40 tiles joined by weights that are fitted on this data set.",
            rich_help_panel=POSE,
        ),
    ] = None,
) -> None:
    """Evaluate a model: rank all tiles for each photo, and count by the rules of a protocol.

    Protocols: cvusa, cvact-val, cvact-test, vigor-same, vigor-cross, cvusa-to-cvact, cvact-to-cvusa,
    cvusa-to-vigor-same, cvusa-to-vigor-cross, vigor-to-cvusa, university1652, cvcities, cvcities-CITY, loci,
    justzoomin, justzoomin-covered, justzoomin-area, world-urban, world-rural, world-offcenter, table, folder,
    parquet; each also as `NAME@validation`, the part of the training data on which a checkpoint may be picked, and as
    `NAME-fov360|180|90|70-known|unknown` with a limited field of view.

    **Examples**

        gengeo evaluate --model ./model --data "cvusa:test /data/CVUSA" --out results/cvusa.json

        gengeo evaluate --model ./model --data "table pairs.csv validation_share=0.05" --json

        gengeo evaluate --model ./model --protocol cvusa-to-cvact --data "cvact /data/CVACT"

        gengeo evaluate --model ./model --data "world-offcenter num_pairs=500" --tile 45m,65m,100m

        gengeo evaluate --model ./model --data "cvusa /data/CVUSA" --distractors country.gengeo --out x.json

        gengeo evaluate --model ./model --pose --heading-prior 45 --protocol world-pose

        gengeo evaluate --model ./model --pose --heading-prior 180 --protocol vigor-pose --data "vigor-same /VIGOR"
    """
    from accelerate import PartialState

    from gengeo_hf.evaluation.metrics import check_rounding
    from gengeo_hf.evaluation.ranks import check_ties
    from gengeo_hf.evaluation.run import choose_protocol, evaluate, parse_data, summary_text

    if out is not None and out.suffix != ".json":
        raise console.UsageError(f"--out must end in .json, found {out.name}")
    console.check_writable(out)
    if pose:
        from gengeo_hf.evaluation.pose_run import evaluate_pose_of

        _show_pose(
            evaluate_pose_of(
                model,
                data,
                heading_prior,
                protocol=protocol,
                method=pose_method,
                fov=pose_fov,
                gallery=all_tiles,
                validation=fuse_on,
                device=device,
                batch_size=batch_size,
                seed=seed,
            ),
            as_json,
            out,
        )
        return
    rules = choose_protocol(protocol, None if data is None else parse_data(data))
    if rounding is not None:
        rules = rules.with_rounding(check_rounding(rounding))
    if descriptors is None and out is not None:
        descriptors = out.parent / "descriptors"
    options: dict[str, Any] = {
        "name": name,
        "ground_size": ground_size,
        "aerial_size": aerial_size,
        "ties": check_ties(ties),
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
        "descriptors": descriptors,
        "centering": centering,
        "flip": flip,
        "show_progress_bar": console.shows_progress(),
    }
    if tile is not None and distractors is not None:
        raise console.UsageError("--tile and --distractors exclude one another")
    if tile is not None:
        _evaluate_sizes(model, data or rules.dataset, tile, rules, options, as_json, out)
        return
    if distractors is not None:
        _evaluate_with_distractors(model, data, rules, distractors, options, as_json, out)
        return
    result = evaluate(model, data, rules, **options)
    if not PartialState().is_main_process:
        return
    if as_json:
        console.json_line(result.percent())
    else:
        console.result(summary_text(result))
    if out is not None:
        console.note(f"wrote {result.save(out)}")


def _evaluate_with_distractors(
    model: str, data: str | None, rules: Any, source: str, options: dict[str, Any], as_json: bool, out: Path | None
) -> None:
    """Evaluate, then count again in galleries that grow by distractors; print, write and draw."""
    from gengeo_hf.common.files import atomic_file
    from gengeo_hf.evaluation.distractors import evaluate_with_distractors
    from gengeo_hf.evaluation.plots import gallery_size_curve
    from gengeo_hf.evaluation.run import summary_text

    found = evaluate_with_distractors(model, data, rules, source, **options)
    if found is None:  # another process prints
        return
    result, curve = found
    if as_json:
        console.json_line(result.percent() | {"distractors": curve.to_dict()})
    else:
        console.result(summary_text(result))
        console.result(curve)
    if out is not None:
        console.note(f"wrote {result.save(out)}")
        picture = out.with_suffix(".distractors.png")
        with atomic_file(picture) as temporary:
            gallery_size_curve({result.summary["model"]["name"]: curve}).savefig(temporary, format="png")
        console.note(f"wrote {picture}")


def _evaluate_sizes(
    model: str,
    data: str,
    sizes: tuple[float, ...],
    rules: Any,
    options: dict[str, Any],
    as_json: bool,
    out: Path | None,
) -> None:
    """Evaluate several ground sizes and their fusion, print and write them: the fusion to `out`, others beside it."""
    from accelerate import PartialState

    from gengeo_hf.evaluation.tile_sizes import evaluate_tile_sizes

    found = evaluate_tile_sizes(model, data, sizes, rules, **options)
    if not PartialState().is_main_process:
        return
    if as_json:
        console.json_line(found.to_dict())
    else:
        console.result(found)
    if out is not None:
        console.note(f"wrote {found.fused.save(out)}")
        for size, result in found.single.items():
            console.note(f"wrote {result.save(out.with_name(f'{out.stem}-{size:g}m.json'))}")


def _show_pose(result: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """Print errors of position and heading, and write them."""
    from gengeo_hf.common.files import write_json
    from gengeo_hf.evaluation.pose import format_pose
    from gengeo_hf.evaluation.pose_published import format_published
    from gengeo_hf.evaluation.pose_run import format_gallery

    if as_json:
        console.json_line(result)
    else:
        console.result(format_pose(result))
        if "published" in result:
            console.result(format_published(result))
        if "gallery" in result:
            console.result(format_gallery(result["gallery"]))
    if out is not None:
        write_json(out, result)
        console.note(f"wrote {out}")
