"""Exchanges with the Hub: tried again where that can help, refused in one line where it cannot."""

import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import OUTPUT_RECORD

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
    """What an error says first, with what follows a colon at the end of a line; its name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    end = next((row for row, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[: end + 1]) or type(error).__name__


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


def check_repository_name(repository: str) -> None:
    """Refuse what the Hub would refuse, before any work is done for it.

    Raises:
        GenGeoError: The name is not `organisation/name`.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise GenGeoError(f"{repository!r} cannot be the name of a repository: {first_line(error)}") from error
    if repository.count("/") != 1:
        raise GenGeoError(f"{repository!r} cannot be the name of a repository: expected organisation/name")


def folder_files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path inside it, without the local record of who wrote it."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != OUTPUT_RECORD}


def upload(
    files: Mapping[str, Path | bytes],
    repository: str,
    kind: str,
    message: str,
    *,
    replaces: Sequence[str] = (),
    private: bool = False,
    token: str | None = None,
) -> str:
    """Send files as one commit to a repository, which is made if needed.

    Args:
        files: content by path in the repository.
        repository: `organisation/name`.
        kind: "model" or "dataset".
        message: of the commit.
        replaces: patterns of files that the same commit removes where `files` does not hold them: a part of an
            earlier, larger upload must not be taken for a part of this one.
        private: of a repository that is made.
        token: of the Hub; None takes the stored one, or that of the variable HF_TOKEN.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)

    def commit() -> str:
        present = api.list_repo_files(repository, repo_type=kind)
        stale = [name for name in present if name not in files and any(_fits(name, p) for p in replaces)]
        # Made anew for each attempt: an operation remembers what it has already sent.
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations: list[Any] = [*additions, *(CommitOperationDelete(name) for name in stale)]
        info = api.create_commit(repository, operations=operations, commit_message=message, repo_type=kind)
        return str(info.commit_url)

    retried(lambda: api.create_repo(repository, repo_type=kind, private=private, exist_ok=True), repository)
    return retried(commit, repository)


def _fits(name: str, pattern: str) -> bool:
    """Whether a path fits a pattern whose stars do not reach into folders."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)
