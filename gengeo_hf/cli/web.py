"""Commands that answer in a browser or over HTTP: app, serve."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli.base import Backend, CalibrationFile, Device, Dtype, IndexOrStore, Model, app, tell_choice

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]


@app.command("app")
def page(
    index: IndexOrStore,
    model: Model,
    calibration: CalibrationFile = None,
    examples: Annotated[
        Path | None, typer.Option(help="Folder of photos that are offered to try; six are shown.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = False,
    device: Device = None,
    backend: Backend = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Show a page: drop a photo, see the places on a map. It works without internet, nothing leaves this machine.

    **Example:** `gengeo app --index city.gengeo --model ./gengeo-cvusa --browser`
    """
    from gengeo_hf.serving import require

    require("app", "show the page")
    from gengeo_hf.localization.photos import find_photos
    from gengeo_hf.serving.locator import Desk
    from gengeo_hf.serving.page import show

    photos = find_photos([examples]) if examples is not None else []  # before the slow model
    desk = Desk.open(model, index, calibration, device, backend, dtype)
    tell_choice(desk.encoder)
    show(desk, host, port, browser, photos)


@app.command()
def serve(
    index: IndexOrStore,
    model: Model,
    calibration: CalibrationFile = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests inside at the same time; beyond: 503, Retry-After.")
    ] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Photos that are decoded and encoded at the same time.")] = 8,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds from a request's first byte to its answer.")] = 60,
    max_megabytes: Annotated[float, typer.Option(min=0.01, help="Largest upload.")] = 20,
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Largest photo.")] = 50,
    device: Device = None,
    backend: Backend = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Answer photos over HTTP: /locate, /describe, /health, and what they take on /docs.

    **Example:** `gengeo serve --index city.gengeo --model ./gengeo-cvusa` and then
    `curl -F image=@photo.jpg 'http://127.0.0.1:8000/locate?top=3'`

    After the index was replaced, `kill -HUP PID` takes the new one without losing a request.
    """
    import os

    from gengeo_hf.serving import require

    require("serve", "answer over HTTP")
    from gengeo_hf.serving.locator import Desk
    from gengeo_hf.serving.queue import Limits
    from gengeo_hf.serving.service import serve as run

    limits = Limits(queue, batch, time_limit, int(max_megabytes * 1e6))
    options = {"batch_size": batch, "max_pixels": int(max_megapixels * 1e6)}
    desk = Desk.open(model, index, calibration, device, backend, dtype, **options)
    tell_choice(desk.encoder)
    if desk.caveat:
        typer.echo(f"caution: {desk.caveat}", err=True)

    def listening(address: str) -> None:
        typer.echo(f"{address}/docs tells how to ask; a new index is taken at: kill -HUP {os.getpid()}", err=True)

    run(desk, host, port, limits, listening)
