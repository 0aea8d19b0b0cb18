"""Fixtures that tests of several packages use: a small model, the sample data, and a runner of `gengeo` commands."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("GENGEO_TRIALS", "off")  # so that no test writes to the user's cache of backend choices

pytest_plugins = ["tests.stubs"]  # stub encoder, noise tiles and their index

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
    """Directory of real photos, tiles and split files; not part of the repository, so tests are skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there is no directory ../shared/data with real sample data beside this checkout")
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
    """Function that runs a `gengeo` command in this process and returns its exit code, stdout and stderr."""
    from gengeo_hf import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gengeo", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code or 0
        stdout, stderr = capfd.readouterr()
        return code, stdout, stderr

    return run
