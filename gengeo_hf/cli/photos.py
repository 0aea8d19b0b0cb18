"""Commands that take photos: locate, calibrate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli.base import (
    Backend,
    CalibrationFile,
    Device,
    Dtype,
    IndexFolder,
    IndexOrStore,
    Model,
    app,
    check_writable,
    tell_choice,
)

if TYPE_CHECKING:
    from gengeo_hf.localization import Answer, GeoLocalizer, Look

Fov = Annotated[
    float | None,
    typer.Option(help="Horizontal field of view in degrees, 360 for a panorama. Default: what the file tells."),
]
Heading = Annotated[
    str,
    typer.Option(
        help="Panoramas: where the centre column looks, degrees clockwise from north; exif takes the file's; unknown "
        "tries eight directions."
    ),
]


@app.command()
def locate(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    index: IndexOrStore,
    model: Model,
    top: Annotated[int, typer.Option(min=1, help="How many places for each photo.")] = 5,
    near: Annotated[str | None, typer.Option(help="Search only here: lat,lon,radius, e.g. 60.17,24.94,2km.")] = None,
    near_exif: Annotated[
        str | None,
        typer.Option(help="Search only within this distance of a photo's own GPS position, where it has one."),
    ] = None,
    merge: Annotated[bool, typer.Option(help="Merge overlapping tiles into one place.")] = True,
    fov: Fov = None,
    heading: Heading = "0",
    sequence: Annotated[
        bool, typer.Option("--sequence", help="The photos are frames of one drive: find the way that fits them all.")
    ] = False,
    top_speed: Annotated[float, typer.Option(help="Of the drive, km/h.")] = 72.0,
    interval: Annotated[float, typer.Option(help="Seconds between frames, where EXIF does not tell the time.")] = 1.0,
    calibration: CalibrationFile = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Below this confidence: don't know.")] = 0.0,
    map_file: Annotated[Path | None, typer.Option("--map", help="Write a map that works offline (HTML).")] = None,
    geojson: Annotated[Path | None, typer.Option(help="Write the places as GeoJSON.")] = None,
    device: Device = None,
    backend: Backend = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Find where photos were taken.

    **Example:** `gengeo locate photo.jpg --index city.gengeo --model ./gengeo-cvusa --top 5 --map places.html`

    Frames of a drive: `gengeo locate drive/ --sequence --interval 2 --index city.gengeo --model ./gengeo-cvusa`
    """
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.common.units import parse_metres, parse_near
    from gengeo_hf.localization import GeoLocalizer, Motion
    from gengeo_hf.localization.localizer import find_photos

    options: dict[str, Any] = {
        "near": parse_near(near) if near else None,
        "exif_radius_m": parse_metres(near_exif) if near_exif else None,
        "merge": merge, "threshold": threshold, "look": _look(fov, heading),
    }  # fmt: skip
    check_writable(map_file, geojson)
    motion = Motion(top_speed / 3.6, interval)
    files = find_photos(photos)
    speed: dict[str, Any] = {"device": device, "backend": backend, "compute_dtype": dtype}
    speed["expected_images"] = len(files)
    localizer = GeoLocalizer.from_pretrained(model, index, calibration=calibration, **speed)
    tell_choice(localizer.encoder)
    if sequence:
        answers = list(localizer.locate(files, sequence=True, motion=motion, top=top, **options))
    else:
        answers = list(localizer.locate_many(files, top=top, **options))
    if answers and all(answer.error for answer in answers):
        raise GenGeoError(answers[0].error if len(answers) == 1 else f"none of {len(answers)} photos could be read")
    for answer in answers:
        typer.echo("\n".join(_lines(answer)))
    if localizer.caveat:
        typer.echo(f"\ncaution: {localizer.caveat}", err=True)
    _write(answers, localizer, sequence, map_file, geojson)


