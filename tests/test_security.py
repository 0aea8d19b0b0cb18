"""Test that files cannot run code or name paths outside of their directory, and that secrets are not printed."""

import ast
import hashlib
import importlib.util
import inspect
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from tests.hub.hub_server import HubServer
from tests.hub.test_hub import run
from tests.stubs import ListSource, StubEncoder

ROOT = Path(__file__).resolve().parents[1]


class MaliciousObject:
    """Object whose unpickling creates the file `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "code-was-run"


@pytest.fixture(params=["plain", "torch", "numpy"])
def malicious_file(request, marker):
    """Content of a malicious file, for each format that contains a pickle."""
    if request.param == "plain":
        return pickle.dumps(MaliciousObject(marker))
    file = io.BytesIO()
    if request.param == "torch":
        torch.save({"state_dict": MaliciousObject(marker)}, file)
    else:
        np.save(file, np.array([MaliciousObject(marker)], dtype=object), allow_pickle=True)
    return file.getvalue()


def test_malicious_pickle_when_loaded_runs_its_code(malicious_file, marker):
    """Without this the tests below could pass with a harmless file."""
    file = io.BytesIO(malicious_file)
    if malicious_file.startswith(b"\x93NUMPY"):
        np.load(file, allow_pickle=True)
    elif zipfile.is_zipfile(io.BytesIO(malicious_file)):
        torch.load(file, weights_only=False)
    else:
        pickle.loads(malicious_file)
    assert marker.exists()


def assert_no_code_is_run(read, marker):
    """Assert that a reader raises an error of one line or ignores the file, and that no code of the file is run."""
    try:
        read()
    except GenGeoError as error:
        assert len(str(error).splitlines()) == 1
    assert not marker.exists(), "code of a file was run"


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w.pt", "w.bin", "w.safetensors"])
def test_convert_of_malicious_weights_raises_an_error(tmp_path, malicious_file, marker, name):
    from gengeo_hf.hub.convert import CONVERTERS, convert

    (tmp_path / name).write_bytes(malicious_file)
    for kind in CONVERTERS:
        with pytest.raises(GenGeoError, match="cannot be read"):
            convert(kind, tmp_path / name, tmp_path / "out")
    assert not marker.exists()


def test_index_with_a_malicious_file_raises_an_error(tmp_path, malicious_file, marker):
    """Also if the manifest has the checksum of the malicious file."""
    index = GeoIndex.build(StubEncoder(), ListSource(broken=[1]), tmp_path / "idx")
    index.remove(["noise-0"])
    manifest = json.loads((index.path / "manifest.json").read_text())
    segment = manifest["segments"][0]
    (index.path / segment["name"] / "scan-0.faiss").write_bytes(b"")
    segment["scan"] = {
        "factory": "",
        "files": ["scan-0.faiss"],
        "depth": 9,
        "samples": 9,
        "recall_at_1": 1,
        "recall_at_10": 1,
    }
    record_of_malicious_file = {"bytes": len(malicious_file), "sha256": hashlib.sha256(malicious_file).hexdigest()}
    for file in sorted(path for path in index.path.rglob("*") if path.is_file()):
        content = file.read_bytes()
        file.write_bytes(malicious_file)
        if file.name != "manifest.json":
            changed = json.loads(json.dumps(manifest))
            for part in (
                changed["segments"][0]["files"],
                {"": changed["segments"][0]["tombstones"]},
                {"": changed["left_out"]},
            ):
                for name, record in part.items():
                    if file.name in (name, record.get("file")):
                        record.update(record_of_malicious_file)
            if file.name != "scan-0.faiss":
                changed["segments"][0]["scan"] = None
            else:
                changed["segments"][0]["files"][file.name] = record_of_malicious_file
            (index.path / "manifest.json").write_text(json.dumps(changed))

        def read():
            loaded = GeoIndex.load(index.path)
            loaded.thumbnails(["noise-2"])
            assert not loaded.left_out.num_rows, "the malicious file was read"

        with pytest.raises(GenGeoError):
            read()
        file.write_bytes(content)
    assert not marker.exists()


def test_checkpoint_with_a_malicious_file_runs_no_code(tiny_checkpoint, malicious_file, marker):
    from gengeo_hf.encoding.encoder import Encoder

    names = [file.name for file in tiny_checkpoint.iterdir()]
    for name in [*names, "pytorch_model.bin", "gengeo_training.json"]:
        file = tiny_checkpoint / name
        content = file.read_bytes() if file.exists() else None
        file.write_bytes(malicious_file)
        if name == "pytorch_model.bin":
            (tiny_checkpoint / "model.safetensors").rename(tiny_checkpoint / "aside")
        assert_no_code_is_run(lambda: Encoder.from_pretrained(tiny_checkpoint, device="cpu"), marker)
        if name == "pytorch_model.bin":
            (tiny_checkpoint / "aside").rename(tiny_checkpoint / "model.safetensors")
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)


def test_checkpoint_with_python_files_does_not_run_them(tiny_checkpoint, marker):
    """`auto_map` is only for users who load a checkpoint with transformers and `trust_remote_code=True`."""
    from gengeo_hf.encoding.encoder import Encoder

    code = f"open({str(marker)!r}, 'w')\n"
    for name in ("configuration_gengeo", "modeling_gengeo", "image_processing_gengeo"):
        (tiny_checkpoint / f"{name}.py").write_text(code)
    for name, changes in (("config.json", {}), ("config.json", {"model_type": "evil"})):
        content = json.loads((tiny_checkpoint / name).read_text())
        classes = {"AutoConfig": "configuration_gengeo.Evil", "AutoModel": "modeling_gengeo.Evil"}
        (tiny_checkpoint / name).write_text(json.dumps(content | {"auto_map": classes} | changes))
        assert_no_code_is_run(lambda: Encoder.from_pretrained(tiny_checkpoint, device="cpu"), marker)


def test_malicious_results_calibrations_tables_and_imagery_raise_an_error(tmp_path, malicious_file, marker):
    from gengeo_hf.data.own import load_table
    from gengeo_hf.data.parquet import read_pairs
    from gengeo_hf.evaluation.results import FORMAT, Result
    from gengeo_hf.imagery import open_imagery
    from gengeo_hf.localization.confidence import Calibration

    for name in ("r.json", "c.json", "t.csv", "t.parquet", "m.mbtiles", "i.tif", "p.png"):
        (tmp_path / name).write_bytes(malicious_file)
    valid = {"format": FORMAT, "dataset": {}, "model": {}, "metrics": {}}
    (tmp_path / "s.json").write_text(json.dumps(valid))
    (tmp_path / "s.queries.parquet").write_bytes(malicious_file)
    for table in ("queries", "gallery"):
        (tmp_path / "pairs" / table).mkdir(parents=True)
        (tmp_path / "pairs" / table / "test-00000-of-00001.parquet").write_bytes(malicious_file)
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("dataset_info.json", "state.json", "data-00000-of-00001.arrow"):
        (saved / name).write_bytes(malicious_file)
    reads = [
        lambda: Result.load(tmp_path / "r.json"),
        lambda: Result.load(tmp_path / "s.json"),
        lambda: Calibration.load(tmp_path / "c.json"),
        lambda: read_pairs(tmp_path / "pairs", "test", cache_dir=tmp_path / "cache"),
        lambda: load_table(tmp_path / "t.csv", "all"),
        lambda: load_table(tmp_path / "t.parquet", "all"),
        lambda: open_imagery(saved),
    ]
    reads += [lambda name=name: open_imagery(tmp_path / name) for name in ("t.csv", "t.parquet", "m.mbtiles", "i.tif")]
    for read in reads:
        with pytest.raises(GenGeoError):
            read()
    assert not marker.exists()


def test_resume_with_a_malicious_state_file_starts_at_epoch_zero(tmp_path, malicious_file, marker, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.syspath_prepend(ROOT / "training")
    from gengeo_hf.training import checkpoint
    from gengeo_hf.training.settings import Settings, as_dict

    settings = as_dict(Settings(output=""))
    accelerator, model = Accelerator(cpu=True), torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = (["q"], ["t"])
    tables = {"geographic": np.zeros((1, 1), np.int32)}
    checkpoint.save(tmp_path, accelerator, model, optimizer, checkpoint.Progress(epoch=1), settings, tables, ids)
    (folder,) = tmp_path.glob("checkpoint-*")
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json", ".parquet"}
    state = json.loads((folder / "state.json").read_text())
    state.pop("sha256")  # who can write the malicious file can also change its checksum
    (folder / "state.json").write_text(json.dumps(state))
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        file.write_bytes(malicious_file)
        progress, _ = checkpoint.resume(tmp_path, accelerator, model, optimizer, settings, ids)
        assert progress.epoch == 0 and not marker.exists()
        file.write_bytes(content)


BANNED = {"eval", "exec", "system", "popen", "loads_pickle", "unsafe_load", "full_load", "save_state", "load_state"}


def calls(path):
    """(owner, function name, keyword arguments, line number) of each call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            yield owner, name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}, node.lineno


