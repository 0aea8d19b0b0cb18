"""Exports: images are copied unchanged, interrupted exports are resumed, and other data are refused."""

import dataclasses

import datasets
import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import export, load_pairs
from gengeo_hf.data.export import export_pairs
from tests.data import folders
from tests.data.helpers import toy_dataset


@pytest.fixture
def data(tmp_path):
    root = folders.make_cvusa(tmp_path / "CVUSA", train=range(1, 3), test=range(10, 20))
    return load_pairs("cvusa", root, "test")


def test_export_parquet_is_read_without_original_images(data, tmp_path, gengeo):
    out = tmp_path / "out"
    code, text, err = gengeo("data", "export", "cvusa:test", tmp_path / "CVUSA", "--out", out)
    assert code == 0 and "2 files written, 0 existed already" in text, err
    stored = (tmp_path / "CVUSA/streetview/panos/0000012.jpg").read_bytes()
    pixels = np.asarray(data.gallery[2]["aerial"])
    expected = data.queries.remove_columns("ground")[2]
    (tmp_path / "CVUSA").rename(tmp_path / "gone")
    back = load_pairs("parquet", out, "test")
    assert back.queries.remove_columns("ground")[2] == expected
    raw = back.queries.cast_column("ground", datasets.Image(decode=False))[2]["ground"]
    assert raw["bytes"] == stored  # the file is copied, not encoded again
    assert np.array_equal(np.asarray(back.gallery[2]["aerial"]), pixels)


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_export_interrupted_is_resumed_with_equal_files(data, tmp_path, monkeypatch, form):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert export_pairs(data, whole, "test", form, rows_in_file=3) == (8, 0)
    writer = "write_rows" if form == "parquet" else "_write_tar"
    plain, calls = getattr(export, writer), []

    def third_fails(part, table, path, change):
        calls.append(path)
        plain(part, table, path, change)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(export, writer, third_fails)
    with pytest.raises(KeyboardInterrupt):
        export_pairs(data, stopped, "test", form, rows_in_file=3)
    monkeypatch.setattr(export, writer, plain)
    assert export_pairs(data, stopped, "test", form, rows_in_file=3) == (6, 2)
    for path in whole.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (stopped / path.relative_to(whole)).read_bytes()
    assert len(list(stopped.rglob("*"))) == len(list(whole.rglob("*")))  # no temporary files are left


def test_export_webdataset_is_read_by_datasets_library(data, tmp_path):
    export_pairs(data, tmp_path / "out", "test", "webdataset", rows_in_file=4)
    files = sorted(map(str, (tmp_path / "out/queries").glob("*.tar")))
    read = datasets.load_dataset("webdataset", data_files={"test": files}, split="test", cache_dir=tmp_path / "cache")
    assert len(read) == 10 and {"ground.jpg", "json", "__key__"} <= set(read.column_names)
    assert read[5]["json"]["query_id"] == data.queries[5]["query_id"]
    assert read[5]["ground.jpg"].size == data.queries[5]["ground"].size


def test_export_webdataset_is_read_back_and_damaged_shards_raise_error(data, tmp_path):
    export_pairs(data, tmp_path / "out", "test", "webdataset", rows_in_file=4)
    again = load_pairs("webdataset", tmp_path / "out", "test", cache_dir=tmp_path / "cache")
    for table, copy, column in ((data.queries, again.queries, "ground"), (data.gallery, again.gallery, "aerial")):
        others = [each.remove_columns([column]).to_list() for each in (table, copy)]
        assert others[0] == others[1] and table.features == copy.features
        assert all(np.array_equal(a, b) for a, b in zip(table[column], copy[column], strict=True))
    shard = sorted((tmp_path / "out/gallery").glob("*.tar"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(GenGeoError, match=r"the gallery of .* cannot be read: .+") as caught:
        load_pairs("webdataset", tmp_path / "out", "test", cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    shard.unlink()
    with pytest.raises(GenGeoError, match="their names state"):
        load_pairs("webdataset", tmp_path / "out", "test", cache_dir=tmp_path / "cache")


def test_export_into_directory_of_other_data_raises_error(data, tmp_path):
    export_pairs(data, tmp_path / "out", "test")
    with pytest.raises(GenGeoError, match="of other data or another format"):
        export_pairs(toy_dataset(), tmp_path / "out", "test")
    with pytest.raises(GenGeoError, match="of other data or another format"):
        export_pairs(data, tmp_path / "out", "test", "webdataset")
    export_pairs(toy_dataset(), tmp_path / "out", "train")  # another split may be in the same directory
    with pytest.raises(GenGeoError, match="letters"):
        export_pairs(data, tmp_path / "out", "../test")
    with pytest.raises(GenGeoError, match="parquet, webdataset"):
        export_pairs(data, tmp_path / "out", "test", "zip")
    (tmp_path / "CVUSA/bingmap/19/0000012.jpg").write_bytes(b"nothing")
    with pytest.raises(GenGeoError, match=r"0000012\.jpg: the image of 7 bytes is not an image"):
        export_pairs(data, tmp_path / "polar", "test", aerial_view="polar:16x44")
    (tmp_path / "CVUSA/bingmap/19/0000012.jpg").unlink()
    with pytest.raises(GenGeoError, match="0000012"):
        export_pairs(data, tmp_path / "new", "test")


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_export_with_views_transforms_images_and_clears_camera(tmp_path, form):
    import torch

    from gengeo_hf.data.views import ground_bev, padded_sphere, polar_tile

    toy = toy_dataset(3, ground=(28, 112), aerial=(56, 56))
    views = {"ground_view": "bev:20:0.3", "aerial_view": "polar:16x44"}
    export_pairs(toy, tmp_path / form, "test", form, **views)
    with pytest.raises(GenGeoError, match="another format"):
        export_pairs(toy, tmp_path / form, "test", form)
    for wrong in ("polar:20x20", "bev", "bev:big", "bev:0", "bev:20:0.1.2", "fisheye:3"):
        with pytest.raises(GenGeoError, match=r"bev:512:0\.06"):
            export_pairs(toy, tmp_path / "no", "test", form, ground_view=wrong)
    back = load_pairs(form, tmp_path / form, "test", cache_dir=tmp_path / "cache")
    assert set(back.queries["fov"][:]) == set(back.queries["heading"][:]) == {None}

    def pixels(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]

    for found, expected in (
        (back.queries[1]["ground"], ground_bev(padded_sphere(pixels(toy.queries[1]["ground"])), 20, 0.3)),
        (back.gallery[1]["aerial"], polar_tile(pixels(toy.gallery[1]["aerial"]), (16, 44))),
    ):
        assert (pixels(found).float() - expected).abs().mean() < 3  # JPEG


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_exported_world_is_synthetic_under_any_name(data, tmp_path, form):
    world = load_pairs("world-urban", tmp_path / "worlds", "train", num_pairs=2)
    export_pairs(world, tmp_path / "city", "train", form)
    again = load_pairs(form, tmp_path / "city", "train")
    assert again.name == "city/train" and again.synthetic and world.synthetic
    town = data.gallery.map(lambda row: row | {"area": "san-jose-12-2021"})
    assert not any(real.synthetic for real in (data, toy_dataset(), dataclasses.replace(data, gallery=town)))
