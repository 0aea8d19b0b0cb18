"""Terms of the loss: published defaults, grids, and values worked out by hand."""

from types import SimpleNamespace

import pytest
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model import GenGeoConfig, GenGeoModel
from gengeo_hf.pose.geometry import column_azimuths, positions_of
from gengeo_hf.training.pose_term import Pose
from gengeo_hf.training.settings import Settings
from gengeo_hf.training.terms import AuxiliaryView, Counterfactual, Position
from tests.conftest import TINY

LAYOUT = {"aggregator": "layout", "token_counts": {"ground": 16, "aerial": 24}, "share_aggregator": False}


def model_of(**changes):
    torch.manual_seed(0)
    return GenGeoModel(GenGeoConfig(**{**TINY, **changes}))


def settings_of(height=56, width=84):
    settings = Settings(output="unused")
    settings.data.aerial_size, settings.data.auxiliary_view = [height, width], "bev:56:0.5:2:70"
    return settings


def test_terms_have_published_defaults():
    """AuxGeo: 0.1 (pano, BEV), 0.05 position at 12, 6 and 3 cells, temperature 0.05; all temperatures start at 0.07."""
    settings = settings_of(168, 182)
    auxiliary, position = AuxiliaryView(model_of(), settings), Position(model_of(), settings)
    assert (auxiliary.weight, position.weight) == (0.1, 0.05)
    assert (position.grids, position.temperature, position.centred) == ((12, 6, 3), 0.05, False)
    assert position.needs == ("position",) and auxiliary.needs == ("auxiliary",)
    for scale in (auxiliary.ground_scale, auxiliary.aerial_scale):
        assert scale.exp().item() == pytest.approx(1 / 0.07)
    counterfactual = Counterfactual(model_of(**LAYOUT), settings)
    assert (counterfactual.weight, counterfactual.sharpness) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("grids", "fits"),
    [([4], True), ([4, 2], True), ([1], True), ([5], False), ([5, 1], False), ([4, 0], False), ([], False)],
)
def test_position_grids_fit_the_shorter_side(grids, fits):
    """56 x 84 pixels are 4 x 6 tokens; also with the sides exchanged."""
    for size in ((56, 84), (84, 56)):
        if fits:
            assert Position(model_of(), settings_of(*size), grids=grids).grids == tuple(grids)
            continue
        with pytest.raises(GenGeoError, match=f"has {size[0] // 14} x {size[1] // 14} tokens") as caught:
            Position(model_of(), settings_of(*size), grids=grids)
        assert f"grids is {grids}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"aggregator": "mean", "descriptor_dim": None}, None),
        ({"aggregator": "cls", "descriptor_dim": None}, None),
        ({"aggregator": "mean"}, 24),
        ({}, 24),
        ({"descriptor_dim": None}, 8 + 4 * 8),
    ],
)
def test_position_maps_tokens_to_descriptors_unless_pooled(changes, width):
    layer = Position(model_of(**changes), settings_of(), grids=(2,)).to_descriptors
    if width is None:
        assert isinstance(layer, torch.nn.Identity)
    else:
        assert (layer.in_features, layer.out_features) == (32, width)


def errors_of(term, queries, cells, position):
    """Return the sum over queries and grids of the distance between expected and true cell, image by image."""
    total = torch.zeros(len(cells))
    for image, query in ((image, query) for image in range(len(cells)) for query in queries):
        for grid in term.grids:
            pooled = torch.nn.functional.adaptive_avg_pool2d(cells[image], grid)
            cosine = torch.nn.functional.cosine_similarity(pooled, query[image][:, None, None], dim=0)
            share = (cosine.flatten() / term.temperature).softmax(0).reshape(grid, grid)
            x = sum(share[:, column].sum() * column for column in range(grid))
            y = sum(share[row].sum() * row for row in range(grid))
            x_true, y_true = position[image] * grid - 0.5
            total[image] += torch.hypot(x - x_true, y - y_true)
    return total[:, None]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kind", ["tokens", "map"])
def test_position_encode_equals_slow_formula(kind, centred):
    """Tokens of a transformer, 4 rows of 6 after the global one, and the map of a convolutional backbone."""
    pooled = {"aggregator": "mean", "descriptor_dim": None} if kind == "map" else {}
    model = model_of(**pooled)
    term = Position(model, settings_of(), grids=(3, 2), temperature=0.5, centred=centred)
    generator = torch.Generator().manual_seed(2)
    width = 32 if kind == "map" else 24
    cells = torch.randn(3, 32, 4, 6, generator=generator)
    tokens = torch.cat([torch.zeros(3, 1, 32), cells.flatten(2).mT], dim=1)
    queries = [torch.randn(3, width, generator=generator) for _ in range(2)]
    outputs = {"aerial": SimpleNamespace(last_hidden_state=cells if kind == "map" else tokens)}
    outputs |= {
        name: SimpleNamespace(pooler_output=x) for name, x in zip(("ground", "auxiliary"), queries, strict=True)
    }
    position = torch.tensor([[0.1, 0.9], [0.75, 0.25], [0.5, 0.3]])
    part = {} if centred else {"position": position}
    found = term.encode(None, model, part, outputs)["error"]
    mapped = term.to_descriptors(cells.movedim(1, 3)).movedim(3, 1)
    true = torch.full((3, 2), 0.5) if centred else position
    torch.testing.assert_close(found, errors_of(term, queries, mapped, true))
    del outputs["auxiliary"]
    torch.testing.assert_close(
        term.encode(None, model, part, outputs)["error"], errors_of(term, queries[:1], mapped, true)
    )
    assert term.loss({"error": found}, None).item() == pytest.approx(found.mean().item())
    assert term.needs == (() if centred else ("position",))


