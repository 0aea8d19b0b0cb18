"""Limits of the settings: the smallest and largest values that are allowed, and values that contradict each other."""

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.training.settings import as_dict

# Key, smallest value that is allowed, value that is refused.
MINIMA = [
    ("seed", 0, -1),
    ("evaluate_every", 1, 0),
    ("save_every", 1, 0),
    ("log_every", 1, 0),
    ("checkpoint_every", 1, 0),
    ("data.workers", 0, -1),
    ("sampling.batch_size", 2, 1),
    ("sampling.micro_batch", 1, 0),
    ("sampling.gps_epochs", 0, -1),
    ("sampling.mining_every", 0, -1),
    ("sampling.neighbours", 0, -1),
    ("sampling.min_negative_distance_m", 0, -0.5),
    ("optimisation.epochs", 1, 0),
    ("optimisation.learning_rate_batch", 1, 0),
    ("optimisation.weight_decay", 0, -0.01),
    ("optimisation.final_learning_rate", 0, -1e-9),
    ("optimisation.sharpness", 0, -0.1),
]


@pytest.mark.parametrize(("key", "allowed", "refused"), MINIMA)
def test_load_settings_values_below_minimum_are_refused(load, key, allowed, refused):
    value = as_dict(load(f"{key}={allowed}"))
    for part in key.split("."):
        value = value[part]
    assert value == allowed
    with pytest.raises(GenGeoError, match=f"{key} is .*; it must be at least {allowed}"):
        load(f"{key}={refused}")


@pytest.mark.parametrize(
    "key",
    [
        "sampling.random_share",
        "sampling.geographic_share",
        "optimisation.warmup",
        "optimisation.label_smoothing",
    ],
)
def test_load_settings_fractions_lie_in_0_to_1(load, key):
    assert load(f"{key}=0") and load(f"{key}=1")
    for wrong in (-0.01, 1.01):
        with pytest.raises(GenGeoError, match=f"{key} is {wrong}; it must lie in 0..1"):
            load(f"{key}={wrong}")


def test_load_settings_pool_holds_neighbours(load):
    assert load("sampling.pool=1", "sampling.neighbours=1").sampling.pool == 1
    assert load("sampling.neighbours=128").sampling.neighbours == 128  # as many as the pool
    with pytest.raises(GenGeoError, match=r"is 129, above sampling\.pool 128"):
        load("sampling.neighbours=129")
    with pytest.raises(GenGeoError, match=r"sampling\.pool is 0; it must be at least 1"):
        load("sampling.neighbours=0", "sampling.pool=0")


@pytest.mark.parametrize("key", ["optimisation.learning_rate", "optimisation.clip_norm"])
def test_load_settings_rates_and_norms_are_positive(load, key):
    assert load(f"{key}=1e-6")
    for wrong in ("0", "-1e-6"):
        with pytest.raises(GenGeoError, match=f"{key} is .*; it must be greater than 0"):
            load(f"{key}={wrong}")
    assert load("optimisation.clip_norm=null").optimisation.clip_norm is None


def test_load_settings_betas_are_two_numbers_below_1(load):
    assert load("optimisation.betas=[0.0,0.0]").optimisation.betas == [0.0, 0.0]
    for wrong in ("[1.0,0.9]", "[0.9,1.0]", "[-0.1,0.9]", "[0.9,-0.1]"):
        with pytest.raises(GenGeoError, match=r"both must lie in 0\.\.1, 1 excluded"):
            load(f"optimisation.betas={wrong}")
    for wrong in ("[0.9]", "[0.9,0.9,0.9]"):
        with pytest.raises(GenGeoError, match="it must be two decay rates"):
            load(f"optimisation.betas={wrong}")


def test_load_settings_image_sides_are_positive(load):
    assert load("data.ground_size=[1,1]", "data.aerial_size=[1,1]").data.ground_size == [1, 1]
    for wrong in ("ground_size=[0,770]", "ground_size=[154,0]", "aerial_size=[0,392]", "aerial_size=[392,0]"):
        with pytest.raises(GenGeoError, match="must be positive numbers of pixels"):
            load(f"data.{wrong}")
    with pytest.raises(GenGeoError, match=r"data\.auxiliary_size is \[1, 2, 3\]; it must be height and width"):
        load("data.auxiliary_size=[1,2,3]")


def test_load_settings_final_learning_rate_may_equal_learning_rate(load):
    assert load("optimisation.final_learning_rate=1e-4").optimisation.final_learning_rate == 1e-4
    with pytest.raises(GenGeoError, match="the rate must fall"):
        load("optimisation.final_learning_rate=1.1e-4")


@pytest.mark.parametrize("key", ["random_share=0.25", "geographic_share=0.25", "min_negative_distance_m=5"])
def test_load_settings_sample4geo_refuses_other_composition(load, key):
    name, _, value = key.partition("=")
    assert getattr(load(f"sampling.{key}").sampling, name) == float(value)
    with pytest.raises(GenGeoError, match=f"does not support {key}: add sampling.{name}=0"):
        load("sampling.protocol=sample4geo", f"sampling.{key}")
    for kind in ("banned", "negative"):
        assert load("sampling.protocol=sample4geo", f"sampling.semi_positives={kind}").sampling.protocol == "sample4geo"
