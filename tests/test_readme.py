"""Every command in README.md and in docs/ exists, has the right options, and where it is cheap works."""

import io
import json
import re
import shlex
import shutil
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
from PIL import Image

from gengeo_hf import cli
from tests.conftest import TINY, TINY_SIZES
from tests.written_commands import ROOT, blocks, mentions, pages, parse

RUN = [  # the README always; the other pages take some seconds each
    pytest.param(path, id=str(path.relative_to(ROOT)), marks=[] if path.parent == ROOT else pytest.mark.slow)
    for path in pages()
]
PAGES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in pages()]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Files under the names that the pages use: a model, photos, tiles, a raster, an index, pairs, results."""
    import torch

    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    folder = tmp_path_factory.mktemp("stand-ins")
    torch.manual_seed(0)
    for name in ("my-model", "demo/gengeo-world-urban"):
        GenGeoModel(GenGeoConfig(**TINY)).save_pretrained(folder / name)
        GenGeoImageProcessor(view_sizes=TINY_SIZES).save_pretrained(folder / name)
    for name in ("photos", "tiles"):
        (folder / name).mkdir()
    for name in ("photo.jpg", "ground.jpg", "photos/one.jpg", "photos/two.jpg"):
        noise(len(name), (28, 112)).save(folder / name)
    for name in ("aerial.jpg", "wrong.jpg", "tile.png", *(f"tiles/{n}.png" for n in range(9))):
        noise(sum(map(ord, name)), (56, 56)).save(folder / name)
    rows = [f"{n}.png,{60.17 + 0.001 * (n // 3):.4f},{24.94 + 0.002 * (n % 3):.4f}" for n in range(9)]
    (folder / "tiles" / "tiles.csv").write_text("image,lat,lon\n" + "\n".join(rows) + "\n")
    raster(folder / "orthophoto.tif")
    shutil.copy(folder / "orthophoto.tif", folder / "ortho.tif")
    for name, model in (("city.gengeo", "my-model"), ("demo/world.gengeo", "demo/gengeo-world-urban")):
        run(["index", folder / "tiles", "--out", folder / name, "--model", folder / model, "--tile-size-m", "65m"])
    own_pairs(folder)
    results(folder)
    return folder


def own_pairs(folder):
    """A user's table, `pairs.csv`, of the files of a user's folder, `pairs`: 40 places half a kilometre apart."""
    rows = ["ground,aerial,lat,lon,fov"]
    for view, size in (("ground", (28, 112)), ("aerial", (56, 56))):
        (folder / "pairs" / view).mkdir(parents=True)
        for n in range(40):
            noise(n, size).save(folder / "pairs" / view / f"{n:02d}.jpg")
    for n in range(40):
        place = f"{60.17 + 0.0045 * (n // 8):.4f},{24.94 + 0.009 * (n % 8):.4f}"
        rows.append(f"pairs/ground/{n:02d}.jpg,pairs/aerial/{n:02d}.jpg,{place},360")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")


def results(folder):
    """Results of evaluations of `pairs.csv`, of descriptors that are noise: two of the test part, two to pick from."""
    from gengeo_hf.data import load_pairs
    from gengeo_hf.evaluation.ground_truth import GroundTruth
    from gengeo_hf.evaluation.protocols import find_protocol
    from gengeo_hf.evaluation.results import compute_result

    names = {"before": "table", "after": "table", "epoch-20": "table@validation", "epoch-24": "table@validation"}
    for seed, (name, protocol) in enumerate(names.items()):
        rules = find_protocol(protocol)
        truth = GroundTruth.from_dataset(load_pairs("table", folder / "pairs.csv", rules.split))
        chance = np.random.default_rng(seed)
        ground, aerial = (
            chance.normal(size=(len(ids), 8)).astype(np.float32) for ids in (truth.query_ids, truth.tile_ids)
        )
        model = {"name": name, "fingerprint": name, "trained_on": "table"}
        compute_result(ground, aerial, truth, rules, model=model).save(folder / "results" / f"{name}.json")


def noise(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


def raster(path):
    import rasterio
    from rasterio.transform import from_origin

    pixels = np.random.default_rng(0).integers(1, 255, (3, 200, 200), np.uint8)
    options = {"driver": "GTiff", "count": 3, "height": 200, "width": 200, "dtype": "uint8", "crs": "EPSG:32635"}
    with rasterio.open(path, "w", transform=from_origin(385_000, 6_675_000, 1, 1), **options) as file:
        file.write(pixels)


def run(words):
    """A command of gengeo in this process; a mistake fails the test with its message."""
    old, sys.argv = sys.argv, ["gengeo", *map(str, words)]
    try:
        with redirect_stdout(io.StringIO()):
            cli.main()
    except SystemExit as leave:
        assert not leave.code, f"gengeo {' '.join(map(str, words))} left with {leave.code}"
    finally:
        sys.argv = old


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    for block in blocks(text):
        if block.language in ("sh", "bash", "console") and block.mark != "checked":
            for words in block.commands:
                parse(words)
        elif block.language == "python" and block.mark != "checked":
            compile(block.text, f"{page.name}:{block.line}", "exec")
    for words in mentions(text):
        parse(words, whole=False)


@pytest.mark.parametrize("page", RUN)
def test_what_is_not_marked_works(page, stand_ins, tmp_path, monkeypatch):
    wanted = [
        b for b in blocks(page.read_text(encoding="utf-8")) if not b.mark and b.language in ("sh", "bash", "python")
    ]
    if not any(b.language == "python" or ["gengeo"] in [w[:1] for w in b.commands] for b in wanted):
        return
    shutil.copytree(stand_ins, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for block in wanted:
        if block.language == "python":
            exec(compile(block.text, f"{page.name}:{block.line}", "exec"), {})
            continue
        for words in block.commands:
            if words[0] == "gengeo":
                if words[1] == "index" and not {"--add", "--overwrite"} & set(words):
                    shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)  # the stand-in
                run(words[1:])


def test_every_example_in_the_help_is_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    groups = [cli.gengeo, *(group.typer_instance for group in cli.gengeo.registered_groups)]
    registered = [command for group in groups for command in group.registered_commands]
    commands = [one for one in registered if one.callback.__module__.startswith("gengeo_hf.")]  # not of test plugins
    assert len(commands) > 20
    for command in commands:
        examples = re.findall(r"- `([^`]+)`", command.epilog or "")
        assert examples, f"{command.callback.__name__} has no example"
        for example in examples:
            words = shlex.split(example)
            if words[0] == "gengeo":
                parse(words)


def test_the_check_notices_what_is_wrong(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = "--config cvusa"
    for wrong in (
        "gengeo lokate photo.jpg",
        "gengeo locate photo.jpg --index i",
        "make nonsense",
        "python training/nonsense.py",
        f"python training/train.py {config} a.b=1",
    ):
        with pytest.raises(Exception, match=r".+"):
            parse(wrong.split())
    with pytest.raises(AssertionError, match="--nowhere"):
        parse(["gengeo", "locate", "--nowhere"], whole=False)
    marked = "<!-- not executed: long -->\n```sh\ngengeo verify i\n```\n"
    text = marked + "\n    make demo  # now\n\ntext `gengeo index`\n"
    found = blocks(text)
    assert [(b.mark, b.commands) for b in found] == [
        ("executed", [["gengeo", "verify", "i"]]),
        ("", [["make", "demo"]]),
    ]
    assert mentions(text) == [["gengeo", "index"]]
    assert json.dumps([b.line for b in found]) == "[2, 6]"
