"""Pictures that commands read and write."""

from pathlib import Path
from typing import Any

from gengeo_hf.cli import console
from gengeo_hf.common.errors import GenGeoError


def need_file(path: Path | None) -> None:
    """Refuse a path without a file, before the slow model is loaded; None is a file that was not asked for."""
    if path is not None and not path.is_file():
        raise GenGeoError(f"there is no image at {path}")


def check_picture(out: Path) -> None:
    """Make sure, before the work, that a picture can be written at its end.

    Raises:
        UsageError: another ending than .png or .jpg.
        GenGeoError: it cannot be written there.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise console.UsageError(f"--out {out}: the picture must end in .png or .jpg")
    console.check_writable(out)


def save_picture(picture: Any, out: Path) -> None:
    """Write a picture aside and rename it."""
    from gengeo_hf.common.files import atomic_file

    with atomic_file(out) as temporary:
        picture.save(temporary, quality=92)
