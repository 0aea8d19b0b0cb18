"""Checks and output of image files of commands."""

from pathlib import Path
from typing import Any

from gengeo_hf.cli import console
from gengeo_hf.common.errors import GenGeoError


def require_file(path: Path | None) -> None:
    """Check that a file exists, before the model is loaded; None is no file.

    Raises:
        GenGeoError: The file does not exist.
    """
    if path is not None and not path.is_file():
        raise GenGeoError(f"there is no image at {path}")


def check_picture(out: Path) -> None:
    """Check that a picture can be written, before it is drawn.

    Raises:
        UsageError: The name does not end in .png or .jpg.
        GenGeoError: The file cannot be written.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise console.UsageError(f"--out {out}: the picture must end in .png or .jpg")
    console.check_writable(out)


def save_picture(picture: Any, out: Path) -> None:
    """Write a picture, completely or not at all."""
    from gengeo_hf.common.files import atomic_file

    with atomic_file(out) as temporary:
        picture.save(temporary, quality=92)
