"""Fixtures of several tests of the training."""

import pytest

from gengeo_hf.training.settings import load_settings


@pytest.fixture
def load(tmp_path):
    """Load a configuration without values of its own, with overrides."""
    config = tmp_path / "plain.yaml"
    config.write_text("output: run\ndata: {name: random}\n")
    return lambda *overrides: load_settings(config, list(overrides))