@pytest.mark.parametrize("package", ["gengeo_hf", "training"])
def test_source_code_has_no_call_that_can_run_code_of_a_file(package):
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not {"import pickle", "import joblib", "import dill", "import marshal"} & set(
            map(str.strip, text.splitlines())
        )
        for owner, name, keywords, line in calls(path):
            where = f"{path.relative_to(ROOT)}:{line}"
            assert not (name in BANNED and owner in ("", "os", "yaml", "accelerator")), where
            assert keywords.get("shell") != "True", where
            if (owner, name) == ("torch", "load"):
                assert keywords.get("weights_only") == "True", where
            if (owner, name) == ("np", "load"):
                assert keywords.get("allow_pickle") == "False", where
            if "trust_remote_code" in keywords:  # the Space and the endpoint load the code of their own repository
                assert keywords["trust_remote_code"] == "False" or "assets/hub" in path.as_posix(), where


def test_manifest_with_a_file_name_outside_the_index_raises_an_error(tmp_path):
    index = GeoIndex.build(StubEncoder(), ListSource(), tmp_path / "idx")
    manifest = json.loads((index.path / "manifest.json").read_text())
    for name in ("../secret.npy", str(tmp_path / "secret.npy"), "..", "a/b", ""):
        changed = json.loads(json.dumps(manifest))
        files = changed["segments"][0]["files"]
        files[name] = files["descriptors.npy"]
        (index.path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(GenGeoError, match="is not a file name"):
            GeoIndex.load(index.path)


def test_pull_of_file_names_outside_the_directory_raises_an_error(tmp_path):
    """The Hub server returns file names outside of the target directory."""
    hub = HubServer()
    try:
        outside = tmp_path / "work" / "in" / "out"
        outside.parent.mkdir(parents=True)
        names = ["../escaped.txt", "../../escaped.txt", f"{tmp_path}/escaped.txt", "a/../../escaped.txt"]
        for number, name in enumerate(names):
            files = {"config.json": b'{"model_type": "gengeo"}', name: b"x"}
            hub.repositories["model", f"someone/evil{number}"] = {"files": files, "commits": ["0" * 40]}
        code = f"""
import json
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.hub.repository import pull
messages = []
for number in range({len(names)}):
    try:
        pull(f"someone/evil{{number}}", {str(outside)!r} + str(number))
        messages.append("")
    except GenGeoError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""
        messages = run(code, hub, HF_HOME=str(tmp_path / "hf"))
    finally:
        hub.close()
    assert not list(tmp_path.rglob("escaped.txt"))
    assert all("outside" in message for message in messages), messages


def test_tile_table_with_a_path_of_a_local_image_raises_an_error(tmp_path):
    """A downloaded table must not name image files of this machine."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gengeo_hf.imagery import open_imagery

    (tmp_path / "pulled").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "private.png")
    cells = pa.array([{"bytes": None, "path": str(tmp_path / "private.png")}])
    table = pa.table({"tile_id": ["t"], "aerial": cells, "lat": [60.0], "lon": [24.0]})
    pq.write_table(table, tmp_path / "pulled" / "tiles.parquet")
    with pytest.raises(GenGeoError, match="names an image file outside"):
        open_imagery(tmp_path / "pulled" / "tiles.parquet").read(0)


