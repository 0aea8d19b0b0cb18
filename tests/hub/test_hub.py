"""Export, push and pull, with a Hub server on the loopback address.

The address of the Hub is read at import, so clients run in other processes. The tests share one Hub and one client,
because importing the libraries takes longer than the tests; each test uses its own repository names.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import folder_files, with_retries
from gengeo_hf.hub.card import ASSETS, model_card
from gengeo_hf.hub.export import export_folder, write_space
from tests.hub.hub_server import TOKEN, HubServer

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_PACKAGE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "gengeo_hf":
            raise ImportError("this process must not use the package")
sys.meta_path.insert(0, Refuse())
"""


def hub_environment(hub, **environment):
    """Environment variables of a process that uses this Hub."""
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return os.environ | settings | {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **environment}


def run(code, hub, **environment):
    """Run Python code in a new process; gives its last line of output, decoded from JSON."""
    settings = hub_environment(hub, **environment)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


# One JSON order per line. Answers have their own pipe, which other output of libraries does not reach.
CLIENT = """
import contextlib, io, json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
token = os.environ["HF_TOKEN"]
for line in sys.stdin:
    order = json.loads(line)
    os.chdir(order["cwd"])
    os.environ["HF_TOKEN"] = token
    output, failure = io.StringIO(), ""
    with contextlib.redirect_stdout(output):
        try:
            exec(order["code"], {"__name__": "__main__"})
        except BaseException:
            failure = traceback.format_exc()
    print(json.dumps([output.getvalue(), failure]), file=answers, flush=True)
"""


