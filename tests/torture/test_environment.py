"""Unusual environments: two writers, changed file times, users without write permission, other locales."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from tests.stubs import ListSource, StubEncoder
from tests.torture.conftest import ROUNDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 * ROUNDS)]
ROOT = Path(__file__).resolve().parents[2]


def test_result_with_two_writers_is_never_mixed(tmp_path, counts):
    """A reader gets one of the two results or an error, never the summary of one with the queries of the other."""
    from gengeo_hf.evaluation.results import Result
    from tests.evaluation.test_tables import result

    results = [result(tmp_path, "a.json", noise)[0] for noise in (0.5, 2.0)]
    path, stop, trials, wrong, refused = tmp_path / "a.json", threading.Event(), 0, 0, 0

    def write(found):
        while not stop.is_set():
            found.save(path)

    writers = [threading.Thread(target=write, args=(found,)) for found in results]
    for writer in writers:
        writer.start()
    while trials < 200 * ROUNDS:
        trials += 1
        try:
            loaded = Result.load(path)
        except GenGeoError:
            refused += 1
        else:
            means = {
                name: float(values.mean()) for name, values in loaded.outcomes.items() if name.startswith("recall")
            }
            wrong += any(abs(loaded.summary["metrics"][name] - mean) > 1e-9 for name, mean in means.items())
    stop.set()
    for writer in writers:
        writer.join()
    counts("two writers: result", trials, wrong=wrong, refused=refused)
    assert not wrong and refused < trials


def test_world_built_by_two_processes_is_complete(tmp_path, counts):
    pytest.importorskip("embreex", reason="rendering the world needs embreex")
    code = (
        "from gengeo_hf.world import build_world; import sys; "
        "print(len(build_world('urban', 'test', 160, ground_size=(8, 32), aerial_size=(8, 8), cache_dir=sys.argv[1], "
        "workers=1).queries))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    for process in processes:
        stdout, stderr = process.communicate()
        assert process.returncode == 0 and stdout.strip() == "160", stderr[-2000:]
    assert not list(tmp_path.rglob(".*"))
    counts("two writers: world", 2)


@pytest.mark.parametrize("modified", [0.0, 4e9])
def test_locator_with_past_or_future_file_times_detects_a_change_of_the_index(tmp_path, counts, modified):
    """A change of the index is detected although all files have the same time of modification."""
    from gengeo_hf.serving.locator import Locator

    index = GeoIndex.build(StubEncoder(), ListSource(6), tmp_path / "idx")
    locator = Locator(StubEncoder(), index)
    for file in [index.path, *index.path.rglob("*")]:
        os.utime(file, (modified, modified))
    assert not locator.outdated
    GeoIndex.load(index.path).add(StubEncoder(), ListSource(4, name="more", lat=61.0))
    for file in [index.path, *index.path.rglob("*")]:
        os.utime(file, (modified, modified))
    assert locator.outdated and locator.reload() == 10
    locator.close()
    counts("file times changed", 1)


def test_index_without_write_permission_can_be_read_but_not_changed(tmp_path, counts):
    """A user without write permission can read an index in a directory of root, but gets an error for changes."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to run a command as another user with setpriv")
    index = GeoIndex.build(StubEncoder(), ListSource(6), tmp_path / "idx")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = f"""
import json
import numpy as np
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder
from pathlib import Path
index = GeoIndex.load({str(index.path)!r})
outcomes = [len(index)]
for action in (
    lambda: index.remove(tile_ids=["noise-1"]),
    lambda: index.add(StubEncoder(), ListSource(3, name="more")),
    lambda: build_index(StubEncoder(), ListSource(3), Path({str(tmp_path)!r}) / "new"),
):
    try:
        action()
        outcomes.append("done")
    except GenGeoError as error:
        outcomes.append(str(error))
print(json.dumps(outcomes))
"""
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", code]
    settings = os.environ | {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    outcomes = json.loads(process.stdout)
    assert outcomes[0] == 6 and all("Permission denied" in outcome for outcome in outcomes[1:]), outcomes
    assert len(GeoIndex.load(index.path)) == 6
    counts("no write permission", len(outcomes) - 1)


PROGRAM = """
import json, locale, sys
from pathlib import Path
locale.setlocale(locale.LC_ALL, "")
comma = locale.localeconv()["decimal_point"] == ","
assert comma == sys.argv[4].startswith(("tr", "de", "fr")), "the locale is not in effect"
from gengeo_hf.evaluation.results import Result
from gengeo_hf.index import GeoIndex
from gengeo_hf.imagery import open_imagery
from gengeo_hf.localization.localizer import GeoLocalizer, to_geojson
from gengeo_hf.common.units import parse_near
from tests.stubs import StubEncoder
folder = Path(sys.argv[1])
index = GeoIndex.build(StubEncoder(), open_imagery(folder / "tiles.csv"), folder / sys.argv[2])
raster = open_imagery(folder / "r.tif")
near = parse_near("60.17,24.94,20km")
answers = list(GeoLocalizer(StubEncoder(), index).locate_many([folder / "Straße İI.png"], top=3, near=near))
json.dump({
    "ids": index.tiles["tile_id"].to_pylist(), "lat": index.tiles["lat"].to_pylist(),
    "geojson": to_geojson(answers, ""), "report": index.report().splitlines()[1],
    "raster": [raster.table["lat"].to_pylist(), raster.read(0).tobytes().hex()[:60]],
}, open(sys.argv[3], "w", encoding="utf-8"))
"""


def compile_locales(folder):
    """Compile Turkish (dotted i), German (decimal comma) and French locales; returns the names of those that work."""
    names = []
    if shutil.which("localedef"):
        folder.mkdir()
        for name in ("tr_TR", "de_DE", "fr_FR"):
            command = ["localedef", "-i", name, "-f", "UTF-8", str(folder / f"{name}.UTF-8")]
            if subprocess.run(command, capture_output=True, check=False).returncode in (0, 1):  # 1: with warnings
                names.append(f"{name}.UTF-8")
    return names


def test_index_and_answers_in_several_locales_are_equal(tmp_path, counts):
    """A table of tiles with umlauts in file names gives the same index and answers in every locale."""
    pytest.importorskip("rasterio", reason="this test reads a raster with rasterio")
    from tests.torture import inputs

    rng = np.random.default_rng(0)
    lines = ["tile,lat,lon"]
    for number in range(5):
        inputs.random_image(rng).save(tmp_path / f"Küche {number}.png")
        lines.append(f"Küche {number}.png,{60.17 + number / 100},{24.94}")
    (tmp_path / "tiles.csv").write_text("\n".join(lines), encoding="utf-8")
    inputs.random_image(rng).save(tmp_path / "Straße İI.png")
    inputs.write_geotiff(tmp_path / "r.tif")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    locales = ["C", "C.UTF-8", *compile_locales(tmp_path / "locales")]
    outputs = {}
    for number, name in enumerate(dict.fromkeys(locales)):
        command = [sys.executable, str(program), str(tmp_path), f"ö{number}.gengeo", str(tmp_path / "out.json"), name]
        settings = os.environ | {"LC_ALL": name, "LANG": name, "PYTHONPATH": str(ROOT)}
        settings["LOCPATH"] = str(tmp_path / "locales")
        process = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, check=False)
        assert process.returncode == 0, (name, process.stderr[-2000:])
        outputs[name] = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert all(output == outputs["C"] for output in outputs.values())
    assert outputs["C"]["ids"][0] == "Küche 0"
    counts("locales", len(outputs))
