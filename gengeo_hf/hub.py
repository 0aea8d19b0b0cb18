"""Publishing: checkpoints with their code and card, indexes, datasets, a Space. And fetching them again.

Before: folders on this machine. After: repositories on the Hub, each upload one commit; or the other way round.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gengeo_hf.card import ASSETS, TRAINING_RECORD, model_card, read_record, read_results
from gengeo_hf.errors import GenGeoError
from gengeo_hf.files import atomic_folder, write_json, write_text

if TYPE_CHECKING:
    from gengeo_hf.data import CrossViewDataset
    from gengeo_hf.places import GeoIndex

T = TypeVar("T")
ATTEMPTS = 5
INDEX_FILES = ("manifest.json", "*.npy", "*.parquet", "*.faiss")
ROWS_IN_FILE = 2000  # of a dataset's Parquet files: some hundred MB of images
SPACE_SDK = "6.31.0"


def export_folder(
    checkpoint: str | Path,
    out: str | Path,
    *,
    results: Sequence[str | Path] = (),
    examples: Sequence[str | Path] = (),
    license: str = "apache-2.0",
    repository: str | None = None,
) -> Path:
    """Write a folder that loads without this package (`trust_remote_code=True`), with card and endpoint handler.

    Args:
        checkpoint: folder or Hub id of a GenGeo model.
        out: folder to write; it appears whole or not at all.
        results: JSON files of training/evaluate.py, shown in the card and copied to `results/`.
        examples: images for the widget, copied to `examples/`.
        license: identifier of the licence.
        repository: what the card tells users to load; default: the name of the folder.

    Raises:
        GenGeoError: the checkpoint is no GenGeo, or a result was made by another model.
    """
    from gengeo_hf.encoder import Encoder

    encoder = Encoder.from_pretrained(checkpoint, device="cpu")
    model, processor = encoder.model, encoder.processor
    summaries = read_results(results)
    _check_results(summaries, processor, encoder.fingerprint)
    repository = repository or f"./{Path(out).name}"
    with atomic_folder(out) as folder:
        with _travelling_code():
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        record = encoder.training_record or read_record(Path(checkpoint))
        if record:
            write_json(folder / TRAINING_RECORD, record)
        for number, (path, summary) in enumerate(zip(results, summaries, strict=True)):
            write_json(folder / "results" / f"{number}-{Path(path).stem}.json", summary)
        for path in examples:
            (folder / "examples").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "examples" / Path(path).name)
        shutil.copyfile(ASSETS / "handler.py", folder / "handler.py")
        write_text(folder / "requirements.txt", "torch>=2.13\ntransformers>=5.23\npillow\n")
        base = f"https://huggingface.co/{repository}/resolve/main/examples"
        card = model_card(
            model,
            processor,
            name=repository.rpartition("/")[2],
            repository=repository,
            record=record,
            results=summaries,
            license=license,
            examples=[f"{base}/{Path(path).name}" for path in examples],
        )
        write_text(folder / "README.md", card)
    return Path(out)


@contextlib.contextmanager
def _travelling_code() -> Iterator[None]:
    """Inside, `save_pretrained` writes our model files beside the weights. Training checkpoints stay without."""
    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    classes: dict[Any, str] = {
        GenGeoConfig: "AutoConfig",
        GenGeoModel: "AutoModel",
        GenGeoImageProcessor: "AutoImageProcessor",
    }
    for kind, auto_class in classes.items():
        kind.register_for_auto_class(auto_class)
    try:
        yield
    finally:
        for kind in classes:
            kind._auto_class = None


def _check_results(summaries: Sequence[dict[str, Any]], processor: Any, fingerprint: str) -> None:
    """Refuse numbers of another model. At other image sizes the fingerprint says nothing about the weights."""
    for summary in summaries:
        stated = summary.get("model", {}).get("fingerprint")
        same_sizes = summary.get("settings", {}).get("view_sizes", processor.view_sizes) == processor.view_sizes
        if stated and same_sizes and stated != fingerprint:
            raise GenGeoError(
                f"the result on {summary['dataset']['name']} was made with another model ({stated[:12]}, "
                f"this one is {fingerprint[:12]}): evaluate this checkpoint, or leave the result out"
            )


def push(
    folder: str | Path, repository: str, *, private: bool = False, token: str | None = None, **options: Any
) -> str:
    """Publish a checkpoint or an index: one commit, tried again when the network or the Hub fails.

    Args:
        folder: a GenGeo checkpoint (becomes a model repository) or an index (becomes a dataset repository).
        repository: `organisation/name`; it is made if it does not exist.
        private: of a repository that is made.
        token: of the Hub; None takes the stored one.
        options: of a checkpoint, see `export_folder`.

    Returns:
        The address of the commit.

    Raises:
        GenGeoError: the folder is neither, or the Hub refuses.
    """
    folder = Path(folder)
    if (folder / "manifest.json").is_file():
        from gengeo_hf.places import GeoIndex

        card = _index_card(repository, GeoIndex.load(folder))
        files = [path for pattern in INDEX_FILES for path in sorted(folder.glob(pattern))]
        content: dict[str, Path | bytes] = {"README.md": card.encode(), **{path.name: path for path in files}}
        return upload(content, repository, "dataset", "Add the index", private=private, token=token)
    if not (folder / "config.json").is_file():
        raise GenGeoError(f"{folder} holds neither config.json (a checkpoint) nor manifest.json (an index)")
    with tempfile.TemporaryDirectory() as temporary:
        ready = export_folder(folder, Path(temporary) / "model", repository=repository, **options)
        return upload(
            folder_files(ready), repository, "model", "Add the model, its code and card", private=private, token=token
        )


def folder_files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path inside it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def upload(
    files: Mapping[str, Path | bytes],
    repository: str,
    kind: str,
    message: str,
    *,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Send files as one commit to a repository, which is made if needed. Returns the commit's address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)

    def commit() -> str:
        # Made anew for each attempt: an operation remembers what it has already sent.
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        info = api.create_commit(repository, operations=operations, commit_message=message, repo_type=kind)
        return str(info.commit_url)

    retried(lambda: api.create_repo(repository, repo_type=kind, private=private, exist_ok=True), repository)
    return retried(commit, repository)


def retried(action: Callable[[], T], repository: str, pause: float = 1.0) -> T:
    """Run an exchange with the Hub; try again after network errors, 429 and 5xx, waiting twice as long each time.

    Raises:
        GenGeoError: the Hub refuses the token or the name, or does not answer at last.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (LocalTokenNotFoundError, HFValidationError) as error:
            raise GenGeoError(f"{repository}: {str(error).splitlines()[0]}") from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise GenGeoError(
                    f"the Hub refused the token for {repository} ({status}): log in with `hf auth login`, with a token "
                    "that may write there"
                ) from error
            if status == 404:
                raise GenGeoError(f"the Hub has no {repository} that you can see: check the name") from error
            if status != 429 and status < 500:
                raise GenGeoError(f"the Hub refused {repository} ({status}): {str(error).splitlines()[0]}") from error
            problem: Exception = error
        except _network_errors() as error:
            problem = error
        if attempt < ATTEMPTS:
            time.sleep(pause * 2 ** (attempt - 1))
    reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    raise GenGeoError(f"the Hub did not take {repository} in {ATTEMPTS} attempts: {reason}") from problem


