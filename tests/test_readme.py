"""Test that commands in README.md and docs/ exist and have valid options, and that blocks without a marker run."""

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
from tests.written_commands import ROOT, check_command, find_blocks, find_inline_commands, list_pages

RUN = [  # README.md always; the other pages are slow tests of some seconds each
    pytest.param(path, id=str(path.relative_to(ROOT)), marks=[] if path.parent == ROOT else pytest.mark.slow)
    for path in list_pages()
]
PAGES = [pytest.param(path, id=str(path.relative_to(ROOT))) for path in list_pages()]


@pytest.fixture(scope="module")
def placeholders(tmp_path_factory):
    """Directory of files with the names in the pages: models, photos, tiles, rasters, indexes, pairs and results."""
    import torch

    from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel

    folder = tmp_path_factory.mktemp("placeholders")
    torch.manual_seed(0)
    for name in ("my-model", "demo/gengeo-world-urban"):
        GenGeoModel(GenGeoConfig(**TINY)).save_pretrained(folder / name)
        GenGeoImageProcessor(view_sizes=TINY_SIZES).save_pretrained(folder / name)
    for name in ("photos", "tiles"):
        (folder / name).mkdir()
    for name in ("photo.jpg", "ground.jpg", "photos/one.jpg", "photos/two.jpg"):
        random_image(len(name), (28, 112)).save(folder / name)
    for name in ("aerial.jpg", "wrong.jpg", "tile.png", *(f"tiles/{n}.png" for n in range(9))):
        random_image(sum(map(ord, name)), (56, 56)).save(folder / name)
    rows = [f"{n}.png,{60.17 + 0.001 * (n // 3):.4f},{24.94 + 0.002 * (n % 3):.4f}" for n in range(9)]
    (folder / "tiles" / "tiles.csv").write_text("image,lat,lon\n" + "\n".join(rows) + "\n")
    write_raster(folder / "orthophoto.tif")
    shutil.copy(folder / "orthophoto.tif", folder / "ortho.tif")
    for name, model in (("city.gengeo", "my-model"), ("demo/world.gengeo", "demo/gengeo-world-urban")):
        options = ["--out", folder / name, "--model", folder / model, "--tile-size-m", "65m"]
        run_gengeo(["index", folder / "tiles", *options])
    write_pairs(folder)
    write_results(folder)
    return folder


def write_pairs(folder):
    """Write a table of pairs, `pairs.csv`, and its images in `pairs/`: 40 places half a kilometre apart."""
    rows = ["ground,aerial,lat,lon,fov"]
    for view, size in (("ground", (28, 112)), ("aerial", (56, 56))):
        (folder / "pairs" / view).mkdir(parents=True)
        for n in range(40):
            random_image(n, size).save(folder / "pairs" / view / f"{n:02d}.jpg")
    for n in range(40):
        position = f"{60.17 + 0.0045 * (n // 8):.4f},{24.94 + 0.009 * (n % 8):.4f}"
        rows.append(f"pairs/ground/{n:02d}.jpg,pairs/aerial/{n:02d}.jpg,{position},360")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")


def write_results(folder):
    """Write results of random descriptors on `pairs.csv`: two on the test split, two on the validation split."""
    from gengeo_hf.data import load_pairs
    from gengeo_hf.evaluation.ground_truth import GroundTruth
    from gengeo_hf.evaluation.protocols import find_protocol
    from gengeo_hf.evaluation.results import compute_result

    names = {"before": "table", "after": "table", "epoch-20": "table@validation", "epoch-24": "table@validation"}
    for seed, (name, protocol_name) in enumerate(names.items()):
        protocol = find_protocol(protocol_name)
        truth = GroundTruth.from_dataset(load_pairs("table", folder / "pairs.csv", protocol.split))
        rng = np.random.default_rng(seed)
        ground, aerial = (
            rng.normal(size=(len(ids), 8)).astype(np.float32) for ids in (truth.query_ids, truth.tile_ids)
        )
        model = {"name": name, "fingerprint": name, "trained_on": "table"}
        compute_result(ground, aerial, truth, protocol, model=model).save(folder / "results" / f"{name}.json")


