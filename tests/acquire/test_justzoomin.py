"""`gengeo data get justzoomin` with a Hub server on loopback: files, table, faults and messages."""

import json

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.data import load_pairs
from gengeo_hf.data.benchmarks import justzoomin_grid as grid
from gengeo_hf.data.benchmarks import justzoomin_lists as lists
from gengeo_hf.data.sources import read_sources
from tests.acquire.conftest import REPOSITORY
from tests.acquire.jz_city import FIRST_ID, tar


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Use small blocks, since the city is 156 m wide and blocks of 500 m would leave no training pairs."""
    monkeypatch.setattr(lists, "BLOCK_M", 40.0)
    monkeypatch.setattr(lists, "MARGIN_M", 1.0)
    monkeypatch.setattr(lists, "VALIDATION_SHARE", 0.2)
    monkeypatch.setattr(lists, "TEST_SHARE", 0.3)


def get(gengeo, out, *words):
    return gengeo("data", "get", "justzoomin", "--out", out, "--yes", *words)


def test_get_writes_photos_cells_and_a_table_that_every_command_reads(hub, gengeo, tmp_path, city):
    out = tmp_path / "jz"
    code, printed, noted = get(gengeo, out, "--archives", "all")
    assert code == 0, noted
    assert "FAIL  test list: 8 (expected 30,956)" in printed
    assert "within 25 m" in printed
    assert "photo archives: 2 of 2 unpacked" in printed
    assert "CC-BY-SA-4.0" in noted
    assert "free disk needed" in noted
    assert {path.name for path in out.iterdir()} == {
        *("metadata", "satellite", "streetview", "cells", ".get", "README.md"),
        *("pairs.parquet", "ATTRIBUTION.csv", "SOURCES.json", "LICENCES.md"),
    }
    assert not list(out.rglob("*.tar")) and not list(out.rglob("*.partial"))
    test = load_pairs("justzoomin", out, "test")
    assert str(FIRST_ID) in test.queries["query_id"][:]
    assert len(test.queries) == 8 and len(test.gallery) == 8
    table = load_pairs("table", out, "test")
    assert table.queries["query_id"][:] == test.queries["query_id"][:]
    assert table.gallery["tile_id"][:] == test.gallery["tile_id"][:]
    assert len(load_pairs("justzoomin-covered", out, "test").gallery) == 25
    assert read_sources(out).facts["photos"] == 16
    assert "pKey=27000000000000001" in (out / "ATTRIBUTION.csv").read_text()


def test_get_renders_cells_north_up_from_the_pixels_under_them(hub, gengeo, tmp_path, city):
    out = tmp_path / "jz"
    get(gengeo, out)
    for row, column in ((60, 100), (61, 102), (63, 103)):
        with Image.open(out / "cells/39.0625m_z-2" / f"{grid.cell_name(row, column)}.jpg") as image:
            found = np.asarray(image.convert("RGB"), np.float64)
        assert found.shape == (122, 122, 3)
        from tests.acquire.jz_city import noise

        painted = np.asarray(noise(row * 256 + column, 122, 122), np.float64)
        inside = slice(4, -4)
        errors = [
            np.abs(turned - found)[inside, inside].mean() for turned in (painted, painted[::-1], painted[:, ::-1])
        ]
        assert errors[0] < 12 < errors[1] / 2 and errors[0] < errors[2] / 2


def test_get_again_requests_no_archive_and_works_offline(hub, gengeo, tmp_path):
    out = tmp_path / "jz"
    get(gengeo, out)
    hub.log.clear()
    get(gengeo, out)
    assert not [line for line in hub.log if ".tar" in line]
    hub.log.clear()
    _code, _printed, _noted = get(gengeo, out, "--offline", "--crop-m", "80")
    assert hub.log == []
    assert (out / "cells/80m_z-2").is_dir()
    test = load_pairs("justzoomin-area", out, "train")
    assert any(len(tiles) for tiles in test.queries["semi_positives"][:])


def test_get_after_broken_connection_or_interruption_is_resumed(hub, gengeo, tmp_path, city):
    out = tmp_path / "jz"
    hub.faults["archives/streetview_images_000.tar"] = ["break", "break"]
    hub.faults["archives/satellite_level_m2_000.tar"] = [503, 429, "break"]
    get(gengeo, out)
    assert len(list((out / "streetview/images").iterdir())) == 8


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("html", "web page instead of archives/streetview_images_000.tar"),
        ("damage", "has the checksum"),
        pytest.param(401, "refused the token", marks=pytest.mark.slow),
        pytest.param(403, "refused the token", marks=pytest.mark.slow),
        pytest.param(404, "has no archives/streetview_images_000.tar", marks=pytest.mark.slow),
    ],
)
def test_get_of_unexpected_content_raises_one_line_error_and_keeps_files(hub, gengeo, tmp_path, fault, message):
    out = tmp_path / "jz"
    hub.faults["archives/streetview_images_000.tar"] = [fault]
    code, _printed, noted = get(gengeo, out)
    assert code == 1
    assert message in noted.splitlines()[-1]
    assert not (out / "pairs.parquet").exists()
    assert list((out / "satellite/-2").iterdir())  # files of other archives are kept
    hub.log.clear()
    get(gengeo, out)
    assert (out / "pairs.parquet").exists()
    assert not [line for line in hub.log if "satellite_level" in line]


def test_get_with_max_photos_reads_beginning_of_archive_and_resumes(hub, gengeo, tmp_path, city, monkeypatch):
    from gengeo_hf.acquire import justzoomin

    monkeypatch.setattr(justzoomin, "AT_ONCE", 2)
    out = tmp_path / "jz"
    hub.faults["archives/streetview_images_000.tar"] = ["break"]
    get(gengeo, out, "--max-photos", "3")
    images = out / "streetview/images"
    assert len(list(images.iterdir())) == 3
    get(gengeo, out, "--max-photos", "5")
    assert len(list(images.iterdir())) == 5
    for path in images.iterdir():
        assert path.read_bytes() == city.photos[f"streetview/images/{path.name}"]
    get(gengeo, out)
    assert len(list(images.iterdir())) == 8
    get(gengeo, out, "--max-photos", "12", "--archives", "all")
    assert len(list(images.iterdir())) == 12


@pytest.mark.slow
def test_get_with_max_photos_from_server_without_ranges_raises_error_with_advice(hub, gengeo, tmp_path, monkeypatch):
    from gengeo_hf.acquire import justzoomin

    monkeypatch.setattr(justzoomin, "AT_ONCE", 1)
    hub.faults["archives/streetview_images_000.tar"] = ["whole"] * 9
    code, _, noted = get(gengeo, tmp_path / "jz", "--max-photos", "2")
    assert code == 1
    assert "without --max-photos" in noted.splitlines()[-1]


def test_get_verify_finds_damaged_files_and_fetches_them_again(hub, gengeo, tmp_path, city):
    out = tmp_path / "jz"
    get(gengeo, out)
    victim = next((out / "streetview/images").iterdir())
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + b"x")
    next((out / "satellite/-2").rglob("*.jpg")).unlink()
    _code, _printed, noted = get(gengeo, out, "--verify")
    assert "2 files are damaged or missing" in noted
    assert victim.read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--archives", "7"), "there is no archive '7'"),
        (("--archives", "x"), "there is no archive 'x'"),
        (("--archives", ""), "there is no archive ''"),
        (("--zoom", "-1"), "no tiles of zoom -1; it has -2"),
        (("--revision", "1" * 40), "no longer has the revision 111111111111"),
        (("--offline",), "run once without --offline"),
    ],
)
def test_get_of_missing_archives_or_zooms_raises_one_line_error(hub, gengeo, tmp_path, words, message):
    code, _, noted = get(gengeo, tmp_path / "jz", *words)
    assert code == 1
    assert message in noted.splitlines()[-1]


def test_get_without_a_terminal_needs_yes(hub, gengeo, tmp_path):
    code, _, noted = gengeo("data", "get", "justzoomin", "--out", tmp_path / "jz")
    assert code == 2
    assert "add --yes" in noted
    assert not (tmp_path / "jz").exists()


@pytest.mark.slow
def test_get_with_another_licence_stops_until_it_is_accepted(hub, gengeo, tmp_path, monkeypatch):
    from gengeo_hf.acquire import justzoomin

    commit = hub.commit(REPOSITORY, {"README.md": b"---\nlicense: other\n---\n"})
    monkeypatch.setattr(justzoomin, "REVISION", commit)
    code, _, noted = get(gengeo, tmp_path / "jz")
    assert code == 1
    assert "states the licence 'other' today" in noted
    get(gengeo, tmp_path / "jz", "--accept-licence", "other")
    assert (tmp_path / "jz/pairs.parquet").exists()


@pytest.mark.slow
def test_get_of_another_revision_into_the_same_directory_is_refused(hub, gengeo, tmp_path):
    out = tmp_path / "jz"
    get(gengeo, out, "--revision", "main")
    hub.commit(REPOSITORY, {"new.txt": b"x"})
    code, _, noted = get(gengeo, out, "--revision", "main")
    assert code == 1
    assert "give another --out" in noted
    code, _, noted = get(gengeo, out, "--offline", "--revision", "1" * 40)
    assert "give another --out" in noted


def test_get_into_directory_of_other_data_changes_nothing(hub, gengeo, tmp_path):
    (tmp_path / "bingmap").mkdir()
    code, _, noted = get(gengeo, tmp_path)
    assert code == 1
    assert "holds bingmap, which is not part of Just Zoom In" in noted
    assert [path.name for path in tmp_path.iterdir()] == ["bingmap"]


def test_get_with_a_full_disk_is_refused_before_the_download(hub, gengeo, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    code, _, noted = get(gengeo, tmp_path / "jz")
    assert code == 1
    assert "are free" in noted
    assert not [line for line in hub.log if "/resolve/" in line]


@pytest.mark.slow
def test_get_of_an_archive_with_a_path_outside_is_refused(hub, gengeo, tmp_path, monkeypatch):
    from gengeo_hf.acquire import justzoomin

    commit = hub.commit(REPOSITORY, {"archives/streetview_images_000.tar": tar({"streetview/../../evil.jpg": b"x"})})
    monkeypatch.setattr(justzoomin, "REVISION", commit)
    code, _, noted = get(gengeo, tmp_path / "jz")
    assert code == 1
    assert "not a plain file under satellite or streetview" in noted
    assert not list(tmp_path.rglob("evil.jpg"))


def test_get_leaves_out_cells_with_missing_tile_and_counts_photos(hub, gengeo, tmp_path, monkeypatch, city):
    from gengeo_hf.acquire import justzoomin

    lost = sorted(city.tiles)[len(city.tiles) // 2]
    rest = {name: data for name, data in city.tiles.items() if name != lost}
    monkeypatch.setattr(
        justzoomin, "REVISION", hub.commit(REPOSITORY, {"archives/satellite_level_m2_000.tar": tar(rest)})
    )
    _code, printed, _ = get(gengeo, tmp_path / "jz", "--archives", "all")
    facts = json.loads((tmp_path / "jz/SOURCES.json").read_text())["facts"]
    assert facts["photos left out, cell not covered"] == 16 - facts["photos"] > 0
    assert 0 < facts["cells rendered"] < 25
    assert "photos are left out: the orthophoto does not cover their cell" in printed


def test_get_without_extra_raises_error_before_download(gengeo, tmp_path, monkeypatch):
    import sys

    import gengeo_hf.acquire

    monkeypatch.delattr(gengeo_hf.acquire, "justzoomin", raising=False)
    monkeypatch.setitem(sys.modules, "gengeo_hf.acquire.justzoomin", None)  # its import fails
    code, _, noted = get(gengeo, tmp_path / "jz")
    assert code == 1
    assert 'pip install "gengeo_hf[net]"' in noted


def test_get_of_restricted_data_set_raises_error_with_advice(gengeo, tmp_path):
    code, _, noted = gengeo("data", "get", "vigor", "--out", tmp_path)
    assert code == 2
    assert "requested from its owners" in noted


@pytest.mark.slow
def test_get_with_archive_of_the_user_checks_uses_and_keeps_it(hub, gengeo, tmp_path, city):
    out, name = tmp_path / "jz", "archives/streetview_images_000.tar"
    content = city.files()[name]
    (out / "archives").mkdir(parents=True)
    (out / name).write_bytes(content[: len(content) // 2])
    code, _, noted = get(gengeo, out)
    assert code == 1
    assert f"has {len(content) // 2:,} bytes, expected {len(content):,}" in noted.splitlines()[-1]
    (out / name).write_bytes(content)
    hub.log.clear()
    code, _, noted = get(gengeo, out)
    assert code == 0, noted
    assert (out / name).read_bytes() == content
    assert not [line for line in hub.log if name in line]
