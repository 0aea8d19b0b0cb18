"""Options that several commands share, declared as single options or as groups (dataclasses).

`gengeo_hf.cli.registry.expand_options` expands groups to the options of a command.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gengeo_hf.cli import console

if TYPE_CHECKING:
    from gengeo_hf.common.area import Area
    from gengeo_hf.common.camera import CameraView
    from gengeo_hf.common.geo import Bounds
    from gengeo_hf.localization import GeoLocalizer
    from gengeo_hf.localization.maps import Background
    from gengeo_hf.localization.pose import PoseSettings
    from gengeo_hf.serving.server import Access

# Headings of groups of options in help texts.
COMPUTE, PHOTO, WHERE, ACCESS, MAP = "Computation", "Photos", "Area", "Access", "Map"
TILES, CONTENTS = "Tiles of rasters and imagery by address", "Contents of the index"


def checked(parse: Callable[[str], Any], metavar: str) -> dict[str, Any]:
    """Arguments of `typer.Option` for a value that is parsed by a function.

    Args:
        parse: Function from text to value; its `GenGeoError` becomes a usage error (exit code 2). Defaults that are not
            text are not parsed.
        metavar: Placeholder of the value in the help, for example "LENGTH".
    """
    from gengeo_hf.common.errors import GenGeoError

    def convert(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            return parse(text)
        except GenGeoError as error:
            raise typer.BadParameter(str(error)) from None

    convert.__name__ = metavar
    return {"parser": convert, "metavar": metavar}


def _metres(text: str) -> float:
    from gengeo_hf.common.units import parse_metres

    return parse_metres(text)


def _lengths(text: str) -> tuple[float, ...]:
    return tuple(_metres(part) for part in text.split(","))


def _share(text: str) -> float:
    from gengeo_hf.common.units import parse_share

    return parse_share(text)


def read_bounds(text: str) -> "Bounds":
    """Parse a box `west,south,east,north` in degrees, for commands without other kinds of areas."""
    from gengeo_hf.common.units import parse_bounds

    return parse_bounds(text)


def _seconds(text: str) -> float:
    from gengeo_hf.common.units import parse_seconds

    return parse_seconds(text)


def _range(text: str) -> tuple[float, float]:
    from gengeo_hf.common.units import parse_range

    return parse_range(text)


LENGTH = checked(_metres, "LENGTH")  # 65, 65m, 1.5km, 300ft: metres
LENGTHS = checked(_lengths, "LENGTH[,LENGTH]")  # 60m,120m
SHARE = checked(_share, "SHARE")  # 50% or 0.5
SECONDS = checked(_seconds, "TIME")  # 1s, 500ms, 1min: seconds
RANGE = checked(_range, "LOW,HIGH")

Model = Annotated[str, typer.Option("--model", help="Checkpoint directory or Hub id.")]
Device = Annotated[
    str | None,
    typer.Option(help="For example cuda, cuda:1 or cpu. Default: a GPU if there is one.", rich_help_panel=COMPUTE),
]
Backend = Annotated[
    str,
    typer.Option(
        help="Library that computes: torch, openvino, onnx (with a directory of `gengeo export --onnx`); auto: the "
        "faster of torch and openvino on a CPU.",
        rich_help_panel=COMPUTE,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision: float32, bfloat16 or int8 (with --backend onnx or openvino and a directory of `gengeo export "
        "--int8`); auto: the fastest on a CPU, if descriptors agree.",
        rich_help_panel=COMPUTE,
    ),
]
InputScale = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=1,
        help="Factor of the image size, for photos and tiles: 0.75 takes about half of the time. Default: that of the "
        "index, else 1.",
        rich_help_panel=COMPUTE,
    ),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Encode at input scale 0.75, half of the tokens: for models that were trained with several image sizes.",
        rich_help_panel=COMPUTE,
    ),
]
IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="Index directory made by `gengeo index`.")]
IndexOption = Annotated[Path, typer.Option("--index", help="Index directory made by `gengeo index`.")]
IndexOrStore = Annotated[str, typer.Option("--index", help="Index directory, or the address of a store.")]
CalibrationFile = Annotated[
    Path | None,
    typer.Option("--calibration", help="File of `gengeo calibrate`, for confidences. Default: no confidences."),
]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result of this command.")]
Overlap = Annotated[
    Any, typer.Option(help="Share of a tile that its neighbour overlaps.", rich_help_panel=TILES, **SHARE)
]
TruncateDim = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of values of a descriptor to store, from the first one. Default: all.",
        rich_help_panel=CONTENTS,
    ),
]
GeoJson = Annotated[Path | None, typer.Option(metavar="FILE", help="Write GeoJSON; - is stdout.")]
Picture = Annotated[Path, typer.Option("--out", help="Picture to write (.png or .jpg).")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 allows other machines.")]


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Model, backend and precision of commands that encode images."""

    model: Model
    device: Device = None
    backend: Backend = "auto"
    dtype: Dtype = "auto"
    input_scale: InputScale = None
    fast: Fast = False

    def __post_init__(self) -> None:
        if self.fast and self.input_scale is not None:
            raise console.UsageError("--fast and --input-scale exclude one another")

    @property
    def computation(self) -> dict[str, Any]:
        """Further arguments of `Encoder.from_pretrained`."""
        input_scale = "fast" if self.fast else self.input_scale
        scale = {} if input_scale is None else {"input_scale": input_scale}
        return {"device": self.device, "backend": self.backend, "compute_dtype": self.dtype, **scale}


