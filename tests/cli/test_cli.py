"""The command line: commands, outputs, error messages and exit codes."""

import json
import subprocess
import sys

import pytest

from gengeo_hf import cli


@pytest.fixture
def tiles(tmp_path):
    from PIL import Image

    folder = tmp_path / "tiles"
    folder.mkdir()
    for number in range(4):
        Image.effect_noise((64, 64), 40 + 30 * number).convert("RGB").save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,60.{number},25.0\n" for number in range(4))
    (folder / "tiles.csv").write_text("image,lat,lon\n" + rows)
    return folder


def test_help_imports_no_heavy_libraries():
    heavy = "torch transformers datasets faiss rasterio numpy PIL"
    program = f"import sys, gengeo_hf.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_command_has_a_summary_and_an_example():
    for group in (cli.gengeo, *(group.typer_instance for group in cli.gengeo.registered_groups)):
        for command in group.registered_commands:
            name = command.callback.__name__
            if not command.callback.__module__.startswith("gengeo_hf."):
                continue  # a plugin of another test
            assert command.help and command.epilog and "Example" in command.epilog, name
            assert command.help.splitlines()[0][0].isupper(), name


def test_index_locate_verify_remove_and_add_work_together(gengeo, tiles, tiny_checkpoint, tmp_path):
    code, out, err = gengeo(
        "index", tiles, "--out", tmp_path / "idx", "--model", tiny_checkpoint, "--tile-size-m", "100m"
    )
    assert code == 0, err
    assert "4 tiles" in out and "gengeo locate" in err
    options = ("--index", tmp_path / "idx", "--model", tiny_checkpoint, "--device", "cpu")
    outputs = ("--map", tmp_path / "m.html", "--geojson", tmp_path / "o.json")
    code, out, err = gengeo("locate", tiles / "2.png", tiles / "tiles.csv", *options, "--top", 2, *outputs)
    assert code == 1 and "1. 60." in out and "tiles.csv" in err and "unknown training data" in err
    assert len(json.loads((tmp_path / "o.json").read_text())["features"]) == 2
    assert "unknown training data" in (tmp_path / "m.html").read_text()
    code, out, _ = gengeo("locate", tiles / "2.png", *options, "--near", "60.1,25.0,1km")
    assert code == 0 and "60.100000" in out and "60.200000" not in out
    code, boxed, _ = gengeo("locate", tiles / "2.png", *options, "--bounds", "24,60.05,26,60.15")
    assert code == 0 and "60.100000" in boxed and "60.200000" not in boxed
    code, out, _ = gengeo("locate", tiles / "2.png", *options, "--bounds", "0,0,1,1")
    assert code == 1 and "no tile of the index has its centre in the box 0,0,1,1" in out
    assert gengeo("verify", tmp_path / "idx")[1].startswith(f"{tmp_path / 'idx'}: 4 tiles")
    assert "removed 1" in gengeo("remove", tmp_path / "idx", "--bounds", "24,60.05,26,60.15")[1]
    code, out, err = gengeo("index", tiles, "--out", tmp_path / "idx", "--model", tiny_checkpoint, "--add")
    assert code == 0 and "4 tiles" in out, err


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (1, ("locate", "nothing.jpg", "--index", "idx", "--model", "nowhere")),
        (1, ("index", "nothing", "--out", "idx", "--model", "nowhere")),
        (1, ("verify", "idx")),
        (1, ("info", "idx", "--json")),
        (1, ("data", "check", "cvusa", "nowhere")),
        (2, ("index", ".", "--out", "idx", "--model", "m", "--tile", "big")),
        (2, ("index", ".", "--out", "idx", "--model", "m", "--overlap", "200%")),
        (2, ("index", ".", "--out", "idx", "--model", "m", "--add", "--overwrite")),
        (2, ("locate", "a.jpg", "--index", "idx", "--model", "m", "--near", "here")),
        (2, ("index", ".", "--out", "idx", "--model", "m", "--fast", "--input-scale", "0.5")),
        (2, ("evaluate", "--model", "m", "--data", "world-urban", "--tile", "65m", "--distractors", "x")),
        (2, ("locate", "a.jpg", "--index", "idx", "--model", "m", "--json", "--geojson", "-")),
        (2, ("locate", "a.jpg", "--index", "idx", "--model", "m", "--json", "--geojson", "/dev/stdout")),
        (2, ("locate", "a.jpg", "--index", "idx", "--model", "m", "--map", "-", "--geojson", "-")),
        (2, ("locate", "a.jpg", "--index", "idx", "--model", "m", "--quiet", "--verbose")),
        (2, ("remove", "idx")),
        (2, ("data", "check", "cvusa", "one", "two")),
        (2, ("data", "check", "missing=drop")),
        (2, ("push", "world-urban:", "someone/name")),
        (2, ("figure", "clusters", "g.png", "--model", "m", "--out", "clusters.txt")),
    ],
)
def test_wrong_arguments_give_one_line_and_exit_code(gengeo, expected, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = gengeo(*arguments)
    assert code == expected and err.startswith("error: ") and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("locate", "a.jpg", "--index", "idx", "--model", "m", "--map"),
        ("locate", "a.jpg", "--index", "idx", "--model", "m", "--geojson"),
        ("calibrate", "a.csv", "--index", "idx", "--model", "m", "--out"),
        ("calibrate", "a.csv", "--index", "idx", "--model", "m", "--out", "c.json", "--plot"),
        ("info", "idx", "--geojson"),
        ("data", "show", "table", "pairs.csv", "--out"),
        ("data", "export", "table", "pairs.csv", "--out"),
        ("pictures", "result.json", "--out"),
        ("explain", "a.jpg", "b.jpg", "--model", "m", "--out"),
        ("figure", "pairs", "world-urban", "--out"),
    ],
)
def test_output_that_cannot_be_written_is_refused_first(gengeo, arguments, tmp_path, monkeypatch):
    """The inputs are missing, so a command that does not check its output first gives another error."""
    monkeypatch.chdir(tmp_path)
    code, _, err = gengeo(*arguments, "/dev/null/out.png")
    assert code == 1 and err.startswith("error: /dev/null/out.png") and "cannot be written" in err
    assert err.count("\n") == 1
    if arguments[0] in ("locate", "calibrate", "info"):
        assert "is a directory" in gengeo(*arguments, ".")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("locate",),
        ("nonsense",),
        ("locate", "a.jpg", "--top", "0", "--index", "i", "--model", "m"),
        ("compare", "a.json", "b.json", "--seed", "-1"),
    ],
)
def test_wrong_command_gives_exit_code_2_and_names_help(gengeo, arguments):
    code, _, err = gengeo(*arguments)
    assert code == 2 and "--help" in err and "Traceback" not in err