@pytest.fixture(scope="module")
def hub():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """Run Python code in a directory, in one process for all tests; gives its last line of output, from JSON."""
    settings = hub_environment(hub, HF_HOME=str(tmp_path_factory.mktemp("hf")), PYTHONPATH=str(ROOT))
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings
    ) as process:

        def order(code, cwd):
            print(json.dumps({"code": code, "cwd": str(cwd)}), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, f"the client ended with status {process.wait()}"
            output, failure = json.loads(answer)
            assert not failure, failure[-3000:]
            return json.loads(output.splitlines()[-1])

        yield order
        process.kill()  # a regular exit takes seconds


def photo(seed=0, size=(90, 60)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def encode(model, processor, image, view):
    with torch.no_grad():
        return model(**processor(image, view=view, return_tensors="pt")).pooler_output.numpy()


def test_export_loads_without_package_from_hub_and_directory(
    hub, tiny_checkpoint, tiny_model, tiny_processor, tmp_path
):
    folder = export_folder(tiny_checkpoint, tmp_path / "export")
    files = {name: path.read_bytes() for name, path in folder_files(folder).items()}
    hub.repositories["model", "someone/exported"] = {"files": files, "commits": ["1" * 40]}
    photo().save(tmp_path / "photo.png")
    found = run(
        WITHOUT_PACKAGE
        + f"""
import base64, importlib.util, io, json
from PIL import ExifTags, Image
from transformers import AutoImageProcessor, AutoModel, pipeline
folder, picture = {str(folder)!r}, {str(tmp_path / "photo.png")!r}
model = AutoModel.from_pretrained("someone/exported", trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained("someone/exported", trust_remote_code=True)
image = Image.open(picture)
aerial = model(**processor(image, view="aerial", return_tensors="pt")).pooler_output.tolist()
pipe = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
endpoint = handler.EndpointHandler(folder)
text = base64.b64encode(open(picture, "rb").read()).decode()
answers = [
    endpoint({{"inputs": image}})["descriptors"],
    endpoint({{"inputs": [text, text], "parameters": {{"view": "aerial"}}}})["descriptors"],
    endpoint({{"inputs": open(picture, "rb").read(), "parameters": {{"view": "aerial"}}}})["descriptors"],
]
turned = io.BytesIO()
exif = Image.Exif()
exif[0x0112] = 6  # portrait orientation
image.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
answers.append(endpoint({{"inputs": turned.getvalue(), "parameters": {{"view": "aerial"}}}})["descriptors"])
errors = []
assert endpoint({{"inputs": []}})["descriptors"] == []
broken = text[:60] + "\\n" + text[60:]
answers[1] = endpoint({{"inputs": [broken, text], "parameters": {{"view": "aerial"}}}})["descriptors"]
wrong = [{{"inputs": "no image"}}, {{"inputs": image, "view": "sky"}}, {{}}, {{"inputs": image, "parameters": "x"}}]
for request in wrong:
    try:
        endpoint(request)
    except ValueError as error:
        errors.append(str(error))
print(json.dumps([aerial, pipe(image), answers, errors, type(model).__module__]))
""",
        hub,
        HF_HOME=str(tmp_path / "cache"),
    )
    aerial, piped, answers, errors, module = found
    assert module.startswith("transformers_modules")
    ground = encode(tiny_model, tiny_processor, photo(), "ground")
    expected = encode(tiny_model, tiny_processor, photo(), "aerial")
    assert np.allclose(aerial, expected, atol=1e-6) and np.allclose(piped, ground, atol=1e-6)
    assert np.allclose(answers[0], ground, atol=1e-6)
    assert np.allclose(answers[1], np.repeat(expected, 2, 0), atol=1e-6)
    assert np.allclose(answers[2], expected, atol=1e-6) and np.allclose(answers[3], expected, atol=1e-6)
    assert len(errors) == 4 and "not an image" in errors[0] and "sky" in errors[1]


def test_export_writes_examples_without_exif(tiny_checkpoint, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (60.0, 10.0, 0.0)
    Image.new("RGB", (60, 40), "red").save(tmp_path / "here.jpg", exif=exif)
    export_folder(tiny_checkpoint, tmp_path / "out", examples=[tmp_path / "here.jpg"])
    with Image.open(tmp_path / "out" / "examples" / "0-here.jpg") as written:
        assert not written.getexif() and written.size == (40, 60)


def test_export_never_replaces_other_files(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("years of work")
    for out in (tmp_path / "own", tmp_path / "own" / "thesis.txt", tiny_checkpoint):
        with pytest.raises(GenGeoError, match=r"holds something else|checkpoint itself"):
            export_folder(tiny_checkpoint, out)
    with pytest.raises(GenGeoError, match="holds something else"):
        write_space(tmp_path / "own", "someone/gengeo")
    assert (tmp_path / "own" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(GenGeoError, match="that you are in"):
        export_folder(tiny_checkpoint, ".")


def test_code_and_auto_map_are_saved_with_every_checkpoint(tiny_checkpoint, tiny_model, tmp_path):
    folder = export_folder(export_folder(tiny_checkpoint, tmp_path / "export"), tmp_path / "twice")
    folder = export_folder(folder, tmp_path / "export", overwrite=True)
    assert {"salad.py", "modeling_gengeo.py", "handler.py", "README.md"} <= {path.name for path in folder.iterdir()}
    tiny_model.save_pretrained(tmp_path / "after")
    assert {"salad.py", "modeling_gengeo.py"} <= {path.name for path in (tmp_path / "after").iterdir()}
    assert "AutoModel" in json.loads((tmp_path / "after" / "config.json").read_text())["auto_map"]


# A function that runs the command line in this process; gives exit code, stdout and stderr.
GENGEO = """
import contextlib, io, sys
def gengeo(*arguments):
    from gengeo_hf import cli
    sys.argv = ["gengeo", *arguments]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code or 0
    return code, out.getvalue(), err.getvalue()
"""


def test_pushed_model_is_pulled_and_loaded(hub, client, tiny_checkpoint, tiny_model, tiny_processor, tmp_path):
    hub.fail_commits = 1
    photo().save(tmp_path / "photo.png")
    record = {"trained_on": "world/urban/train", "synthetic": True}
    (tiny_checkpoint / "gengeo_training.json").write_text(json.dumps(record))
    found = client(
        GENGEO
        + f"""
import json
from pathlib import Path
checkpoint, picture = {str(tiny_checkpoint)!r}, {str(tmp_path / "photo.png")!r}
pushed = gengeo("push", checkpoint, "someone/gengeo-tiny", "--example", picture, "--license", "apache-2.0")
from PIL import ExifTags, Image
from transformers import AutoModel, AutoImageProcessor, pipeline
from gengeo_hf.encoding.encoder import Encoder
image = Image.open(picture)
encoder = Encoder.from_pretrained("someone/gengeo-tiny", device="cpu")
pipe = pipeline("image-feature-extraction", model="someone/gengeo-tiny", trust_remote_code=False)
fetched = gengeo("pull", "someone/gengeo-tiny", "fetched")
again = Encoder.from_pretrained("fetched", device="cpu")
import os
import huggingface_hub.constants
wrong = [gengeo("pull", "someone/absent", "none"), gengeo("push", "nothing", "someone/x"),
         gengeo("push", checkpoint, "not a name"), gengeo("pull", "someone/gengeo-tiny", "none", "--kind", "index")]
os.environ["HF_TOKEN"] = "a-bad-token"
wrong.append(gengeo("push", checkpoint, "someone/other"))
print(json.dumps([pushed, encoder.encode([image], "aerial").tolist(), pipe(image), fetched, wrong,
    encoder.training_record, again.fingerprint == encoder.fingerprint, Path("none").exists()]))
""",
        tmp_path,
    )
    pushed, aerial, piped, fetched, wrong, kept_record, same, leftover = found
    repository = hub.repositories["model", "someone/gengeo-tiny"]
    assert pushed[0] == 0 and len(repository["commits"]) == 2, pushed
    assert repository["commits"][1] in pushed[1]  # one commit, after one retry
    assert sum("gengeo-tiny/commit/" in line for line in hub.log) == 2
    assert {"README.md", "handler.py", "config.json", "model.safetensors"} <= set(repository["files"])
    assert repository["files"]["salad.py"] == (ROOT / "gengeo_hf" / "model" / "salad.py").read_bytes()
    card = repository["files"]["README.md"].decode()
    assert f"{hub.address}/someone/gengeo-tiny/resolve/main/examples/0-photo.jpg" in card
    assert "examples/0-photo.jpg" in repository["files"]
    assert np.allclose(aerial, encode(tiny_model, tiny_processor, photo(), "aerial"), atol=1e-6)
    assert np.allclose(piped, encode(tiny_model, tiny_processor, photo(), "ground"), atol=1e-6)
    assert fetched[0] == 0 and "holds the model" in fetched[1] and same and kept_record == record
    messages = (
        "no someone/absent",
        "nothing is not a directory",
        "'not a name' cannot",
        "no someone/gengeo-tiny",
        "refused the token",
    )
    for (code, _, text), message in zip(wrong, messages, strict=True):
        assert code == 1 and message in text and text.splitlines()[-1].startswith("error: "), text
    assert "hf auth login" in wrong[-1][2] and not leftover
    assert ("model", "someone/other") not in hub.repositories


def pairs(count=3):
    import datasets

    from gengeo_hf.common.schema import GALLERY_FEATURES, QUERY_FEATURES, CrossViewDataset

    def png(seed):
        buffer = io.BytesIO()
        photo(seed).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    place = {"lat": 48.0, "lon": 11.0, "area": "a"}
    unknown = dict.fromkeys(("heading", "fov"))
    bounds = {"west": 10.9, "south": 47.9, "east": 11.1, "north": 48.1}
    queries = [
        {"query_id": f"q{i}", "ground": png(i), "positive": f"t{i}", "semi_positives": [], **unknown, **place}
        for i in range(count)
    ]
    gallery = [{"tile_id": f"t{i}", "aerial": png(100 + i), **bounds, **place} for i in range(count)]
    return CrossViewDataset(
        "noise/test",
        datasets.Dataset.from_list(queries, features=QUERY_FEATURES),
        datasets.Dataset.from_list(gallery, features=GALLERY_FEATURES),
    )


def test_pushed_index_and_dataset_are_pulled_and_loaded(hub, client, tiny_checkpoint, tmp_path):
    found = client(
        GENGEO
        + f"""
import json, numpy as np
from pathlib import Path
from tests.hub.test_hub import pairs
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.data import load_pairs, parquet
from gengeo_hf.hub.repository import push_dataset
from gengeo_hf.index import GeoIndex
GeoIndex.build(Encoder.from_pretrained({str(tiny_checkpoint)!r}, device="cpu"), pairs(), "city.gengeo")
commands = [gengeo("push", "city.gengeo", "someone/city"), gengeo("pull", "someone/city", "pulled.gengeo")]
first, second = GeoIndex.load("city.gengeo"), GeoIndex.load("pulled.gengeo")
same = bool(np.array_equal(first.descriptors, second.descriptors)) and first.tiles.equals(second.tiles)
whole, parquet.ROWS_IN_FILE = parquet.ROWS_IN_FILE, 2
push_dataset(pairs(5), "someone/pairs", "test")
push_dataset(pairs(3), "someone/pairs", "test", license="cc-by-4.0")  # fewer files: others must be deleted
push_dataset(pairs(4), "someone/pairs", "train")
parquet.ROWS_IN_FILE = whole
commands.append(gengeo("pull", "someone/pairs", "pairs"))
again = load_pairs("parquet", root="pairs", split="test", cache_dir="cache")
tiles = [[np.array(image) for image in table["aerial"]] for table in (pairs().gallery, again.gallery)]
pixels = all(np.array_equal(a, b) for a, b in zip(*tiles, strict=True))
import datasets
library = datasets.load_dataset("someone/pairs", "queries", split="test", cache_dir="cache2")
folder = load_pairs("parquet", root="pairs", split="train", cache_dir="cache3").queries["query_id"][:]
commands += [gengeo("push", "parquet:train pairs", "someone/copy"),
    gengeo("push", "parquet:train pairs", "someone/copy", "--onnx"),
    gengeo("pull", "someone/pairs", "none", "--kind", "index"),
    gengeo("pull", "someone/pairs", "none", "--kind", "map")]
errors = []
try:
    load_pairs("parquet", root="pairs", split="validation", cache_dir="cache")
except ValueError as error:
    errors.append(str(error))
next(Path("pairs/gallery").glob("train-00001*")).unlink()
try:
    load_pairs("parquet", root="pairs", split="train")
except ValueError as error:
    errors.append(str(error))
leftovers = sorted(path.name for path in Path(".").iterdir())
positives = again.queries["positive"][:]
print(json.dumps([same, pixels, positives, library["query_id"][:], folder, commands, errors, leftovers]))
""",
        tmp_path,
    )
    same, pixels, positives, library, folder, commands, errors, leftovers = found
    assert same and pixels and positives == ["t0", "t1", "t2"] and library == ["q0", "q1", "q2"]
    assert folder == ["q0", "q1", "q2", "q3"]
    assert [code for code, _, _ in commands] == [0, 0, 0, 0, 2, 1, 1], commands
    assert "holds the index" in commands[1][1] and "holds the dataset" in commands[2][1]
    assert "--onnx is only for checkpoints" in commands[4][2] and "holds no index" in commands[5][2]
    assert "unknown kind 'map'" in commands[6][2]
    assert "split 'validation'" in errors[0] and "has 1 files of the gallery" in errors[1]
    assert not any(name.startswith((".none", "none")) for name in leftovers)
    card = hub.repositories["dataset", "someone/pairs"]["files"]["README.md"].decode()
    assert "config_name: gallery" in card
    assert len(hub.repositories["dataset", "someone/copy"]["commits"]) == 2


def test_index_is_built_from_imagery_of_a_dataset_on_hub(client, tiny_checkpoint, tmp_path):
    """Index the gallery of published pairs, and another data set of tiles, whose ids are numbers."""
    found = client(
        GENGEO
        + f"""
import json, datasets
from huggingface_hub import HfApi
from tests.hub.test_hub import pairs
from gengeo_hf.hub.repository import push_dataset
from gengeo_hf.index import GeoIndex
push_dataset(pairs(3), "someone/town", "test")
push_dataset(pairs(4), "someone/town", "train")
tiles = pairs(2).gallery.select_columns(["aerial", "lat"]).add_column("tile_id", [20, 10]).add_column("lon", [5.0, 6.0])
def publish(table, name):
    table.to_parquet("tiles.parquet")
    HfApi().create_repo(name, repo_type="dataset")
    HfApi().upload_file(path_or_fileobj="tiles.parquet", path_in_repo="data/train-00000-of-00001.parquet", repo_id=name,
                        repo_type="dataset")
publish(tiles, "someone/tiles")
publish(tiles.remove_columns("lon"), "someone/nowhere")
def index(source, out):
    code, stdout, error = gengeo("index", source, "--out", out, "--model", {str(tiny_checkpoint)!r}, "--device", "cpu")
    table = GeoIndex.load(out).tiles.to_pylist() if code == 0 else None
    return code, error, table
print(json.dumps([index("hf:someone/town/gallery/test", "a"), index("hf:someone/tiles", "b"),
    index("hf:someone/town", "c"), index("hf:someone/nowhere", "d"), index("hf:someone/none", "e")]))
""",
        tmp_path,
    )
    (code, error, gallery), (code2, error2, tiles), *refused = found
    assert code == 0 and [row["tile_id"] for row in gallery] == ["t0", "t1", "t2"], error
    assert gallery[0]["west"] == 10.9 and gallery[0]["area"] == "a" and gallery[0]["source"] == "someone/town/gallery"
    assert code2 == 0 and [(row["tile_id"], row["lon"], row["west"]) for row in tiles] == [
        ("20", 5.0, None),
        ("10", 6.0, None),
    ], error2
    for (code, error, _), text in zip(refused, ("/gallery/SPLIT", "['lon']", "someone/none"), strict=True):
        last = error.splitlines()[-1]
        assert code == 1 and last.startswith("error: ") and text in last, error


def test_card_has_only_values_of_record_and_results(tiny_model, tiny_processor):
    options = {"name": "gengeo-x", "repository": "someone/gengeo-x"}
    bare = model_card(tiny_model, tiny_processor, record={}, **options)
    assert "without an evaluation" in bare and "without a record" in bare and "%" not in bare.split("---", 2)[2]
    assert "pipeline_tag: image-feature-extraction" in bare and "model-index" not in bare
    record = {
        "trained_on": "world/urban/train",
        "synthetic": True,
        "epochs": 7,
        "validated_on": "world/urban/validation",
    }
    settings = {"optimisation": {"learning_rate": 0.00123}, "model": {"init": "facebook/dinov2-base"}}
    record |= {"results": {"recall@1": 0.5}, "settings": settings}
    summary = {
        "protocol": {"name": "cvusa"},
        "dataset": {"name": "cvusa/test", "queries": 8884, "gallery": 8884, "complete": False},
        "metrics": {"recall@1": 0.123},
        "intervals": {"recall@1": [0.117, 0.131]},
        "rules": {"ties": "pessimistic"},
    }
    full = model_card(tiny_model, tiny_processor, record=record, results=[summary], **options)
    assert "| cvusa | cvusa/test (a part) | 8884 | 8884 | 12.3% (11.7% to 13.1%) |" in full
    assert "0.00123" in full and "only on a synthetic world" in full and "world/urban/validation" in full
    assert "model-index" in full and "28 x 112 (ground)" in full and "base_model: facebook/dinov2-base" in full
    record["settings"]["model"]["init"] = "./my-dinov2"
    assert "base_model" not in model_card(tiny_model, tiny_processor, record=record, **options)
    lines = full.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| protocol"))
    assert all(lines[start + i].count("|") == 6 for i in range(3))
    for lacking in ("protocol", "dataset", "rules"):
        part = {key: value for key, value in summary.items() if key != lacking}
        with pytest.raises(GenGeoError, match=f"lacks '{lacking}'"):
            model_card(tiny_model, tiny_processor, record={}, results=[part], **options)


def test_card_template_at_root_equals_template_of_package():
    assert (ROOT / "model_card.md").read_text() == (ASSETS / "model_card.md").read_text()


def test_export_with_result_of_other_model_is_refused(tiny_checkpoint, tmp_path):
    summary = {"format": 1, "dataset": {"name": "cvusa/test"}, "model": {"fingerprint": "0" * 64}, "metrics": {}}
    (tmp_path / "result.json").write_text(json.dumps(summary))
    with pytest.raises(GenGeoError, match="made with another model"):
        export_folder(tiny_checkpoint, tmp_path / "out", results=[tmp_path / "result.json"])
    assert not (tmp_path / "out").exists()


def test_with_retries_waits_longer_after_each_network_error(monkeypatch):
    pauses, calls = [], []
    monkeypatch.setattr("time.sleep", pauses.append)

    def fails():
        calls.append(1)
        raise ConnectionError("no route")

    with pytest.raises(GenGeoError, match="5 attempts: no route"):
        with_retries(fails, "someone/x")
    assert len(calls) == 5 and pauses == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("RepositoryNotFoundError", 401, "has no someone/x"),  # the answer of the Hub for an unknown name
        ("GatedRepoError", 403, "refused the token for someone/x"),
        ("HfHubHTTPError", 401, "refused the token for someone/x"),
        ("RevisionNotFoundError", 404, "has no someone/x, or not that revision"),
        ("BadRequestError", 400, r"refused someone/x \(400\): the license is unknown"),
    ],
)
def test_with_retries_does_not_retry_refusals(monkeypatch, kind, status, message):
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("refusals must not be retried"))
    response = httpx.Response(status, request=httpx.Request("GET", "https://hub.test"))
    message_of_hub = "the license is unknown" if status == 400 else None
    error = getattr(errors, kind)("Client Error:\n\nmore", response=response, server_message=message_of_hub)

    def refused():
        raise error

    with pytest.raises(GenGeoError, match=message):
        with_retries(refused, "someone/x")


def test_with_retries_in_offline_mode_names_variable_without_waiting(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    def direct():
        raise OfflineModeIsEnabled("off")

    def wrapped():
        raise LocalEntryNotFoundError("not in the cache") from OfflineModeIsEnabled("off")

    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("offline mode must not be retried"))
    for action in (direct, wrapped):
        with pytest.raises(GenGeoError, match="HF_HUB_OFFLINE"):
            with_retries(action, "someone/x")
