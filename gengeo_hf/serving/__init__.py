"""Localisation over HTTP: a web page (`gengeo app`) and a service for programs (`gengeo serve`).

Both use one `Locator` (`locator.py`) and one HTTP server (`server.py`).
"""

from importlib.util import find_spec

from gengeo_hf.common.errors import MissingExtraError


def require(extra: str, purpose: str) -> None:
    """Check that the packages of an extra are installed, before a model is loaded.

    Args:
        extra: Name of the extra, "serve" or "app".
        purpose: What the packages are needed to do, such as "show the page"; a part of the message.

    Raises:
        MissingExtraError: A package of the extra is not installed.
    """
    packages = {"serve": ("fastapi", "uvicorn", "python_multipart"), "app": ("gradio",)}
    for package in packages[extra]:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra, purpose)