def random_image(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


def write_raster(path):
    import rasterio
    from rasterio.transform import from_origin

    pixels = np.random.default_rng(0).integers(1, 255, (3, 200, 200), np.uint8)
    options = {"driver": "GTiff", "count": 3, "height": 200, "width": 200, "dtype": "uint8", "crs": "EPSG:32635"}
    with rasterio.open(path, "w", transform=from_origin(385_000, 6_675_000, 1, 1), **options) as file:
        file.write(pixels)


def run_gengeo(arguments):
    """Run a `gengeo` command in this process; an exit status other than 0 fails the test."""
    previous, sys.argv = sys.argv, ["gengeo", *map(str, arguments)]
    try:
        with redirect_stdout(io.StringIO()):
            cli.main()
    except SystemExit as error:
        assert not error.code, f"gengeo {' '.join(map(str, arguments))} ended with exit status {error.code}"
    finally:
        sys.argv = previous


@pytest.mark.parametrize("page", PAGES)
def test_page_commands_and_python_code_are_valid(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    for block in find_blocks(text):
        if block.language in ("sh", "bash", "console") and block.marker != "checked":
            for arguments in block.commands:
                check_command(arguments)
        elif block.language == "python" and block.marker != "checked":
            compile(block.text, f"{page.name}:{block.line}", "exec")
    for arguments in find_inline_commands(text):
        check_command(arguments, is_complete=False)


@pytest.mark.parametrize("page", RUN)
def test_page_blocks_without_a_marker_run(page, placeholders, tmp_path, monkeypatch):
    blocks = [
        block
        for block in find_blocks(page.read_text(encoding="utf-8"))
        if not block.marker and block.language in ("sh", "bash", "python")
    ]
    if not any(block.language == "python" or "gengeo" in [line[0] for line in block.commands] for block in blocks):
        return
    shutil.copytree(placeholders, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for block in blocks:
        if block.language == "python":
            exec(compile(block.text, f"{page.name}:{block.line}", "exec"), {})
            continue
        for arguments in block.commands:
            if arguments[0] == "gengeo":
                if arguments[1] == "index" and not {"--add", "--overwrite"} & set(arguments):
                    shutil.rmtree(arguments[arguments.index("--out") + 1], ignore_errors=True)  # the placeholder
                run_gengeo(arguments[1:])


def test_help_examples_of_all_commands_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    groups = [cli.gengeo, *(group.typer_instance for group in cli.gengeo.registered_groups)]
    registered = [command for group in groups for command in group.registered_commands]
    # without the commands of plugins that other tests load
    commands = [command for command in registered if (command.callback.__module__ or "").startswith("gengeo_hf.")]
    assert len(commands) > 20
    for command in commands:
        examples = re.findall(r"- `([^`]+)`", command.epilog or "")
        assert examples, f"{command.callback.__name__} has no example"
        for example in examples:
            arguments = shlex.split(example)
            if arguments[0] == "gengeo":
                check_command(arguments)


def test_check_command_with_invalid_commands_raises_an_error(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = "--config cvusa"
    for command in (
        "gengeo lokate photo.jpg",
        "gengeo locate photo.jpg --index i",
        "make nonsense",
        "python training/nonsense.py",
        f"python training/train.py {config} a.b=1",
        f"python training/train.py {config} --out runs/x",
    ):
        with pytest.raises(Exception, match=r".+"):
            check_command(command.split())
    with pytest.raises(AssertionError, match="--nowhere"):
        check_command(["gengeo", "locate", "--nowhere"], is_complete=False)
    marked = "<!-- not executed: long -->\n```sh\ngengeo verify i\n```\n"
    text = marked + "\n    make demo  # now\n\ntext `gengeo index`\n"
    blocks = find_blocks(text)
    assert [(block.marker, block.commands) for block in blocks] == [
        ("executed", [["gengeo", "verify", "i"]]),
        ("", [["make", "demo"]]),
    ]
    assert find_inline_commands(text) == [["gengeo", "index"]]
    assert json.dumps([block.line for block in blocks]) == "[2, 6]"