def test_counterfactual_encode_equals_formula():
    """Each view has its own head; the masks are uniform random numbers, one for each token of each layout."""
    model = model_of(**LAYOUT).eval()
    term = Counterfactual(model, settings_of(), sharpness=2.0)
    sizes = {"ground": (28, 112), "aerial": (56, 84)}
    with torch.no_grad():
        outputs = {view: model(torch.randn(3, 3, *size), view=view) for view, size in sizes.items()}
        torch.manual_seed(3)
        found = term.encode(None, model, {}, outputs)["losses"]
        torch.manual_seed(3)
        expected = []
        for view, output in outputs.items():
            tokens, head = output.last_hidden_state[:, 1:], model.heads[view]
            masks = torch.rand(3, head.aggregator.num_layouts, tokens.shape[1])
            vector = torch.nn.functional.normalize((masks @ tokens).flatten(1), dim=1)
            other = torch.nn.functional.normalize(head.projection(vector), dim=1)
            cosine = (output.pooler_output * other).sum(dim=1)
            expected.append(torch.log(1 + torch.exp(2 * (2 * cosine - 2))))
    torch.testing.assert_close(found, torch.stack(expected, dim=1))
    assert term.loss({"losses": found}, None).item() == pytest.approx(found.mean().item())


def pose_settings(**changes):
    settings = Settings(output="unused")
    settings.data.ground_size, settings.data.aerial_size = [28, 112], [56, 56]
    for name, value in changes.items():
        setattr(settings.sampling if name in ("semi_positives", "protocol") else settings.data, name, value)
    return settings


def test_pose_loss_equals_slow_formula():
    """Photo by photo: scores in its own tile and in the two most similar others, a Gaussian of 2 m as the target."""
    model = model_of().eval()
    term = Pose(model, pose_settings(), wrong_tiles=2, tile_m=60.0)
    position = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.75, 0.25], [0.4, 0.6]])
    with torch.no_grad():
        outputs = {
            view: model(torch.randn(4, 3, *size), view=view)
            for view, size in {"ground": (28, 112), "aerial": (56, 56)}.items()
        }
        columns = term.encode(None, model, {"position": position}, outputs)
        found = term.loss(columns, None).item()
        similarity = outputs["ground"].pooler_output @ outputs["aerial"].pooler_output.T
        queries = term.head.queries(outputs["ground"].last_hidden_state[:, -16:].unflatten(1, (2, 8)))
        keys = term.head.keys(outputs["aerial"].last_hidden_state[:, -16:])
        places, azimuths = positions_of(term.layout), column_azimuths(8, 360.0)
        losses = []
        for photo in range(4):
            others = [tile for tile in similarity[photo].argsort(descending=True).tolist() if tile != photo]
            scores = [
                term.head.scores(queries[photo][None], keys[tile][None], term.layout, azimuths, (0.0,)).flatten()
                for tile in (photo, *others[:2])
            ]
            east, north = 60 * (position[photo, 0] - 0.5), 60 * (0.5 - position[photo, 1])
            density = torch.exp(-((places - torch.stack([east, north])) ** 2).sum(dim=1) / 8)
            total = torch.cat(scores).exp().sum().log()
            losses.append(-(density / density.sum() * (scores[0] - total)).sum())
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    assert term.needs == ("position",)


def test_pose_loss_under_bfloat16_autocast_is_close_to_that_in_float32():
    model, position = model_of().eval(), torch.tensor([[0.1, 0.9], [0.75, 0.25], [0.4, 0.6]])
    term = Pose(model, pose_settings(), wrong_tiles=1)
    images = {view: torch.randn(3, 3, *size) for view, size in {"ground": (28, 112), "aerial": (56, 56)}.items()}
    found = []
    for enabled in (False, True):  # as in a step: encoded under autocast, the loss outside of it
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = {view: model(pixels, view=view) for view, pixels in images.items()}
            columns = term.encode(None, model, {"position": position}, outputs)
        found.append(term.loss(columns, None))
    assert found[1].dtype == torch.float32
    assert found[1].item() == pytest.approx(found[0].item(), rel=0.02)


@pytest.mark.parametrize(
    ("model", "settings", "augment", "message"),
    [
        (
            {},
            {},
            {"unknown_heading": True},
            r"north-aligned panoramas and tiles: leave out augment\.options\.unknown_heading$",
        ),
        ({}, {}, {"fov": [90, 360]}, r"north-aligned panoramas and tiles: leave out augment\.options\.fov$"),
        (
            {},
            {},
            {"input_scales": [0.5, 1]},
            r"north-aligned panoramas and tiles: leave out augment\.options\.input_scales$",
        ),
        (
            {},
            {"ground_view": "bev:56:0.5:2:70"},
            {},
            r"north-aligned panoramas and tiles: leave out data\.ground_view$",
        ),
        ({}, {"aerial_view": "polar:28x112"}, {}, r"north-aligned panoramas and tiles: leave out data\.aerial_view$"),
        ({}, {"aerial_size": [56, 84]}, {}, r"square tiles, found data\.aerial_size=\[56, 84\]"),
        ({}, {"semi_positives": "negative"}, {}, r"needs sampling\.semi_positives=banned .* found negative and gengeo"),
        ({}, {"protocol": "sample4geo"}, {}, r"needs .*sampling\.protocol=gengeo, found banned and sample4geo"),
        ({"aerial_keep": 0.5}, {}, {}, "pose compares the patch tokens of both views"),
        ({"share_backbone": False, "share_aggregator": False}, {}, {}, "use a model with one backbone for both"),
    ],
)
def test_pose_needs_whole_north_aligned_views(model, settings, augment, message):
    given = pose_settings(**settings)
    given.augment.options = augment
    with pytest.raises(GenGeoError, match=message):
        Pose(model_of(**model), given)
