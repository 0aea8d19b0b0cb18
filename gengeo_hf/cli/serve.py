"""`gengeo serve`: locate photos over HTTP."""

from enum import StrEnum
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import AccessOptions, Host, LocalizerOptions, report_backend
from gengeo_hf.cli.pose_options import PoseOptions
from gengeo_hf.cli.registry import LOCATE, gengeo

LIMITS = "Limits"


class LogFormat(StrEnum):
    """Format of the log on stderr."""

    text = "text"
    json = "json"


@gengeo.command(panel=LOCATE, environment=True)
def serve(
    options: LocalizerOptions,
    pose: PoseOptions,
    sharing: AccessOptions,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            help="Largest number of requests in progress; further ones get 503 with Retry-After.",
            rich_help_panel=LIMITS,
        ),
    ] = 256,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Largest number of photos encoded at the same time.", rich_help_panel=LIMITS),
    ] = 8,
    time_limit: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds from a request's first byte to its answer.", rich_help_panel=LIMITS),
    ] = 60,
    max_megabytes: Annotated[float, typer.Option(min=0.01, help="Largest upload, in MB.", rich_help_panel=LIMITS)] = 20,
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, help="Largest photo, in millions of pixels.", rich_help_panel=LIMITS)
    ] = 50,
    log_format: Annotated[
        LogFormat,
        typer.Option(help="text: warnings and errors; json: one JSON object per line, also for each request."),
    ] = LogFormat.text,
) -> None:
    """Locate photos over HTTP: /locate, /encode, /health; /docs describes the requests.

    Every option can also be set by an environment variable; the command line overrides it.

    After the index was replaced, `kill -HUP PID` loads the new one without losing a request.

    **Examples**

        gengeo serve --index city.gengeo --model ./gengeo-cvusa --port 8000

        curl -F image=@photo.jpg 'http://127.0.0.1:8000/locate?top=3'
    """
    import os

    from gengeo_hf.serving import require

    require("serve", "serve over HTTP")
    from gengeo_hf.serving.decoding import DecodingLimits
    from gengeo_hf.serving.locator import Locator
    from gengeo_hf.serving.metrics import configure_logs
    from gengeo_hf.serving.queue import Limits
    from gengeo_hf.serving.service import serve as run

    configure_logs(log_format.value)
    access = sharing.access(time_limit)
    limits = Limits(queue, batch, time_limit, int(max_megabytes * 1e6))
    locator = Locator.open(
        options.model,
        options.index,
        options.calibration,
        **options.computation,
        batch_size=batch,
        max_pixels=int(max_megapixels * 1e6),
        decoding=DecodingLimits(),
        pose=pose.settings(),
    )
    report_backend(locator.encoder)
    if locator.caveat:
        console.warning(locator.caveat)

    def print_address(address: str) -> None:
        console.note(f"{address}/docs describes the requests; kill -HUP {os.getpid()} loads a new version of the index")

    run(locator, host, port, limits, print_address, access)