def test_locate_with_other_checkpoint_or_index_of_other_model_is_refused(gengeo, tiles, tiny_checkpoint, tmp_path):
    gengeo("index", tiles, "--out", tmp_path / "idx", "--model", tiny_checkpoint)
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    code, _, err = gengeo("locate", tiles / "1.png", "--index", tmp_path / "idx", "--model", other)
    assert code == 1 and "bert" in err and err.startswith("error: ")
    manifest = json.loads((tmp_path / "idx" / "manifest.json").read_text())
    manifest["model"]["fingerprint"] = "0" * 64
    (tmp_path / "idx" / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = gengeo("locate", tiles / "1.png", "--index", tmp_path / "idx", "--model", tiny_checkpoint)
    assert code == 1 and "made by another model" in err and config["model_type"] == "gengeo"


def test_interrupt_gives_exit_code_130(gengeo, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gengeo_hf.imagery.open_imagery", stop)
    code, _, err = gengeo("index", ".", "--out", "idx", "--model", "m")
    assert code == 130 and "stopped" in err


def test_index_and_locate_real_photos_and_tiles(gengeo, shared_data, tiny_checkpoint, tmp_path):
    code, out, err = gengeo("index", shared_data / "helsinki", "--out", tmp_path / "idx", "--model", tiny_checkpoint)
    assert code == 0 and "5 tiles of helsinki" in out, err
    photo = shared_data / "helsinki" / "111050484379850.jpg"
    code, out, err = gengeo("locate", photo, "--index", tmp_path / "idx", "--model", tiny_checkpoint)
    assert code == 0 and out.count("score") == 5 and "caution" in err
    assert not [name for name in tmp_path.iterdir() if "partial" in name.name]


@pytest.fixture
def stub(monkeypatch):
    """Replace every checkpoint by an encoder without weights."""
    from tests.stubs import StubEncoder

    monkeypatch.setattr("gengeo_hf.encoding.encoder.Encoder.from_pretrained", lambda *_, **__: StubEncoder())


def test_locate_sequence_writes_drive_and_wrong_options_are_refused(gengeo, stub, tiles, tmp_path):
    assert gengeo("index", tiles, "--out", tmp_path / "idx", "--model", "m", "--tile-size-m", "100m")[0] == 0
    options = ("--index", tmp_path / "idx", "--model", "m")
    outputs = ("--map", tmp_path / "m.html", "--geojson", tmp_path / "o.json")
    code, out, err = gengeo("locate", tiles, *options, "--sequence", "--interval", "3600", "--top", 1, *outputs)
    assert code == 0 and out.count("score") == 4, err
    assert json.loads((tmp_path / "o.json").read_text())["features"][-1]["properties"] == {"kind": "drive"}
    assert '"line": [[60.0, 25.0]' in (tmp_path / "m.html").read_text()
    assert gengeo("locate", tiles / "1.png", *options, "--fov", "70", "--heading", "unknown")[0] == 0
    for wrong, message in (
        (("--fov", "0"), "1..360 degrees"),
        (("--heading", "left"), "degrees, exif or unknown"),
        (("--top-speed", "0"), "positive"),
        (("--heading", "nan"), "heading"),
    ):
        code, _, err = gengeo("locate", tiles / "1.png", *options, *wrong)
        assert code in (1, 2) and message in err and err.count("\n") == 1


def test_info_prints_contents_and_add_joins_indexes(gengeo, stub, tiles, tmp_path):
    (tiles / "2.png").write_bytes((tiles / "2.png").read_bytes()[:200])
    code, out, err = gengeo("index", tiles, "--out", tmp_path / "idx", "--model", "m", "--tile-size-m", "100m")
    assert code == 0 and "1 tiles left out: unreadable" in out, err
    code, out, _ = gengeo("info", tmp_path / "idx", "--geojson", tmp_path / "cover.json")
    assert code == 0 and "3 of 64 dimensions" in out and "2.png is damaged" in out and "built" in out
    assert "sources      3 of one tile each, first 0.png" in out
    assert len(json.loads((tmp_path / "cover.json").read_text())["features"]) == 3
    code, _, err = gengeo("index", tmp_path / "idx", "--out", tmp_path / "other", "--model", "m")
    assert code == 1 and "with --add" in err
    gengeo("index", tiles, "--out", tmp_path / "other", "--model", "m")
    code, out, err = gengeo("index", tmp_path / "idx", "--out", tmp_path / "other", "--model", "m", "--add")
    assert code == 0 and "now holds 3 tiles" in out, err


def test_calibrate_fits_confidences_that_locate_uses(gengeo, stub, tmp_path):
    import numpy as np
    from PIL import Image

    from tests.stubs import ListSource, StubEncoder

    source = ListSource(count=30)
    from gengeo_hf.index import GeoIndex

    GeoIndex.build(StubEncoder(), source, tmp_path / "idx")
    lat, lon = source.table["lat"].to_pylist(), source.table["lon"].to_pylist()
    rows = ["image,lat,lon"]
    for number, image in enumerate(source.images):
        pixels = np.asarray(image, dtype=float)
        if number % 3 == 0:  # mostly another place
            pixels = 0.4 * pixels + 0.6 * np.asarray(source.images[(number + 9) % 30], dtype=float)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{lat[number]},{lon[number]}")
    (tmp_path / "held_out.csv").write_text("\n".join(rows))
    options = ("--index", tmp_path / "idx", "--model", "m")
    (tmp_path / "few.csv").write_text("\n".join(rows[:20]))
    code, _, err = gengeo("calibrate", tmp_path / "few.csv", "--index", "no", "--model", "m", "--out", "c.json")
    assert code == 1 and "at least 20 held-out photos are needed, found 19" in err
    outputs = ("--out", tmp_path / "c.json", "--plot", tmp_path / "c.png")
    code, out, err = gengeo("calibrate", tmp_path / "held_out.csv", *options, *outputs)
    assert code == 0 and "30 photos, expected calibration error" in out and "--threshold   answered" in out, err
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    confidence = ("--calibration", tmp_path / "c.json", "--threshold", "0.6")
    code, out, _ = gengeo("locate", tmp_path / "0.png", tmp_path / "1.png", *options, *confidence)
    assert code == 0 and "0.png: don't know" in out and "1.png: don't know" not in out and "% confident" in out


def test_locate_truncates_descriptors_as_index(gengeo, tiles, tiny_checkpoint, tmp_path):
    options = ("--model", tiny_checkpoint, "--device", "cpu")
    code, out, err = gengeo("index", tiles, "--out", tmp_path / "idx", *options, "--truncate-dim", "8")
    assert code == 0 and "4 of 8 dimensions" in out, err
    code, out, err = gengeo("locate", tiles / "2.png", "--index", tmp_path / "idx", *options)
    assert code == 0 and "score" in out, err
    code, _, err = gengeo("index", tiles, "--out", tmp_path / "no", *options, "--truncate-dim", "999")
    assert code == 1 and "999" in err
