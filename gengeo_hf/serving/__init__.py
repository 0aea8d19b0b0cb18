"""Answers over HTTP: a page for people (`gengeo app`) and a service for programs (`gengeo serve`).

Both ask one `Locator` (`locator.py`) and run on one server (`server.py`).
"""

from importlib.util import find_spec

from gengeo_hf.common.errors import MissingExtraError


def require(extra: str, purpose: str) -> None:
    """Check that an extra is installed, before a model is loaded for nothing.

    Args:
        extra: "serve" or "app".
        purpose: see `MissingExtraError`.

    Raises:
        MissingExtraError: it is not.
    """
    packages = {"serve": ("fastapi", "uvicorn", "python_multipart"), "app": ("gradio",)}
    for package in packages[extra]:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra, purpose)
