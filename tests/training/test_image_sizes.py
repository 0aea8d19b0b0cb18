"""Notes about synthetic images that a training enlarges, with the options for larger images."""

import dataclasses
import json

import numpy as np
import pytest

from gengeo_hf.training import loop
from gengeo_hf.training.image_sizes import enlargement_notes
from gengeo_hf.training.settings import load_settings
from tests.conftest import TINY
from tests.training.random_pairs import load_random_pairs, png

LARGE = ["data.ground_size=[56,224]", "data.aerial_size=[56,84]"]  # the images are 28 x 112 and 56 x 56


def world(split, synthetic=True):
    data = load_random_pairs("world", split=split)
    area = {"area": f"urban-{split}-0-0000" if synthetic else "a"}
    return dataclasses.replace(
        data, queries=data.queries.map(lambda row: area), gallery=data.gallery.map(lambda row: area)
    )


def notes(*overrides, synthetic=True):
    settings = load_settings("world_small", list(overrides))
    return enlargement_notes(settings, world("train", synthetic), world("validation", synthetic))


def test_enlargement_notes_name_options_for_larger_images():
    assert notes(*LARGE) == [
        "ground images of 28 x 112 pixels are enlarged to data.ground_size=[56,224], which adds no detail: to "
        "render larger images, add data.train.ground_size=[56,224] data.validation.ground_size=[56,224]",
        "aerial images of 56 x 56 pixels are enlarged to data.aerial_size=[56,84], which adds no detail: to render "
        "larger images, add data.train.aerial_size=[56,84] data.validation.aerial_size=[56,84]",
    ]
    assert "add ground_size=[56,224] to each synthetic data set of data.train" in notes("data.name=mixture", *LARGE)[0]


@pytest.mark.parametrize(
    ("overrides", "synthetic"),
    [
        (["data.ground_size=[28,112]", "data.aerial_size=[28,28]"], True),  # the rendered size, and a smaller one
        (LARGE, False),  # photos of a user
        (
            [*LARGE, "data.ground_view=downward:56x224:180:70", "data.aerial_view=polar:56x84"],
            True,
        ),  # sizes of the views
    ],
)
def test_enlargement_notes_are_absent_where_no_synthetic_image_is_enlarged(overrides, synthetic):
    assert notes(*overrides, synthetic=synthetic) == []


def test_enlargement_notes_name_one_short_side():
    """The images are 28 x 112 and 56 x 56 pixels."""
    for size in ("28,224", "56,112"):
        (note,) = notes(f"data.ground_size=[{size}]", "data.aerial_size=[56,56]")
        assert f"ground images of 28 x 112 pixels are enlarged to data.ground_size=[{size}]" in note


def test_enlargement_notes_state_the_smallest_image_of_several_worlds():
    """Two worlds in the training tiles, with the smaller images in the second; larger ones in the validation tiles."""

    def tiles(split, *sizes):
        data = world(split)
        rows = data.gallery.to_list()[: len(sizes)]
        for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
            row["area"] = f"{('urban', 'rural')[number]}-{split}-0-0000"
            row["aerial"] = png(np.zeros((*size, 3), np.uint8))
        gallery = data.gallery.from_list(rows, features=data.gallery.features)
        return dataclasses.replace(data, gallery=gallery)

    settings = load_settings("world_small", ["data.ground_size=[28,112]", "data.aerial_size=[70,70]"])
    (note,) = enlargement_notes(settings, tiles("train", (56, 56), (42, 60)), tiles("validation", (56, 56), (70, 70)))
    assert note.startswith("aerial images of 42 x 60 pixels")
    assert note.endswith("add data.train.aerial_size=[70,70] data.validation.aerial_size=[70,70]")


def test_training_prints_that_synthetic_images_are_enlarged(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "load_pairs", lambda name, root=None, split="train", **options: world(split))
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"output: {tmp_path}/run\n"
        "data: {name: world-urban, workers: 0, ground_size: [42, 168], aerial_size: [56, 56]}\n"
        f"model: {{config: {json.dumps(TINY)}}}\n"
        "sampling: {batch_size: 16, neighbours: 8, pool: 16}\noptimisation: {epochs: 1}\n"
    )
    loop.main(load_settings(config, []))
    output = capsys.readouterr().out
    assert output.count("enlarged") == 1 and "add data.train.ground_size=[42,168]" in output
