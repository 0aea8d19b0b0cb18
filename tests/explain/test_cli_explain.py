"""`gengeo explain` and `gengeo figure`: pictures, printed results and errors."""

import pytest
from PIL import Image

from gengeo_hf.cli.figure import figure


@pytest.fixture
def photos(tmp_path):
    for name, size in {"g.png": (112, 28), "a.png": (56, 56), "b.png": (60, 60)}.items():
        Image.effect_noise(size, 60 + size[1]).convert("RGB").save(tmp_path / name)
    return tmp_path


def test_explain_writes_match_and_preference(gengeo, photos, tiny_checkpoint):
    command = ("explain", photos / "g.png", photos / "a.png", "--model", tiny_checkpoint, "--device", "cpu")
    code, out, err = gengeo(*command, "--out", photos / "why.png")
    assert code == 0 and "patches add" in out, err
    assert Image.open(photos / "why.png").width > 500
    code, out, err = gengeo(*command, "--out", photos / "why.jpg", "--instead-of", photos / "b.png")
    assert code == 0 and out.startswith("scores: "), err
    assert Image.open(photos / "why.jpg").format == "JPEG"


def test_figure_commands_write_pictures(gengeo, photos, tiny_checkpoint):
    pair = f"{photos / 'g.png'}+{photos / 'a.png'}"
    model = ("--model", tiny_checkpoint)
    assert gengeo("figure", "selection", pair, pair, *model, "--out", photos / "s.png")[0] == 0
    boxes = ("--ground-box", "0,0,0.5,1", "--aerial-box", "0,0,1,0.5")
    code, out, _ = gengeo(
        "figure", "regions", photos / "g.png", photos / "a.png", *model, *boxes, "--out", photos / "r.png"
    )
    assert code == 0 and "cosine" in out
    assert gengeo("figure", "clusters", photos / "g.png", *model, "--out", photos / "c.png")[0] == 0
    assert gengeo("figure", "pairs", pair, "--out", photos / "p.png")[0] == 0
    assert all((photos / f"{name}.png").is_file() for name in "srcp")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("explain", "none.jpg", "a.png", "--out", "o.png"), "none.jpg"),
        (("explain", "g.png", "a.png", "--out", "o.txt"), ".png or .jpg"),
        (
            ("figure", "regions", "g.png", "a.png", "--ground-box", "1,2", "--aerial-box", "0,0,1,1", "--out", "o.png"),
            "box",
        ),
        (("figure", "clusters", "g.png", "--view", "side", "--out", "o.png"), "side"),
        (("figure", "selection", "world-mars", "--out", "o.png"), "world-mars"),
    ],
)
def test_wrong_arguments_give_one_line_and_no_file(gengeo, photos, tiny_checkpoint, monkeypatch, arguments, reason):
    monkeypatch.chdir(photos)
    before = sorted(photos.iterdir())
    code, _, err = gengeo(*arguments, "--model", tiny_checkpoint)
    assert code in (1, 2) and err.splitlines()[-1].startswith("error: ") and reason in err.splitlines()[-1]
    assert sorted(photos.iterdir()) == before


def test_help_of_every_figure_has_example(gengeo):
    for command in figure.registered_commands:
        code, out, _ = gengeo("figure", command.name or command.callback.__name__, "--help")
        assert code == 0 and "example" in out.lower()


def test_explain_of_real_photo_and_tile_writes_picture(gengeo, shared_data, tiny_checkpoint, tmp_path):
    name = shared_data / "helsinki" / "111050484379850"
    out = tmp_path / "why.png"
    code, _, err = gengeo("explain", f"{name}.jpg", f"{name}_sat.jpg", "--model", tiny_checkpoint, "--out", out)
    assert code == 0 and Image.open(out).height > 500, err