def test_push_with_a_refused_token_does_not_print_or_write_the_token(tmp_path):
    index = GeoIndex.build(StubEncoder(), ListSource(), tmp_path / "idx")
    hub, secret = HubServer(), "hf_aVerySecretToken1234567890"
    try:
        settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": secret, "HF_HOME": str(tmp_path / "hf"), "PATH": "/bin"}
        settings |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "gengeo_hf.cli", "push", str(index.path), "someone/private"]
        result = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    finally:
        hub.close()
    assert result.returncode == 1 and "refused the token" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert secret not in result.stdout + result.stderr
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("qdrant:http://me:geheim@127.0.0.1:1/x?api_key=geheim#geheim", "qdrant:http://***@127.0.0.1:1/x"),
        ("milvus:https://geheim@host:19530", "milvus:https://***@host:19530"),
        ("milvus:http://host:19530", "milvus:http://host:19530"),
        ("milvus:./local.db", "milvus:./local.db"),
        ("qdrant::memory:", "qdrant::memory:"),
    ],
)
def test_store_address_with_a_password_is_shown_without_it(address, shown):
    from gengeo_hf.index.stores import address as addresses
    from gengeo_hf.index.stores.protocol import StoreIndex

    class UnreachableStore:
        def names(self):
            raise RuntimeError(f"no route to {address.partition(':')[2]}, key geheim")

    assert addresses.shown(address) == shown
    store = StoreIndex(UnreachableStore(), address)
    assert store.address == shown
    if "geheim" in address:
        with pytest.raises(GenGeoError) as caught:
            store.use("0" * 64)
        assert "geheim@" not in str(caught.value) and "api_key" not in str(caught.value)


