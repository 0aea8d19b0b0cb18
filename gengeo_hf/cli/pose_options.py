"""Options for position and heading inside a tile, shared by the commands that locate photos."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gengeo_hf.cli import console

if TYPE_CHECKING:
    from gengeo_hf.localization.pose import PoseSettings

POSE = "Position and heading"
SEARCH = "search"


@dataclass(frozen=True, kw_only=True)
class PoseOptions:
    """Whether and how poses inside tiles are found."""

    pose: Annotated[
        bool,
        typer.Option(
            "--pose",
            help="Find position, heading and radii inside the tile: with a head of the model (gengeo pose fit), else "
            "by search. `--pose search` always searches.",
            rich_help_panel=POSE,
        ),
    ] = False
    pose_method: Annotated[
        str,
        typer.Option(
            help="fitted (with a head), search (without a head), or auto: fitted if the model has a head.",
            rich_help_panel=POSE,
        ),
    ] = "auto"
    heading_prior: Annotated[
        str | None,
        typer.Option(
            help="Greatest error of the stated heading: known (no error), 45 or 180 degrees. Default: known for a "
            "stated true heading, 45 for a compass, 180 for none.",
            rich_help_panel=POSE,
        ),
    ] = None
    imagery: Annotated[
        str | None,
        typer.Option(
            help="Imagery that the index was made from, for tiles without stored pose features.", rich_help_panel=POSE
        ),
    ] = None

    def settings(self, method: str | None = None) -> "PoseSettings | None":
        """Convert to the settings of `GeoLocalizer`; None without --pose.

        Args:
            method: Method that overrides --pose-method; None uses --pose-method.

        Raises:
            UsageError: A value is unknown, or --pose is missing.
        """
        if not self.pose:
            if self.pose_method != "auto" or self.heading_prior is not None:
                raise console.UsageError("--pose-method and --heading-prior need --pose")
            return None
        from gengeo_hf.common.errors import GenGeoError
        from gengeo_hf.localization.pose import PoseSettings

        try:
            settings = PoseSettings(method or self.pose_method, self.heading_prior)
        except GenGeoError as error:
            raise console.UsageError(str(error)) from None
        if self.imagery is not None:
            from gengeo_hf.imagery import open_imagery

            settings.imagery = open_imagery(self.imagery)
        return settings


def method_among(photos: list[Path], pose: bool) -> tuple[list[Path], str | None]:
    """Remove the argument "search" of `--pose search` from the photos, among which it is because --pose is a flag.

    Args:
        photos: Positional arguments of the command.
        pose: Whether --pose is given.

    Returns:
        The photos, and "search" or None.
    """
    if not pose or Path(SEARCH) not in photos or Path(SEARCH).exists() or len(photos) < 2:
        return photos, None
    return [photo for photo in photos if photo != Path(SEARCH)], SEARCH
