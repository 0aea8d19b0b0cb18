"""`gengeo serve` and `gengeo app`: checks before the model is loaded, environment variables, a run of the service."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from gengeo_hf.cli import gengeo
from gengeo_hf.cli.app import app
from gengeo_hf.cli.options import AccessOptions, LocalizerOptions
from gengeo_hf.cli.pose_options import PoseOptions
from gengeo_hf.cli.serve import serve
from gengeo_hf.common.errors import GenGeoError, MissingExtraError


@pytest.mark.parametrize(("command", "package", "extra"), [(serve, "fastapi", "serve"), (app, "gradio", "app")])
def test_serve_and_app_report_missing_package_before_loading_model(monkeypatch, command, package, extra):
    monkeypatch.setattr("gengeo_hf.serving.find_spec", lambda name: None if name == package else object())
    with pytest.raises(MissingExtraError, match=rf'{package}.*pip install "gengeo_hf\[{extra}\]"'):
        command(options=LocalizerOptions(index="nowhere", model="nothing"), pose=PoseOptions(), sharing=AccessOptions())


def test_serve_reports_missing_index_before_loading_model(tmp_path):
    pytest.importorskip("fastapi")
    with pytest.raises(GenGeoError, match="there is no index at"):
        serve(
            options=LocalizerOptions(index=str(tmp_path / "nowhere"), model="nothing"),
            pose=PoseOptions(),
            sharing=AccessOptions(),
        )


def test_app_reports_examples_without_photo_before_loading_model(tmp_path):
    pytest.importorskip("gradio")
    with pytest.raises(GenGeoError, match="holds no photo"):
        options = LocalizerOptions(index=str(tmp_path / "nowhere"), model="nothing")
        app(options=options, pose=PoseOptions(), sharing=AccessOptions(), examples=tmp_path)


@pytest.mark.parametrize("name", ["serve", "app"])
def test_every_option_has_variable_that_command_line_overrides(name, monkeypatch):
    from typer.main import get_command
    from typer.testing import CliRunner

    command = get_command(gengeo).commands[name]
    options = [option for option in command.params if option.name != "help"]
    assert {option.envvar for option in options} == {f"GENGEO_{option.name.upper()}" for option in options}
    assert "GENGEO_ALLOWED_HOST" in CliRunner().invoke(gengeo, [name, "--help"], terminal_width=400).output

    def parsed(arguments, **variables):
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        with command.make_context(name, arguments) as context:
            return context.params

    given = parsed([], GENGEO_MODEL="m", GENGEO_INDEX="i", GENGEO_PORT="81", GENGEO_ALLOWED_HOST="a.org b.org")
    assert (given["model"], given["port"], given["host"]) == ("m", 81, "127.0.0.1")
    assert list(given["allowed_host"]) == ["a.org", "b.org"]
    assert parsed(["--port", "82"], GENGEO_PORT="81")["port"] == 82
    with pytest.raises(Exception, match="valid integer") as caught:
        parsed([], GENGEO_PORT="http")
    assert "GENGEO_PORT" in caught.value.format_message()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # starts a process with torch, on a machine that may be busy
def test_serve_reloads_index_at_sighup_and_ends_at_sigterm(tiny_model, tiny_processor, tmp_path):
    httpx = pytest.importorskip("httpx")
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex
    from tests.serving.conftest import picture
    from tests.stubs import ListSource

    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    encoder = Encoder.from_pretrained(tmp_path / "model", device="cpu")
    GeoIndex.build(encoder, ListSource(4), tmp_path / "city.gengeo")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["serve", "--index", tmp_path / "city.gengeo", "--model", tmp_path / "model", "--port", port]
    command = [sys.executable, "-m", "gengeo_hf.cli", *map(str, arguments), "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    def health(wanted):
        for _ in range(3000):
            assert process.poll() is None, process.stderr.read()
            try:
                if (found := httpx.get(f"http://127.0.0.1:{port}/health").json())["tiles"] == wanted:
                    return found
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError("no answer within ten minutes")

    try:
        assert not health(4)["index_outdated"]
        photo = picture(ListSource(4).images[2])
        assert httpx.post(f"http://127.0.0.1:{port}/locate", content=photo).status_code == 200
        GeoIndex.build(encoder, ListSource(7, "new"), tmp_path / "city.gengeo", overwrite=True)
        assert health(4)["index_outdated"]
        process.send_signal(signal.SIGHUP)
        assert not health(7)["index_outdated"]
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert f"http://127.0.0.1:{port}/docs" in err and "caution: unknown training data" in err
    assert "reloaded the index: 7 tiles" in err and "Traceback" not in err