def _network_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    return (httpx.TransportError, ConnectionError, TimeoutError, OfflineModeIsEnabled)


def pull_index(repository: str, out: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Fetch an index and check every byte of it against its manifest.

    Raises:
        GenGeoError: the repository is missing or holds no sound index; then nothing is written.
    """
    from gengeo_hf.places import GeoIndex

    with atomic_folder(out) as folder:
        _download(repository, folder, list(INDEX_FILES), revision, token)
        if not (folder / "manifest.json").is_file():
            raise GenGeoError(f"{repository} holds no index: manifest.json is missing")
        GeoIndex.load(folder, verify=True)
    return Path(out)


def _download(repository: str, folder: Path, patterns: list[str], revision: str | None, token: str | None) -> None:
    """Fetch files of a dataset repository into a folder."""
    from huggingface_hub import snapshot_download

    retried(
        lambda: snapshot_download(
            repository, repo_type="dataset", revision=revision, local_dir=folder, allow_patterns=patterns, token=token
        ),
        repository,
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # book-keeping of the download


def push_dataset(
    data: "CrossViewDataset", repository: str, split: str, *, private: bool = False, token: str | None = None
) -> str:
    """Publish pairs: Parquet files with the image bytes inside, two configs (`queries`, `gallery`), one commit.

    Args:
        data: both tables.
        repository: `organisation/name`.
        split: name of the split, for example "test". Other splits in the repository stay.
        private: of a repository that is made.
        token: of the Hub; None takes the stored one.

    Raises:
        GenGeoError: the Hub refuses.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, table in (("queries", data.queries), ("gallery", data.gallery)):
            _write_parquet(table, folder / name, split)
        write_text(folder / "README.md", _dataset_card(data.name, repository))
        return upload(folder_files(folder), repository, "dataset", f"Add {data.name}", private=private, token=token)


def _write_parquet(table: Any, folder: Path, split: str) -> None:
    from datasets.table import embed_table_storage

    folder.mkdir(parents=True)
    count = -(-len(table) // ROWS_IN_FILE)
    for number in range(count):
        rows = range(number * ROWS_IN_FILE, min(len(table), (number + 1) * ROWS_IN_FILE))
        part = table.select(rows)
        # Parquet files would otherwise hold paths of this machine.
        part = part.with_format("arrow").map(embed_table_storage, batched=True, batch_size=100)
        part.with_format(None).to_parquet(folder / f"{split}-{number:05d}-of-{count:05d}.parquet")


def pull_dataset(
    repository: str,
    split: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> "CrossViewDataset":
    """Fetch pairs that `push_dataset` published.

    Raises:
        GenGeoError: the repository or the split is missing, or the tables do not fit the schema.
    """
    import datasets
    from huggingface_hub import snapshot_download

    from gengeo_hf.data.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset

    options: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "token": token, "cache_dir": cache_dir}
    patterns = [f"{name}/{split}-*.parquet" for name in ("queries", "gallery")]
    folder = retried(lambda: snapshot_download(repository, allow_patterns=patterns, **options), repository)
    tables = []
    for name, features in (("queries", QUERY_FEATURES), ("gallery", GALLERY_FEATURES)):
        files = sorted(str(path) for path in (Path(folder) / name).glob(f"{split}-*.parquet"))
        if not files:
            raise GenGeoError(f"{repository} has no {name} of the split {split!r}")
        tables.append(datasets.Dataset.from_parquet(files, features=features, cache_dir=cache_dir))
    return CrossViewDataset(f"{repository}/{split}", *tables).validate()


def write_space(out: str | Path, model: str, index: str | None = None) -> Path:
    """Write a Gradio Space that needs nothing of this package.

    Args:
        out: folder to write.
        model: Hub id of a published GenGeo.
        index: Hub id of a published index, or None to rank images that the visitor uploads.
    """
    from huggingface_hub import SpaceCard, SpaceCardData

    with atomic_folder(out) as folder:
        for name in ("app.py", "requirements.txt"):
            shutil.copyfile(ASSETS / "space" / name, folder / name)
        write_json(folder / "space.json", {"model": model, "index": index})
        data = SpaceCardData(
            title="GenGeo",
            sdk="gradio",
            sdk_version=SPACE_SDK,
            python_version="3.11",
            app_file="app.py",
            license="apache-2.0",
            models=[model],
            datasets=[index] if index else None,
        )
        card = SpaceCard(f"---\n{data.to_yaml()}\n---\n\nWhich aerial image shows the place of a photo? See {model}.\n")
        write_text(folder / "README.md", str(card))
    return Path(out)


def _index_card(repository: str, index: "GeoIndex") -> str:
    title, fingerprint = repository.rpartition("/")[2], index.manifest["model"]["fingerprint"]
    return (
        f"---\ntags:\n- geo-localization\n- gengeo-index\n---\n\n# {title}\n\n"
        f"An index of {len(index)} geo-tagged aerial tiles for `gengeo locate`, fetched by "
        f"`gengeo pull {repository} city.gengeo`. Fingerprint of the model that made it: `{fingerprint}`.\n"
    )


def _dataset_card(name: str, repository: str) -> str:
    configs = "".join(f"- config_name: {table}\n  data_dir: {table}\n" for table in ("queries", "gallery"))
    title = repository.rpartition("/")[2]
    return (
        f"---\nconfigs:\n{configs}tags:\n- geo-localization\n- cross-view\n---\n\n# {title}\n\n"
        f"Ground photos (`queries`) and aerial tiles (`gallery`) of {name}; a query names its tile by `positive`.\n"
    )