def test_index_response_of_a_store_does_not_contain_its_address():
    pytest.importorskip("pydantic")
    from gengeo_hf.index.stores.protocol import StoreIndex
    from gengeo_hf.serving.schemas import IndexResponse

    response = IndexResponse.of(StoreIndex(object(), "qdrant:http://me:geheim@10.0.0.7:6333"))
    assert response.name == "qdrant"


def test_serve_and_app_listen_on_the_loopback_address_by_default():
    from gengeo_hf.cli.app import app
    from gengeo_hf.cli.serve import serve

    for command in (app, serve):
        assert inspect.signature(command).parameters["host"].default == "127.0.0.1"


def test_endpoint_with_a_postscript_file_raises_an_error(monkeypatch):
    """Pillow opens EPS files with Ghostscript, which must not process an upload."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "EPS")
    Image.init()
    monkeypatch.setattr(Image, "ID", [*Image.ID])  # the endpoint removes formats of Pillow for its whole process
    path = ROOT / "gengeo_hf" / "assets" / "hub" / "handler.py"
    spec = importlib.util.spec_from_file_location("endpoint_handler", path)
    handler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(handler)
    with pytest.raises(ValueError, match="not an image"):
        handler.read_image(file.getvalue())
    with pytest.raises(UnidentifiedImageError):  # also for other code in the process of the endpoint
        Image.open(file)


def test_map_of_an_index_with_html_in_its_texts_escapes_it(tmp_path):
    from gengeo_hf.localization.localizer import GeoLocalizer
    from gengeo_hf.localization.maps import answers_map

    source = ListSource(area="</script><script>alert(1)</script>", name="<img src=x onerror=alert(2)>")
    index = GeoIndex.build(StubEncoder(), source, tmp_path / "idx")
    source.images[3].save(tmp_path / "photo.png")
    answer = next(iter(GeoLocalizer(StubEncoder(), index).locate_many([tmp_path / "photo.png"])))
    page = answers_map([answer], index, "")
    assert "<script>alert(1)" not in page and "<img src=x" not in page
