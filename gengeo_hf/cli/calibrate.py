"""`gengeo calibrate`: fit confidences on photos with known positions."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import LENGTH, Json, LocalizerOptions, Overwrite, PhotoOptions
from gengeo_hf.cli.registry import LOCATE, gengeo

if TYPE_CHECKING:
    from gengeo_hf.common.camera import CameraView
    from gengeo_hf.localization import Answer, GeoLocalizer


@gengeo.command(panel=LOCATE)
def calibrate(
    pairs: Annotated[Path, typer.Argument(help="CSV or Parquet table of held-out photos with their true lat and lon.")],
    options: LocalizerOptions,
    photo: PhotoOptions,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Calibration file to write (JSON).")],
    overwrite: Overwrite = False,
    within: Annotated[
        Any, typer.Option(help="Greatest distance to the true position at which an answer is right.", **LENGTH)
    ] = "50m",
    image_column: Annotated[str | None, typer.Option(help="Column with the photo's file. Default: detected.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the reliability plot (PNG, SVG or PDF).")
    ] = None,
    pose: Annotated[
        bool,
        typer.Option(
            "--pose",
            help="Also fit radii and joined tiles of `gengeo locate --pose`, to NAME.pose.json beside NAME.json.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit confidences of answers on photos with known positions.

    **Example**

        gengeo calibrate held_out.csv --index city.gengeo --model ./gengeo-cvusa --out calibration.json
    """
    from gengeo_hf.data.photos import read_photos
    from gengeo_hf.localization.confidence import Calibration, check_photo_count, reliability_plot
    from gengeo_hf.localization.pose import PoseSettings

    if options.calibration is not None:
        raise console.UsageError("--calibration is the output of this command: give --out instead")
    console.check_writable(out, plot)
    console.check_not_there(out, overwrite)
    table = read_photos(pairs, image_column)
    for note in table.notes:
        console.warning(note)
    check_photo_count(len(table.sources))
    stated = photo.view()
    overridden = sum(camera.fov is not None for camera in table.cameras) if stated.fov is not None else 0
    if overridden:
        console.warning(f"--fov overrides the column of the field of view, which has values for {overridden:,} photos")
    localizer = options.open(pose=PoseSettings() if pose else None)
    found = _locate(localizer, table.sources, [stated.completed_by(camera) for camera in table.cameras])
    answers = list(console.progress(found, len(table.sources), "photos"))
    true_positions = list(zip(table.lat.tolist(), table.lon.tolist(), strict=True))
    places = [answer.places for answer in answers]
    fitted = Calibration.fit(places, true_positions, localizer.encoder.fingerprint, len(localizer.index), within)
    fitted.save(out)
    if pose:
        _fit_pose(localizer, table.sources, true_positions, photo, out)
    if plot:
        reliability_plot(fitted, plot)
        console.note(f"plot: {plot}")
    unread = sum(bool(answer.error) for answer in answers)
    if as_json:
        console.json_line(_record(fitted, unread))
    else:
        _print_table(fitted, unread)


def _locate(localizer: "GeoLocalizer", sources: list[Any], cameras: "list[CameraView]") -> "Iterator[Answer]":
    """Locate the photos in order; consecutive photos with the same camera are located together."""
    from gengeo_hf.localization.confidence import CANDIDATES

    for camera, group in itertools.groupby(zip(sources, cameras, strict=True), key=lambda pair: pair[1]):
        yield from localizer.locate_many([source for source, _ in group], top=CANDIDATES, camera=camera)


def _fit_pose(localizer: Any, paths: Any, true_positions: Any, photo: PhotoOptions, out: Path) -> None:
    """Fit and write the calibration of poses, and print its gain."""
    from gengeo_hf.localization.pose_calibration import fit_pose_calibration, pose_calibration_path

    found = fit_pose_calibration(localizer, paths, true_positions, photo.view())
    found.save(pose_calibration_path(out))
    state = "on" if found.fusion.enabled else "off, it gains nothing here"
    console.note(
        f"pose: {found.photos} photos; joining {found.fusion.tiles} tiles {state} "
        f"({found.fusion.gain_percent:+.1f} points within 10 m); {pose_calibration_path(out)}"
    )


def _record(fitted: Any, unread: int) -> dict[str, Any]:
    """Measurements of the calibration as one JSON object."""
    return {
        "photos": fitted.photos,
        "unreadable": unread,
        "within_m": fitted.within_m,
        "expected_calibration_error": fitted.expected_calibration_error,
        "brier_skill": dict(zip(("best", "places_2_to_5"), fitted.brier_skill, strict=True)),
        "auroc": fitted.auroc,
        "radius_factors": list(fitted.radius_factors),
        "reliability": [dict(zip(("stated", "right", "photos"), row, strict=True)) for row in fitted.reliability],
        "thresholds": [dict(zip(("threshold", "answered", "right"), row, strict=True)) for row in fitted.trade],
    }


def _print_table(fitted: Any, unread: int) -> None:
    left_out = f"; {unread} could not be read" if unread else ""
    error = f"expected calibration error {fitted.expected_calibration_error:.3f} (two-fold)"
    console.result(f"{fitted.photos} photos{left_out}, {error}")
    best, further = fitted.brier_skill
    console.result(f"Brier skill {best:+.3f} (best place), {further:+.3f} (places 2 to 5); AUROC {fitted.auroc:.3f}")
    console.result("stated   right   photos")
    for stated, right, count in fitted.reliability:
        console.result(f"{stated:6.2f}  {right:6.2f}  {count:7d}")
    console.result("--threshold   answered   right of these")
    for least, answered, right_share in fitted.trade:
        console.result(f"{least:11.1f}   {answered:8.0%}   {right_share:14.0%}")
