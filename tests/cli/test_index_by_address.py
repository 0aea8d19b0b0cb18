"""`gengeo index` with imagery by address: plan, requests, rights, left-out tiles and errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.index import GeoIndex
from tests.imagery.conftest import _server_process, server  # noqa: F401  # the same server process as tests/imagery

BOX = ["--bounds", "24.93,60.16,24.9318,60.1609"]


@pytest.fixture
def command(server, tiny_checkpoint, tmp_path):  # noqa: F811  # the fixture of that name
    def arguments(mode, *more, out="x"):
        options = ["--allow-private", "--rate", "0", "--cache", tmp_path / "cache", "--backend", "torch"]
        return [
            "index",
            server.template(mode),
            *BOX,
            "--tile",
            "60m",
            "--out",
            tmp_path / out,
            "--model",
            tiny_checkpoint,
            *options,
            *more,
        ]

    return arguments


def test_index_dry_run_prints_plan_and_requests_nothing(gengeo, command, server, tmp_path):  # noqa: F811
    code, out, _ = gengeo(*command("good", "--dry-run"))
    assert code == 0 and "source tiles: 13" in out and "127.0.0.1" in out
    assert server.paths == [] and not (tmp_path / "x").exists()


def test_index_by_address_stores_rights_and_reasons_of_left_out_tiles(gengeo, command, server, tmp_path):  # noqa: F811
    rights = ["--attribution", "Example Survey", "--licence", "CC BY 4.0", "--acquired", "2023"]
    code, _, err = gengeo(*command("third404", "--zoom", "17", "--tile", "20m", *rights))
    assert code == 0 and "source tiles" in err
    code, out, _ = gengeo("info", tmp_path / "x", "--json")
    printed = json.loads(out)
    assert printed["attribution"] == "Example Survey" and printed["licence"] == "CC BY 4.0"
    assert set(printed["left_out"]) == {"no tile on the server (404)"} and printed["tiles"] > 0
    assert len(server.paths) == len(set(server.paths))
    hits = GeoIndex.load(tmp_path / "x").search(np.eye(24, dtype=np.float32)[0], 3)[0]
    assert {hit.attribution for hit in hits} == {"Example Survey"}
    count = len(server.paths)
    code, out, _ = gengeo(*command("third404", "--zoom", "17", "--tile", "20m", *rights))
    assert code == 0 and "complete" in out and len(server.paths) == count
    code, out, err = gengeo(*command("third404", "--zoom", "17", "--tile", "20m", "--retry-missing", *rights))
    assert "tiles again that were left out" in err


def test_plan_of_imagery_by_address_counts_requests_and_tiles(gengeo, server, tiny_checkpoint, tmp_path):  # noqa: F811
    arguments = ["plan", server.template("good"), *BOX, "--tile", "60m,120m", "--model", tiny_checkpoint]
    arguments += ["--allow-private", "--cache", tmp_path / "cache", "--throughput", "10"]
    code, out, err = gengeo(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["tiles"] == found["imagery"]["tiles"] == 18 and found["imagery"]["requests"] > 0
    assert found["encode_hours"] == pytest.approx(18 / 36_000) and {"index_mb", "memory_mb", "search_ms"} <= set(found)
    text = gengeo(*arguments)[1]
    assert "127.0.0.1" in text and "requests:" in text and "search:" in text
    assert server.paths == []  # no tile was requested


def test_index_of_several_sizes_has_tiles_of_each_size(gengeo, command, tmp_path):
    code, *_ = gengeo(*command("good", "--tile", "60m,120m"))
    assert code == 0
    assert json.loads(gengeo("info", tmp_path / "x", "--json")[1])["tiles"] == 18


@pytest.mark.parametrize(
    ("mode", "more", "message"),
    [
        ("good", ["--bounds", "-10,36,30,70"], "--max-tiles"),
        ("html", [], "a web page instead of a picture"),
        ("deep17", [], "--zoom 17"),
        ("good", ["--zoom", "40"], "no zoom level 40"),
        ("good", ["--shift", "1"], "EAST,NORTH"),
    ],
)
def test_index_of_bad_source_gives_one_line(gengeo, command, tmp_path, mode, more, message):
    code, _, err = gengeo(*command(mode, *more))
    assert code in (1, 2) and message in err.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_index_of_private_address_is_refused(gengeo, tiny_checkpoint, tmp_path):
    options = ["--attribution", "A", "--licence", "L", "--contact", "c", "--cache", tmp_path / "c"]
    address = "http://127.0.0.1:9/{z}/{x}/{y}.png"
    code, _, err = gengeo("index", address, *BOX, "--out", tmp_path / "x", "--model", tiny_checkpoint, *options)
    assert code == 1 and "--allow-private" in err.splitlines()[-1]


def test_index_without_rights_names_missing_options(gengeo, tiny_checkpoint, tmp_path):
    address = "https://tiles.example.org/{z}/{x}/{y}.png"
    code, _, err = gengeo("index", address, *BOX, "--out", tmp_path / "x", "--model", tiny_checkpoint)
    assert code == 1 and "--attribution and --licence and --contact" in err


def test_key_in_address_is_not_printed_or_stored(gengeo, command, server, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("GENGEO_MYKEY", "sesame-open-42")
    arguments = command("token")
    arguments[1] += "?key={mykey}"
    code, out, err = gengeo(*arguments)
    assert code == 0 and "sesame" not in out + err
    for path in Path(tmp_path).rglob("*"):
        if path.is_file() and "tiny-gengeo" not in str(path):
            assert b"sesame" not in path.read_bytes(), path
