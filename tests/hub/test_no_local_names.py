"""Published files contain no name of a directory, user or host: all commands run below a directory with a marker."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from tests.hub.hub_server import HubServer
from tests.hub.test_convert import hub_dinov2
from tests.hub.test_hub import GENGEO, ROOT, run

MARKERS = ("marker-of-alice", "alice-the-user", "alices-laptop")  # directory, user, host
SETTINGS = {
    "output": "run",
    "data": {
        "name": "table",
        "workers": 0,
        "in_memory": True,
        "ground_size": [28, 112],
        "aerial_size": [56, 56],
    },
    "model": {"config": TINY},
    "sampling": {"batch_size": 8, "neighbours": 4, "pool": 8, "gps_epochs": 1},
    "optimisation": {"epochs": 1},
}
# Sets the names of user and host in the environment, `socket` and `platform`.
SET_NAMES = f"""
import os, platform, socket
os.environ |= {{"USER": {MARKERS[1]!r}, "LOGNAME": {MARKERS[1]!r}, "HOSTNAME": {MARKERS[2]!r}}}
socket.gethostname = socket.getfqdn = platform.node = lambda *name: {MARKERS[2]!r}
"""


def write_city(home):
    """Write a table of pairs of noise images, with absolute and relative paths."""
    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        for view, shape in (("photo", (28, 112, 3)), ("tile", (56, 56, 3))):
            Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(home / f"{view}{number}.png")
        split = "train" if number < 24 else "validation" if number < 32 else "test"
        folder = f"{home}/" if number % 2 else ""
        rows.append(f"{folder}photo{number}.png,{folder}tile{number}.png,{60 + number / 50},24.9,{split}")
    (home / "pairs.csv").write_text("\n".join(["ground,aerial,lat,lon,split", *rows]))


def find_markers(name, content):
    """Find markers in the name and bytes of a file, also in Parquet (compressed columns), ZIP archives and UTF-16."""
    texts = [name.encode(), content]
    if content[:4] == b"PAR1":
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        texts += [repr(file.metadata.metadata).encode(), repr(file.read().to_pydict()).encode()]
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            texts += [part for entry in archive.namelist() for part in (entry.encode(), archive.read(entry))]
    return [one for one in MARKERS for text in texts if one.encode() in text or one.encode("utf-16-le") in text]


def test_find_markers_finds_marker_in_compressed_and_encoded_files():
    table, archive = io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": [MARKERS[0]] * 9}), table, compression="zstd", use_dictionary=False)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x", MARKERS[1] * 9)
    for content in (table.getvalue(), archive.getvalue(), MARKERS[2].encode("utf-16-le")):
        assert find_markers("name", content)
    assert not find_markers("name", b"nothing")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_published_files_contain_no_directory_user_or_host(tmp_path):
    home = tmp_path / MARKERS[0]
    home.mkdir()
    write_city(home)
    data = SETTINGS["data"] | {"root": str(home / "pairs.csv")}
    (home / "tiny.yaml").write_text(json.dumps(SETTINGS | {"data": data}))  # JSON is YAML
    torch.save(hub_dinov2(), home / "published.pth")
    hub = HubServer()
    try:
        commands = run(
            SET_NAMES
            + GENGEO
            + f"""
import json, os
os.chdir({str(home)!r})
from gengeo_hf.training import loop
from gengeo_hf.training.settings import load_settings
loop.main(load_settings("tiny.yaml", []))
model, pairs = os.path.abspath("run/model"), os.path.abspath("pairs.csv")
print(json.dumps([
    gengeo("evaluate", "--model", model, "--data", "table:test " + pairs, "--out", "result.json"),
    gengeo("index", pairs, "--out", os.path.abspath("city.gengeo"), "--model", model),
    gengeo("export", model, "exported", "--onnx", "--result", "result.json", "--example", "photo1.png"),
    gengeo("convert", "dinov2", os.path.abspath("published.pth"), "converted"),
    gengeo("push", "exported", "me/model"),
    gengeo("push", model, "me/plain", "--result", "result.json"),
    gengeo("push", "city.gengeo", "me/city"),
    gengeo("push", "table:train " + pairs, "me/pairs"),
    gengeo("pull", "me/model", "pulled"),
]))
""",
            hub,
            HOME=str(home),
            HF_HOME=str(home / "hub"),
            PYTHONPATH=str(ROOT),
        )
        assert [code for code, _, _ in commands] == [0] * len(commands), commands
        written = {
            str(path.relative_to(home)): path.read_bytes()
            for folder in ("city.gengeo", "exported", "converted", "pulled")
            for path in (home / folder).rglob("*")
            if path.is_file()
        }
        for (_, name), repository in hub.repositories.items():
            written |= {f"{name}/{file}": bytes(content) for file, content in repository["files"].items()}
    finally:
        hub.close()
    assert len(written) > 40 and {Path(name).suffix for name in written} >= {".parquet", ".onnx", ".safetensors"}
    assert {name: markers for name, content in written.items() if (markers := find_markers(name, content))} == {}
