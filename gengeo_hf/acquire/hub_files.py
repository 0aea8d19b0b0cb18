"""List of a data set's files on the Hub at one revision: sizes, checksums and the licence stated by its card."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import write_json
from gengeo_hf.common.transfer import with_retries

FORMAT = "gengeo-hub-files"


@dataclass(frozen=True)
class HubFile:
    """One file on the Hub.

    Args:
        size: Number of bytes.
        git_oid: Git object id of the content or, for a large file, of its LFS pointer.
        sha256: SHA-256 of a large file in hex; "" for a small one.
    """

    size: int
    git_oid: str
    sha256: str = ""

    @property
    def checksums(self) -> dict[str, str]:
        """Checksum as a keyword argument of `download`."""
        return {"sha256": self.sha256} if self.sha256 else {"git_oid": self.git_oid}


@dataclass(frozen=True)
class HubFiles:
    """All files of a data set.

    Args:
        repo_id: Name of the repository, `organisation/name`.
        revision: Commit.
        licence: Licence stated by the newest card, "" for none.
        files: Files by their paths.
    """

    repo_id: str
    revision: str
    licence: str
    files: Mapping[str, HubFile]

    def address(self, path: str) -> str:
        """HTTP address of a file."""
        from huggingface_hub import HfApi, hf_hub_url

        api = HfApi()
        return str(hf_hub_url(self.repo_id, path, repo_type="dataset", revision=self.revision, endpoint=api.endpoint))

    def save(self, path: Path) -> None:
        """Write the list as JSON, for later runs without a network."""
        values = {"format": FORMAT, "repo_id": self.repo_id, "revision": self.revision, "licence": self.licence}
        write_json(path, values | {"files": {name: asdict(file) for name, file in self.files.items()}})

    @classmethod
    def load(cls, path: Path) -> "HubFiles":
        """Read a list that `save` wrote.

        Raises:
            GenGeoError: The file is damaged.
        """
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError(values["format"])
            files = {
                str(name): HubFile(int(file["size"]), str(file["git_oid"]), str(file["sha256"]))
                for name, file in values["files"].items()
            }
            return cls(str(values["repo_id"]), str(values["revision"]), str(values["licence"]), files)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
            raise GenGeoError(
                f"{path} is damaged ({type(error).__name__}); remove it and run the command again"
            ) from error


def list_files(repo_id: str, revision: str) -> HubFiles:
    """Request the list of a data set's files from the Hub.

    Args:
        repo_id: Name of the repository, `organisation/name`.
        revision: Commit, branch or tag.

    Raises:
        GenGeoError: The data set or the revision does not exist, or the Hub refuses or does not respond.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()

    def request() -> HubFiles:
        try:
            info = api.dataset_info(repo_id, revision=revision)
        except RevisionNotFoundError as error:
            raise GenGeoError(
                f"{repo_id} no longer has the revision {revision[:12]}: --revision main takes the newest, whose files "
                "may have another layout"
            ) from error
        commit = str(info.sha)
        rows = [
            row
            for row in api.list_repo_tree(repo_id, repo_type="dataset", recursive=True, revision=commit)
            if isinstance(row, RepoFile)
        ]
        files = {row.path: HubFile(row.size, row.blob_id, row.lfs.sha256 if row.lfs else "") for row in rows}
        return HubFiles(repo_id, commit, _licence(api.dataset_info(repo_id)), files)

    return with_retries(request, repo_id)


def _licence(info: Any) -> str:
    """Licence stated by a card, "" for none."""
    card = info.card_data or {}
    stated = card.get("license")
    return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")


def authorisation() -> dict[str, str]:
    """HTTP header fields for downloads, with the user's stored token if there is one."""
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers())
