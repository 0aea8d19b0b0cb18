"""The token cache gives the same outputs and descriptors as frozen blocks that run in every step."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from gengeo_hf.data import PairSource
from gengeo_hf.data.augment import Augmentation
from gengeo_hf.data.cache import PairsInMemory
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.training import batches, token_cache
from gengeo_hf.training.settings import Settings
from gengeo_hf.training.token_cache import build_token_cache, run_view
from tests.conftest import TINY
from tests.training.random_pairs import random_pairs

FLIP = Augmentation(flip=True, rotate=False)
SEED = (0, 3, 0)


@pytest.fixture(scope="module")
def dataset():
    return random_pairs(6)


@pytest.fixture
def pairs(dataset, tiny_processor):
    return PairsInMemory(PairSource(dataset, tiny_processor))


def tiny(**fields):
    torch.manual_seed(0)
    return GenGeoModel(GenGeoConfig(**{**TINY, "trainable_blocks": 1, **fields})).eval()


def keep(model, pairs, processor, augmentation=FLIP, settings=None):
    return build_token_cache(
        settings or Settings(output=""), model, pairs, processor, augmentation, Accelerator(cpu=True)
    )


@pytest.mark.parametrize("fields", [{}, {"share_backbone": False, "share_aggregator": False}])
def test_token_cache_tokens_give_the_outputs_of_the_mirrored_images(pairs, tiny_processor, fields):
    model, rows = tiny(**fields), [4, 0, 2, 5]
    kept = keep(model, pairs, tiny_processor)
    model.eval()
    images, tokens = (change(pairs.__getitems__(rows), seed=SEED) for change in (FLIP, kept))
    assert images["ground"].ndim == 4 and tokens["ground"].ndim == 3
    assert FLIP.draw_mirrored(4, np.random.default_rng(SEED)).any()
    for view in ("ground", "aerial"):
        wanted, found = (run_view(model, model, tiny_processor, x[view], view) for x in (images, tokens))
        torch.testing.assert_close(found.pooler_output, wanted.pooler_output, atol=1e-6, rtol=0)
    assert not any("forward" in vars(module) for module in model.modules())


def test_token_cache_tokens_without_augmentation_are_of_the_plain_images(pairs, tiny_processor):
    model = tiny()
    kept = keep(model, pairs, tiny_processor, None)
    assert kept.tokens["ground"].shape[:2] == (1, 6)
    model.eval()
    found = run_view(model, model, tiny_processor, kept(pairs.__getitems__([3]), SEED)["aerial"], "aerial")
    wanted = run_view(model, model, tiny_processor, pairs[3]["aerial"][None], "aerial")
    torch.testing.assert_close(found.pooler_output, wanted.pooler_output, atol=1e-6, rtol=0)


def test_token_cache_mining_equals_mining_from_images(dataset, pairs, tiny_processor):
    model, rows = tiny(), batches.training_pairs(dataset)
    encoder = Encoder(model, tiny_processor, device="cpu", batch_size=4)
    given = Settings(output=""), dataset, rows, Accelerator(cpu=True), encoder
    for wanted, found in zip(
        batches.encode_training_pairs(*given),
        batches.encode_training_pairs(*given, keep(model, pairs, tiny_processor)),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("augmentation", "fields", "keys"),
    [
        (Augmentation(flip=True, rotate=True), {}, {}),
        (Augmentation(rotate=False, colour=0.1), {}, {}),
        (Augmentation(rotate=False, unknown_heading=True), {}, {}),
        (Augmentation(flip=True, rotate=False, input_scales=(1.0, 0.5)), {}, {}),
        (FLIP, {"trainable_blocks": None}, {}),
        (FLIP, {}, {"sampling.keep_frozen": False}),
        (FLIP, {}, {"optimisation.compile": "inductor"}),
        (FLIP, {}, {"loss.terms": {"position": {}}}),
    ],
)
def test_build_token_cache_is_none_if_steps_differ(pairs, tiny_processor, augmentation, fields, keys):
    settings = Settings(output="")
    for key, value in keys.items():
        group, name = key.split(".")
        setattr(getattr(settings, group), name, value)
    assert keep(tiny(**fields), pairs, tiny_processor, augmentation, settings) is None


def test_build_token_cache_is_none_for_blocks_with_dropout(pairs, tiny_processor):
    backbone = {**TINY["backbone_config"], "hidden_dropout_prob": 0.5}
    assert keep(tiny(backbone_config=backbone), pairs, tiny_processor) is None


def test_build_token_cache_is_none_above_memory_limit(pairs, tiny_processor, monkeypatch, capsys):
    monkeypatch.setattr("gengeo_hf.training.token_cache.LIMIT", 1000)
    assert keep(tiny(), pairs, tiny_processor) is None
    assert "frozen blocks run in every step" in capsys.readouterr().out


def test_token_cache_of_several_frozen_blocks_holds_the_output_of_the_last(pairs, tiny_processor):
    """The embeddings and two of three blocks are frozen."""
    model = tiny(backbone_config={**TINY["backbone_config"], "num_hidden_layers": 3})
    kept = keep(model, pairs, tiny_processor)
    batch = pairs.__getitems__([5, 1])
    pixels = torch.stack([batch["aerial"], batch["aerial"].flip(-1)])
    mean, std = (torch.tensor(x)[:, None, None] for x in (tiny_processor.image_mean, tiny_processor.image_std))
    for form, images in enumerate(pixels):
        with torch.no_grad():
            states = model.backbone((images / 255 - mean) / std, output_hidden_states=True).hidden_states
        torch.testing.assert_close(kept.tokens["aerial"][form, [5, 1]], states[2], atol=1e-5, rtol=0)
    assert kept.nbytes == 2 * 6 * (17 + 17) * 32 * 4  # forms, pairs, tokens of both views, width, bytes


class Many(PairsInMemory):
    """A few pairs that count as many."""

    def __init__(self, source, count):
        super().__init__(source)
        self.count = count

    def __len__(self):
        return self.count


@pytest.mark.parametrize(("augmentation", "forms"), [(None, 1), (FLIP, 2)])
@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_build_token_cache_takes_at_most_4_gib(dataset, monkeypatch, capsys, augmentation, forms, more, kept):
    """15 + 1 tokens of 32 floats in each view are 4 KiB for a pair: 4 GiB hold 2^20 pairs, half with mirrored ones."""
    monkeypatch.setattr(token_cache, "TokenCache", lambda *_: SimpleNamespace(nbytes=4 * 2**30))
    processor = GenGeoImageProcessor(
        view_sizes={"ground": {"height": 14, "width": 210}, "aerial": {"height": 42, "width": 70}}
    )
    many = Many(PairSource(dataset, processor), 2**20 // forms + more)
    found = keep(tiny(), many, processor, augmentation)
    assert (found is not None) == kept
    line = "frozen blocks run once: their outputs for all training images take 4295 MB"
    assert (line if kept else "would take 4.0 GiB of memory") in capsys.readouterr().out


def test_build_token_cache_is_none_for_images_that_are_not_in_memory(dataset, pairs, tiny_processor):
    assert keep(tiny(), PairSource(dataset, tiny_processor), tiny_processor) is None
    assert keep(tiny(), pairs, tiny_processor) is not None


def test_build_token_cache_of_one_pair(tiny_processor):
    kept = keep(tiny(), PairsInMemory(PairSource(random_pairs(1), tiny_processor)), tiny_processor)
    assert kept.nbytes == 2 * (17 + 17) * 32 * 4  # mirrored or not, tokens of both views, width, bytes
