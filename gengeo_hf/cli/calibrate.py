"""`gengeo calibrate`: learn confidences from photos whose position is known."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import LENGTH, Json, LocalizerOptions, Overwrite, PhotoOptions
from gengeo_hf.cli.registry import LOCATE, gengeo


@gengeo.command(panel=LOCATE)
def calibrate(
    pairs: Annotated[Path, typer.Argument(help="CSV or Parquet: held-out photos with their true lat and lon.")],
    options: LocalizerOptions,
    photo: PhotoOptions,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Calibration file to write (JSON).")],
    overwrite: Overwrite = False,
    within: Annotated[
        Any, typer.Option(help="An answer is right when it is nearer to the truth than this.", **LENGTH)
    ] = "50m",
    image_column: Annotated[str | None, typer.Option(help="Column with the photo's file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the reliability plot (PNG, SVG or PDF).")
    ] = None,
    pose: Annotated[
        bool,
        typer.Option(
            "--pose",
            help="Fit radii and joined tiles of `gengeo locate --pose` too, into NAME.pose.json beside NAME.json.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn how confident answers are, from photos whose position is known.

    **Example**

        gengeo calibrate held_out.csv --index city.gengeo --model ./gengeo-cvusa --out calibration.json
    """
    from gengeo_hf.imagery.table import TableTiles
    from gengeo_hf.localization.confidence import Calibration, check_number, reliability_plot
    from gengeo_hf.localization.pose import PoseSettings

    if options.calibration is not None:
        raise console.UsageError("--calibration is what this command makes: give --out")
    console.check_writable(out, plot)
    console.check_not_there(out, overwrite)
    table = TableTiles(pairs, image_column, photos=True)
    check_number(len(table.paths))
    localizer = options.open(pose=PoseSettings() if pose else None)
    found = localizer.locate_many(table.paths, top=5, camera=photo.view())
    answers = list(console.progress(found, len(table.paths), "photos"))
    truth = list(zip(table.table["lat"].to_pylist(), table.table["lon"].to_pylist(), strict=True))
    places = [answer.places for answer in answers]
    fitted = Calibration.fit(places, truth, localizer.encoder.fingerprint, len(localizer.index), within)
    fitted.save(out)
    if pose:
        _fit_pose(localizer, table.paths, truth, photo, out)
    if plot:
        reliability_plot(fitted, plot)
        console.note(f"plot: {plot}")
    unread = sum(bool(answer.error) for answer in answers)
    if as_json:
        console.json_line(_record(fitted, unread))
    else:
        _print_table(fitted, unread)


def _fit_pose(localizer: Any, paths: Any, truth: Any, photo: PhotoOptions, out: Path) -> None:
    """Fit and write what poses need, and say what it gains."""
    from gengeo_hf.localization.pose_calibration import fit_pose_calibration, pose_calibration_path

    found = fit_pose_calibration(localizer, paths, truth, photo.view())
    found.save(pose_calibration_path(out))
    state = "on" if found.fusion.enabled else "off, it gains nothing here"
    console.note(
        f"pose: {found.photos} photos; joining {found.fusion.tiles} tiles {state} "
        f"({found.fusion.gain_percent:+.1f} points within 10 m); {pose_calibration_path(out)}"
    )


def _record(fitted: Any, unread: int) -> dict[str, Any]:
    """The measured calibration as one JSON object."""
    return {
        "photos": fitted.photos,
        "unreadable": unread,
        "within_m": fitted.within_m,
        "expected_calibration_error": fitted.expected_calibration_error,
        "reliability": [dict(zip(("stated", "right", "photos"), row, strict=True)) for row in fitted.reliability],
        "thresholds": [dict(zip(("threshold", "answered", "right"), row, strict=True)) for row in fitted.trade],
    }


def _print_table(fitted: Any, unread: int) -> None:
    left_out = f"; {unread} could not be read" if unread else ""
    error = f"expected calibration error {fitted.expected_calibration_error:.3f} (two-fold)"
    console.result(f"{fitted.photos} photos{left_out}, {error}")
    console.result("stated   right   photos")
    for stated, right, count in fitted.reliability:
        console.result(f"{stated:6.2f}  {right:6.2f}  {count:7d}")
    console.result("--threshold   answered   right of these")
    for least, answered, right_share in fitted.trade:
        console.result(f"{least:11.1f}   {answered:8.0%}   {right_share:14.0%}")
