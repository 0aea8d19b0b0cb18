"""Commands with a checkpoint with damaged weights: one line on stderr, an exit code, and no output files."""

import logging
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as library_logging

from gengeo_hf.model import GenGeoConfig, GenGeoImageProcessor, GenGeoModel
from gengeo_hf.training import loop
from tests.conftest import TINY, TINY_SIZES
from tests.data.folders import picture

NAME = "heads.shared.projection.bias"


def edit(change):
    def damage(file):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return damage


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


# Name of the damage -> function that damages the file, and text of the error message.
DAMAGES = {
    "missing key": (edit(lambda tensors: tensors.pop(NAME)), f"lacks {NAME}"),
    "unexpected key": (edit(lambda tensors: tensors.update(extra=torch.ones(2))), "has the unknown weight extra"),
    "NaN": (edit(lambda tensors: tensors[NAME].fill_(float("nan"))), f"{NAME} contains values that are not finite"),
    "truncated": (truncate, "incomplete metadata, file not fully covered"),
}
DEVICE = ("--device", "cpu")
COMMANDS = {
    "index": ("index", "{data}/tiles.csv", "--out", "out.gengeo", "--model", "model", *DEVICE),
    "export": ("export", "model", "exported"),
    "locate": (
        *("locate", "{data}/g/0.jpg", "--index", "{data}/city.gengeo", "--model", "model", *DEVICE),
        *("--geojson", "found.json", "--map", "found.html"),
    ),
    "evaluate": ("evaluate", "--model", "model", "--data", "table {data}/pairs.csv", *DEVICE, "--out", "result.json"),
}
TRAINING = """
output: run
data: {{name: table, root: "{data}/pairs.csv", workers: 0, ground_size: [28, 112], aerial_size: [56, 56]}}
model: {{init: model, config: {{trainable_blocks: null}}}}
sampling: {{batch_size: 4, neighbours: 2, pool: 4}}
optimisation: {{epochs: 1}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve pairs, a table of their tiles, a checkpoint, and an index of the tiles made with it."""
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.imagery import open_imagery
    from gengeo_hf.index import GeoIndex

    folder = tmp_path_factory.mktemp("data")
    rows, tiles = [], []
    for number in range(12):
        picture(folder / f"g/{number}.jpg", 28, 112, number)
        picture(folder / f"a/{number}.png", 56, 56, number)
        split = "train" if number < 8 else "validation" if number < 10 else "test"
        rows.append(f"g/{number}.jpg,a/{number}.png,{48 + number / 100},9,{split}\n")
        tiles.append(f"a/{number}.png,{48 + number / 100},9\n")
    (folder / "pairs.csv").write_text("ground,aerial,lat,lon,split\n" + "".join(rows))
    (folder / "tiles.csv").write_text("image,lat,lon\n" + "".join(tiles))
    torch.manual_seed(0)
    GenGeoModel(GenGeoConfig(**TINY)).save_pretrained(folder / "model")
    GenGeoImageProcessor(view_sizes=TINY_SIZES).save_pretrained(folder / "model")
    encoder = Encoder.from_pretrained(folder / "model", device="cpu")
    GeoIndex.build(encoder, open_imagery(folder / "tiles.csv"), folder / "city.gengeo", model_name="model")
    (folder / "train.yaml").write_text(TRAINING.format(data=folder))
    return folder


@pytest.fixture
def run(data, gengeo, tmp_path, monkeypatch, capfd):
    """Run a command of COMMANDS, or the training, in a directory with a copy of the checkpoint."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "model", "model")
    library_logging.disable_progress_bar()  # as the command line does before it imports transformers

    def run(command):
        if command in COMMANDS:
            return gengeo(*(argument.format(data=data) for argument in COMMANDS[command]))
        monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(data / "train.yaml")])
        library_logging.set_verbosity_warning()  # its default, which a command line before this one changes
        code, logged, handler = 0, [], logging.Handler()
        monkeypatch.setattr(handler, "emit", lambda record: logged.append(f"{record.getMessage()}\n"))
        library_logging.add_handler(handler)
        try:
            loop.start()
        except SystemExit as leave:
            code = leave.code or 0
        library_logging.remove_handler(handler)
        out, err = capfd.readouterr()
        return code, out, "".join(logged) + err

    yield run
    library_logging.enable_progress_bar()


@pytest.mark.parametrize("command", [*COMMANDS, "training"])
def test_command_with_undamaged_weights_succeeds(run, command, tmp_path):
    code, _, err = run(command)
    assert code == 0, err
    assert {path.name for path in tmp_path.iterdir()} > {"model"}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", [*COMMANDS, "training"])
def test_command_with_damaged_weights_gives_one_line_and_no_files(run, command, damage, tmp_path):
    damage_file, message = DAMAGES[damage]
    damage_file(tmp_path / "model" / "model.safetensors")
    code, out, err = run(command)
    assert code in (1, 2) and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
