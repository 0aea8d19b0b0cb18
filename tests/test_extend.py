"""Test the recipes of docs/extend.md, each loaded as a module outside of the package."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gengeo_hf import GenGeoError
from gengeo_hf.common import registry
from gengeo_hf.common.registry import load_plugins
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n.*?```(?:python|yaml)\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Function that loads the recipe of a title as a plugin of a user and returns the path of its file."""

    def load(title):
        path = tmp_path / f"plugin_{len(list(tmp_path.iterdir()))}_{abs(hash(title))}.py"
        path.write_text(RECIPES[title])
        monkeypatch.setattr(registry, "_loaded", set())
        monkeypatch.setenv(registry.PLUGINS_VARIABLE, "")
        load_plugins([str(path)])
        return path

    return load


def test_recipes_are_eight_and_short():
    assert len(RECIPES) == 8
    for title, code in RECIPES.items():
        limit = 30 if title == "A whole method" else 10
        assert len([line for line in code.splitlines() if line.strip()]) <= limit, title


def test_method_recipe_when_loaded_trains_saves_and_loads(plugin, tmp_path, monkeypatch):
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.model.aggregators import AGGREGATORS
    from gengeo_hf.training import loop
    from gengeo_hf.training.settings import load_settings
    from tests.training.random_pairs import load_random_pairs

    plugin("A whole method")
    AGGREGATORS.pop("attention")
    registry._loaded.clear()  # as in a new process, which loads only the plugins of GENGEO_PLUGINS
    monkeypatch.setattr(loop, "load_pairs", load_random_pairs)
    short_run = [
        "sampling.batch_size=16",
        "optimisation.epochs=1",
        "data.in_memory=false",
        f"output={tmp_path / 'run'}",
    ]
    sizes = ["data.ground_size=[28,112]", "data.aerial_size=[28,112]", "data.aerial_view=polar:28x112"]
    method = ["model.config.aggregator=attention", "loss.pair=margin", "loss.terms.even_masks.weight=0.1"]
    loop.main(load_settings("world_small", [*short_run, *sizes, *method, "loss.options.margin=0.2"]))
    encoder = Encoder.from_pretrained(tmp_path / "run" / "model")
    assert encoder.model.config.token_counts == {"ground": 16, "aerial": 16}
    assert encoder.encode_aerial(np.zeros((70, 70, 3), dtype=np.uint8)).shape == (256,)
    with pytest.raises(GenGeoError, match=r"loss.options: .*margins"):
        loop.main(load_settings("world_small", [*short_run, *sizes, *method, "loss.options.margins=1"]))


def test_aggregator_recipe_when_loaded_is_used_saved_and_loaded(plugin, tmp_path):
    from gengeo_hf import GenGeoConfig, GenGeoModel

    with pytest.raises(ValueError, match="aggregator is 'maximum'"):
        GenGeoConfig(**TINY, aggregator="maximum")
    plugin("An aggregator")
    model = GenGeoModel(GenGeoConfig(**TINY, aggregator="max")).eval()
    pixels = torch.randn(2, 3, 28, 56)
    output = model(pixels, output_assignment=True)
    tokens = output.last_hidden_state[:, 1:].amax(1)
    expected = torch.nn.functional.normalize(model.heads["shared"].projection(torch.nn.functional.normalize(tokens)))
    assert torch.allclose(output.pooler_output, expected, atol=1e-5)
    model.save_pretrained(tmp_path / "model")
    loaded = GenGeoModel.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(loaded(pixels).pooler_output, output.pooler_output)


def test_backbone_recipe_with_one_trainable_block_trains_only_the_last_block(plugin):
    from gengeo_hf import GenGeoConfig, GenGeoModel

    plugin("A backbone")
    backbone = {**TINY["backbone_config"], "model_type": "vit", "intermediate_size": 64}
    model = GenGeoModel(GenGeoConfig(**{**TINY, "backbone_config": backbone, "trainable_blocks": 1})).eval()
    assert model(torch.randn(2, 3, 28, 56)).pooler_output.shape == (2, 24)
    trained = {name for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert any(name.startswith("layers.1.") for name in trained)
    assert not any(name.startswith(("layers.0.", "embeddings.")) for name in trained)


def test_data_set_recipe_when_loaded_is_found_by_name(plugin, monkeypatch):
    import gengeo_hf
    from gengeo_hf.data.registry import DATASETS, dataset_names

    plugin("A data set")
    assert "my-city" in dataset_names()
    calls = []
    monkeypatch.setitem(DATASETS["my-city"].__globals__, "load_pairs", lambda *given, **options: calls.append(given))
    DATASETS["my-city"]("/data", "test")
    assert calls == [("table", "/data/pairs_test.csv", "all")]
    with pytest.raises(GenGeoError, match="did you mean 'my-city'"):
        gengeo_hf.load_pairs("my-citi", ".")


def test_imagery_source_recipe_when_loaded_is_opened_by_name(plugin):
    from gengeo_hf.imagery.registry import open_imagery

    plugin("A source of imagery")
    source = open_imagery("nothing:here")
    assert source.table["tile_id"].to_pylist() == ["a"]
    assert source.read(0).size == (64, 64)


def test_store_recipe_when_loaded_is_filled_and_searched(plugin, index):
    pytest.importorskip("qdrant_client")
    from gengeo_hf.index.stores import connect, export_index

    plugin("A store")
    store = connect("memory:x")
    assert export_index(index, store)["count"] == len(index)
    hits = store.search(np.asarray(index.descriptors[3], np.float32), 1)[0]
    assert hits[0].tile_id == "noise-3"


def test_command_recipe_when_loaded_runs(plugin):
    path = plugin("A command")
    command = [sys.executable, "-m", "gengeo_hf.cli", "--plugin", str(path), "hello", "world"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "hello world", result.stderr


def test_ablation_row_recipe_is_added_to_its_table(tmp_path):
    from ablate import HERE, read_plan

    (tmp_path / "my_rows.yaml").write_text(RECIPES["A row of an ablation"])
    rows = read_plan(HERE / "ablations" / "world.yaml", [tmp_path / "my_rows.yaml"])["tables"]["table7"]
    assert rows[-1]["name"] == "max pooling"
    assert rows[-1]["set"] == ["model.config.aggregator=max"]
