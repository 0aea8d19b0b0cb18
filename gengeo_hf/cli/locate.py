"""`gengeo locate`: find where photos were taken."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.exit_codes import FAILURE
from gengeo_hf.cli.options import (
    LENGTH,
    PHOTO,
    SECONDS,
    AreaOptions,
    GeoJson,
    Json,
    LocalizerOptions,
    MapOptions,
    PhotoOptions,
)
from gengeo_hf.cli.pose_options import PoseOptions, method_among
from gengeo_hf.cli.registry import LOCATE, gengeo
from gengeo_hf.common.text import printable

if TYPE_CHECKING:
    from gengeo_hf.localization import Answer, GeoLocalizer
    from gengeo_hf.localization.maps import Background
    from gengeo_hf.localization.sources import Frames

DRIVE, FILES = "Drives", "Files"
BATCH = 8  # photos that are located, and then printed, together


@gengeo.command(panel=LOCATE)
def locate(
    photos: Annotated[list[Path], typer.Argument(help="Photos, directories of photos, or videos.")],
    options: LocalizerOptions,
    photo: PhotoOptions,
    pose: PoseOptions,
    drawn: MapOptions,
    where: AreaOptions,
    top: Annotated[int, typer.Option(min=1, help="Number of places for each photo.")] = 5,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help='Minimum confidence, 0 to 1; below it the answer is "don\'t know".')
    ] = 0.0,
    merge: Annotated[bool, typer.Option(help="Merge overlapping tiles into one place.")] = True,
    near_exif: Annotated[
        Any,
        typer.Option(
            help="Search only within this distance of the GPS position in a photo's EXIF data, where it has one.",
            rich_help_panel=PHOTO,
            **LENGTH,
        ),
    ] = None,
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence",
            help="The photos are frames of one drive: find the track that fits all of them.",
            rich_help_panel=DRIVE,
        ),
    ] = False,
    top_speed: Annotated[
        float, typer.Option(help="Greatest speed of the drive in km/h.", rich_help_panel=DRIVE)
    ] = 72.0,
    interval: Annotated[
        float,
        typer.Option(help="Seconds between frames, where EXIF data have no time.", rich_help_panel=DRIVE),
    ] = 1.0,
    every: Annotated[
        Any,
        typer.Option(
            help="Time between the frames that are taken from a video. Default: 1s.",
            rich_help_panel=DRIVE,
            **SECONDS,
        ),
    ] = None,
    as_json: Json = False,
    geojson: GeoJson = None,
    gpx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write GPX: a track with --sequence, else waypoints.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write pairs of photo and tile, one per line, in the format of hloc."),
    ] = None,
) -> None:
    """Find where photos were taken.

    --json prints one line for each photo. Exit code 1 if a photo cannot be read, or no tile lies in the search area.

    **Examples**

        gengeo locate photo.jpg --index city.gengeo --model ./gengeo-cvusa --top 5 --map places.html

        gengeo locate photo.jpg --near 60.17,24.94,2km --index city.gengeo --model ./gengeo-cvusa

        gengeo locate photo.jpg --pose --heading 120 --index city.gengeo --model ./gengeo-cvusa

        gengeo locate drive/ --sequence --interval 2 --index city.gengeo --model ./gengeo-cvusa

        gengeo locate drive.mp4 --every 1s --sequence --gpx track.gpx --index city.gengeo --model ./gengeo-cvusa
    """
    from gengeo_hf.localization import Motion
    from gengeo_hf.localization.localizer import find_photos
    from gengeo_hf.localization.sources import Frames

    map_file, background = drawn.map_file, drawn.background_map()
    if as_json and (console.is_stream(geojson) or console.is_stream(map_file)):
        raise console.UsageError("--json and --geojson - both write to stdout: give one of them a file name")
    settings = {
        "near": where.chosen(),
        "exif_radius_m": near_exif,
        "merge": merge,
        "threshold": threshold,
        "camera": photo.view(),
    }
    console.check_writable(map_file, geojson, gpx, pairs)
    motion = Motion(top_speed / 3.6, interval)
    photos, method = method_among(photos, pose.pose)
    files = Frames(find_photos(photos), every or 1.0)
    _check_drive(files, sequence, every)
    localizer = options.open(files.total, pose.settings(method))
    if localizer.caveat:
        console.warning(localizer.caveat)
    inputs: Iterable[Any] = files if files.videos else files.paths
    if sequence:
        found: Iterable[Answer] = localizer.locate(inputs, sequence=True, motion=motion, top=top, **settings)
    else:
        found = localizer.locate_many(inputs, top=top, batch_size=BATCH, **settings)
    print_answer = _print_error if console.is_stream(geojson) or console.is_stream(map_file) else _print_text
    answers = _print_all(found, files.total, _print_json if as_json else print_answer)
    _write(answers, localizer, sequence, geojson)
    _write_map(answers, localizer, sequence, map_file, background)
    _write_tracks(answers, sequence, gpx, pairs)
    unanswered = sum(bool(answer.error) or not answer.places for answer in answers)
    if unanswered:
        if len(answers) > 1:
            console.note(f"{unanswered} of {len(answers)} photos have no answer")
        raise typer.Exit(FAILURE)


def _check_drive(files: "Frames", sequence: bool, every: float | None) -> None:
    """Check the options of drives against the inputs.

    Raises:
        UsageError: --every without a video, or --sequence with a video and other inputs.
    """
    if every is not None and not files.videos:
        raise console.UsageError("--every is the time between frames of a video, but no video was given")
    if sequence and files.videos and len(files.paths) > 1:
        raise console.UsageError("--sequence takes the frames of one drive: one video, or photos")


def _print_all(found: "Iterable[Answer]", total: int | None, print_one: Any) -> "list[Answer]":
    """Print each answer when it is found, with a progress bar on a terminal; Ctrl-C stops after the printed answers."""
    answers: list[Answer] = []
    try:
        for answer in console.progress(found, total, "photos"):
            print_one(answer)
            answers.append(answer)
    except KeyboardInterrupt:
        console.note(
            f"\nstopped after {len(answers)} of {total or 'many'} photos; their answers are above, no file was written"
        )
        raise typer.Exit(130) from None
    return answers


def _print_json(answer: "Answer") -> None:
    from gengeo_hf.localization.answer_json import answer_record

    console.json_line(answer_record(answer))


def _print_text(answer: "Answer") -> None:
    if answer.error:
        console.error(f"{answer.photo}: {answer.error}" if answer.photo not in answer.error else answer.error)
        return
    for line in _lines(answer):
        console.result(printable(line))


def _print_error(answer: "Answer") -> None:
    if answer.error:
        console.error(f"{answer.photo}: {answer.error}" if answer.photo not in answer.error else answer.error)


def _write(answers: "list[Answer]", localizer: "GeoLocalizer", drive: bool, geojson: Path | None) -> None:
    """Write the answers as GeoJSON, if a file is given."""
    from gengeo_hf.localization.localizer import to_geojson

    if geojson:
        console.write_output(geojson, to_geojson(answers, localizer.caveat, drive=drive))


def _write_map(
    answers: "list[Answer]",
    localizer: "GeoLocalizer",
    drive: bool,
    map_file: Path | None,
    background: "Background | None",
) -> None:
    """Write the map, if a file is given."""
    from gengeo_hf.localization.maps import answers_map

    if map_file:
        page = answers_map(answers, localizer.index, localizer.caveat, drive=drive, background=background)
        console.write_output(map_file, page)
        if not console.is_stream(map_file):
            console.note(f"map: {map_file}")


def _write_tracks(answers: "list[Answer]", drive: bool, gpx: Path | None, pairs: Path | None) -> None:
    """Write GPX and pairs, if files are given."""
    from gengeo_hf.localization.tracks import to_gpx, to_pairs

    if gpx:
        console.write_output(gpx, to_gpx(answers, drive))
    if pairs:
        console.write_output(pairs, to_pairs(answers))


def _lines(answer: "Answer") -> Iterator[str]:
    """Format an answer as lines of text."""
    yield f"{answer.photo}" + ("" if answer.known else ": don't know; best guesses")
    yield from (f"  note: {note}" for note in answer.notes)
    if not answer.places:
        yield "  no place found"
    for place in answer.places:
        radius = f" ± {place.uncertainty_m:.0f} m" if place.uncertainty_m is not None else ""
        confidence = f", {place.confidence:.0%} confident" if place.confidence is not None else ""
        votes = f", {place.votes} tiles" if place.votes > 1 else ""
        heading = f", heading {place.heading:.0f}°" if place.heading is not None else ""
        pose = f" ({place.pose})" if place.pose else ""
        position = f"  {place.rank}. {place.lat:.6f}, {place.lon:.6f}{radius}"
        yield f"{position}  score {place.score:.3f}{confidence}{votes}{heading}{pose}  {place.tile_id}"
    yield from (f"  imagery: {rights}" for rights in dict.fromkeys(p.rights for p in answer.places if p.rights))
    if (exif := answer.exif_position) is not None:
        error = f", {answer.exif_distance_m:,.0f} m from the best place" if answer.exif_distance_m is not None else ""
        error = ", which limited the search" if answer.exif_is_prior else error
        yield f"  EXIF position: {exif.lat:.6f}, {exif.lon:.6f}{error}"
