"""The Gradio Space: its ranking against the model, and (slow) the running page in another process."""

import importlib.util
import json
import os
import subprocess
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.hub.export import export_folder, write_space
from gengeo_hf.index import GeoIndex
from tests.hub.test_hub import encode, pairs, photo


def load_app(space, monkeypatch):
    """Load the module of the Space with a mock of gradio."""
    Image.init()
    monkeypatch.setattr(Image, "ID", [*Image.ID])  # the Space changes Pillow's list of formats for its process
    gradio = MagicMock()
    gradio.Error = ValueError
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    spec = importlib.util.spec_from_file_location("space_app", space / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    return app


def test_space_ranks_uploaded_images(tiny_checkpoint, tiny_model, tiny_processor, tmp_path, monkeypatch):
    space = write_space(tmp_path / "space", str(export_folder(tiny_checkpoint, tmp_path / "model")))
    readme = (space / "README.md").read_text()
    assert "sdk: gradio" in readme and "app_file: app.py" in readme
    assert "gengeo" not in (space / "requirements.txt").read_text()
    app = load_app(space, monkeypatch)
    for i in range(3):
        photo(i).save(tmp_path / f"{i}.png")
    ranked = app.rank_images(photo(9), [str(tmp_path / f"{i}.png") for i in range(3)])
    ground = encode(tiny_model, tiny_processor, photo(9), "ground")[0]
    scores = sorted(float(encode(tiny_model, tiny_processor, photo(i), "aerial")[0] @ ground) for i in range(3))
    assert [float(text) for _, text in ranked] == pytest.approx(scores[::-1], abs=1e-3)
    with pytest.raises(ValueError, match="Give a photo"):
        app.rank_images(None, [])
    (tmp_path / "no-image.png").write_text("text")
    photo(1).save(tmp_path / "postscript.eps")
    for name in ("no-image.png", "postscript.eps"):  # EPS would start Ghostscript
        with pytest.raises(ValueError, match="not an image"):
            app.rank_images(photo(9), [str(tmp_path / name)])


def test_space_searches_index_and_refuses_index_of_other_model(tiny_checkpoint, tmp_path, monkeypatch):
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    index = GeoIndex.build(encoder, pairs(), tmp_path / "city.gengeo")
    model = export_folder(tiny_checkpoint, tmp_path / "model")
    app = load_app(write_space(tmp_path / "space", str(model), str(tmp_path / "city.gengeo")), monkeypatch)
    monkeypatch.setattr(app, "BLOCK", 2)
    found = app.rank_index(photo(1))
    expected = index.search(encoder.encode([photo(1)], "ground"), k=5)[0]
    assert [row[0] for row in found] == [hit.tile_id for hit in expected]
    assert [float(row[3]) for row in found] == pytest.approx([hit.score for hit in expected], abs=2e-3)
    (model / "gengeo_export.json").write_text(json.dumps({"fingerprint": "0" * 64}))
    with pytest.raises(SystemExit, match="another model"):
        load_app(tmp_path / "space", monkeypatch)


PAGE = """
import importlib.util, json, sys
space, picture = sys.argv[1:]
spec = importlib.util.spec_from_file_location("app", space + "/app.py")
app = importlib.util.module_from_spec(spec)
spec.loader.exec_module(app)
from gradio_client import Client, handle_file
_, address, _ = app.page.launch(prevent_thread_lock=True, quiet=True)
answer = Client(address, verbose=False).predict(handle_file(picture), api_name="/rank_index")
print(json.dumps(answer))
"""


@pytest.mark.slow
def test_space_page_answers_with_gradio(tiny_checkpoint, tmp_path):
    pytest.importorskip("gradio")
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    index = GeoIndex.build(encoder, pairs(), tmp_path / "city.gengeo")
    model = export_folder(tiny_checkpoint, tmp_path / "model")
    space = write_space(tmp_path / "space", str(model), str(tmp_path / "city.gengeo"))
    photo(1).save(tmp_path / "photo.png")
    settings = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    result = subprocess.run(
        [sys.executable, "-c", PAGE, str(space), str(tmp_path / "photo.png")],
        capture_output=True,
        text=True,
        env=os.environ | settings,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads(result.stdout.splitlines()[-1])["data"]
    expected = index.search(encoder.encode([photo(1)], "ground"), k=5)[0]
    assert [row[0] for row in rows] == [hit.tile_id for hit in expected]
    assert np.allclose([float(row[3]) for row in rows], [hit.score for hit in expected], atol=2e-3)
