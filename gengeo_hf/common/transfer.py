"""Requests to the Hub: retries after temporary errors, one-line messages for refusals, and uploads."""

import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import OUTPUT_RECORD

T = TypeVar("T")
ATTEMPTS = 5


def with_retries(action: Callable[[], T], repository: str, pause: float = 1.0) -> T:
    """Run a request to the Hub, and retry it after network errors, 429 and 5xx with exponential backoff.

    Args:
        action: Request, called up to `ATTEMPTS` times.
        repository: Name of the repository in messages.
        pause: Seconds before the second attempt; doubled for each further one.

    Returns:
        The result of `action`.

    Raises:
        GenGeoError: The Hub refuses the token or the name, HF_HUB_OFFLINE is set, or all attempts failed.
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
        # LocalEntryNotFoundError: raised by snapshot_download for a network error without a cached copy.
        except (LocalEntryNotFoundError, httpx.TransportError, ConnectionError, TimeoutError) as error:
            if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
                raise GenGeoError(f"{repository}: the Hub is disabled by HF_HUB_OFFLINE: unset the variable") from error
            problem = error
        if attempt < ATTEMPTS:
            time.sleep(pause * 2 ** (attempt - 1))
    raise GenGeoError(f"no exchange with the Hub about {repository} in {ATTEMPTS} attempts: {first_line(problem)}")


def _refusal(repository: str, status: int, error: Exception) -> str:
    """Return the message of a refusal: its meaning, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    # Without a token, the Hub answers 401 for a repository that does not exist.
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
    """Return the first line of an error message, and further lines after a trailing colon; its type if it is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    end = next((row for row, line in enumerate(lines) if not line.endswith(":")), len(lines))
    return " ".join(lines[: end + 1]) or type(error).__name__


def refuse_missing_folder(option: str, name: str) -> None:
    """Refuse a path that does not exist and cannot be a Hub id, for which the Hub would only complain about the form.

    Args:
        option: Option that the user set, for the message.
        name: Directory or Hub id.

    Raises:
        GenGeoError: The directory does not exist, and `name` is not of the form `name` or `organisation/name`.
    """
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1):
        raise GenGeoError(f"{option}: there is no directory {name}")


def check_repository_name(repository: str) -> None:
    """Refuse a repository name that the Hub would refuse, before any work is done.

    Raises:
        GenGeoError: The name is not of the form `organisation/name`.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise GenGeoError(f"{repository!r} cannot be the name of a repository: {first_line(error)}") from error
    if repository.count("/") != 1:
        raise GenGeoError(f"{repository!r} cannot be the name of a repository: expected organisation/name")


def folder_files(folder: Path) -> dict[str, Path]:
    """Return the files of a directory by relative path, without `OUTPUT_RECORD`."""
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
    """Upload files as one commit; the repository is created if it does not exist.

    Args:
        files: Content, or path of a local file, by path in the repository.
        repository: Repository as `organisation/name`.
        kind: Type of the repository, "model" or "dataset".
        message: Commit message.
        replaces: Patterns of files that the commit deletes if they are not in `files`, so that parts of an earlier,
            larger upload do not remain.
        private: Whether a new repository is private.
        token: Token of the Hub; None uses the stored token or the variable HF_TOKEN.

    Returns:
        URL of the commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)

    def commit() -> str:
        present = api.list_repo_files(repository, repo_type=kind)
        stale = [name for name in present if name not in files and any(_fits(name, p) for p in replaces)]
        # New operations for each attempt: an operation remembers what it has already sent.
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations: list[Any] = [*additions, *(CommitOperationDelete(name) for name in stale)]
        info = api.create_commit(repository, operations=operations, commit_message=message, repo_type=kind)
        return str(info.commit_url)

    with_retries(lambda: api.create_repo(repository, repo_type=kind, private=private, exist_ok=True), repository)
    return with_retries(commit, repository)


def _fits(name: str, pattern: str) -> bool:
    """Whether a path matches a pattern whose wildcards do not match directory separators."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)
