"""`gengeo app`: serve a web page that locates photos."""

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
        Path | None, typer.Option(help="Directory of example photos; the first six are shown. Default: none.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = False,
) -> None:
    """Serve a web page that locates photos on a map. It works without internet, and photos stay on this machine.

    Every option can also be set by an environment variable; the command line overrides it.

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
    photos = find_photos([examples]) if examples is not None else []  # before the model is loaded
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
