"""`gengeo app`: a page on which a photo is located."""

from pathlib import Path
from typing import Annotated

import typer

from gengeo_hf.cli import console
from gengeo_hf.cli.options import AccessOptions, Host, LocalizerOptions, report_backend
from gengeo_hf.cli.pose_options import PoseOptions
from gengeo_hf.cli.registry import LOCATE, gengeo


@gengeo.command(panel=LOCATE, environment=True)
def app(
    options: LocalizerOptions,
    pose: PoseOptions,
    sharing: AccessOptions,
    examples: Annotated[
        Path | None, typer.Option(help="Directory of photos that are offered to try; six are shown.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = False,
) -> None:
    """Show a page: drop a photo, see the places on a map. It works without internet, nothing leaves this machine.

    Every option can be set by an environment variable, too; the command line goes before it.

    **Example**

        gengeo app --index city.gengeo --model ./gengeo-cvusa --browser
    """
    from gengeo_hf.serving import require

    require("app", "show the page")
    from gengeo_hf.localization.photos import find_photos
    from gengeo_hf.serving.decoding import DecodingLimits
    from gengeo_hf.serving.locator import Locator
    from gengeo_hf.serving.page import show

    access = sharing.access()
    photos = find_photos([examples]) if examples is not None else []  # before the slow model
    locator = Locator.open(
        options.model,
        options.index,
        options.calibration,
        **options.computation,
        decoding=DecodingLimits(),
        pose=pose.settings(),
    )
    report_backend(locator.encoder)
    if locator.caveat:
        console.warning(locator.caveat)
    show(locator, host, port, browser, photos, access)