@dataclass(frozen=True, kw_only=True)
class LocalizerOptions(EncoderOptions):
    """Model, index and calibration of commands that locate photos."""

    index: IndexOrStore
    calibration: CalibrationFile = None

    def open(self, images: int | None = None, pose: "PoseSettings | None" = None) -> "GeoLocalizer":
        """Load index and model, and print which backend computes.

        Args:
            images: Number of photos to locate, None if it is unknown. Backends are not compared for few photos.
            pose: Settings of the search for position and heading inside the tiles; None does not search.
        """
        from gengeo_hf.localization import GeoLocalizer

        options: dict[str, Any] = self.computation | ({"expected_images": images} if images is not None else {})
        localizer = GeoLocalizer.from_pretrained(
            self.model, self.index, calibration=self.calibration, pose=pose, **options
        )
        report_backend(localizer.encoder)
        return localizer


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Access control of the page and the service."""

    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Host name that is served, besides loopback names and IP addresses; repeatable.",
            rich_help_panel=ACCESS,
        ),
    ] = None
    access_token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with a token that requests must send (Authorization: Bearer TOKEN, or the password of the "
            "page). Default: the environment variable GENGEO_SERVICE_TOKEN, if it is set.",
            rich_help_panel=ACCESS,
        ),
    ] = None
    root_path: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            help="Path prefix that a proxy removes, for example /geo.",
            rich_help_panel=ACCESS,
        ),
    ] = ""

    def access(self, body_seconds: float = 60.0) -> "Access":
        """Convert to the access control of a server.

        Args:
            body_seconds: Time limit for the body of a request, in seconds.
        """
        from gengeo_hf.serving.access import read_token
        from gengeo_hf.serving.server import Access

        token = read_token(self.access_token_file)
        return Access(tuple(self.allowed_host or ()), token, self.root_path.rstrip("/"), body_seconds)


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """How photos were taken, where it differs from what their files state."""

    fov: Annotated[
        float | None,
        typer.Option(
            help="Horizontal field of view in degrees, 360 for a panorama. Default: what the file states.",
            rich_help_panel=PHOTO,
        ),
    ] = None
    heading: Annotated[
        str,
        typer.Option(
            help="Panoramas: true heading of the centre column, degrees clockwise from north; exif: as the file "
            "states, else north; unknown: eight directions are tried.",
            rich_help_panel=PHOTO,
        ),
    ] = "exif"

    def view(self) -> "CameraView":
        """Convert to the camera of `GeoLocalizer`.

        Raises:
            UsageError: A value is outside its range.
        """
        from gengeo_hf.common.camera import parse_camera
        from gengeo_hf.common.errors import GenGeoError

        try:
            return parse_camera(self.fov, self.heading)
        except GenGeoError as error:
            raise console.UsageError(f"--fov, --heading: {error}") from None


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """A map of the answers, and its optional background map."""

    map_file: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="Write a map that works offline (HTML).", rich_help_panel=MAP),
    ] = None
    background: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Online map in the background, for example 'https://tiles.example.org/{z}/{x}/{y}.png'. A map that is "
            "opened as a file sends no Referer, so servers that require one (such as OpenStreetMap's) refuse it.",
            rich_help_panel=MAP,
        ),
    ] = ""
    background_attribution: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Attribution that the online map's licence requires.", rich_help_panel=MAP),
    ] = ""
    background_max_zoom: Annotated[
        int,
        typer.Option(min=0, max=24, help="Deepest zoom level of the online map's tiles.", rich_help_panel=MAP),
    ] = 19

    def background_map(self) -> "Background | None":
        """The background map; None without --background.

        Raises:
            UsageError: The URL is not a template, the attribution is missing, or no map is written.
        """
        from gengeo_hf.common.errors import GenGeoError
        from gengeo_hf.localization.maps import Background

        if not self.background:
            return None
        if self.map_file is None:
            raise console.UsageError("--background needs a map: give --map FILE")
        if not self.background_attribution:
            raise console.UsageError("--background needs --background-attribution: the text that its licence requires")
        try:
            return Background(self.background, self.background_attribution, self.background_max_zoom)
        except GenGeoError as error:
            raise console.UsageError(f"--background: {error}") from None


@dataclass(frozen=True, kw_only=True)
class AreaOptions:
    """An area, in the same notation for every command."""

    area: Annotated[
        Path | None, typer.Option(metavar="FILE.geojson", help="Polygons of a GeoJSON file.", rich_help_panel=WHERE)
    ] = None
    bounds: Annotated[
        str | None,
        typer.Option(
            metavar="W,S,E,N", help="A box in degrees; west > east crosses the date line.", rich_help_panel=WHERE
        ),
    ] = None
    near: Annotated[
        str | None,
        typer.Option(metavar="LAT,LON,RADIUS", help="A circle, for example 60.17,24.94,2km.", rich_help_panel=WHERE),
    ] = None

    def chosen(self) -> "Area | None":
        """The given area; None if there is none.

        Raises:
            UsageError: Several areas are given, or an area cannot be read.
        """
        from gengeo_hf.common.area import parse_area
        from gengeo_hf.common.errors import GenGeoError

        try:
            return parse_area(self.area, self.bounds, self.near)
        except GenGeoError as error:
            raise console.UsageError(str(error)) from None


def report_backend(encoder: Any) -> None:
    """Print on stderr which backend computes and why, if there was a choice."""
    if encoder.choice_reason:
        console.note(encoder.choice_reason)
