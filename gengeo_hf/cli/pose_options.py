"""Options about position and heading inside a tile, shared by the commands that take photos."""

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
    """Whether and how poses are found."""

    pose: Annotated[
        bool,
        typer.Option(
            "--pose",
            help="Give position, heading and radii inside the tile: by a head of the model (gengeo pose fit), else by "
            "search. `--pose search` searches in any case.",
            rich_help_panel=POSE,
        ),
    ] = False
    pose_method: Annotated[
        str, typer.Option(help="auto, fitted (a head) or search (no head).", rich_help_panel=POSE)
    ] = "auto"
    heading_prior: Annotated[
        str | None,
        typer.Option(
            help="How far the stated heading may be off: known, 45 or 180 degrees. Default: known for a stated or true "
            "heading, 45 for a compass, 180 for none.",
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
        """The same for `GeoLocalizer`; None without --pose.

        Args:
            method: goes before --pose-method.

        Raises:
            UsageError: a value that is not known.
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
    """Take the word of `--pose search` out of the list of photos, where it stands because --pose is a flag.

    Returns:
        The photos, and "search" or None.
    """
    if not pose or Path(SEARCH) not in photos or Path(SEARCH).exists() or len(photos) < 2:
        return photos, None
    return [photo for photo in photos if photo != Path(SEARCH)], SEARCH