@app.command()
def calibrate(
    pairs: Annotated[Path, typer.Argument(help="CSV or Parquet: held-out photos with their true lat and lon.")],
    index: IndexFolder,
    model: Model,
    out: Annotated[Path, typer.Option(help="Calibration file to write (JSON).")],
    within: Annotated[str, typer.Option(help="An answer is right when it is nearer than this to the truth.")] = "50m",
    image_column: Annotated[str | None, typer.Option(help="Column of the photo's file.")] = None,
    fov: Fov = None,
    heading: Heading = "0",
    plot: Annotated[Path | None, typer.Option(help="Write the reliability plot (PNG, SVG or PDF).")] = None,
    device: Device = None,
) -> None:
    """Learn how sure answers are, from photos whose place is known.

    **Example:** `gengeo calibrate held_out.csv --index city.gengeo --model ./gengeo-cvusa --out calibration.json`
    """
    from gengeo_hf.common.units import parse_metres
    from gengeo_hf.imagery.table import TableTiles
    from gengeo_hf.localization import GeoLocalizer
    from gengeo_hf.localization.confidence import Calibration, check_number, reliability_plot

    check_writable(out, plot)
    within_m = parse_metres(within)
    table = TableTiles(pairs, image_column, photos=True)
    check_number(len(table.paths))
    localizer = GeoLocalizer.from_pretrained(model, index, device=device)
    tell_choice(localizer.encoder)
    answers = list(localizer.locate_many(table.paths, top=5, look=_look(fov, heading)))
    truth = list(zip(table.table["lat"].to_pylist(), table.table["lon"].to_pylist(), strict=True))
    found = Calibration.fit(
        [a.places for a in answers], truth, localizer.encoder.fingerprint, len(localizer.index), within_m
    )
    found.save(out)
    broken = sum(bool(answer.error) for answer in answers)
    left_out = f"; {broken} could not be read" if broken else ""
    error = f"expected calibration error {found.expected_calibration_error:.3f} (two-fold)"
    typer.echo(f"{found.photos} photos{left_out}, {error}")
    typer.echo("stated   right   photos")
    for stated, right, count in found.reliability:
        typer.echo(f"{stated:6.2f}  {right:6.2f}  {count:7d}")
    typer.echo("--threshold   answered   right of these")
    for least, answered, right_share in found.trade:
        typer.echo(f"{least:11.1f}   {answered:8.0%}   {right_share:14.0%}")
    if plot:
        reliability_plot(found, plot)
        typer.echo(f"plot: {plot}")


def _write(
    answers: "list[Answer]", localizer: "GeoLocalizer", drive: bool, map_file: Path | None, geojson: Path | None
) -> None:
    """The files that were asked for."""
    from gengeo_hf.common.files import write_text
    from gengeo_hf.localization.localizer import to_geojson
    from gengeo_hf.localization.maps import answers_map

    if geojson:
        write_text(geojson, to_geojson(answers, localizer.caveat, drive=drive))
    if map_file:
        write_text(map_file, answers_map(answers, localizer.index, localizer.caveat, drive=drive))
        typer.echo(f"map: {map_file}")


def _look(fov: float | None, heading: str) -> "Look":
    """The options about field of view and heading."""
    from gengeo_hf.common.errors import GenGeoError
    from gengeo_hf.localization import Look

    if heading in ("exif", "unknown"):
        return Look(fov, heading)
    try:
        return Look(fov, float(heading))
    except ValueError as error:
        if isinstance(error, GenGeoError):
            raise
        raise GenGeoError(f"--heading takes degrees, exif or unknown, found {heading!r}") from None


def _lines(answer: "Answer") -> list[str]:
    """One answer as text for a terminal."""
    lines = [f"{answer.photo}" + ("" if answer.known else ": don't know; best guesses")]
    if answer.error:
        return [*lines, f"  {answer.error}"]
    lines += [f"  note: {note}" for note in answer.notes]
    if not answer.places:
        lines.append("  no tile there: widen the radius")
    for place in answer.places:
        radius = f" ± {place.uncertainty_m:.0f} m" if place.uncertainty_m is not None else ""
        sure = f", sure to {place.confidence:.0%}" if place.confidence is not None else ""
        votes = f", {place.votes} tiles" if place.votes > 1 else ""
        where = f"  {place.rank}. {place.lat:.6f}, {place.lon:.6f}{radius}"
        turned = f", looking {place.heading:.0f}°" if place.heading is not None else ""
        lines.append(f"{where}  score {place.score:.3f}{sure}{votes}{turned}  {place.tile_id}")
    if (position := answer.exif_position) is not None:
        error = f", {answer.exif_distance_m:,.0f} m from the best place" if answer.exif_distance_m is not None else ""
        error = ", which limited the search" if answer.exif_is_prior else error
        lines.append(f"  EXIF position: {position.lat:.6f}, {position.lon:.6f}{error}")
    return lines
