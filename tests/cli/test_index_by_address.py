"""`gengeo index` with imagery by address, from the plan to an index that tells its rights and what it left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.index import GeoIndex
from tests.imagery.conftest import _server_process, server  # noqa: F401  # the same server process as tests/imagery

BOX = ["--bounds", "24.93,60.16,24.9318,60.1609"]


@pytest.fixture
def command(server, tiny_checkpoint, tmp_path):  # noqa: F811  # the fixture of that name
    def words(mode, *more, out="x"):
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

    return words


def test_index_dry_run_prints_the_plan_and_requests_nothing(gengeo, command, server, tmp_path):  # noqa: F811
    code, out, _ = gengeo(*command("good", "--dry-run"))
    assert code == 0 and "source tiles: 13" in out and "127.0.0.1" in out
    assert server.paths == [] and not (tmp_path / "x").exists()


def test_index_by_address_carries_rights_and_reasons(gengeo, command, server, tmp_path):  # noqa: F811
    rights = ["--attribution", "Example Survey", "--licence", "CC BY 4.0", "--acquired", "2023"]
    code, _, err = gengeo(*command("third404", "--zoom", "17", "--tile", "20m", *rights))
    assert code == 0 and "source tiles" in err
    code, out, _ = gengeo("info", tmp_path / "x", "--json")
    told = json.loads(out)
    assert told["attribution"] == "Example Survey" and told["licence"] == "CC BY 4.0"
    assert set(told["left_out"]) == {"no tile on the server (404)"} and told["tiles"] > 0
    assert len(server.paths) == len(set(server.paths))
    hits = GeoIndex.load(tmp_path / "x").search(np.eye(24, dtype=np.float32)[0], 3)[0]
    assert {hit.attribution for hit in hits} == {"Example Survey"}
    count = len(server.paths)
    code, out, _ = gengeo(*command("third404", "--zoom", "17", "--tile", "20m", *rights))
    assert code == 0 and "complete" in out and len(server.paths) == count
    code, out, err = gengeo(*command("third404", "--zoom", "17", "--tile", "20m", "--retry-missing", *rights))
    assert "asking again for" in err


def test_plan_of_a_source_by_address_counts_its_requests_and_the_index(gengeo, server, tiny_checkpoint, tmp_path):  # noqa: F811
    words = ["plan", server.template("good"), *BOX, "--tile", "60m,120m", "--model", tiny_checkpoint]
    words += ["--allow-private", "--cache", tmp_path / "cache", "--throughput", "10"]
    code, out, err = gengeo(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["tiles"] == found["imagery"]["tiles"] == 18 and found["imagery"]["requests"] > 0
    assert found["encode_hours"] == pytest.approx(18 / 36_000) and {"index_mb", "memory_mb", "search_ms"} <= set(found)
    text = gengeo(*words)[1]
    assert "127.0.0.1" in text and "requests:" in text and "search:" in text
    assert server.paths == []  # no tile was requested


def test_index_of_several_sizes_has_each_cell_in_each(gengeo, command, tmp_path):
    code, *_ = gengeo(*command("good", "--tile", "60m,120m"))
    assert code == 0
    told = json.loads(gengeo("info", tmp_path / "x", "--json")[1])
    assert told["tiles"] == 18


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
def test_index_of_a_bad_source_ends_in_one_line(gengeo, command, tmp_path, mode, more, message):
    code, _, err = gengeo(*command(mode, *more))
    assert code in (1, 2) and message in err.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_index_of_a_private_address_must_be_allowed(gengeo, tiny_checkpoint, tmp_path):
    words = ["--attribution", "A", "--licence", "L", "--contact", "c", "--cache", tmp_path / "c"]
    address = "http://127.0.0.1:9/{z}/{x}/{y}.png"
    code, _, err = gengeo("index", address, *BOX, "--out", tmp_path / "x", "--model", tiny_checkpoint, *words)
    assert code == 1 and "--allow-private" in err.splitlines()[-1]


def test_index_without_rights_names_what_is_missing(gengeo, tiny_checkpoint, tmp_path):
    address = "https://tiles.example.org/{z}/{x}/{y}.png"
    code, _, err = gengeo("index", address, *BOX, "--out", tmp_path / "x", "--model", tiny_checkpoint)
    assert code == 1 and "--attribution and --licence and --contact" in err


def test_a_secret_is_in_no_file_and_no_line(gengeo, command, server, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("GENGEO_MYKEY", "sesame-open-42")
    words = command("token")
    words[1] += "?key={mykey}"
    code, out, err = gengeo(*words)
    assert code == 0 and "sesame" not in out + err
    for path in Path(tmp_path).rglob("*"):
        if path.is_file() and "tiny-gengeo" not in str(path):
            assert b"sesame" not in path.read_bytes(), path
