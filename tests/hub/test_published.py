"""Published files: no local paths, the view argument of pipelines, and the code that travels with checkpoints."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import pipeline

from gengeo_hf import model
from gengeo_hf.hub.export import export_folder
from gengeo_hf.hub.published import LOCAL, without_local_paths
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from tests.conftest import TINY


def test_without_local_paths_replaces_paths_and_keeps_ids_and_urls():
    record = {
        "host": "alices-laptop",
        "settings": {"output": "/home/alice/secret/run", "seed": 1},
        "data": "table:test /home/alice/secret/pairs.csv size=224",
        "init": ["C:\\Users\\alice\\dinov2", "facebook/dinov2-base", "~/secret/x"],
        "pretrained": "runs/secret/model",
        "card": "https://example.org/a/b/c",
        "trained_on": "world/urban/train",
    }
    found = without_local_paths(record)
    assert found == {
        "settings": {"output": LOCAL, "seed": 1},
        "data": f"table:test {LOCAL} size=224",
        "init": [LOCAL, "facebook/dinov2-base", LOCAL],
        "pretrained": LOCAL,
        "card": "https://example.org/a/b/c",
        "trained_on": "world/urban/train",
    }


def test_export_contains_no_name_of_its_source_directory(tiny_model, tiny_processor, tmp_path):
    home = tmp_path / "marker-of-alice"
    tiny_model.save_pretrained(home / "run")
    tiny_processor.save_pretrained(home / "run")
    record = {
        "trained_on": f"table {home}/pairs.csv",
        "settings": {"output": f"{home}/run", "model": {"init": f"{home}/dinov2"}, "data": {"root": str(home)}},
    }
    (home / "run" / "gengeo_training.json").write_text(json.dumps(record))
    folder = export_folder(home / "run", home / "export")
    for file in folder.rglob("*"):
        assert not file.is_file() or b"marker-of-alice" not in file.read_bytes(), file
    assert "Apache License" in (folder / "CODE_LICENSE").read_text()
    card = (folder / "README.md").read_text()
    assert "license: other" in card and "ask the publisher" in card


@pytest.mark.parametrize("shared", [True, False])
def test_pipeline_encodes_with_view(tiny_processor, tmp_path, shared):
    torch.manual_seed(0)
    model = GenGeoModel(GenGeoConfig(**TINY, share_aggregator=shared)).eval()
    model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    pipe = pipeline("image-feature-extraction", model=str(tmp_path), trust_remote_code=False)
    image = Image.effect_noise((90, 60), 90).convert("RGB")
    for view in ("ground", "aerial"):
        inputs = tiny_processor(image, view=view, return_tensors="pt")
        expected = model(inputs["pixel_values"], view=view).pooler_output
        assert torch.allclose(model(**inputs).pooler_output, expected)
        for given in ({"view": view}, {"image_processor_kwargs": {"view": view}}):
            assert torch.allclose(torch.tensor(pipe(image, **given)), expected, atol=1e-5), given
        assert len(pipe([image, image, image], view=view, batch_size=2)) == 3
    assert torch.allclose(torch.tensor(pipe(image)), torch.tensor(pipe(image, view="ground")))
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("entry", ["configuration_gengeo", "modeling_gengeo", "image_processing_gengeo"])
def test_entry_module_imports_all_files_that_it_needs(entry):
    """transformers 5.4 copies only the files that an entry module imports directly; later versions follow imports."""
    folder = Path(model.__file__).parent

    def imports_of(name):
        return set(re.findall(r"^\s*from\s+\.(\S+)\s+import", (folder / f"{name}.py").read_text(), re.MULTILINE))

    needed, left = set(), [entry]
    while left:
        new = imports_of(left.pop()) - needed
        needed |= new
        left += new
    assert needed == imports_of(entry)
