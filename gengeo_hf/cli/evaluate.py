"""`gengeo evaluate`: evaluate a model on a data set with a protocol."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.evaluate_options import EncodingOptions, PoseErrorOptions, RankingOptions
from gengeo_hf.cli.options import Json, Model
from gengeo_hf.cli.registry import EVALUATE, gengeo


@gengeo.command(panel=EVALUATE)
def evaluate(
    model: Model,
    ranking: RankingOptions,
    encoding: EncodingOptions,
    pose_errors: PoseErrorOptions,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar='"NAME[:SPLIT] [ROOT] [key=value ...]"',
            help="Data set to evaluate on. Default: that of the protocol, if it needs no files. Default split: test.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Protocol, see below. Default: the published protocol of the data set and split, or plain recall over "
            "the whole gallery."
        ),
    ] = None,
    as_json: Json = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Result file (.json) to write, for `gengeo table`, `compare`, `best` and `pictures`. Default: none."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in tables. Default: name of its directory.")
    ] = None,
) -> None:
    """Evaluate a model: rank all tiles for each photo, and compute the metrics of a protocol.

    Protocols: cvusa, cvact-val, cvact-test, vigor-same, vigor-cross, cvusa-to-cvact, cvact-to-cvusa,
    cvusa-to-vigor-same, cvusa-to-vigor-cross, vigor-to-cvusa, university1652, cvcities, cvcities-CITY, loci,
    justzoomin, justzoomin-covered, justzoomin-area, world-urban, world-rural, world-offcenter, table, folder,
    parquet; each also as `NAME@validation`, the part of the training data for the choice of a checkpoint, and as
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
    if out is not None and out.suffix != ".json":
        raise console.UsageError(f"--out must end in .json, found {out.name}")
    console.check_writable(out)
    if ranking.tile is not None and ranking.distractors is not None:
        raise console.UsageError("--tile and --distractors exclude one another")
    if pose_errors.pose:
        _evaluate_pose(model, data, protocol, encoding, pose_errors, as_json, out)
        return
    from gengeo_hf.evaluation.run import choose_protocol, evaluate, format_summary, parse_data, process_state

    rules = choose_protocol(protocol, None if data is None else parse_data(data))
    if ranking.rounding is not None:
        from gengeo_hf.evaluation.metrics import check_rounding

        rules = rules.with_rounding(check_rounding(ranking.rounding))
    options = _evaluation_options(name, ranking, encoding, out)
    if ranking.tile is not None:
        _evaluate_sizes(model, data or rules.dataset, ranking.tile, rules, options, as_json, out)
        return
    if ranking.distractors is not None:
        _evaluate_with_distractors(model, data, rules, ranking.distractors, options, as_json, out)
        return
    result = evaluate(model, data, rules, **options)
    if not process_state().is_main_process:
        return
    if as_json:
        console.json_line(result.percent())
    else:
        console.result(format_summary(result))
    if out is not None:
        console.note(f"wrote {result.save(out)}")


def _evaluation_options(
    name: str | None, ranking: RankingOptions, encoding: EncodingOptions, out: Path | None
) -> dict[str, Any]:
    """Keyword arguments of `gengeo_hf.evaluation.run.evaluate`."""
    from gengeo_hf.evaluation.ranks import check_ties

    descriptors = encoding.descriptors
    if descriptors is None and out is not None:
        descriptors = out.parent / "descriptors"
    return {
        "name": name,
        "ground_size": encoding.ground_size,
        "aerial_size": encoding.aerial_size,
        "ties": check_ties(ranking.ties),
        "seed": encoding.seed,
        "batch_size": encoding.batch_size,
        "device": encoding.device,
        "descriptors": descriptors,
        "centering": encoding.centering,
        "flip": encoding.flip,
        "show_progress_bar": console.shows_progress(),
    }


def _evaluate_pose(
    model: str,
    data: str | None,
    protocol: str | None,
    encoding: EncodingOptions,
    options: PoseErrorOptions,
    as_json: bool,
    out: Path | None,
) -> None:
    """Measure, print and write errors of position and heading."""
    from gengeo_hf.evaluation.pose_run import evaluate_pose_checkpoint

    result = evaluate_pose_checkpoint(
        model,
        data,
        options.heading_prior,
        protocol=protocol,
        method=options.pose_method,
        fov=options.pose_fov,
        gallery=options.all_tiles,
        validation=options.fuse_on,
        device=encoding.device,
        batch_size=encoding.batch_size,
        seed=encoding.seed,
    )
    _print_pose(result, as_json, out)


def _evaluate_with_distractors(
    model: str, data: str | None, rules: Any, source: str, options: dict[str, Any], as_json: bool, out: Path | None
) -> None:
    """Evaluate in galleries with more and more distractors; print, write and draw the curve."""
    from gengeo_hf.common.files import atomic_file
    from gengeo_hf.evaluation.distractors import evaluate_with_distractors
    from gengeo_hf.evaluation.plots import gallery_size_curve
    from gengeo_hf.evaluation.run import format_summary

    found = evaluate_with_distractors(model, data, rules, source, **options)
    if found is None:  # not the main process
        return
    result, curve = found
    if as_json:
        console.json_line(result.percent() | {"distractors": curve.to_dict()})
    else:
        console.result(format_summary(result))
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
    """Evaluate several ground sizes and their fusion; print them; write the fusion to `out`, the sizes beside it."""
    from gengeo_hf.evaluation.run import process_state
    from gengeo_hf.evaluation.tile_sizes import evaluate_tile_sizes

    found = evaluate_tile_sizes(model, data, sizes, rules, **options)
    if not process_state().is_main_process:
        return
    if as_json:
        console.json_line(found.to_dict())
    else:
        console.result(found)
    if out is not None:
        console.note(f"wrote {found.fused.save(out)}")
        for size, result in found.single.items():
            console.note(f"wrote {result.save(out.with_name(f'{out.stem}-{size:g}m.json'))}")


def _print_pose(result: dict[str, Any], as_json: bool, out: Path | None) -> None:
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
