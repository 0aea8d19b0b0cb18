"""Output of commands: results on stdout, notes on stderr, JSON alone on stdout, no control codes of terminals."""

import json
import subprocess
import sys

import pytest

from gengeo_hf.imagery.tiles import Rights
from tests.stubs import ListSource, StubEncoder

PLACE_KEYS = {
    *("lat", "lon", "score", "confidence", "radius_68_m", "radius_95_m", "tile_id", "bounds", "heading", "pose"),
    *("source", "attribution", "licence", "acquired"),
}
INFO_KEYS = {"tiles", "bounds", "left_out", "sources", "attribution", "licence", "model"}
CONTROL_CODES = "\x1b[2J\x1b]0;title\x07\r\n  1. 0.000000, 0.000000 ± 1 m  score 0.999"


@pytest.fixture
def query(index, monkeypatch):
    """Options of `gengeo locate` for an index of noise tiles and an encoder without weights."""
    monkeypatch.setattr("gengeo_hf.encoding.encoder.Encoder.from_pretrained", lambda *_, **__: StubEncoder())
    return ("--index", index.path, "--model", "m")


def test_locate_json_prints_one_object_per_photo(gengeo, query, photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    code, out, _ = gengeo("locate", photo, broken, *query, "--json", "--top", 2)
    good, bad = map(json.loads, out.splitlines())
    assert code == 1 and good["photo"] == str(photo) and bad["photo"] == str(broken)
    assert good["error"] is None and isinstance(good["notes"], list) and good["not_in_index"] is None
    assert bad["places"] == [] and isinstance(bad["error"], str)
    assert len(good["places"]) == 2
    best = good["places"][0]
    assert set(best) >= PLACE_KEYS and best["tile_id"].startswith("noise-")
    assert best["confidence"] is None and best["radius_68_m"] is None and len(best["bounds"]) == 4
    west, south, east, north = best["bounds"]
    assert west < best["lon"] < east and south < best["lat"] < north


def test_rights_of_imagery_are_in_every_output_format(gengeo, monkeypatch, photo, tmp_path):
    """The page, the map, GeoJSON, JSON and text state attribution, licence and date of the imagery."""
    from gengeo_hf.index import GeoIndex
    from gengeo_hf.localization import GeoLocalizer
    from gengeo_hf.serving.fragments import answer
    from gengeo_hf.serving.schemas import LocateResponse

    source = ListSource()
    source.rights = Rights("<b>Survey</b>", "CC BY 4.0", "2024-06-01")
    index = GeoIndex.build(StubEncoder(), source, tmp_path / "rights")
    monkeypatch.setattr("gengeo_hf.encoding.encoder.Encoder.from_pretrained", lambda *_, **__: StubEncoder())
    command = ("locate", photo, "--index", index.path, "--model", "m")
    files = {"--map": tmp_path / "m.html", "--geojson": tmp_path / "a.geojson"}
    text = gengeo(*command, *(argument for pair in files.items() for argument in pair))[1]
    assert "imagery: <b>Survey</b>, CC BY 4.0, 2024-06-01" in text
    assert r"\u0026lt;b\u0026gt;Survey" in files["--map"].read_text() and "2024-06-01" in files["--map"].read_text()
    stated = {"attribution": "<b>Survey</b>", "licence": "CC BY 4.0", "acquired": "2024-06-01"}
    feature = json.loads(files["--geojson"].read_text())["features"][0]["properties"]
    record = json.loads(gengeo(*command, "--json")[1])["places"][0]
    found = GeoLocalizer(StubEncoder(), index).locate(photo)
    served = LocateResponse.of(found, index, "").places[0].model_dump()
    assert all(entry[key] == value for entry in (feature, record, served) for key, value in stated.items())
    assert "imagery: &lt;b&gt;Survey&lt;/b&gt;, CC BY 4.0, 2024-06-01" in answer(found, None)


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_geojson_on_stdout_is_only_output(gengeo, query, photo, name):
    code, out, err = gengeo("locate", photo, *query, "--geojson", name)
    assert code == 0 and json.loads(out)["type"] == "FeatureCollection" and "caution" in err


def test_info_json_prints_one_object(gengeo, index):
    code, out, err = gengeo("info", index.path, "--json")
    found = json.loads(out)
    assert code == 0 and not err and out.count("\n") == 1
    assert set(found) >= INFO_KEYS and found["tiles"] == 12 and found["left_out"] == {}
    west, south, east, north = found["bounds"]
    assert west <= 24.94 <= east and south <= 60.17 <= north
    code, out, _ = gengeo("info", index.path, "--geojson", "-")
    assert code == 0 and len(json.loads(out)["features"]) == 12


def test_locate_broken_photo_gives_error_on_stderr_and_exit_code_1(gengeo, query, photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    code, out, err = gengeo("locate", tmp_path / "broken.jpg", photo, *query)
    assert code == 1 and "broken.jpg" not in out and "photo.png" in out
    assert any(line.startswith("error: ") and "broken.jpg" in line for line in err.splitlines())


def test_locate_without_tile_in_area_gives_exit_code_1(gengeo, query, photo):
    code, out, _ = gengeo("locate", photo, *query, "--near", "10,10,1km")
    assert code == 1 and "no tile" in out
    code, out, _ = gengeo("locate", photo, *query, "--near", "10,10,1km", "--json")
    assert code == 1 and json.loads(out)["places"] == []


def test_quiet_prints_results_and_warnings(gengeo, query, photo, tmp_path):
    code, out, err = gengeo("locate", photo, *query, "--map", tmp_path / "m.html", "--quiet")
    assert code == 0 and "noise-4" in out and "map:" not in err and "caution" in err


def test_control_codes_in_index_are_not_printed(gengeo, photo, tmp_path, monkeypatch):
    from gengeo_hf.index import GeoIndex

    GeoIndex.build(StubEncoder(), ListSource(name=CONTROL_CODES, area=CONTROL_CODES), tmp_path / "evil")
    monkeypatch.setattr("gengeo_hf.encoding.encoder.Encoder.from_pretrained", lambda *_, **__: StubEncoder())
    code, out, err = gengeo("locate", photo, "--index", tmp_path / "evil", "--model", "m", "--top", 1)
    assert code == 0 and not {"\x1b", "\x07", "\r"} & set(out + err)
    assert sum(line.startswith("  1. ") for line in out.splitlines()) == 1
    code, out, err = gengeo("info", tmp_path / "evil")
    assert code == 0 and not {"\x1b", "\x07", "\r"} & set(out + err)
    assert not any(line.startswith("  1. ") for line in out.splitlines())


def test_interrupt_keeps_printed_answers(gengeo, query, photo, monkeypatch):
    from gengeo_hf.localization import GeoLocalizer

    locate_many = GeoLocalizer.locate_many

    def stopped(self, *arguments, **options):
        yield next(iter(locate_many(self, *arguments, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(GeoLocalizer, "locate_many", stopped)
    code, out, err = gengeo("locate", photo, photo.parent, *query)
    assert code == 130 and "noise-4" in out and "stopped after 1 of 2" in err


def test_help_without_a_terminal_has_no_colours():
    done = subprocess.run(
        [sys.executable, "-m", "gengeo_hf.cli", "locate", "--help"], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stdout and "--near-exif" in done.stdout and "Examples" in done.stdout


def test_version_is_printed(gengeo):
    from gengeo_hf import __version__

    assert gengeo("--version") == (0, f"gengeo {__version__}\n", "")


def test_plugin_adds_command(tmp_path):
    (tmp_path / "hello_plugin.py").write_text(
        '"""A command of a user."""\n'
        "from gengeo_hf.cli import console\n"
        "from gengeo_hf.cli.registry import gengeo\n\n\n"
        "@gengeo.command()\n"
        "def hello(name: str) -> None:\n"
        '    """Greet."""\n'
        '    console.result(f"hello {name}")\n'
    )
    command = [sys.executable, "-m", "gengeo_hf.cli", "--plugin", str(tmp_path / "hello_plugin.py")]
    done = subprocess.run([*command, "hello", "world"], capture_output=True, text=True, check=True)
    assert done.stdout == "hello world\n"
    assert "Greet." in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
