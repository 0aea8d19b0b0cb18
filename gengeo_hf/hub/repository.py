"""Push and pull of checkpoints, indexes and data sets; each upload is one commit, retried after network errors."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, check_replaceable, write_text
from gengeo_hf.common.transfer import check_repository_name, folder_files, upload, with_retries
from gengeo_hf.hub.export import export_folder
from gengeo_hf.index.card import NOT_STATED
from gengeo_hf.index.edit import check_output

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset
    from gengeo_hf.data.sources import DataSources

Kind = Literal["model", "index", "dataset"]
KINDS: tuple[Kind, ...] = ("model", "index", "dataset")
MANIFEST = "manifest.json"  # of an index
# Patterns of files of an earlier upload; those that are not uploaded again are deleted in the same commit.
MODEL_FILES = (
    "model*.safetensors*",
    "onnx/*",
    "onnx_int8/*",
    "openvino_int8/*",
    "pose/*/*",
    "pose/*/*/*",
    "results/*.json",
    ".eval_results/*.yaml",
    "examples/*",
    "gengeo_training.json",
)


def push(
    folder: str | Path, repository: str, *, private: bool = False, token: str | None = None, **options: Any
) -> str:
    """Publish a checkpoint or an index as one commit, which is retried after errors of the network or the Hub.

    Args:
        folder: Directory of a GenGeo checkpoint (for a model repository) or of an index (for a dataset repository).
        repository: Repository id, `organisation/name`; the repository is created if it does not exist.
        private: Whether a repository that is created is private.
        token: Access token of the Hub; None takes the environment variable HF_TOKEN or the stored token.
        options: Options of the export of a checkpoint, see `export_folder`.

    Returns:
        URL of the commit.

    Raises:
        GenGeoError: The directory is neither a checkpoint nor an index, or the Hub refuses the upload.
    """
    check_repository_name(repository)
    folder = Path(folder)
    access: dict[str, Any] = {"private": private, "token": token}
    if (folder / MANIFEST).is_file():
        if options:
            raise GenGeoError(f"{folder} is an index: {', '.join(options)} is only for checkpoints")
        from gengeo_hf.index import GeoIndex

        return GeoIndex.load(folder).push_to_hub(repository, **access)
    if not (folder / "config.json").is_file():
        raise GenGeoError(f"{folder} holds neither config.json (a checkpoint) nor {MANIFEST} (an index)")
    with tempfile.TemporaryDirectory() as temporary:
        ready = export_folder(folder, Path(temporary) / "model", repository=repository, **options)
        message = "Add the model, its code and card"
        return upload(folder_files(ready), repository, "model", message, replaces=MODEL_FILES, **access)


def push_dataset(
    data: "CrossViewDataset",
    repository: str,
    split: str,
    *,
    license: str | None = None,
    sources: Sequence["DataSources"] = (),
    private: bool = False,
    token: str | None = None,
) -> str:
    """Publish pairs as one commit: Parquet files with the bytes of the images, in two configs (`queries`, `gallery`).

    Args:
        data: Queries and gallery.
        repository: Repository id, `organisation/name`.
        split: Name of the split, for example "test". Other splits of the repository are kept.
        license: Identifier of the licence of the images; None states none.
        sources: Sources of the images, which are written to the card and, for a single source, to `SOURCES.json`.
        private: Whether a repository that is created is private.
        token: Access token of the Hub, see `push`.

    Returns:
        URL of the commit.

    Raises:
        GenGeoError: The name of the split is not valid, or the Hub refuses the upload.
    """
    from gengeo_hf.data.parquet import TABLES, write_pairs
    from gengeo_hf.data.sources import write_sources

    check_repository_name(repository)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pairs(data, folder, split)
        write_text(folder / "README.md", _dataset_card(data.name, repository, license, sources))
        if len(sources) == 1:
            write_sources(folder, sources[0])
        stale = [f"{table}/{split}-*.parquet" for table in TABLES]
        return upload(
            folder_files(folder),
            repository,
            "dataset",
            f"Add {data.name}",
            replaces=stale,
            private=private,
            token=token,
        )


def pull(
    repository: str,
    out: str | Path,
    *,
    kind: Kind | None = None,
    revision: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
) -> Kind:
    """Download a checkpoint, an index or a data set to a directory, which is written completely or not at all.

    Args:
        repository: Repository id, `organisation/name`.
        out: Directory to write.
        kind: "model", "index" or "dataset"; None detects it. Needed if a model and a data set have the same id.
        revision: Branch, tag or commit; None takes the main branch.
        token: Access token of the Hub, see `push`.
        overwrite: Whether to replace the result of an earlier pull of the same kind.

    Returns:
        The kind. Load a data set with `load_pairs("parquet", root=out, split=...)`.

    Raises:
        GenGeoError: The repository is missing or damaged, `out` has other contents, or `out` is the result of an
            earlier pull and `overwrite` is False.
    """
    if kind is not None and kind not in KINDS:
        raise GenGeoError(f"unknown kind {kind!r}: expected {', '.join(KINDS)}")
    check_repository_name(repository)
    kind = kind or _kind_of(repository, revision, token)
    if kind == "index":  # its manifest lists its files, also after edits
        check_output(out, overwrite, whole=True)
    else:
        check_replaceable(out, kind, overwrite)
    with atomic_folder(out, None if kind == "index" else kind) as folder:
        _download(repository, folder, "model" if kind == "model" else "dataset", revision, token)
        _CHECKS[kind](repository, folder)
    return kind


def _kind_of(repository: str, revision: str | None, token: str | None) -> Kind:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    found = [
        repo_type
        for repo_type in ("model", "dataset")
        if with_retries(partial(api.repo_exists, repository, repo_type=repo_type), repository)
    ]
    if not found:
        raise GenGeoError(f"the Hub has no {repository} that you can see: check the name and your token")
    if len(found) > 1:
        raise GenGeoError(f"{repository} is a model and a dataset: choose one with --kind")
    if found == ["model"]:
        return "model"
    files = with_retries(lambda: api.list_repo_files(repository, repo_type="dataset", revision=revision), repository)
    return "index" if MANIFEST in files else "dataset"


def _check_model(repository: str, folder: Path) -> None:
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GenGeoError(f"{repository} holds no checkpoint: config.json is missing or has no model_type") from error
    if model_type != "gengeo":
        raise GenGeoError(f"{repository} holds a {model_type!r} model, not a GenGeo checkpoint")


def _check_index(repository: str, folder: Path) -> None:
    from gengeo_hf.index import GeoIndex

    if not (folder / MANIFEST).is_file():
        raise GenGeoError(f"{repository} holds no index: {MANIFEST} is missing")
    GeoIndex.load(folder, verify=True)


def _check_dataset(repository: str, folder: Path) -> None:
    from gengeo_hf.data.parquet import TABLES

    for table in TABLES:
        if not any((folder / table).glob("*.parquet")):
            raise GenGeoError(f"{repository} holds no pairs: there are no Parquet files under {table}/")


_CHECKS: dict[Kind, Callable[[str, Path], None]] = {
    "model": _check_model,
    "index": _check_index,
    "dataset": _check_dataset,
}


def _download(repository: str, folder: Path, repo_type: str, revision: str | None, token: str | None) -> None:
    """Download all files of a repository to an empty directory.

    Raises:
        GenGeoError: The name of a file points outside the directory.
    """
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi(token=token)
    names = with_retries(lambda: api.list_repo_files(repository, repo_type=repo_type, revision=revision), repository)
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise GenGeoError(f"{repository} holds {name!r}, a name outside the directory; nothing was downloaded")
    with_retries(
        lambda: snapshot_download(repository, repo_type=repo_type, revision=revision, local_dir=folder, token=token),
        repository,
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # state of the download


def _dataset_card(name: str, repository: str, license: str | None, sources: Sequence["DataSources"]) -> str:
    configs = "".join(f"- config_name: {table}\n  data_dir: {table}\n" for table in ("queries", "gallery"))
    title, terms = repository.rpartition("/")[2], f"license: {license or 'other'}\n"
    stated = license or ("see below" if sources else NOT_STATED)
    lines = [f"- {line}" for one in sources for line in one.summary().splitlines()]
    return (
        f"---\n{terms}configs:\n{configs}tags:\n- geo-localization\n- cross-view\n---\n\n# {title}\n\n"
        f"Ground photos (`queries`) and aerial tiles (`gallery`) of {name}; a query names its tile by `positive`.\n"
        f"`gengeo pull {repository} pairs` downloads them.\n\nLicence of the images: {stated}.\n"
        + ("\n".join(["", *lines, ""]) if lines else "")
    )
