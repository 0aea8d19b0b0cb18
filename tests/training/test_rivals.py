"""Configurations of other published methods: they are valid, have the published sizes, and train."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModel

from gengeo_hf.learning import Pairs
from gengeo_hf.model import GenGeoModel
from gengeo_hf.training.components import build_augmentation, build_config, build_model, build_processor
from gengeo_hf.training.objective import build_objective
from gengeo_hf.training.settings import CONFIGS, load_settings
from gengeo_hf.training.step import backward_pass

RIVALS = sorted(
    path.stem
    for path in CONFIGS.glob("*.yaml")
    if path.stem.startswith(("sample4geo", "pbev", "auxgeo", "transgeo", "geodtr"))
)
BACKBONES = {
    "facebook/convnext-base-384-22k-1k": {
        "model_type": "convnext",
        "depths": [3, 3, 27, 3],
        "hidden_sizes": [128, 256, 512, 1024],
    },
    "facebook/deit-small-distilled-patch16-224": {
        "model_type": "deit",
        "hidden_size": 384,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    },
}


def paper_size(name, *keys):
    """Return settings with the backbone of the published weights, which are not loaded."""
    settings = load_settings(name, list(keys))
    backbone = BACKBONES.get(settings.model.init)
    if name.startswith("transgeo") and "world" not in name:
        backbone = BACKBONES["facebook/deit-small-distilled-patch16-224"]
    if backbone is not None:
        settings.model.config["backbone_config"] = backbone
    settings.model.init = None
    return settings


@pytest.mark.parametrize("name", RIVALS)
def test_recipe_is_valid(name):
    settings = paper_size(name)
    config = build_config(settings)
    build_processor(settings)
    build_augmentation(settings)
    assert settings.output == f"runs/{name}"
    with torch.device("meta"):
        model = GenGeoModel(config)
    build_objective(model, settings)


@pytest.mark.parametrize(
    ("name", "millions", "published"),
    [
        # Published: 87.6 million of ConvNeXt-B, without its classifier.
        ("sample4geo_cvusa", 87.6, "Sample4Geo"),
        ("auxgeo_cvusa", 87.6, "AuxGeo, as Sample4Geo"),
        # Published: 44.92 million; 0.05 less here, since position embeddings are resized instead of learned per size.
        ("transgeo_cvusa", 44.87, "TransGeo"),
        # About 30.2 (polar) and 35.5 (VIGOR) million follow from the published sizes.
        ("geodtr_cvusa", 30.2, "GeoDTR+"),
        ("geodtr_vigor_same", 35.5, "GeoDTR+, VIGOR"),
    ],
)
def test_recipe_has_published_number_of_parameters(name, millions, published):
    with torch.device("meta"):
        model = GenGeoModel(build_config(paper_size(name)))
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=5e-3), published


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["pbev_cvact", "auxgeo_cvusa", "transgeo_cvusa", "transgeo_cvusa_zoom", "geodtr_cvusa", "geodtr_vigor_same"]
)
def test_recipe_step_at_paper_size_trains_all_parameters(name, monkeypatch):
    settings = paper_size(name)
    torch.manual_seed(0)
    model = GenGeoModel(build_config(settings)).train()
    objective, processor = build_objective(model, settings), build_processor(settings)
    sizes = {"ground": settings.data.ground_size, "aerial": settings.data.aerial_size}
    if settings.data.auxiliary_view:
        sizes["auxiliary"] = settings.data.auxiliary_size
    batch = {view: torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8) for view, size in sizes.items()}
    batch["query_row"] = torch.arange(2)
    pairs = Pairs(np.arange(2), np.full((2, 1), -1))
    loss = backward_pass(batch, Accelerator(cpu=True), model, model, processor, settings, pairs, objective)
    assert loss.isfinite()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, without[:3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample4geo_world", "pbev_world", "auxgeo_world", "transgeo_world", "geodtr_world"])
def test_recipe_trains_on_world_and_encodes(name, tmp_path):
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.training.loop import main

    few = ["data.train={num_pairs: 64}", "data.validation={num_pairs: 16}", f"data.root={tmp_path / 'world'}"]
    keys = [*few, "model.init=null", "sampling.batch_size=16", "optimisation.epochs=2", f"output={tmp_path / 'run'}"]
    found = main(load_settings(name, keys))
    assert found["num_queries"] == 16
    encoder = Encoder.from_pretrained(tmp_path / "run" / "model")
    panorama = np.random.default_rng(0).integers(0, 256, (42, 168, 3), dtype=np.uint8)
    assert np.linalg.norm(encoder.encode_ground(panorama)) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_transgeo_second_stage_is_initialised_from_first(tmp_path):
    from gengeo_hf.training.loop import main

    few = ["data.train={num_pairs: 64}", "data.validation={num_pairs: 16}", f"data.root={tmp_path / 'world'}"]
    few += ["sampling.batch_size=16", "optimisation.epochs=1"]
    main(load_settings("transgeo_world", [*few, "model.init=null", f"output={tmp_path / 'one'}"]))
    main(
        load_settings(
            "transgeo_world_zoom", [*few, f"model.init={tmp_path / 'one' / 'model'}", f"output={tmp_path / 'two'}"]
        )
    )
    one, two = (GenGeoModel.from_pretrained(tmp_path / stage / "model") for stage in ("one", "two"))
    for key, value in one.aerial_backbone.state_dict().items():
        assert torch.equal(value, two.guide.state_dict()[key])
    assert two.chosen_tokens(torch.randn(1, 3, 84, 84)).shape == (1, 25)


def test_build_model_shorter_convnext_uses_first_stages(tmp_path):
    widths = {"model_type": "convnext", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64]}
    whole = AutoModel.from_config(AutoConfig.for_model(**widths))
    whole.save_pretrained(tmp_path)
    short = {**widths, "num_stages": 3, "depths": [1, 1, 1], "hidden_sizes": [8, 16, 32]}
    settings = load_settings("geodtr_cvusa", [f"model.init={tmp_path}"])
    settings.model.config["backbone_config"] = short
    model = build_model(settings)
    assert model.config.token_counts == {"ground": 287, "aerial": 287}
    for part in model.backbones:
        for name, value in part.state_dict().items():
            if not name.startswith("layernorm"):
                assert torch.equal(value, whole.state_dict()[name]), name


def test_build_model_layout_head_has_token_counts_of_checkpoint_patch(tmp_path, tiny_model):
    with pytest.warns(UserWarning, match="a checkpoint of the backbone alone"):
        tiny_model.backbone.save_pretrained(tmp_path)
    keys = ["data.ground_size=[28,112]", "data.aerial_size=[56,56]", f"model.init={tmp_path}", "output=unused"]
    settings = load_settings("geodtr_world", keys)
    del settings.model.config["backbone_config"]
    assert build_model(settings).config.token_counts == {"ground": 16, "aerial": 16}
