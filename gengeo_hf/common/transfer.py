"""One exchange with the Hub: tried again where that can help, refused in one line where it cannot.

Before: a call of huggingface_hub. After: its result, for `hub` and for whatever else fetches.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gengeo_hf.common.errors import GenGeoError

T = TypeVar("T")
ATTEMPTS = 5


def retried(action: Callable[[], T], repository: str, pause: float = 1.0) -> T:
    """Run an exchange with the Hub; try again after network errors, 429 and 5xx, waiting twice as long each time.

    Raises:
        GenGeoError: the Hub refuses the token or the name, is switched off here, or does not answer at last.
    """
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.utils import httpx

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (LocalTokenNotFoundError, HFValidationError) as error:
            raise GenGeoError(f"{repository}: {first_line(error)}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status != 429 and status < 500:
                raise GenGeoError(_refusal(repository, status, error)) from error
            problem: Exception = error
        # What snapshot_download makes of a network error when it has no older copy.
        except (LocalEntryNotFoundError, httpx.TransportError, ConnectionError, TimeoutError) as error:
            if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
                raise GenGeoError(f"{repository}: the Hub is switched off here (HF_HUB_OFFLINE)") from error
            problem = error
        if attempt < ATTEMPTS:
            time.sleep(pause * 2 ** (attempt - 1))
    raise GenGeoError(f"no exchange with the Hub about {repository} in {ATTEMPTS} attempts: {first_line(problem)}")


def _refusal(repository: str, status: int, error: Exception) -> str:
    """What a refusal means, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    # To whoever gives no token the Hub answers 401 for a name that it does not have.
    unknown = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
    if unknown or status == 404:
        return f"the Hub has no {repository}, or not that revision, that you can see: check the name and your token"
    if status in (401, 403):
        return (
            f"the Hub refused the token for {repository} ({status}): log in with `hf auth login`, or set HF_TOKEN, "
            "with a token that has the rights for it"
        )
    reason = getattr(error, "server_message", None) or first_line(error)
    return f"the Hub refused {repository} ({status}): {reason:.300}"


def first_line(error: Exception) -> str:
    """What an error says first; its name where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def refuse_missing_folder(option: str, name: str) -> None:
    """Refuse what can only be a directory and is not there: the Hub's own message is about the form of its ids.

    Args:
        option: What the user gave it by, for the message.
        name: Directory or Hub id.

    Raises:
        GenGeoError: There is no such directory, and a Hub id (`name` or `organisation/name`) does not look so.
    """
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1):
        raise GenGeoError(f"{option}: there is no directory {name}")
