"""What several rooms' tests share: a model small enough for any test, and the real sample files."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("GENGEO_TRIALS", "off")  # no test leaves a choice of backends in the user's cache

pytest_plugins = ["tests.stubs"]  # an encoder without weights, tiles of noise, an index of them

TINY = {
    "backbone_config": {
        "model_type": "dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 70,
        "patch_size": 14,
    },
    "num_clusters": 4,
    "cluster_dim": 8,
    "token_dim": 8,
    "head_hidden_dim": 32,
    "descriptor_dim": 24,
    "trainable_blocks": None,
}
TINY_SIZES = {"ground": {"height": 28, "width": 112}, "aerial": {"height": 56, "width": 56}}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos, tiles and split files; they are not part of the project, so a clone may lack them."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real sample data are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture
def tiny_config():
    from gengeo_hf.model import GenGeoConfig

    return GenGeoConfig(**TINY)


@pytest.fixture
def tiny_model(tiny_config):
    import torch

    from gengeo_hf.model import GenGeoModel

    torch.manual_seed(0)
    return GenGeoModel(tiny_config).eval()


@pytest.fixture
def tiny_processor():
    from gengeo_hf.model import GenGeoImageProcessor

    return GenGeoImageProcessor(view_sizes=TINY_SIZES)


@pytest.fixture
def tiny_checkpoint(tiny_model, tiny_processor, tmp_path) -> Path:
    folder = tmp_path / "tiny-gengeo"
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def gengeo(monkeypatch, capfd):
    """Run a command in this process; gives exit code, stdout and stderr."""
    from gengeo_hf import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["gengeo", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run
